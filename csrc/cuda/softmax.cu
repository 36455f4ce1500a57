#include "device.h"

STABLE_TORCH_LIBRARY_IMPL(torchloss, CUDA, m) {
  using namespace torchloss;
  register_ops<RowMap<Cuda, SoftmaxMap>>(m, SoftmaxMap::name);
  register_ops<RowMap<Cuda, LogSoftmaxMap>>(m, LogSoftmaxMap::name);
}

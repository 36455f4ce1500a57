#include "device.h"

STABLE_TORCH_LIBRARY_IMPL(torchloss, CPU, m) {
  using namespace torchloss;
  register_ops<RowMap<Cpu, SoftmaxMap>>(m, SoftmaxMap::name);
  register_ops<RowMap<Cpu, LogSoftmaxMap>>(m, LogSoftmaxMap::name);
}

#include "device.h"

STABLE_TORCH_LIBRARY_IMPL(torchloss, CUDA, m) {
  using namespace torchloss;
  register_ops<RowLoss<Cuda, Entropy>>(m, Entropy::name);
  register_ops<RowLoss<Cuda, SoftmaxEntropy>>(m, SoftmaxEntropy::name);
}

#include "device.h"

STABLE_TORCH_LIBRARY_IMPL(torchloss, CPU, m) {
  using namespace torchloss;
  register_ops<RowLoss<Cpu, Entropy>>(m, Entropy::name);
  register_ops<RowLoss<Cpu, SoftmaxEntropy>>(m, SoftmaxEntropy::name);
  register_ops<RowLoss<Cpu, KLDivWithLogits>>(m, KLDivWithLogits::name);
}

#include "device.h"

STABLE_TORCH_LIBRARY_IMPL(torchloss, CPU, m) {
  using namespace torchloss;
  register_ops<RowLoss<Cpu, CrossEntropyProbs>>(m, CrossEntropyProbs::name);
  register_ops<RowLoss<Cpu, NLL>>(m, NLL::name);
}

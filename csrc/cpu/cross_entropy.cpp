#include "device.h"

STABLE_TORCH_LIBRARY_IMPL(torchloss, CPU, m) {
  using namespace torchloss;
  register_ops<CrossEntropyOps<Cpu>>(m, "cross_entropy");
  m.impl("cross_entropy_and_gradient", TORCH_BOX((&CrossEntropyOps<Cpu>::forward_and_gradient)));
  m.impl("cross_entropy_backward_", TORCH_BOX((&CrossEntropyOps<Cpu>::backward_inplace)));
  register_ops<RowLoss<Cpu, CrossEntropyProbs>>(m, CrossEntropyProbs::name);
  register_ops<RowLoss<Cpu, NLL>>(m, NLL::name);
}

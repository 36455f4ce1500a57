#include "device.h"

STABLE_TORCH_LIBRARY_IMPL(torchloss, CPU, m) {
  using namespace torchloss;
  using Ops = CrossEntropyOps<Cpu>;
  register_ops<Ops>(m, "cross_entropy");
  m.impl("cross_entropy_and_gradient", TORCH_BOX((&Ops::forward_and_gradient)));
  m.impl("cross_entropy_backward_into", TORCH_BOX((&Ops::backward_into)));
  m.impl("cross_entropy_backward_", TORCH_BOX((&Ops::backward_inplace)));
}

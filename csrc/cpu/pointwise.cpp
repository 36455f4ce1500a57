#include "device.h"

namespace torchloss {

template <template <class> class... L>
void register_all(Library& m, List<L...>) {
  (register_ops<PointLoss<Cpu, L>>(m, L<float>::op.name), ...);
}

}  // namespace torchloss

STABLE_TORCH_LIBRARY_IMPL(torchloss, CPU, m) { torchloss::register_all(m, torchloss::Pointwise{}); }

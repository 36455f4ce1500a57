#include "points.h"

namespace torchloss {

template <template <class> class... L>
void register_all(Library& m, List<L...>) {
  (PointLoss<Cpu, L>::register_ops(m), ...);
}

}  // namespace torchloss

STABLE_TORCH_LIBRARY_IMPL(torchloss, CPU, m) { torchloss::register_all(m, torchloss::Pointwise{}); }

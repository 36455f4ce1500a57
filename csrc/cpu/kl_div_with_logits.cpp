#include "rows.h"

STABLE_TORCH_LIBRARY_IMPL(torchloss, CPU, m) {
  torchloss::RowLoss<torchloss::Cpu, torchloss::KLDivWithLogits>::register_ops(m);
}

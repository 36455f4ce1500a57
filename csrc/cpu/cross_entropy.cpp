#include "rows.h"

STABLE_TORCH_LIBRARY_IMPL(torchloss, CPU, m) {
  torchloss::RowLoss<torchloss::Cpu, torchloss::CrossEntropy>::register_ops(m);
}

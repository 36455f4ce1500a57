#include "rows.h"

STABLE_TORCH_LIBRARY_IMPL(torchloss, CPU, m) {
  using namespace torchloss;
  RowMap<Cpu, SoftmaxMap>::register_ops(m);
  RowMap<Cpu, LogSoftmaxMap>::register_ops(m);
}

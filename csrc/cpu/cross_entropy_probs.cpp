#include "rows.h"

STABLE_TORCH_LIBRARY_IMPL(torchloss, CPU, m) {
  using namespace torchloss;
  RowLoss<Cpu, CrossEntropyProbs>::register_ops(m);
  RowLoss<Cpu, NLL>::register_ops(m);
}

#include "rows.h"

STABLE_TORCH_LIBRARY_IMPL(torchloss, CPU, m) {
  using namespace torchloss;
  RowLoss<Cpu, Entropy>::register_ops(m);
  RowLoss<Cpu, SoftmaxEntropy>::register_ops(m);
  RowLoss<Cpu, LogitStats>::register_ops(m);
}

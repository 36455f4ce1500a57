#include "rows.cuh"

STABLE_TORCH_LIBRARY_IMPL(torchloss, CUDA, m) {
  using namespace torchloss;
  RowLoss<Cuda, Entropy>::register_ops(m);
  RowLoss<Cuda, SoftmaxEntropy>::register_ops(m);
  RowLoss<Cuda, LogitStats>::register_ops(m);
}

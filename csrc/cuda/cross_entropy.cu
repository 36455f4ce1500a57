#include "rows.cuh"

STABLE_TORCH_LIBRARY_IMPL(torchloss, CUDA, m) {
  using namespace torchloss;
  RowLoss<Cuda, CrossEntropy>::register_ops(m);
}

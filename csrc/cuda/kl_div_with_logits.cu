#include "rows.cuh"

STABLE_TORCH_LIBRARY_IMPL(torchloss, CUDA, m) {
  using namespace torchloss;
  RowLoss<Cuda, KLDivWithLogits>::register_ops(m);
}

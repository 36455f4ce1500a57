#include "rows.cuh"

STABLE_TORCH_LIBRARY_IMPL(torchloss, CUDA, m) {
  using namespace torchloss;
  RowLoss<Cuda, CrossEntropyProbs>::register_ops(m);
  RowLoss<Cuda, NLL>::register_ops(m);
}

#include "rows.cuh"

STABLE_TORCH_LIBRARY_IMPL(torchloss, CUDA, m) {
  using namespace torchloss;
  RowMap<Cuda, SoftmaxMap>::register_ops(m);
  RowMap<Cuda, LogSoftmaxMap>::register_ops(m);
}

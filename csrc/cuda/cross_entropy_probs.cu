#include "device.h"

STABLE_TORCH_LIBRARY_IMPL(torchloss, CUDA, m) {
  using namespace torchloss;
  register_ops<RowLoss<Cuda, CrossEntropyProbs>>(m, CrossEntropyProbs::name);
  register_ops<RowLoss<Cuda, NLL>>(m, NLL::name);
}

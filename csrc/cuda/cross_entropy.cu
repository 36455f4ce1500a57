#include "device.h"

STABLE_TORCH_LIBRARY_IMPL(torchloss, CUDA, m) {
  using namespace torchloss;
  register_ops<CrossEntropyOps<Cuda>>(m, "cross_entropy");
}

#include "pointwise.cuh"

STABLE_TORCH_LIBRARY_IMPL(torchloss, CUDA, m) { torchloss::register_half<0>(m, torchloss::Pointwise{}); }

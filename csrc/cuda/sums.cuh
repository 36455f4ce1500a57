#pragma once
// Sums of many numbers, in double and in an order that depends on their count alone. Each block leaves its sum in a
// slot of its own; finish() adds the slots. Where one block suffices, it finishes by itself.
#include "launch.h"
#include "team.cuh"

namespace torchloss {

__device__ inline double read(const void* p, ScalarType type, int64_t i) {
  switch (type) {
    case ScalarType::Double:
      return static_cast<const double*>(p)[i];
    case ScalarType::Half:
      return static_cast<const torch::headeronly::Half*>(p)[i];
    case ScalarType::BFloat16:
      return static_cast<const torch::headeronly::BFloat16*>(p)[i];
    default:
      return static_cast<const float*>(p)[i];
  }
}

__device__ inline void write(void* p, ScalarType type, double x) {
  switch (type) {
    case ScalarType::Double:
      *static_cast<double*>(p) = x;
      return;
    case ScalarType::Half:
      *static_cast<torch::headeronly::Half*>(p) = static_cast<float>(x);
      return;
    case ScalarType::BFloat16:
      *static_cast<torch::headeronly::BFloat16*>(p) = static_cast<float>(x);
      return;
    default:
      *static_cast<float*>(p) = static_cast<float>(x);
  }
}

// Where a sum goes: out = sum * scale / *divisor.
struct Sink {
  void* out;
  ScalarType type;
  double scale = 1;
  const void* divisor = nullptr;
  ScalarType divisor_type = ScalarType::Float;
  double* slots = nullptr;  // one per block, if there are several

  // Every thread of the block calls this, with a double of shared memory for each.
  __device__ void add_block(double x) const {
    double sum[] = {x};
    reduce({static_cast<int>(blockDim.x), static_cast<int>(threadIdx.x), false, block_memory()}, sum, Plus());
    if (threadIdx.x > 0) return;
    if (gridDim.x > 1)
      slots[blockIdx.x] = sum[0];
    else
      write(out, type, divisor ? sum[0] * scale / read(divisor, divisor_type, 0) : sum[0] * scale);
  }
};

// Gives the sink its slots: memory of the current stream, to be held until finish() has been called.
MaybeTensor slots(Sink& sink, int64_t blocks, int device);
void finish(const Sink& sink, int64_t blocks, int device);

}  // namespace torchloss

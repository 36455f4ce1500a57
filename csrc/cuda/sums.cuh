#pragma once
// Sums of many numbers, in double and in an order that depends on their count alone. Each block leaves its sums in
// slots of its own; finish() adds the slots. Where one block suffices, it finishes by itself.
#include "../rowwise.h"
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

// What becomes of a sum: out = sum * scale / *divisor.
struct Total {
  static constexpr int n = 1;
  void* out;
  ScalarType type;
  double scale = 1;
  const void* divisor = nullptr;
  ScalarType divisor_type = ScalarType::Float;

  __device__ void write(const double* sum) const {
    torchloss::write(out, type, divisor ? *sum * scale / read(divisor, divisor_type, 0) : *sum * scale);
  }
};

// What becomes of the sums of the rows' values and of their weights: total = the weights', loss = the values' or the
// mean.
struct RowTotals {
  static constexpr int n = 2;
  ScalarType compute, type;  // of total, of loss
  void *total, *loss;        // nullptr: nobody asks for the loss
  bool mean;

  __device__ void write(const double* sum) const {
    torchloss::write(total, compute, sum[1]);
    if (loss) torchloss::write(loss, type, mean ? sum[0] / read(total, compute, 0) : sum[0]);
  }
};

// Where the threads of a grid leave their part of the sums.
template <class To>
struct Sink {
  static constexpr int n = To::n;
  To to;
  double* slots = nullptr;  // n per block, if there are several

  // Every thread of the block calls this, with room in shared memory for n doubles of each warp.
  __device__ void add_block(double (&sums)[n]) const {
    const int size = static_cast<int>(blockDim.x), rank = static_cast<int>(threadIdx.x);
    reduce({size, rank, false, block_memory()}, sums, Plus());
    if (rank > 0) return;
    if (gridDim.x == 1) return to.write(sums);
#pragma unroll
    for (int k = 0; k < n; ++k) slots[blockIdx.x * n + k] = sums[k];
  }
};

// Gives the sink its slots: memory of the current stream, to be held until finish() has been called.
MaybeTensor reserve(double*& slots, int64_t n, int device);
template <class To>
MaybeTensor slots(Sink<To>& sink, int64_t blocks, int device) {
  return blocks == 1 ? std::nullopt : reserve(sink.slots, blocks * To::n, device);
}
void sum_rows(const RowArgs& args, const RowTotals& to);
void finish(const Sink<Total>& sink, int64_t blocks, int device);

}  // namespace torchloss

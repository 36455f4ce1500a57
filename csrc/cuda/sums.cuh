#pragma once
// Sums of many numbers, in double and in an order that depends on their count alone. Each block leaves a partial sum;
// finish() adds those. A grid of one block finishes by itself.
#include "../rowwise.h"
#include "launch.h"
#include "team.cuh"

namespace torchloss {

// A number of a dtype that weights, and normalizers, may have.
HD double read(const void* p, ScalarType type, int64_t i) {
  switch (type) {
    case ScalarType::Double:
      return static_cast<const double*>(p)[i];
    case ScalarType::Half:
      return static_cast<const torch::headeronly::Half*>(p)[i];
    case ScalarType::BFloat16:
      return static_cast<const torch::headeronly::BFloat16*>(p)[i];
    case ScalarType::Long:
      return static_cast<double>(static_cast<const int64_t*>(p)[i]);
    case ScalarType::Int:
      return static_cast<const int32_t*>(p)[i];
    default:
      return static_cast<const float*>(p)[i];
  }
}

// A number of a compute type.
__device__ inline void write(void* p, ScalarType type, double x) {
  if (type == ScalarType::Double)
    *static_cast<double*>(p) = x;
  else
    *static_cast<float*>(p) = static_cast<float>(x);
}

// What becomes of a sum: out = sum * scale.
struct Total {
  static constexpr int n = 1;
  void* out;
  ScalarType type;
  double scale = 1;

  __device__ void write(const double* sum) const { torchloss::write(out, type, *sum * scale); }
};

// What becomes of the sums of the rows' values and of their weights: see RowResults.
struct RowTotals {
  static constexpr int n = 2;
  bool in_double;  // the compute type
  RowResults to;

  explicit HD RowTotals(const RowArgs& args) : in_double(args.dtype == ScalarType::Double), to(args.results) {}
  HD bool wanted() const { return to.loss || to.total; }

  __device__ void write(const double* sum) const { in_double ? write_as<double>(sum) : write_as<float>(sum); }
  template <class T>
  __device__ void write_as(const double* sum) const {
    if (to.total) {
      const T total = static_cast<T>(sum[1]);
      *static_cast<T*>(to.total) = to.or_one && total == 0 ? T(1) : total;
    }
    if (!to.loss) return;
    T loss = static_cast<T>(sum[0]);
    if (to.mean) {
      const T by = *static_cast<const T*>(to.divisor ? to.divisor : to.total);
      // As reduction="sum" divided; but a sum beyond the largest number may have a quotient.
      loss = to.normalized && !(abs(loss) == infinity<T>()) ? loss / by : static_cast<T>(sum[0] / by);
    }
    *static_cast<T*>(to.loss) = loss;
  }
};

// A sum over a grid, and what becomes of it.
template <class To>
struct GridSum {
  static constexpr int n = To::n;
  To to;
  double* partials = nullptr;  // n of each block, if there are several

  // Every thread of the block calls this, with room in shared memory for n doubles of each warp.
  __device__ void add_block(double (&sums)[n]) const {
    const int size = static_cast<int>(blockDim.x), rank = static_cast<int>(threadIdx.x);
    reduce({size, rank, false, block_memory()}, sums, Plus());
    if (rank > 0) return;
    if (gridDim.x == 1) return to.write(sums);
#pragma unroll
    for (int k = 0; k < n; ++k) partials[blockIdx.x * n + k] = sums[k];
  }
};

// n doubles in memory of the current stream, to be held until finish() has been called.
Tensor reserve(double*& memory, int64_t n, int device);
template <class To>
Tensor reserve_partials(GridSum<To>& sum, int64_t blocks, int device) {
  return blocks == 1 ? Tensor() : reserve(sum.partials, blocks * To::n, device);
}
void finish(const GridSum<Total>& sum, int64_t blocks, int device);

}  // namespace torchloss

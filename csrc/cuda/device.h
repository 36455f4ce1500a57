#pragma once
// CUDA, as the device that ../pointwise.h and ../rowwise.h ask for. Nothing here waits for the GPU: what a CPU would
// report as an error (a bad target, an input outside the loss's domain) becomes a NaN.
#include "points.cuh"
#include "rows.cuh"

namespace torchloss {

struct Cuda {
  // Memory for the length of a call; PyTorch's allocator gives it to no other stream before the kernels are done.
  class Scratch {
    Tensor memory;

   public:
    void* reserve(const Tensor& like, int64_t n, ScalarType dtype) {
      memory = new_tensor(like, {n}, dtype);
      return memory.mutable_data_ptr();
    }
  };

  template <template <class> class K>
  static void rows(const RowArgs& args) {
    const DeviceGuard guard(args.device);
    dispatch_floating(args.dtype, [&]<class S>() { run_rows<S, K<Number<S>>>(args); });
  }

  // And the total weight of the rows and, if loss is not nullptr, the sum or the mean of their values.
  template <template <class> class K>
  static void rows_and_totals(const RowArgs& args, void* total, void* loss, bool mean) {
    const DeviceGuard guard(args.device);
    const RowTotals totals{compute_type(args.dtype), args.dtype, total, loss, mean};
    dispatch_floating(args.dtype, [&]<class S>() {
      if (!run_rows<S, K<Number<S>>>(args, totals)) sum_rows(args, totals);
    });
  }

  template <template <class> class L, int order>
  static bool pointwise(const PointArgs& args) {
    const DeviceGuard guard(args.device);
    dispatch_floating(args.dtype, [&]<class S>() { run_points<L, order, S>(args); });
    return true;
  }

  static void prepare(const Tensor&) {}
  static void reduce(const RowArgs& args, const void* total, void* loss);
};

}  // namespace torchloss

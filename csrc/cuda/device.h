#pragma once
// CUDA, as the device that ../pointwise.h and ../rowwise.h ask for. Nothing here waits for the GPU: what a CPU would
// report as an error (a bad target, an input outside the loss's domain) becomes a NaN. The loops are in points.cuh and
// rows.cuh.
#include "../tensor.h"

namespace torchloss {

struct PointArgs;
struct RowArgs;

struct Cuda {
  // Memory for the length of a call; PyTorch's allocator gives it to no other stream before the kernels are done.
  class Scratch {
    Tensor memory;

   public:
    void* reserve(const Tensor& like, int64_t n, ScalarType dtype) {
      memory = new_tensor(like, &n, 1, dtype);
      return memory.data;
    }
  };

  static constexpr bool shows_scale = false;

  // `rare`: second derivatives.
  template <template <class> class K, bool rare>
  static void rows(const RowArgs& args);

  template <template <class> class L, int order>
  static bool pointwise(const PointArgs& args);

  static void prepare(const Tensor&) {}
  static void zero(void* p, int64_t bytes, int device);
  static void check_targets(const RowArgs&) {}
  static void finish(const RowArgs& args);  // what RowResults asks for, once the rows have their values
  static void normalizer(const RowArgs& args, const Tensor& normalizer, void* total);
};

}  // namespace torchloss

#pragma once
// The CPU, as the device that ../pointwise.h and ../rowwise.h ask for. The loops are in points.h and rows.h.
#include <torch/csrc/stable/ops.h>

#include <cstring>
#include <memory>

#include "../tensor.h"

namespace torchloss {

struct PointArgs;
struct RowArgs;

struct Cpu {
  // Memory for the length of a call.
  class Scratch {
    std::unique_ptr<char[]> memory;

   public:
    void* reserve(const Tensor&, int64_t n, ScalarType dtype) {
      memory.reset(new char[n * element_size(dtype)]);
      return memory.get();
    }
  };

  static constexpr bool shows_scale = true;

  // `rare`: second derivatives, see isa.h.
  template <template <class> class K, bool rare>
  static void rows(const RowArgs& a);

  template <template <class> class L, int order>
  static bool pointwise(const PointArgs& a);

  static void prepare(const Tensor& t);
  static void zero(void* p, int64_t bytes, int) {
    if (bytes > 0) std::memset(p, 0, bytes);  // of nothing p may be null, which memset does not take
  }
  static void check_targets(const RowArgs& a);
  static void finish(const RowArgs& a);  // what RowResults asks for, once the rows have their values
  static void normalizer(const RowArgs& a, const Tensor& normalizer, void* total);
};

}  // namespace torchloss

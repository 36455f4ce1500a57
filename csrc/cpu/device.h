#pragma once
// The CPU, as the device that ../pointwise.h and ../rowwise.h ask for.
#include "points.h"
#include "rows.h"

namespace torchloss {

struct Cpu {
  // Memory for the length of a call.
  class Scratch {
    std::unique_ptr<char[]> memory;

   public:
    void* reserve(const Tensor&, int64_t n, ScalarType dtype) {
      memory.reset(new char[n * (dtype == ScalarType::Double ? 8 : 4)]);
      return memory.get();
    }
  };

  template <template <class> class K>
  static void rows(const RowArgs& a) {
    if (!(a.dtype == ScalarType::Double ? run_rows<K, double>(a) : run_rows<K, float>(a))) {
      check_targets(a);
      STD_TORCH_CHECK(false, a.op, ": a target changed while it was read");
    }
  }

  template <template <class> class K>
  static void rows_and_totals(const RowArgs& a, void* weights, void* loss, bool mean) {
    rows<K>(a);
    total(a, weights);
    if (loss) reduce(a, mean ? weights : nullptr, loss);
  }

  template <template <class> class L, int order>
  static bool pointwise(const PointArgs& a) {
    return a.dtype == ScalarType::Double ? run_points<L, order, double>(a) : run_points<L, order, float>(a);
  }

  static void prepare(const Tensor& t);
  static void check_targets(const RowArgs& a);
  static void total(const RowArgs& a, void* total);
  static void reduce(const RowArgs& a, const void* total, void* loss);
};

}  // namespace torchloss

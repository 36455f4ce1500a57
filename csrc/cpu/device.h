#pragma once
// The CPU, as the device that ../pointwise.h and ../rowwise.h ask for.
#include "points.h"
#include "rows.h"

namespace torchloss {

struct Cpu {
  template <template <class> class K>
  static void rows(const RowArgs& a) {
    a.dtype == ScalarType::Double ? run_rows<K, double>(a) : run_rows<K, float>(a);
  }

  template <template <class> class L, int order>
  static bool pointwise(const PointArgs& a) {
    return a.dtype == ScalarType::Double ? run_points<L, order, double>(a) : run_points<L, order, float>(a);
  }

  static void check_targets(const char* op, const RowArgs& a);
  static void total(const RowArgs& a, void* total);
  static void reduce(const RowArgs& a, const void* total, void* loss);
};

}  // namespace torchloss

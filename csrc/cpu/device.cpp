#include "device.h"

#include <algorithm>
#include <cmath>

#include "../rowwise.h"
#include "isa.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace torchloss {

// The first touch of a large tensor, page by page of 4 KB, takes longer than the arithmetic on it. So ask for pages of
// 2 MB.
void Cpu::prepare(const Tensor& t) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t page = 2 << 20, least = 2 * page;
  const uintptr_t bytes = t.numel * element_size(t.dtype);
  if (bytes < least) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(t.data), first = (begin + page - 1) / page * page;
  madvise(reinterpret_cast<void*>(first), (begin + bytes) / page * page - first, MADV_HUGEPAGE);  // a hint
#endif
}

void Cpu::check_targets(const RowArgs& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    const int64_t y = a.target[r];
    STD_TORCH_CHECK((y >= 0 && y < a.classes) || y == a.ignore_index, "Target ", y, " is out of bounds. (", a.op,
                    ", row ", r, ": expected 0 <= target < ", a.classes, " or ignore_index = ", a.ignore_index, ")");
  }
}

namespace {

double number(const void* p, ScalarType dtype, int64_t i) {
  switch (dtype) {
    case ScalarType::Double:
      return static_cast<const double*>(p)[i];
    case ScalarType::Half:
      return static_cast<float>(static_cast<const torch::headeronly::Half*>(p)[i]);
    case ScalarType::BFloat16:
      return static_cast<float>(static_cast<const torch::headeronly::BFloat16*>(p)[i]);
    case ScalarType::Long:
      return static_cast<double>(static_cast<const int64_t*>(p)[i]);
    case ScalarType::Int:
      return static_cast<const int32_t*>(p)[i];
    default:
      return static_cast<const float*>(p)[i];
  }
}

struct CountTargets {
  template <int>
  HD static void run(const int64_t* target, int64_t n, int64_t ignore_index, int64_t* counted) {
    int64_t count = 0;
    for (int64_t r = 0; r < n; ++r) count += target[r] != ignore_index;
    *counted = count;
  }
};

// The weight of the rows that count.
double total_weight(const RowArgs& a) {
  const ScalarType compute = compute_type(a.dtype);
  if (!a.target && !a.row_weight) return static_cast<double>(a.rows);
  if (!a.weight && !a.row_weight) {
    int64_t counted = 0;
    EveryIsa<CountTargets>::run(a.target, a.rows, a.ignore_index, &counted);
    return static_cast<double>(counted);
  }
  double sum = 0;
  for (int64_t r = 0; r < a.rows; ++r) {  // perhaps before the targets were checked
    double w = 1;
    if (a.target) {
      const int64_t y = a.target[r];
      if (y == a.ignore_index || y < 0 || y >= a.classes) continue;
      if (a.weight) w = number(a.weight, a.dtype, y * a.weight_stride);
    }
    sum += a.row_weight ? w * number(a.row_weight, compute, r) : w;
  }
  return sum;
}

template <class T>
void finish_in(const RowArgs& a) {
  const RowResults& to = a.results;
  if (to.total) *static_cast<T*>(to.total) = static_cast<T>(total_weight(a));
  if (to.total && to.or_one && *static_cast<T*>(to.total) == 0) *static_cast<T*>(to.total) = 1;
  if (!to.loss) return;
  const T* values = static_cast<const T*>(a.values);
  double sums[8] = {};
  for (int64_t r = 0; r < a.rows; ++r) sums[r % 8] += values[r];
  double sum = 0;
  for (double s : sums) sum += s;
  T loss = static_cast<T>(sum);
  if (to.mean) {
    const T by = *static_cast<const T*>(to.divisor ? to.divisor : to.total);
    // As reduction="sum" divided; but a sum beyond the largest number may have a quotient.
    loss = to.normalized && !std::isinf(loss) ? loss / by : static_cast<T>(sum / by);
  }
  *static_cast<T*>(to.loss) = loss;
}

}  // namespace

void Cpu::finish(const RowArgs& a) {
  if (!a.results.loss && !a.results.total) return;
  a.dtype == ScalarType::Double ? finish_in<double>(a) : finish_in<float>(a);
}

void Cpu::normalizer(const RowArgs& a, const Tensor& n, void* total) {
  STD_TORCH_CHECK(n.device_type == aoti_torch_device_type_cpu(), a.op, ": expected a normalizer on the CPU");
  const double value = number(n.data, n.dtype, 0);
  if (a.dtype == ScalarType::Double)
    *static_cast<double*>(total) = value;
  else
    *static_cast<float*>(total) = static_cast<float>(value);
}

template struct RowOps<Cpu>;

}  // namespace torchloss

#include "device.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace torchloss {

// The first touch of a large tensor, page by page of 4 KB, takes longer than the arithmetic on it. So ask for pages of
// 2 MB.
void Cpu::prepare(const Tensor& t) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t page = 2 << 20, least = 2 * page;
  const uintptr_t bytes = t.numel() * t.element_size();
  if (bytes < least) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(t.data_ptr()), first = (begin + page - 1) / page * page;
  madvise(reinterpret_cast<void*>(first), (begin + bytes) / page * page - first, MADV_HUGEPAGE);  // a wish
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

struct CountRows {
  template <int bytes>
  HD static void run(const RowArgs* a, int64_t* count) {
    int64_t n = 0;
    for (int64_t r = 0; r < a->rows; ++r) n += a->target[r] != a->ignore_index;
    *count = n;
  }
};

template <class T>
void total_of(const RowArgs& a, T* total) {
  if (!a.target) {
    *total = static_cast<T>(a.rows);
    return;
  }
  double sum = 0;
  if (a.weight) {
    for (int64_t r = 0; r < a.rows; ++r) {  // perhaps before the targets were checked
      const int64_t y = a.target[r];
      if (y != a.ignore_index && y >= 0 && y < a.classes) sum += read<T>(a.weight, a.dtype, y * a.weight_stride);
    }
  } else {
    int64_t count = 0;
    MultiIsa<CountRows>::run(&a, &count);
    sum = static_cast<double>(count);
  }
  *total = static_cast<T>(sum);
}

template <class T>
void reduce_to(const RowArgs& a, const void* total, void* loss) {
  const T* values = static_cast<const T*>(a.values);
  double sums[8] = {};
  for (int64_t r = 0; r < a.rows; ++r) sums[r % 8] += values[r];
  double sum = 0;
  for (double s : sums) sum += s;
  if (total) sum /= *static_cast<const T*>(total);
  write<T>(loss, a.dtype, 0, static_cast<T>(sum));
}

}  // namespace

void Cpu::total(const RowArgs& a, void* total) {
  a.dtype == ScalarType::Double ? total_of(a, static_cast<double*>(total)) : total_of(a, static_cast<float*>(total));
}

void Cpu::reduce(const RowArgs& a, const void* total, void* loss) {
  a.dtype == ScalarType::Double ? reduce_to<double>(a, total, loss) : reduce_to<float>(a, total, loss);
}

}  // namespace torchloss

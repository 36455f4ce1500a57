#include "device.h"

namespace torchloss {

void Cpu::check_targets(const char* op, const RowArgs& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    const int64_t y = a.target[r];
    STD_TORCH_CHECK((y >= 0 && y < a.classes) || y == a.ignore_index, "Target ", y, " is out of bounds. (", op,
                    ", row ", r, ": expected 0 <= target < ", a.classes, " or ignore_index = ", a.ignore_index, ")");
  }
}

namespace {

template <class T>
void total_of(const RowArgs& a, T* total) {
  if (!a.target) {
    *total = static_cast<T>(a.rows);
    return;
  }
  double sum = 0;
  for (int64_t r = 0; r < a.rows; ++r)
    if (a.target[r] != a.ignore_index)
      sum += a.weight ? read<T>(a.weight, a.dtype, a.target[r] * a.weight_stride) : T(1);
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

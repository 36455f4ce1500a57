#pragma once
// Between tensors of any dtype and stride, and buffers of the compute type that stay in the cache.
#include "../math.h"
#include "../tensor.h"

namespace torchloss {

template <class T>
constexpr ScalarType own_type() {
  return sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float;
}

inline void* element(void* data, ScalarType dtype, int64_t i) {
  return static_cast<char*>(data) + i * element_size(dtype);
}

// Rows by classes of a tensor. In a buffer of the compute type class c of row r is at [c * width + r].
struct Block {
  void* data;
  ScalarType dtype;
  int64_t rows, row_stride, classes, class_stride;
};

// Between a block and such a buffer.
template <class T, bool store>
void move(const Block& b, T* buffer, int64_t width);

// A run of n numbers, `stride` apart.
template <class T, bool store>
HD void move_run(void* data, ScalarType dtype, int64_t at, int64_t stride, int64_t n, T* buffer) {
  move<T, store>({element(data, dtype, at), dtype, 1, 0, n, stride}, buffer, 1);
}

// One number.
template <class T>
HD T read(const void* p, ScalarType dtype, int64_t i) {
  if (dtype == own_type<T>()) return static_cast<const T*>(p)[i];
  T x{};
  move_run<T, false>(const_cast<void*>(p), dtype, i, 1, 1, &x);
  return x;
}

template <class T>
HD void write(void* p, ScalarType dtype, int64_t i, T x) {
  if (dtype == own_type<T>())
    static_cast<T*>(p)[i] = x;
  else
    move_run<T, true>(p, dtype, i, 1, 1, &x);
}

}  // namespace torchloss

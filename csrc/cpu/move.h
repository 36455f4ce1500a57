#pragma once
// Between tensors of any dtype and stride, and small buffers of the compute type that stay in the L1 cache.
#include "../math.h"
#include "../tensor.h"
#include "isa.h"

namespace torchloss {

// Up to 16 numbers of one class in as many rows (across), or a run of classes of one row (along).
struct Lines {
  void* data;
  ScalarType dtype;
  int64_t stride;          // from one class to the next
  const int64_t* offsets;  // of each lane's row, of one row if along
  int lanes;               // 0: along
  bool adjacent;           // across: the lanes lie side by side in memory
};

template <class T>
constexpr ScalarType own_type() {
  return sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float;
}

template <class T, bool store>
struct Move {
  template <int>
  HD static void run(Lines m, int64_t first, int64_t n, T* buffer, int width) {
    switch (m.dtype) {
      case ScalarType::Float:
        return typed<float>(m, first, n, buffer, width);
      case ScalarType::Double:
        return typed<double>(m, first, n, buffer, width);
      case ScalarType::Half:
        return typed<torch::headeronly::Half>(m, first, n, buffer, width);
      default:
        return typed<torch::headeronly::BFloat16>(m, first, n, buffer, width);
    }
  }

  // buffer[i * width + lane] <-> class first + i, or buffer[i] <-> class first + i if along.
  template <class S>
  HD static void typed(Lines m, int64_t first, int64_t n, T* buffer, int width) {
    S* p = static_cast<S*>(m.data) + first * m.stride;
    if (!m.lanes) {
      p += m.offsets[0];
      if (m.stride == 1)
        for (int64_t i = 0; i < n; ++i) one(p[i], buffer[i]);
      else
        for (int64_t i = 0; i < n; ++i) one(p[i * m.stride], buffer[i]);
      return;
    }
    for (int64_t i = 0; i < n; ++i, p += m.stride, buffer += width) {
      S* q = p + m.offsets[0];
      if (m.adjacent)
        for (int l = 0; l < m.lanes; ++l) one(q[l], buffer[l]);
      else
        for (int l = 0; l < m.lanes; ++l) one(p[m.offsets[l]], buffer[l]);
    }
  }

  template <class S>
  HD static void one(S& there, T& here) {
    if constexpr (store)
      there = static_cast<S>(here);
    else
      here = static_cast<T>(there);
  }
};

template <class T, bool store>
__attribute__((noinline)) void move(const Lines& m, int64_t first, int64_t n, T* buffer, int width) {
  MultiIsa<Move<T, store>>::run(m, first, n, buffer, width);
}

// One number.
template <class T>
HD T read(const void* p, ScalarType dtype, int64_t i) {
  if (dtype == own_type<T>()) return static_cast<const T*>(p)[i];
  T x{};
  const int64_t at = 0;
  move<T, false>({const_cast<void*>(p), dtype, 1, &at, 0, false}, i, 1, &x, 1);
  return x;
}

template <class T>
HD void write(void* p, ScalarType dtype, int64_t i, T x) {
  if (dtype == own_type<T>()) {
    static_cast<T*>(p)[i] = x;
    return;
  }
  const int64_t at = 0;
  move<T, true>({p, dtype, 1, &at, 0, false}, i, 1, &x, 1);
}

}  // namespace torchloss

#include "move.h"

#include "half.h"
#include "isa.h"
#include "lanes.h"

namespace torchloss {

template <class S>
constexpr Half format = std::is_same_v<S, torch::headeronly::Half> ? Half::float16 : Half::bfloat16;

template <class T, bool store>
struct Move {
  template <int bytes>
  HD static void run(const Block* b, T* buffer, int64_t width) {
    switch (b->dtype) {
      case ScalarType::Half:
        return typed<torch::headeronly::Half, bytes>(*b, buffer, width);
      case ScalarType::BFloat16:
        return typed<torch::headeronly::BFloat16, bytes>(*b, buffer, width);
      case ScalarType::Double:
        if constexpr (sizeof(T) == 8) return typed<double, bytes>(*b, buffer, width);
        return;
      default:
        return typed<float, bytes>(*b, buffer, width);
    }
  }
  // Vectors of T come from the same type or, of floats, from 16 bits.
  template <class S>
  static constexpr bool by_vectors = std::is_same_v<S, T> || sizeof(T) == 4;

  template <class S, int bytes>
  HD static void typed(const Block& b, T* buffer, int64_t width) {
    S* p = static_cast<S*>(b.data);
    if (b.rows == 1 && width == 1 && b.class_stride == 1) return line<S, bytes>(p, buffer, b.classes);
    if (b.row_stride == 1) {
      for (int64_t c = 0; c < b.classes; ++c) line<S, bytes>(p + c * b.class_stride, buffer + c * width, b.rows);
      return;
    }
    const bool tiles = by_vectors<S> && b.class_stride == 1;
    const int64_t rows = tiles ? b.rows / 4 * 4 : 0, classes = tiles ? b.classes / 4 * 4 : 0;
    if constexpr (by_vectors<S>)
      for (int64_t r = 0; r < rows; r += 4)
        for (int64_t c = 0; c < classes; c += 4)
          transposed(p + r * b.row_stride + c, b.row_stride, buffer + c * width + r, width);
    for (int64_t c = 0; c < b.classes; ++c)
      for (int64_t r = c < classes ? rows : 0; r < b.rows; ++r)
        one(p[r * b.row_stride + c * b.class_stride], buffer[c * width + r]);
  }

  template <class S, int bytes>
  HD static void line(S* p, T* buffer, int64_t n) {
    using V = Lanes<T, bytes>;
    int64_t i = 0;
    if constexpr (by_vectors<S>)
      for (; i + V::size <= n; i += V::size) vector<V>(p + i, buffer + i);
    for (; i < n; ++i) one(p[i], buffer[i]);
  }
  template <class V, class S>
  HD static void vector(S* there, T* here) {
    if constexpr (store)
      put(V::load(here), there);
    else
      get<V>(there).store(here);
  }
  template <class V, class S>
  HD static V get(const S* p) {
    if constexpr (std::is_same_v<S, T>)
      return V::load(p);
    else
      return Halves<format<S>, V>::load(p);
  }
  template <class V, class S>
  HD static void put(V x, S* p) {
    if constexpr (std::is_same_v<S, T>)
      x.store(p);
    else
      Halves<format<S>, V>::store(x, p);
  }
  template <class S>
  HD static void one(S& there, T& here) {
    if constexpr (store)
      there = static_cast<S>(static_cast<std::conditional_t<sizeof(S) == 2, float, T>>(here));
    else
      here = static_cast<T>(static_cast<std::conditional_t<sizeof(S) == 2, float, S>>(there));
  }

  // Four rows of four numbers, stored as four columns of four.
  template <class S>
  HD static void transposed(S* there, int64_t from, T* here, int64_t to) {
    using V = Lanes<T, 4 * sizeof(T)>;
    V a[4];
    for (int i = 0; i < 4; ++i) a[i] = store ? V::load(here + i * to) : get<V>(there + i * from);
    const auto low = [](V x, V y)
                         __attribute__((always_inline)) { return V(__builtin_shufflevector(x.v, y.v, 0, 4, 1, 5)); };
    const auto high = [](V x, V y)
                          __attribute__((always_inline)) { return V(__builtin_shufflevector(x.v, y.v, 2, 6, 3, 7)); };
    const V p = low(a[0], a[2]), q = low(a[1], a[3]), r = high(a[0], a[2]), s = high(a[1], a[3]);
    const V b[4] = {low(p, q), high(p, q), low(r, s), high(r, s)};
    for (int i = 0; i < 4; ++i)
      if constexpr (store)
        put(b[i], there + i * from);
      else
        b[i].store(here + i * to);
  }
};

template <class T, bool store>
void move(const Block& b, T* buffer, int64_t width) {
  std::conditional_t<sizeof(T) == 8, Baseline<Move<T, store>>, EveryIsa<Move<T, store>>>::run(&b, buffer, width);
}

template void move<float, false>(const Block&, float*, int64_t);
template void move<float, true>(const Block&, float*, int64_t);
template void move<double, false>(const Block&, double*, int64_t);
template void move<double, true>(const Block&, double*, int64_t);

}  // namespace torchloss

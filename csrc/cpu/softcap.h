#pragma once
// The softcap of logits, x' = cap tanh(x / cap), and its slope 1 - tanh^2, between buffers of the compute type. The
// loops over rows run it on what they have just brought into the L1 cache, so that no kernel knows of it.
#include "isa.h"
#include "lanes.h"

namespace torchloss {

// n vectors, so many numbers apart: y = softcapped(x), or y times the slope at x.
template <class T, bool slope>
struct Softcap {
  template <int bytes>
  HD static void run(const T* x, int64_t x_step, T* y, int64_t y_step, int64_t n, double cap) {
    using V = Lanes<T, bytes>;
    for (int64_t i = 0; i < n; ++i) {
      const V from = V::load(x + i * x_step);
      const V to = slope ? V::load(y + i * y_step) * softcap_slope(from, V(cap)) : softcapped(from, V(cap));
      to.store(y + i * y_step);
    }
  }
};

// With vectors of the loop that calls it, whose instruction set is the same.
template <class T, bool slope, int bytes>
__attribute__((noinline)) void softcap(const T* x, int64_t x_step, T* y, int64_t y_step, int64_t n, double cap) {
  if constexpr (kMultiIsa && bytes == 64)
    MultiIsa<Softcap<T, slope>>::avx512(x, x_step, y, y_step, n, cap);
  else if constexpr (kMultiIsa && bytes == 32)
    Avx2<Softcap<T, slope>>::run(x, x_step, y, y_step, n, cap);
  else
    Baseline<Softcap<T, slope>>::run(x, x_step, y, y_step, n, cap);
}

}  // namespace torchloss

#include "softcap.h"

#include "isa.h"
#include "lanes.h"

namespace torchloss {

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
void softcap(const T* x, int64_t x_step, T* y, int64_t y_step, int64_t n, double cap) {
  if constexpr (kMultiIsa && bytes == 64)
    MultiIsa<Softcap<T, slope>>::avx512(x, x_step, y, y_step, n, cap);
  else if constexpr (kMultiIsa && bytes == 32)
    Avx2<Softcap<T, slope>>::run(x, x_step, y, y_step, n, cap);
  else
    Baseline<Softcap<T, slope>>::run(x, x_step, y, y_step, n, cap);
}

#define TORCHLOSS_SOFTCAP(T, bytes)                                                        \
  template void softcap<T, false, bytes>(const T*, int64_t, T*, int64_t, int64_t, double); \
  template void softcap<T, true, bytes>(const T*, int64_t, T*, int64_t, int64_t, double)
TORCHLOSS_SOFTCAP(float, 64);
TORCHLOSS_SOFTCAP(float, 32);
TORCHLOSS_SOFTCAP(float, 16);
TORCHLOSS_SOFTCAP(double, 16);
#undef TORCHLOSS_SOFTCAP

}  // namespace torchloss

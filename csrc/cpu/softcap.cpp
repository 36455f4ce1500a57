#include "softcap.h"

#include "isa.h"
#include "lanes.h"

namespace torchloss {

template <class T>
struct Softcap {
  template <int bytes>
  HD static void run(const T* x, int64_t step, T* y, T* slope, int64_t n, double cap) {
    using V = Lanes<T, bytes>;
    const V c(cap), over(2 / cap);
    if (slope) {
      for (int64_t i = 0; i < n; ++i) {
        const Softcapped<T, bytes> capped(V::load(x + i * step), c, over);
        capped.value.store(y + i * V::size), capped.slope.store(slope + i * V::size);
      }
    } else {
      for (int64_t i = 0; i < n; ++i) Softcapped<T, bytes>(V::load(x + i * step), c, over).value.store(y + i * V::size);
    }
  }
};

// With vectors of the loop that calls it, whose instruction set is the same.
template <class T, int bytes>
void softcap(const T* x, int64_t step, T* y, T* slope, int64_t n, double cap) {
  if constexpr (kMultiIsa && bytes == 64)
    MultiIsa<Softcap<T>>::avx512(x, step, y, slope, n, cap);
  else if constexpr (kMultiIsa && bytes == 32)
    Avx2<Softcap<T>>::run(x, step, y, slope, n, cap);
  else
    Baseline<Softcap<T>>::run(x, step, y, slope, n, cap);
}

template void softcap<float, 64>(const float*, int64_t, float*, float*, int64_t, double);
template void softcap<float, 32>(const float*, int64_t, float*, float*, int64_t, double);
template void softcap<float, 16>(const float*, int64_t, float*, float*, int64_t, double);
template void softcap<double, 16>(const double*, int64_t, double*, double*, int64_t, double);

}  // namespace torchloss

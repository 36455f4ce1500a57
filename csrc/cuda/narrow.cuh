#pragma once
// The number that losses of bfloat16 and float16 are computed in: a float whose e^d and quotient are the special
// function unit's. Their relative errors, below 2^-19 and 2^-22, are a hundredth of the half unit that rounding to 16
// bits may cost, and they take 4 instructions instead of 8 and 10: two bytes of memory leave time for about 13.
#include <cuda_runtime.h>

#include "../math.h"
#include "../tensor.h"

namespace torchloss {

struct Narrow {
  float v;

  HD Narrow() : v(0) {}
  HD Narrow(float v) : v(v) {}
  HD Narrow(double v) : v(static_cast<float>(v)) {}
  HD Narrow(int v) : v(static_cast<float>(v)) {}
  HD explicit operator float() const { return v; }
  HD explicit operator double() const { return v; }

  friend HD Narrow operator+(Narrow a, Narrow b) { return a.v + b.v; }
  friend HD Narrow operator-(Narrow a, Narrow b) { return a.v - b.v; }
  friend HD Narrow operator*(Narrow a, Narrow b) { return a.v * b.v; }
  friend HD bool operator<(Narrow a, Narrow b) { return a.v < b.v; }
  friend HD bool operator<=(Narrow a, Narrow b) { return a.v <= b.v; }
  friend HD bool operator>(Narrow a, Narrow b) { return a.v > b.v; }
  friend HD bool operator>=(Narrow a, Narrow b) { return a.v >= b.v; }
  friend HD bool operator==(Narrow a, Narrow b) { return a.v == b.v; }

  friend HD Narrow abs(Narrow x) { return ::fabsf(x.v); }
  friend HD Narrow exp(Narrow x) { return ::expf(x.v); }
  friend HD Narrow expm1(Narrow x) { return ::expm1f(x.v); }
  friend HD Narrow log(Narrow x) { return ::logf(x.v); }
  friend HD Narrow log1p(Narrow x) { return ::log1pf(x.v); }

  // Of all magnitudes, to 2 ulp.
  friend __device__ __forceinline__ Narrow operator/(Narrow a, Narrow b) {
    float q;
    asm("div.full.f32 %0, %1, %2;" : "=f"(q) : "f"(a.v), "f"(b.v));
    return q;
  }

  // e^d for d <= 0, subnormal results too: as 2^(d log2 e + 24) 2^-24, for the unit gives none. With the unit's 2 ulp,
  // the rounding of the exponent, at most 2^-20 ln 2 while e^d is above 2^-40, and log2 e's of 1.4e-8 |d|.
  friend __device__ __forceinline__ Narrow decay(Narrow d) {
    float e;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(__fmaf_rn(d.v, 1.4426950408889634f, 24.f)));
    return e * 0x1p-24f;
  }
};

template <>
struct ScalarOf<Narrow> {
  using type = float;
};

// The number that a kernel for S is written over. It is as large as Compute's.
template <class S>
using Number = std::conditional_t<sizeof(S) == 2, Narrow, typename Compute<S>::type>;

// What a kernel asks of its number beyond the formulas.
template <class V>
__device__ __forceinline__ V greater(V a, V b) {  // of a number and a NaN, the number
  if constexpr (std::is_same_v<V, Narrow>)
    return ::fmaxf(a.v, b.v);
  else
    return ::max(a, b);
}
template <class V>
__device__ __forceinline__ V from_lane(V x, int distance) {
  if constexpr (std::is_same_v<V, Narrow>)
    return __shfl_xor_sync(~0u, x.v, distance);
  else
    return __shfl_xor_sync(~0u, x, distance);
}

}  // namespace torchloss

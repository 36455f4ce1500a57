#pragma once
// The number that losses of bfloat16 and float16 are computed in: a float whose e^d and quotient are the special
// function unit's. They take 3 and 4 instructions instead of 8 and 10: two bytes of memory leave time for about 13. The
// relative error of e^d is below 2^-20 ln 2 + 2^-22 + 1.4e-8 |d|, about 1e-6 for |d| < 10; the half unit that rounding
// to float16 costs is 250 times as much. Other formulas, too, are as short as about 1e-6 allows.
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

  // log(1 + x) for 0 <= x <= 1: the polynomial's error is below 2^-21.
  friend HD Narrow log1p_to_2(Narrow x) {
    Narrow p = 7.184105317e-3f;
    p = p * x - 3.710757382e-2f;
    p = p * x + 9.019058438e-2f;
    p = p * x - 1.463626079e-1f;
    p = p * x + 1.953962885e-1f;
    p = p * x - 2.494623109e-1f;
    p = p * x + 3.333086050e-1f;
    p = p * x - 4.999998081e-1f;
    return x * x * p + x;
  }

  // e^d - 1 - d for |d| <= 1: the polynomial's error is below 2^-24.
  friend HD Narrow exp_excess(Narrow d) {
    Narrow p = 2.528843490e-5f;
    p = p * d + 2.032904191e-4f;
    p = p * d + 1.388644774e-3f;
    p = p * d + 8.330886169e-3f;
    p = p * d + 4.166669721e-2f;
    p = p * d + 1.666669729e-1f;
    p = p * d + 0.5f;
    return d * d * p;
  }

  // e^x - 1 for x <= 0, and for a NaN that of -infinity: (2^n 2^f) - 1, n + f = x log2 e. To 2^-20.
  friend HD Narrow expm1_of_lower(Narrow x) {
    x = ::fmaxf(x.v, -80.f);
    constexpr float round = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
    const float shifted = x.v * 1.44269504f + round, f = x.v * 1.44269504f - (shifted - round);
    float p = 1.338139823e-3f;
    p = p * f + 9.666466250e-3f;
    p = p * f + 5.550380894e-2f;
    p = p * f + 2.402234783e-1f;
    p = p * f + 6.931471806e-1f;
    const float power = two_to_the(shifted);
    return power * (p * f) + (power - 1);
  }

  // Of all magnitudes, to 2 ulp.
  friend __device__ __forceinline__ Narrow operator/(Narrow a, Narrow b) {
    float q;
    asm("div.full.f32 %0, %1, %2;" : "=f"(q) : "f"(a.v), "f"(b.v));
    return q;
  }

  // e^d for d <= 0, subnormal results too: as 2^(d log2 e + 24) 2^-24, for the unit gives none. Its error has three
  // parts: the exponent's rounding, 2^-20 while e^d is above 2^-56; the unit's 2 ulp; log2 e's rounding, and that of a
  // scale times it, another 6e-8 |d|.
  struct ScaledExp {
    float scaled_up;
    HD operator Narrow() const { return scaled_up * 0x1p-24f; }
  };
  friend __device__ __forceinline__ ScaledExp scaled_exp(Narrow d, Narrow scale = 1.f) {
    float e, exponent = __fmaf_rn(d.v, scale.v * 1.4426950408889634f, 24.f);
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(exponent));
    return {e};
  }
  friend HD Narrow scaled_up(ScaledExp e) { return e.scaled_up; }
  friend __device__ __forceinline__ Narrow exp_nonpositive(Narrow d) { return scaled_exp(d); }
  // tanh |u| = (1 - e) / (1 + e), e = e^(-2 |u|): to 5e-7 of the cap, as the general form is where u is large.
  friend __device__ __forceinline__ Narrow softcapped(Narrow x, Narrow cap) {
    const Narrow e = exp_nonpositive(abs(x) * (Narrow(-2) / cap));
    return ::copysignf((cap * (Narrow(1) - e) / (Narrow(1) + e)).v, x.v);
  }
  friend __device__ __forceinline__ Narrow softcap_slope(Narrow x, Narrow cap) {
    const Narrow e = exp_nonpositive(abs(x) * (Narrow(-2) / cap)), s = Narrow(1) + e;
    return Narrow(4) * e / (s * s);
  }
  // Where d is -inf e is 0, and so is the product with anything else.
  friend __device__ __forceinline__ Narrow moment(ScaledExp e, Narrow d) { return e.scaled_up * ::fmaxf(d.v, -1000.f); }
};
template <>
inline constexpr bool rounded_to_16_bits<Narrow> = true;
template <>
inline constexpr float kExpScale<Narrow> = 0x1p24f;

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

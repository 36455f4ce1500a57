#pragma once
// The words that the formulas are written in. They mean the same for a float, a double and, on the CPU, a vector of
// either (cpu/lanes.h). Hence no branch in a formula, but select; and T(2), not 2.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#ifdef __CUDACC__
#define HD __host__ __device__ __forceinline__
#else
#define HD inline __attribute__((always_inline))
#endif

namespace torchloss {

// The scalar type under a number: itself, or that of a vector's lanes.
template <class T>
struct ScalarOf {
  using type = T;
};
template <class T>
using Scalar = typename ScalarOf<T>::type;

// A variable, for device code may read a constant but not call the library's function.
template <class T>
inline constexpr T kInfinity = std::numeric_limits<T>::infinity();

template <class T>
HD T infinity() {
  return T(kInfinity<Scalar<T>>);
}

using std::abs;
using std::exp;
using std::expm1;
using std::log;
using std::log1p;

template <class T>
HD T select(bool condition, T yes, T no) {
  return condition ? yes : no;
}

// The larger of two numbers, and the second where either is a NaN: so a NaN never becomes a running maximum.
template <class T>
HD T larger(T x, T running) {
  return select(x > running, x, running);
}

// A NaN stays a NaN.
template <class T>
HD T clamp(T x, T low, T high) {
  return select(x < low, low, select(x > high, high, x));
}

template <class T>
HD T sign(T x) {
  return select(x > T(0), T(1), select(x < T(0), T(-1), x));
}

// e^d - 1 - d for |d| <= 1, without cancellation: d^2 times a polynomial, whose error is below
// 3e-9, in double 7e-18. Measured: 2.6 ulp.
template <class T>
HD T exp_excess(T d) {
  T p;
  if constexpr (sizeof(Scalar<T>) == 4) {
    p = T(2.806280258e-6f);
    p = p * d + T(2.535851224e-5f);
    p = p * d + T(1.983810197e-4f);
    p = p * d + T(1.388539691e-3f);
    p = p * d + T(8.333339676e-3f);
    p = p * d + T(4.166673660e-2f);
    p = p * d + T(1.666666665e-1f);
    p = p * d + T(0.5f);
  } else {
    p = T(7.746178593018827489e-13);
    p = p * d + T(1.16391941241505224e-11);
    p = p * d + T(1.605767962380163775e-10);
    p = p * d + T(2.087443557586427472e-9);
    p = p * d + T(2.505211769590782357e-8);
    p = p * d + T(2.755733506893372671e-7);
    p = p * d + T(2.7557319191381817e-6);
    p = p * d + T(2.48015872460968169e-5);
    p = p * d + T(1.984126984132419792e-4);
    p = p * d + T(1.388888888898140445e-3);
    p = p * d + T(8.333333333333299355e-3);
    p = p * d + T(4.166666666666608835e-2);
    p = p * d + T(1.66666666666666667e-1);
    p = p * d + T(0.5);
  }
  return p * d * d;
}

// e^x for x <= 0. A vector's (cpu/lanes.h) takes fewer instructions than its exp.
template <class T>
HD T exp_nonpositive(T x) {
  return exp(x);
}

// log(1 + x) for 0 <= x <= 1. A float's takes no division: x and x^2 times a polynomial, whose error is below 5e-9. A
// vector's (cpu/lanes.h) takes fewer instructions than its log1p.
template <class T>
HD T log1p_to_2(T x) {
  if constexpr (sizeof(Scalar<T>) > 4) return log1p(x);
  T p = T(2.801641993e-3f);
  p = p * x + T(-1.718426698e-2f);
  p = p * x + T(4.930997343e-2f);
  p = p * x + T(-9.139413774e-2f);
  p = p * x + T(1.303336424e-1f);
  p = p * x + T(-1.636515287e-1f);
  p = p * x + T(1.995670795e-1f);
  p = p * x + T(-2.499675991e-1f);
  p = p * x + T(3.333323735e-1f);
  p = p * x + T(-4.999999952e-1f);
  return x * x * p + x;
}

// 2^n, where n is the low bits of 1.5 2^23 + n.
HD float two_to_the(float shifted) {
  uint32_t bits;
  std::memcpy(&bits, &shifted, 4);
  bits = (bits << 23) + 0x3f800000u;
  std::memcpy(&shifted, &bits, 4);
  return shifted;
}

// e^x - 1 for x <= 0, and for a NaN that of -infinity: 2^n (e^r - 1) + (2^n - 1), x = n ln 2 + r. To 2 ulp.
template <class T>
HD T expm1_of_lower(T x) {
  return expm1(larger(x, T(-80)));
}
HD float expm1_of_lower(float x) {
  constexpr float round = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
  x = larger(x, -80.f);
  const float shifted = x * 1.44269504f + round, n = shifted - round;
  const float r = (x - n * 0.693145751953125f) - n * 1.42860682030941723e-6f;
  float p = 1.392625083e-3f;
  p = p * r + 8.363232884e-3f;
  p = p * r + 4.166655421e-2f;
  p = p * r + 1.666657666e-1f;
  p = p * r + 0.5f;
  const float power = two_to_the(shifted);
  return power * (r * r * p + r) + (power - 1);
}

// The softcap of a logit, cap tanh u, u = x / cap. With E = e^(-2 |u|) - 1: tanh |u| = -E / (2 + E), exact where u
// is small.
template <class V>
HD V softcapped(V x, V cap) {
  const V E = expm1_of_lower(V(-2) * abs(x / cap)), t = cap * E / (V(2) + E), y = select(x > V(0), V(0) - t, t);
  return select(x == x, y, x);
}
// And its slope, with e = e^(-2 |u|): 1 - tanh^2 u = 4 e / (1 + e)^2, exact where u is large.
template <class V>
HD V softcap_slope(V x, V cap) {
  const V e = exp_nonpositive(V(-2) * abs(x / cap)), s = V(1) + e;
  return V(4) * e / (s * s);
}

// What only the number of 16-bit losses (cuda/narrow.cuh) does otherwise:
// `scaled_exp` is e^d, d <= 0, in a form of which T(..) is the number and scaled_up(..) kExpScale times it;
// moment is e^d d, in units of 1 / kExpScale.
template <class T>
inline constexpr bool rounded_to_16_bits = false;
template <class T>
inline constexpr float kExpScale = 1;
template <class T>
HD T scaled_exp(T d) {
  return exp_nonpositive(d);
}
template <class T>
HD T scaled_exp(T d, T scale) {
  return exp_nonpositive(d * scale);
}
template <class T>
HD T scaled_up(T e) {
  return e;
}

// h d, where an h that is 0 means that nothing was asked: 0 even if d is infinite.
template <class T>
HD T times(T h, T d) {
  return select(h == T(0), T(0), h * d);
}
template <class T>
HD T moment(T e, T d) {
  return times(e, d);
}

}  // namespace torchloss

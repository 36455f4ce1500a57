#pragma once
// The words that the formulas are written in. They mean the same for a float, a double and, on the CPU, a vector of
// either (cpu/lanes.h). Hence no branch in a formula, but select; and T(2), not 2.
#include <cmath>
#include <limits>

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
HD T decay(T x) {
  return exp(x);
}

// log(1 + x) for 0 <= x <= 1. A vector's takes fewer instructions than its log1p.
template <class T>
HD T log1p_to_2(T x) {
  return log1p(x);
}

// h d, where an h that is 0 means that nothing was asked: 0 even if d is infinite.
template <class T>
HD T times(T h, T d) {
  return select(h == T(0), T(0), h * d);
}

}  // namespace torchloss

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

// log(1 + e^x), without overflow and exact for large negative x.
template <class T>
HD T softplus(T x) {
  return select(x > T(0), x, T(0)) + log1p(exp(T(0) - abs(x)));
}

// 1 / (1 + e^-x), exact to rounding for either sign.
template <class T>
HD T sigmoid(T x) {
  const T e = exp(T(0) - abs(x)), q = T(1) / (T(1) + e);
  return select(x >= T(0), q, e * q);
}

// e^d - 1 - d for |d| <= 1/2, without cancellation: d^2 times a polynomial (error below 2e-8, 2e-18 in double).
template <class T>
HD T exp_excess(T d) {
  T p;
  if constexpr (sizeof(Scalar<T>) == 4) {
    p = T(1.994487444e-4f);
    p = p * d + T(1.398218605e-3f);
    p = p * d + T(8.333236134e-3f);
    p = p * d + T(4.166579123e-2f);
    p = p * d + T(1.666666680e-1f);
    p = p * d + T(5.000000122e-1f);
  } else {
    p = T(1.611649651437154647e-10);
    p = p * d + T(2.096295581597607574e-9);
    p = p * d + T(2.505194670972162113e-8);
    p = p * d + T(2.755707663664272348e-7);
    p = p * d + T(2.755731943362024282e-6);
    p = p * d + T(2.480158761614541272e-5);
    p = p * d + T(1.984126984114699187e-4);
    p = p * d + T(1.388888888870454897e-3);
    p = p * d + T(8.33333333333335966e-3);
    p = p * d + T(4.166666666666706171e-2);
    p = p * d + T(1.666666666666666666e-1);
    p = p * d + T(0.5);
  }
  return p * d * d;
}

// h d, where an h that is 0 means that nothing was asked: 0 even if d is infinite.
template <class T>
HD T times(T h, T d) {
  return select(h == T(0), T(0), h * d);
}

}  // namespace torchloss

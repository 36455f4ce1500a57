#pragma once
#include "../jet.h"

namespace torchloss {

// Huber: a parabola that goes on as its tangent past |r| = delta, r = x - t.
//
//          |r| <= delta    |r| > delta
//   L      r^2 / 2         delta (|r| - delta/2)       = c (r - c/2)
//   L'     r               delta sign(r)               = clamp(r, -delta, delta) = c
//   L''    1               0
template <class T>
struct Huber {
  static constexpr const char *name = "huber_loss", *option_names = "delta";
  struct Options {
    double delta = 1;
  };
  T delta;
  HD explicit Huber(const Options& o) : delta(T(o.delta)) {}
  HD Jet<T> operator()(T x, T t) const {
    const T r = x - t, c = clamp(r, T(0) - delta, delta);
    return of_difference(c * (r - c / T(2)), c, select(abs(r) <= delta, T(1), T(0)));
  }
};

}  // namespace torchloss

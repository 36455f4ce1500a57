#pragma once
#include "../jet.h"

namespace torchloss {

// Smooth L1: Huber over its own threshold, so that the tails have slope 1, r = x - t.
//
//          |r| < beta        |r| >= beta
//   L      r^2 / (2 beta)    |r| - beta/2             = c (r - clamp(r, -beta, beta) / 2)
//   L'     r / beta          sign(r)                  = clamp(r / beta, -1, 1) = c
//   L''    1 / beta          0
template <class T>
struct SmoothL1 {
  static constexpr const char *name = "smooth_l1_loss", *option_names = "beta";
  struct Options {
    double beta = 1;
  };
  T beta;
  HD explicit SmoothL1(const Options& o) : beta(T(o.beta)) {}
  HD Jet<T> operator()(T x, T t) const {
    const T r = x - t;
    const T c = select(r == T(0), T(0), clamp(r / beta, T(-1), T(1)));  // at r = 0 so that beta = 0 is L1
    return of_difference(c * (r - clamp(r, T(0) - beta, beta) / T(2)), c, select(abs(r) < beta, T(1) / beta, T(0)));
  }
};

}  // namespace torchloss

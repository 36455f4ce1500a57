#pragma once
#include "../jet.h"

namespace torchloss {

// A term of the Kullback-Leibler divergence KL(P || Q) = sum p log(p / q): x = log q is the input, t = p the target.
//
//   L    = t (log t - x)          (0 log 0 = 0)
//   L_x  = -t       L_t  = log t + 1 - x
//   L_xx = 0        L_xt = -1               L_tt = 1 / t
template <class T>
struct KLDiv {
  static constexpr const char *name = "kl_div", *option_names = "";
  struct Options {};
  HD Jet<T> operator()(T x, T t) const {
    const T log_t = log(t);
    return {select(t == T(0), T(0) - t * x, t * (log_t - x)), T(0) - t, log_t + T(1) - x, T(0), T(-1), T(1) / t};
  }
};

// The same with the target given as t = log p:
//
//   L    = e^t (t - x)
//   L_x  = -e^t     L_t  = e^t (t - x + 1)
//   L_xx = 0        L_xt = -e^t             L_tt = e^t (t - x + 2)
template <class T>
struct KLDivLogTarget {
  static constexpr const char *name = "kl_div_log_target", *option_names = "";
  struct Options {};
  HD Jet<T> operator()(T x, T t) const {
    const T p = exp(t), d = t - x;
    return {p * d, T(0) - p, p * (d + T(1)), T(0), T(0) - p, p * (d + T(2))};
  }
};

}  // namespace torchloss

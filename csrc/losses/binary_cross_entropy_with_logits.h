#pragma once
#include "../jet.h"

namespace torchloss {

// Binary cross entropy on a logit x, with a weight p of the positive class; s(x) = 1 / (1 + e^-x).
//
//   L    = (1 - t) softplus(x) + p t softplus(-x)         both terms >= 0: exact at any margin
//        = (1 - t + p t) log(1 + e^-|x|) + |x| (x >= 0 ? 1 - t : p t)
//   L_x  = (1 - t) s(x) - p t s(-x)                       L_t  = (p - 1) softplus(-x) - x
//   L_xx = (1 - t + p t) s(x) s(-x)                       L_xt = -1 - (p - 1) s(-x)          L_tt = 0
template <class T>
struct BinaryCrossEntropyWithLogits {
  static constexpr const char *name = "binary_cross_entropy_with_logits", *option_names = "";
  struct Options {};
  HD Jet<T> operator()(T x, T t, T p) const {
    const T e = exp_nonpositive(T(-1) * abs(x)), q = T(1) / (T(1) + e), l = log1p_to_2(e);
    const auto positive = x >= T(0);
    const T s = select(positive, q, e * q), s_ = select(positive, e * q, q);  // s(x), s(-x)
    const T sp_ = select(positive, T(0), T(0) - x) + l;                       // softplus(-x)
    const T n = T(1) - t, pt = p * t, p1 = p - T(1);
    // A term with weight 0 is 0, also where its softplus is infinite.
    const T value = times(select(positive, n, pt), abs(x)) + (n + pt) * l;
    return {value, n * s - pt * s_, times(p1, sp_) - x, (n + pt) * s * s_, T(-1) - p1 * s_, T(0)};
  }
};

}  // namespace torchloss

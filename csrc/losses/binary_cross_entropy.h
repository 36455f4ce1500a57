#pragma once
#include "../jet.h"

namespace torchloss {

// Binary cross entropy of a probability x against the target t. As in torch, a logarithm is never below -100.
//
//   L    = -t log x - (1 - t) log(1 - x)
//   L_x  = (x - t) / (x (1 - x))                  L_t  = log(1 - x) - log x
//   L_xx = t / x^2 + (1 - t) / (1 - x)^2          L_xt = -1 / (x (1 - x))          L_tt = 0
template <class T>
struct BinaryCrossEntropy {
  static constexpr const char *name = "binary_cross_entropy", *option_names = "";
  struct Options {};
  HD Jet<T> operator()(T x, T t) const {
    const T log_x = floor(log(x)), log_1x = floor(log1p(T(0) - x));
    const T y = T(1) - x, xy = x * y, d = select(xy < T(1e-12), T(1e-12), xy);  // torch's guard of the division
    return {T(0) - t * log_x - (T(1) - t) * log_1x,     (x - t) / d, log_1x - log_x,
            (t * y * y + (T(1) - t) * x * x) / (d * d), T(-1) / d,   T(0)};
  }
  HD static T floor(T log) { return select(log < T(-100), T(-100), log); }
  // Both must be probabilities: an error on the CPU, a NaN on CUDA.
  // 0 if they are. A number and no mask: one that is not at once selected by gcc 12 takes lane by lane.
  HD static T outside(T x, T t) { return beyond(x) + beyond(t); }
  HD static T beyond(T p) { return select(p >= T(0), T(0), T(1)) + select(p <= T(1), T(0), T(1)); }
};

}  // namespace torchloss

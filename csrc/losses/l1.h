#pragma once
#include "../jet.h"

namespace torchloss {

// Absolute error, r = x - t.
//
//   L = |r|,  L' = sign(r),  L'' = 0          (at the kink r = 0 the subgradient 0, as torch)
template <class T>
struct L1 {
  static constexpr const char *name = "l1_loss", *option_names = "";
  struct Options {};
  HD Jet<T> operator()(T x, T t) const {
    const T r = x - t;
    return of_difference(abs(r), sign(r), T(0));
  }
};

}  // namespace torchloss

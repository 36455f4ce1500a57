#pragma once
#include "../jet.h"

namespace torchloss {

// Squared error, r = x - t.
//
//   L = r^2,  L' = 2 r,  L'' = 2
template <class T>
struct MSE {
  static constexpr const char *name = "mse_loss", *option_names = "";
  struct Options {};
  HD Jet<T> operator()(T x, T t) const {
    const T r = x - t;
    return of_difference(r * r, T(2) * r, T(2));
  }
};

}  // namespace torchloss

#pragma once
#include "math.h"

namespace torchloss {

// One term of a pointwise loss, L(x, t), with its derivatives in the input x and in the target t.
// A kernel reads the few that it needs; the compiler drops the others.
//
// A loss is a struct over a number type T. It declares a name, Options (doubles with their defaults) and option_names
// (those of the Options in order, with spaces between them). It is made from Options. Its operator() takes x, t and, if
// the loss has a weight of the positive class, that weight, and gives the jet.
template <class T>
struct Jet {
  T value;
  T dx, dt;         // first
  T dxx, dxt, dtt;  // second
};

// The jet of a function of the difference x - t: everything follows from the derivatives in the input.
template <class T>
HD Jet<T> of_difference(T value, T d1, T d2) {
  return {value, d1, T(0) - d1, d2, T(0) - d2, d2};
}

}  // namespace torchloss

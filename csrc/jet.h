#pragma once
#include "math.h"

namespace torchloss {

// One term of a pointwise loss, L(x, t), with its derivatives in the input x and in the target t.
// A kernel reads the few that it needs; the compiler drops the others.
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

// The op that a loss becomes: its name, and that of its parameter.
struct Op {
  const char* name;
  const char* parameter = "unused";
};

}  // namespace torchloss

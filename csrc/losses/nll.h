#pragma once
#include "../row.h"

namespace torchloss {

// Negative log-likelihood: the log-probability z of the class y, with class weights w.
//
//   L = -w_y z_y,  L'_j = -w_y [j = y],  L'' = 0
struct NLL {
  static constexpr const char *name = "nll_loss", *parameter = "unused";
  static constexpr bool class_weights = false, float_target = false;

  template <class V>
  struct Forward : RowKernel<V> {
    static constexpr bool bulk = false, value_out = true, targets = true, x_at_target = true;
    HD V value() const { return V(0) - this->row.weight * this->row.x_y; }
  };

  template <class V>
  struct Backward : RowKernel<V> {
    static constexpr int out = 1;
    static constexpr bool bulk = false, targets = true;
    HD void start() {}
    HD void map(V* out, const V*) const { *out = V(0); }
    HD V hit() const { return V(0) - this->row.grad * this->row.weight; }
  };

  template <class V>
  struct DoubleBackward : RowKernel<V> {  // in: z, h
    static constexpr int in = 2, out = 1;
    static constexpr bool bulk = false, value_out = true, targets = true, h_at_target = true;
    HD void start() {}
    HD V value() const { return V(0) - this->row.weight * this->row.h_y; }
    HD void map(V* out, const V*) const { *out = V(0); }
  };
};

}  // namespace torchloss

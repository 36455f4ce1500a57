#pragma once
#include "../row.h"

namespace torchloss {

// Negative log-likelihood: the log-probability z of the class y, with class weights w.
//
//   L = -w_y z_y,  L'_j = -w_y [j = y],  L'' = 0
struct NLL {
  static constexpr const char* name = "nll_loss";
  static constexpr Target target = Target::Index;
  static constexpr bool class_weights = true;
  struct Options {};
  static constexpr const char* option_names = "";
  struct Params {};
  static Params prepare(const Options&, int64_t) { return {}; }

  template <class V>
  struct Forward : RowKernel<V, Params> {
    static constexpr int values = 1;
    static constexpr bool bulk = false, targets = true, x_at_target = true;
    HD void value(V* out) const { *out = V(0) - this->row.weight * this->row.x_y; }
  };

  template <class V>
  struct Backward : RowKernel<V, Params> {
    static constexpr int out = 1;
    static constexpr bool bulk = false, targets = true;
    HD void output(V* out, const V*) const { *out = V(0); }
    HD V at_target() const { return V(0) - this->row.grad[0] * this->row.weight; }
  };

  template <class V>
  struct DoubleBackward : RowKernel<V, Params> {  // in: z, h
    static constexpr int in = 2, out = 1, values = 1;
    static constexpr bool bulk = false, targets = true, h_at_target = true;
    HD void value(V* out) const { *out = V(0) - this->row.weight * this->row.h_y; }
    HD void output(V* out, const V*) const { *out = V(0); }
  };
};

}  // namespace torchloss

#pragma once
#include "../row.h"

namespace torchloss {

// Softmax of a row of logits x:  y_j = e^(x_j - m) / s,  m = max_j x_j,  s = sum_j e^(x_j - m)
//
//   gradient         y_j (g_j - <y, g>)             the Jacobian diag(y) - y y^T times g
//   double gradient  in g: y_j (h_j - <y, h>)       in y: h_j (g_j - <y, g>) - g_j <y, h>
struct SoftmaxMap {
  static constexpr const char* name = "softmax";
  struct Params {};

  template <class V>
  struct Forward : RowKernel<V, Params> {  // in: x
    static constexpr int out = 1, softmaxes = 1;
    V max, inverse;
    HD void with_softmax(const SoftmaxState<V>* softmax, const V*) {
      max = softmax->max, inverse = V(1) / (V(1) + softmax->rest());
    }
    HD void output(V* y, const V* x) const { *y = exp_nonpositive(*x - max) * inverse; }
  };

  template <class V>
  struct Backward : RowKernel<V, Params> {  // in: g, y
    static constexpr int in = 2, out = 1, terms = 1;
    V yg;
    HD void add_terms(V* sum, const V* in) const { *sum = *sum + in[1] * in[0]; }
    HD void with_terms(const V* sum) { yg = *sum; }
    HD void output(V* out, const V* in) const { *out = in[1] * (in[0] - yg); }
  };

  template <class V>
  struct DoubleBackward : RowKernel<V, Params> {  // in: h, g, y
    static constexpr int in = 3, out = 2, terms = 2;
    V yh, yg;
    HD void add_terms(V* sum, const V* in) const {
      sum[0] = sum[0] + in[2] * in[0];
      sum[1] = sum[1] + in[2] * in[1];
    }
    HD void with_terms(const V* sum) { yh = sum[0], yg = sum[1]; }
    HD void output(V* out, const V* in) const {
      const V h = in[0], g = in[1], y = in[2];
      out[0] = y * (h - yh);
      out[1] = h * (g - yg) - g * yh;
    }
  };
};

// Its logarithm:  z_j = (x_j - m) - log s
//
//   gradient         g_j - e^(z_j) G,  G = sum_j g_j      (near z_j = 0 as (g_j - G) - expm1(z_j) G: for the
//                    gradient of a likelihood, g_j = G at the target, it stays exact however far the target leads)
//   double gradient  in g: h_j - <e^z, h>           in z: -h_j e^(z_j) G
struct LogSoftmaxMap {
  static constexpr const char* name = "log_softmax";
  struct Params {};

  template <class V>
  struct Forward : RowKernel<V, Params> {  // in: x
    static constexpr int out = 1, softmaxes = 1;
    V max, log_s;
    HD void with_softmax(const SoftmaxState<V>* softmax, const V*) {
      max = softmax->max, log_s = log1p(softmax->rest());
    }
    HD void output(V* z, const V* x) const { *z = (*x - max) - log_s; }
  };

  template <class V>
  struct Backward : RowKernel<V, Params> {  // in: g, z
    static constexpr int in = 2, out = 1, terms = 1;
    V G;
    HD void add_terms(V* sum, const V* in) const { *sum = *sum + in[0]; }
    HD void with_terms(const V* sum) { G = *sum; }
    HD void output(V* out, const V* in) const {
      const V g = in[0], z = in[1];
      *out = select(z > V(-0.5), (g - G) - expm1(z) * G, g - exp_nonpositive(z) * G);
    }
    // But for one class of a row at most.
    HD auto common(const V* in) const { return in[1] <= V(-0.5); }
    HD void output_common(V* out, const V* in) const { *out = in[0] - exp_nonpositive(in[1]) * G; }
  };

  template <class V>
  struct DoubleBackward : RowKernel<V, Params> {  // in: h, g, z
    static constexpr int in = 3, out = 2, terms = 2;
    V ph, G;
    HD void add_terms(V* sum, const V* in) const {
      sum[0] = sum[0] + exp_nonpositive(in[2]) * in[0];
      sum[1] = sum[1] + in[1];
    }
    HD void with_terms(const V* sum) { ph = sum[0], G = sum[1]; }
    HD void output(V* out, const V* in) const {
      out[0] = in[0] - ph;
      out[1] = V(0) - in[0] * exp_nonpositive(in[2]) * G;
    }
  };
};

}  // namespace torchloss

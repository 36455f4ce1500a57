#pragma once
#include "entropy.h"

namespace torchloss {

// What policy gradients, distillation and metrics want to know of a row of logits x, scaled by a, and a class y:
//
//   log_prob = log p_y = a (x_y - m) - log s        d/dx_j = a ([j = y] - p_j)
//   lse      = a m + log s                                   a p_j
//   entropy  = log s - D                                    -a p_j (d_j - D),   D = sum_j p_j d_j,  d_j = a (x_j - m)
//   correct  = [x_y = m]                                     0
//
// With cotangents g of the first three, the gradient is a [p_j (g_2 - g_1 - g_3 (d_j - D)) + g_1 [j = y]], and with h
// the cotangent of that, in x
//   a^2 p_j [(h_j - <p, h>) (g_2 - g_1 - g_3 (d_j - D + 1)) + g_3 sum_i h_i p_i (d_i - D)]
struct LogitStats {
  static constexpr const char* name = "logit_stats";
  static constexpr Target target = Target::Index;
  static constexpr bool class_weights = false;
  struct Options {
    double softcap = 0, logit_scale = 1;
  };
  static constexpr const char* option_names = "softcap logit_scale";
  struct Params {
    double scale;
  };
  static Params prepare(const Options& o, int64_t) { return {o.logit_scale}; }

  template <class V>
  struct Forward : SoftmaxMoment<V, Params> {  // in: x
    static constexpr int values = 4;
    static constexpr bool targets = true, x_at_target = true;
    HD void value(V* out) const {
      const V x_y = this->row.x_y, log_s = log1p(this->rest);
      out[0] = this->scaled(x_y - this->max) - log_s;
      out[1] = this->scaled(this->max) + log_s;
      out[2] = log_s - this->D;
      out[3] = select(x_y == this->max, V(1), V(0));
    }
  };

  template <class V>
  struct Backward : RowKernel<V, Params> {  // in: x
    static constexpr int out = 1, saved_in = 3, grads = 4;
    static constexpr bool targets = true, x_at_target = true;
    V max, rest, c, even, g3, D;  // c = a / s; even = g_2 - g_1
    HD void start() {
      const V *saved = this->row.saved, *g = this->row.grad;
      max = saved[0], rest = saved[1], D = saved[2], c = this->scale() / (V(1) + rest);
      even = g[1] - g[0], g3 = g[2];
    }
    HD V inner(V d) const { return even - times(g3, d - D); }
    HD void output(V* out, const V* in) const {
      const V d = *in - max;
      *out = c * times(V(this->exp_of(d)), inner(this->scaled(d)));
    }
    HD V at_target() const {  // g_1 (1 - p) + p (g_2 - g_3 (d - D))
      const V x_y = this->row.x_y, d = x_y - max, g1 = this->row.grad[0];
      const V e = V(this->exp_of(d)), tail = g1 * Softmax<V>(max, rest).q(x_y, e) * this->scale();
      return tail + c * times(e, this->row.grad[1] - times(g3, this->scaled(d) - D));
    }
  };

  template <class V>
  struct DoubleBackward : RowKernel<V, Params> {  // in: x, h
    static constexpr int in = 2, out = 1, terms = 2, saved_in = 3, values = 4, grads = 4;
    static constexpr bool targets = true, h_at_target = true;
    V max, s, D, ph_y, ph, cov;  // <p, h> - h_y; <p, h>; sum_i h_i p_i (d_i - D), where h_y may be taken from h_i
    HD void start() {
      const V* saved = this->row.saved;
      max = saved[0], s = V(1) + saved[1], D = saved[2];
    }
    HD void add_terms(V* sum, const V* in) const {
      const V d = in[0] - max, e = V(this->exp_of(d)), h = in[1] - this->row.h_y;
      sum[0] = sum[0] + e * h;
      sum[1] = sum[1] + h * times(e, this->scaled(d) - D);
    }
    HD void with_terms(const V* sum) { ph_y = sum[0] / s, ph = this->row.h_y + ph_y, cov = sum[1] / s; }
    HD void value(V* out) const {
      out[0] = V(0) - this->scale() * ph_y, out[1] = this->scale() * ph, out[2] = V(0) - this->scale() * cov;
      out[3] = V(0);
    }
    HD void output(V* out, const V* in) const {
      const V *g = this->row.grad, d = this->scaled(in[0] - max), p = V(this->exp_of(in[0] - max)) / s;
      const V inner = (g[1] - g[0]) - times(g[2], (d - D) + V(1));
      *out = this->scale() * this->scale() * (times(p, inner) * (in[1] - ph) + g[2] * p * cov);
    }
  };
};

}  // namespace torchloss

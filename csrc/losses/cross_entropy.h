#pragma once
#include "../row.h"

namespace torchloss {

// Cross entropy of a row of logits x against the class y, with class weights w, label smoothing eps, a z-loss of weight
// z and a scale a of the logits:
//
//   L         = (1 - eps) w_y l_y + eps/C sum_j w_j l_j + z lse^2
//   L'_j      = a [A p_j - a_j],   a_j = (1 - eps) w_y [j = y] + eps/C w_j,   A = sum_j a_j + zeta
//   (L'' h)_j = a^2 p_j [A (h_j - <p, h>) + 2 z <p, h>]
//
// with p = softmax(a x), l_j = -log p_j = a (m - x_j) + log s and zeta = 2 z lse.
// Exact at any margin: log s = log1p(rest), and p_y - 1 = -rest / s where y leads (row.h).
struct UnscaledCrossEntropyParams {
  double smoothing, uniform, z;  // eps, eps / C, z
};
struct CrossEntropyParams : UnscaledCrossEntropyParams {
  double scale;  // a
};

// Second derivatives are rare: one kernel serves every scale.
template <bool smooth>
struct CrossEntropySecondOrder {
  using Params = CrossEntropyParams;

  template <class V>
  struct DoubleBackward : RowKernel<V, Params> {  // in: x, h, (w)
    static constexpr int in = smooth ? 3 : 2, out = 1, terms = smooth ? 2 : 1, saved_in = 3, values = 1;
    static constexpr bool targets = true, h_at_target = true;
    V max, s, a_y, A, zeta, ph_y, ph, wh;  // <p, h> - h_y, <p, h>, <w, h>

    HD void start() {
      const V rest = this->row.saved[1];
      max = this->row.saved[0], s = V(1) + rest;
      zeta = z_slope(this->params.z, this->scaled(max), rest);
      a_y = this->row.weight, A = a_y;
      if constexpr (smooth) {
        a_y = V(1 - this->params.smoothing) * a_y;
        A = a_y + V(this->params.uniform) * this->row.saved[2];
      }
      A = A + zeta;
    }
    HD void add_terms(V* sum, const V* in) const {
      sum[0] = sum[0] + V(this->exp_of(in[0] - max)) * (in[1] - this->row.h_y);
      if constexpr (smooth) sum[1] = sum[1] + in[2] * in[1];
    }
    HD void with_terms(const V* sum) {
      ph_y = sum[0] / s, ph = this->row.h_y + ph_y;
      if constexpr (smooth) wh = sum[1];
    }
    HD void value(V* out) const {  // <L', h> / c
      V along = a_y * ph_y + times(zeta, ph);
      if constexpr (smooth) along = along + V(this->params.uniform) * (this->row.saved[2] * ph - wh);
      *out = this->scale() * along;
    }
    HD void output(V* out, const V* in) const {
      const V p = V(this->exp_of(in[0] - max)) / s, c = this->row.grad[0] * this->scale() * this->scale();
      *out = c * p * (A * (in[1] - ph) + times(V(2 * this->params.z), ph));
    }
  };
};

// Without label smoothing it needs neither the other logits' sum nor their weights.
template <bool smooth, class P>
struct CrossEntropyOfIndex : CrossEntropySecondOrder<smooth> {
  using Params = P;
  template <class Options>
  static bool takes(const Options& o) {
    return (smooth || o.label_smoothing == 0) && (HasScale<P> || o.logit_scale == 1);
  }

  template <class V>
  struct Forward : RowKernel<V, Params> {  // in: x, (w)
    static constexpr int in = smooth ? 2 : 1, softmaxes = 1, accumulators = smooth ? 2 : 0, saved_out = 3, values = 1;
    static constexpr int weights = smooth ? 1 : -1;
    static constexpr bool targets = true, x_at_target = true;
    V max, rest, log_s, linear, mass = V(0);  // sum_j w_j a (x_j - m), sum_j w_j

    template <class E, class M>
    HD void accumulate(V* sums, V d, const E&, M, const V* in) const {
      sums[0] = sums[0] + in[1] * d;
      sums[1] = sums[1] + in[1];
    }
    template <class M>
    HD static void rescale(V* sums, const SoftmaxState<V>&, M, V d, V) {
      sums[0] = sums[0] + times(sums[1], d);
    }
    HD void with_softmax(const SoftmaxState<V>* softmax, const V* sums) {
      max = softmax->max, rest = softmax->rest(), log_s = log1p(rest);
      if constexpr (smooth) linear = sums[0], mass = sums[1];
    }
    HD void value(V* out) const {
      *out = this->row.weight * (this->scaled(max - this->row.x_y) + log_s);
      if constexpr (smooth)
        *out = V(1 - this->params.smoothing) * *out + V(this->params.uniform) * (mass * log_s - linear);
      add_z_loss(*out, this->params.z, this->scaled(max) + log_s);
    }
    HD void save(V* out) const { out[0] = max, out[1] = rest, out[2] = mass; }
  };

  template <class V>
  struct Backward : RowKernel<V, Params> {  // in: x, (w)
    static constexpr int in = smooth ? 2 : 1, out = 1, saved_in = 3, weights = smooth ? 1 : -1;
    static constexpr bool targets = true, x_at_target = true, from_exp = true;
    V max, rest, A, w_y, u, zeta;

    HD void start() {
      const V c = this->row.grad[0] * this->scale();
      max = this->row.saved[0], rest = this->row.saved[1];
      zeta = c * z_slope(this->params.z, this->scaled(max), rest);
      w_y = c * this->row.weight, A = w_y;
      if constexpr (smooth) {
        u = V(this->params.uniform) * c;
        A = V(1 - this->params.smoothing) * w_y + u * this->row.saved[2];
      }
      A = (A + zeta) / (V(1) + rest);
    }
    HD void output(V* out, const V* in) const { output_from_exp(out, V(this->exp_of(in[0] - max)), in); }
    HD void output_from_exp(V* out, V e, const V* in) const {
      *out = e * A;
      if constexpr (smooth) *out = *out - u * in[1];
    }
    HD V at_target() const {
      const Softmax<V> softmax(max, rest);
      const V x_y = this->row.x_y, s = softmax.s, e = V(this->exp_of(x_y - max));
      V gradient = V(0) - V(smooth ? 1 - this->params.smoothing : 1) * w_y * softmax.q(x_y, e);
      if constexpr (smooth) gradient = u * (this->row.saved[2] * (e / s) - this->row.weight) + gradient;
      if (this->params.z != 0) gradient = gradient + zeta * (e / s);
      return gradient;
    }
  };

  using WithGradient = torchloss::WithGradient<Forward, Backward>;
};

struct CrossEntropy : CrossEntropyOfIndex<true, CrossEntropyParams> {
  static constexpr const char* name = "cross_entropy";
  static constexpr Target target = Target::Index;
  static constexpr bool class_weights = true;
  struct Options {
    double label_smoothing = 0, z_loss = 0, softcap = 0, logit_scale = 1;
  };
  static constexpr const char* option_names = "label_smoothing z_loss softcap logit_scale";
  static Params prepare(const Options& o, int64_t classes) {
    return {{o.label_smoothing, o.label_smoothing / static_cast<double>(classes), o.z_loss}, o.logit_scale};
  }
  using Special =
      Kernels<CrossEntropyOfIndex<false, UnscaledCrossEntropyParams>, CrossEntropyOfIndex<false, CrossEntropyParams>>;
};

// The same against a row of target probabilities q:
//
//   L    = sum_j a_j l_j + z lse^2            a_j = w_j ((1 - eps) q_j + eps/C)
//   L_x  = a [A p_j - a_j]                    A = sum_j a_j + zeta
//   L_q  = w_j (1 - eps) l_j
//
// Where j leads, A p_j - a_j = (A - a_j) p_j - a_j rest/s keeps what A p_j - a_j would cancel.
struct CrossEntropyProbs {
  static constexpr const char* name = "cross_entropy_probs";
  static constexpr Target target = Target::Probabilities;
  static constexpr bool class_weights = true;
  using Options = CrossEntropy::Options;
  static constexpr const char* option_names = CrossEntropy::option_names;
  using Params = CrossEntropy::Params;
  static Params prepare(const Options& o, int64_t classes) { return CrossEntropy::prepare(o, classes); }

  template <class V>
  HD static V a(const Params& params, V q, V w) {
    return w * (V(1 - params.smoothing) * q + V(params.uniform));
  }

  template <class V>
  struct Forward : RowKernel<V, Params> {  // in: x, w, q
    static constexpr int in = 3, softmaxes = 1, accumulators = 3, saved_out = 4, weights = 1, values = 1;
    static constexpr bool own_type = true;  // the leader's a_j is what was saved of it
    V max, rest, linear, others, leader;    // sum_j a_j a (x_j - m); sum of a_j where x_j < m; where x_j = m

    template <class E, class M>
    HD void accumulate(V* sums, V d, const E&, M leads, const V* in) const {
      const V a_j = a(this->params, in[2], in[1]);
      sums[0] = sums[0] + a_j * d;
      sums[1] = sums[1] + select(leads, V(0), a_j);
      sums[2] = sums[2] + select(leads, a_j, V(0));
    }
    template <class M>
    HD static void rescale(V* sums, const SoftmaxState<V>&, M same, V d, V) {
      const V mass = sums[1] + sums[2];
      sums[0] = sums[0] + times(mass, d);
      sums[1] = select(same, sums[1], mass);
      sums[2] = select(same, sums[2], V(0));
    }
    HD void with_softmax(const SoftmaxState<V>* softmax, const V* sums) {
      max = softmax->max, rest = softmax->rest(), linear = sums[0], others = sums[1], leader = sums[2];
    }
    HD void value(V* out) const {
      const V log_s = log1p(rest);
      *out = (others + leader) * log_s - linear;
      add_z_loss(*out, this->params.z, this->scaled(max) + log_s);
    }
    HD void save(V* out) const { out[0] = max, out[1] = rest, out[2] = others, out[3] = leader; }
  };

  template <class V, bool target_grad>
  struct BackwardTo : RowKernel<V, Params> {  // in: x, w, q
    static constexpr int in = 3, out = target_grad ? 2 : 1, saved_in = 4, weights = 1;
    static constexpr bool own_type = true;
    V max, inverse, tail, log_s, others, leader, sharp, uniform, zeta;  // 1 / s; rest / s; 1 - eps; eps / C

    HD void start() {
      const V *saved = this->row.saved, rest = saved[1], s = V(1) + rest;
      max = saved[0], inverse = V(1) / s, tail = rest / s, others = saved[2], leader = saved[3], log_s = log1p(rest);
      zeta = z_slope(this->params.z, this->scaled(max), rest);
      sharp = V(1 - this->params.smoothing), uniform = V(this->params.uniform);
    }
    HD void output(V* out, const V* in) const {
      const V x = in[0], a_j = in[1] * (sharp * in[2] + uniform), c = this->row.grad[0] * this->scale(),
              p = V(this->exp_of(x - max)) * inverse;
      out[0] = c * select(x == max, ((others + (leader - a_j)) + zeta) * p - a_j * tail,
                          ((others + leader) + zeta) * p - a_j);
      if constexpr (target_grad) out[1] = this->row.grad[0] * in[1] * sharp * (log_s - this->scaled(x - max));
    }
  };
  template <class V>
  using Backward = BackwardTo<V, false>;
  template <class V>
  using BackwardBoth = BackwardTo<V, true>;

  template <class V>
  struct DoubleBackward : RowKernel<V, Params> {  // in: x, h (of L_x), w, q, k (of L_q)
    static constexpr int in = 5, out = 2, terms = 4, saved_in = 4, values = 1;
    V max, s, log_s, A, zeta, ph, ah, kw, kwl;  // <p, h>, <a, h>, <k, w'>, <k, w' l>,  w' = (1 - eps) w

    HD void start() {
      const V* saved = this->row.saved;
      max = saved[0], s = V(1) + saved[1], log_s = log1p(saved[1]);
      zeta = z_slope(this->params.z, this->scaled(max), saved[1]);
      A = (saved[2] + saved[3]) + zeta;
    }
    HD void add_terms(V* sum, const V* in) const {
      const V d = in[0] - max, kw_j = in[4] * V(1 - this->params.smoothing) * in[2];
      sum[0] = sum[0] + V(this->exp_of(d)) * in[1];
      sum[1] = sum[1] + a(this->params, in[3], in[2]) * in[1];
      sum[2] = sum[2] + kw_j;
      sum[3] = sum[3] + times(kw_j, log_s - this->scaled(d));
    }
    HD void with_terms(const V* sum) { ph = sum[0] / s, ah = sum[1], kw = sum[2], kwl = sum[3]; }
    HD void value(V* out) const { *out = this->scale() * (A * ph - ah) + kwl; }
    HD void output(V* out, const V* in) const {
      const V w_ = V(1 - this->params.smoothing) * in[2], p = V(this->exp_of(in[0] - max)) / s;
      const V c = this->row.grad[0] * this->scale(), z2 = times(V(2 * this->params.z), ph);
      out[0] = c * (this->scale() * p * (A * (in[1] - ph) + z2) + (p * kw - in[4] * w_));
      out[1] = c * w_ * (ph - in[1]);
    }
  };

  using WithGradient = torchloss::WithGradient<Forward, Backward>;
};

}  // namespace torchloss

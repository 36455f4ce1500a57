#pragma once
#include "../row.h"

namespace torchloss {

// Cross entropy of a row of logits x against the class y, with class weights w and label smoothing eps:
//
//   L    = (1 - eps) w_y l_y + eps/C sum_j w_j l_j,   l_j = -log p_j = (m - x_j) + log s,   p = softmax(x)
//   L'_j = A p_j - a_j                                a_j = (1 - eps) w_y [j = y] + eps/C w_j,   A = sum_j a_j
//   (L'' h)_j = A p_j (h_j - <p, h>)
//
// Exact at any margin: log s = log1p(rest), and p_y - 1 = -rest / s where y leads (row.h).
template <bool smooth>
struct CrossEntropy {
  static constexpr const char *name = "cross_entropy", *parameter = "label_smoothing";
  static constexpr bool class_weights = smooth, float_target = false;

  template <class V>
  struct Forward : RowKernel<V> {  // in: x, (w)
    static constexpr int in = smooth ? 2 : 1, tops = 1, more = smooth ? 2 : 0, stats_out = smooth ? 3 : 2;
    static constexpr int weights = smooth ? 1 : -1;
    static constexpr bool value_out = true, targets = true, x_at_target = true;
    V max, rest, log_s, linear, mass;  // sum_j w_j (x_j - m), sum_j w_j

    template <class E, class M>
    HD void add_more(V* sums, V d, const E&, M, const V* in) const {
      sums[0] = sums[0] + in[1] * d;
      sums[1] = sums[1] + in[1];
    }
    template <class M>
    HD static void rebase_more(V* sums, const Top<V>&, M, V d, V) {
      sums[0] = sums[0] + times(sums[1], d);
    }
    HD void topped(const Top<V>* top, const V* sums) {
      max = top->max, rest = top->rest(), log_s = log1p(rest);
      if constexpr (smooth) linear = sums[0], mass = sums[1];
    }
    HD V value() const {
      const V l_y = (max - this->row.x_y) + log_s;
      if constexpr (!smooth) return this->row.weight * l_y;
      return V(1 - this->params.smoothing) * this->row.weight * l_y + V(this->params.uniform) * (mass * log_s - linear);
    }
    HD void stats(V* out) const {
      out[0] = max, out[1] = rest;
      if constexpr (smooth) out[2] = mass;
    }
  };

  template <class V>
  struct Backward : RowKernel<V> {  // in: x, (w)
    static constexpr int in = smooth ? 2 : 1, out = 1, stats_in = smooth ? 3 : 2, weights = smooth ? 1 : -1;
    static constexpr bool targets = true, x_at_target = true;
    V max, rest, s, A, w_y, u;

    HD void start() {
      max = this->row.stats[0], rest = this->row.stats[1], s = V(1) + rest;
      w_y = this->row.grad * this->row.weight, A = w_y;
      if constexpr (smooth) {
        u = V(this->params.uniform) * this->row.grad;
        A = V(1 - this->params.smoothing) * w_y + u * this->row.stats[2];
      }
      A = A / s;
    }
    HD void map(V* out, const V* in) const { map_decayed(out, decay(in[0] - max), in); }
    HD void map_decayed(V* out, V e, const V* in) const {
      *out = e * A;
      if constexpr (smooth) *out = *out - u * in[1];
    }
    HD V hit() const {
      const Softmax<V> p(max, rest);
      const V x_y = this->row.x_y;
      if constexpr (!smooth) return V(0) - w_y * p.q(x_y);
      return u * (this->row.stats[2] * p.p(x_y) - this->row.weight) - V(1 - this->params.smoothing) * w_y * p.q(x_y);
    }
  };

  // Both in one pass: the gradient needs the exponentials of the loss.
  template <class V>
  struct ForwardAndGradient : Forward<V> {
    static constexpr int out = 1;
    static constexpr bool keeps = true;
    Backward<V> gradient;

    HD void topped(const Top<V>* top, const V* sums) {
      Forward<V>::topped(top, sums);
      gradient.row = this->row, gradient.params = this->params;
      this->stats(gradient.row.stats);
      gradient.start();
    }
    HD void map(V* out, const V* in) const { gradient.map(out, in); }
    HD void map_decayed(V* out, V e, const V* in) const { gradient.map_decayed(out, e, in); }
    HD V hit() const { return gradient.hit(); }
  };

  template <class V>
  struct DoubleBackward : RowKernel<V> {  // in: x, h, (w)
    static constexpr int in = smooth ? 3 : 2, out = 1, sums = smooth ? 2 : 1, stats_in = smooth ? 3 : 2;
    static constexpr bool value_out = true, targets = true, h_at_target = true;
    V max, s, a_y, A, ph_y, ph, wh;  // <p, h> - h_y, <p, h>, <w, h>

    HD void start() {
      max = this->row.stats[0], s = V(1) + this->row.stats[1];
      a_y = this->row.weight, A = a_y;
      if constexpr (smooth) {
        a_y = V(1 - this->params.smoothing) * a_y;
        A = a_y + V(this->params.uniform) * this->row.stats[2];
      }
    }
    HD void add_sums(V* sum, const V* in) const {
      sum[0] = sum[0] + decay(in[0] - max) * (in[1] - this->row.h_y);
      if constexpr (smooth) sum[1] = sum[1] + in[2] * in[1];
    }
    HD void summed(const V* sum) {
      ph_y = sum[0] / s, ph = this->row.h_y + ph_y;
      if constexpr (smooth) wh = sum[1];
    }
    HD V value() const {  // dL' . h / d(scale) = A <p, h> - <a, h>
      if constexpr (!smooth) return a_y * ph_y;
      return a_y * ph_y + V(this->params.uniform) * (this->row.stats[2] * ph - wh);
    }
    HD void map(V* out, const V* in) const { *out = this->row.grad * A / s * decay(in[0] - max) * (in[1] - ph); }
  };
};

// The same against a row of target probabilities q:
//
//   L    = sum_j a_j l_j          a_j = w_j ((1 - eps) q_j + eps/C)
//   L_x  = A p_j - a_j            L_q = w_j (1 - eps) l_j
//
// Where j leads, A p_j - a_j = (A - a_j) p_j - a_j rest/s keeps what A p_j - a_j would cancel.
struct CrossEntropyProbs {
  static constexpr const char *name = "cross_entropy_probs", *parameter = "label_smoothing";
  static constexpr bool class_weights = true, float_target = true;

  template <class V>
  HD static V a(const RowParams& params, V q, V w) {
    return w * (V(1 - params.smoothing) * q + V(params.uniform));
  }

  template <class V>
  struct Forward : RowKernel<V> {  // in: x, w, q
    static constexpr int in = 3, tops = 1, more = 3, stats_out = 4, weights = 1;
    static constexpr bool value_out = true;
    V max, rest, linear, others, leader;  // sum_j a_j (x_j - m); sum of a_j where x_j < m; where x_j = m

    template <class E, class M>
    HD void add_more(V* sums, V d, const E&, M top, const V* in) const {
      const V a_j = a(this->params, in[2], in[1]);
      sums[0] = sums[0] + a_j * d;
      sums[1] = sums[1] + select(top, V(0), a_j);
      sums[2] = sums[2] + select(top, a_j, V(0));
    }
    template <class M>
    HD static void rebase_more(V* sums, const Top<V>&, M same, V d, V) {
      const V mass = sums[1] + sums[2];
      sums[0] = sums[0] + times(mass, d);
      sums[1] = select(same, sums[1], mass);
      sums[2] = select(same, sums[2], V(0));
    }
    HD void topped(const Top<V>* top, const V* sums) {
      max = top->max, rest = top->rest(), linear = sums[0], others = sums[1], leader = sums[2];
    }
    HD V value() const { return (others + leader) * log1p(rest) - linear; }
    HD void stats(V* out) const { out[0] = max, out[1] = rest, out[2] = others, out[3] = leader; }
  };

  template <class V, bool target_grad>
  struct BackwardTo : RowKernel<V> {  // in: x, w, q
    static constexpr int in = 3, out = target_grad ? 2 : 1, stats_in = 4, weights = 1;
    V max, inverse, tail, log_s, others, leader, kept, uniform;  // 1 / s; rest / s; 1 - eps; eps / C

    HD void start() {
      const V *stats = this->row.stats, rest = stats[1], s = V(1) + rest;
      max = stats[0], inverse = V(1) / s, tail = rest / s, others = stats[2], leader = stats[3];
      if constexpr (target_grad) log_s = log1p(rest);
      kept = V(1 - this->params.smoothing), uniform = V(this->params.uniform);
    }
    HD void map(V* out, const V* in) const {
      const V x = in[0], a_j = in[1] * (kept * in[2] + uniform), c = this->row.grad, d = x - max,
              p = decay(d) * inverse;
      out[0] = c * select(x == max, (others + (leader - a_j)) * p - a_j * tail, (others + leader) * p - a_j);
      if constexpr (target_grad) out[1] = c * in[1] * kept * (log_s - d);
    }
  };
  template <class V>
  using Backward = BackwardTo<V, false>;
  template <class V>
  using BackwardBoth = BackwardTo<V, true>;

  template <class V>
  struct DoubleBackward : RowKernel<V> {  // in: x, h (of L_x), w, q, k (of L_q)
    static constexpr int in = 5, out = 2, sums = 4, stats_in = 4;
    static constexpr bool value_out = true;
    V max, s, log_s, A, ph, ah, kw, kwl;  // <p, h>, <a, h>, <k, w'>, <k, w' l>,  w' = (1 - eps) w

    HD void start() {
      const V* stats = this->row.stats;
      max = stats[0], s = V(1) + stats[1], log_s = log1p(stats[1]), A = stats[2] + stats[3];
    }
    HD void add_sums(V* sum, const V* in) const {
      const V d = in[0] - max, kw_j = in[4] * V(1 - this->params.smoothing) * in[2];
      sum[0] = sum[0] + decay(d) * in[1];
      sum[1] = sum[1] + a(this->params, in[3], in[2]) * in[1];
      sum[2] = sum[2] + kw_j;
      sum[3] = sum[3] + times(kw_j, log_s - d);
    }
    HD void summed(const V* sum) { ph = sum[0] / s, ah = sum[1], kw = sum[2], kwl = sum[3]; }
    HD V value() const { return A * ph - ah + kwl; }
    HD void map(V* out, const V* in) const {
      const V w_ = V(1 - this->params.smoothing) * in[2], p = decay(in[0] - max) / s, c = this->row.grad;
      out[0] = c * (p * (A * (in[1] - ph) + kw) - in[4] * w_);
      out[1] = c * w_ * (ph - in[1]);
    }
  };
};

}  // namespace torchloss

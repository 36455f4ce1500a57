#pragma once
#include "../row.h"

namespace torchloss {

// Kullback-Leibler divergence KL(P || Q) between two rows of logits, the input x and the target t, at temperature T:
// q = softmax(x / T), p = softmax(t / T). With e_j = [(x_j - max x) - (t_j - max t)] / T:
//
//   log q_j - log p_j = d_j = e_j - (log s_q - log s_p)
//   K     = -sum_j p_j d_j  =  sum_j q_j - p_j - p_j d_j      every term >= 0, for sum_j q_j - p_j = 0
//   K_x   = (q_j - p_j) / T
//   K_t   = p_j (l_j - K) / T,  l_j = -d_j,  l_j - K = E - e_j,  E = sum_j p_j e_j
//   with cotangents h of K_x and k of K_t:
//   in x: [q_j (h_j - <q, h>) - p_j (k_j - <p, k>)] / T^2
//   in t: p_j [(k_j - <p, k>) (l_j - K + 1) - sum_i k_i p_i (l_i - K) - (h_j - <p, h>)] / T^2
//
// E is kept as e_o, that of the target's leader (of several, the mean), and what the others move it by: so E - e_j
// stays exact for the leader however far it leads.
struct KLDivWithLogits {
  static constexpr const char *name = "kl_div_with_logits", *parameter = "temperature";
  static constexpr bool class_weights = false, float_target = true;

  // a - b = value + lost.
  template <class V>
  struct Difference {
    V value, lost;
    HD Difference(V a, V b) : value(a - b) {
      const V v = value - a;
      lost = (a - (value - v)) - (b + v);
    }
  };

  // One class: its logits seen from the largest, e, and d.
  template <class V>
  struct Class {
    V x, t, e, d;
    HD auto near() const { return abs(d) < V(1); }
  };

  template <class V>
  struct Kernel : RowKernel<V> {
    static constexpr int in = 2, stats_in = 7;
    Softmax<V> Q{V(0), V(0)}, P{V(0), V(0)};
    V log_ratio, origin, moved, c;    // log s_q - log s_p; e_o; E - e_o
    V scale, over_q, over_p;          // 1 / s_q, 1 / s_p
    Difference<V> apart{V(0), V(0)};  // of the largest

    HD V scaled(V d) const { return d * V(this->params.scale); }
    HD auto fall(V d) const { return falling(d, V(this->params.scale)); }
    HD void start() {
      const V* stats = this->row.stats;
      Q = {stats[0], stats[1]}, P = {stats[2], stats[3]}, origin = stats[4], moved = stats[5], log_ratio = stats[6];
      c = this->row.grad * V(this->params.scale);
      prepare();
    }
    // A row without a softmax makes all of the other's numbers NaN, too.
    HD void prepare() {
      const V nothing = log_ratio - log_ratio;
      scale = V(this->params.scale), over_q = V(1) / Q.s + nothing, over_p = V(1) / P.s + nothing;
      apart = {Q.max, P.max};
    }
    HD Class<V> at(V x, V t) const {
      const V x_ = x - Q.max, t_ = t - P.max;
      if constexpr (rounded_to_16_bits<V>) {  // and so are the logits, hence these differences exact
        const V e = (x_ - t_) * scale;
        return {x_, t_, e, e - log_ratio};
      }
      const Difference<V> here(x, t);
      V lost = here.lost - apart.lost;  // NaN of an infinite logit
      lost = select(lost < infinity<V>(), lost, V(0));
      const V e = here.value - apart.value;
      return {x_, t_, (e + lost) * scale, (e * scale - log_ratio) + lost * scale};  // d may be much smaller than e
    }
    HD V q(const Class<V>& j) const { return V(fall(j.x)) * over_q; }
    HD V p(const Class<V>& j) const { return V(fall(j.t)) * over_p; }
    // q - p, as the larger of the two times 1 - e^-|d|: near d = 0 nothing cancels.
    HD V difference(const Class<V>& j) const {
      const auto up = j.d > V(0);
      const V larger_ = V(fall(select(up, j.x, j.t))) * select(up, V(0) - over_q, over_p);
      return larger_ * expm1_of_lower(V(0) - abs(j.d));
    }
    HD V centered(const Class<V>& j) const { return times(p(j), (origin - j.e) + moved); }  // p (l - K)
  };

  template <class V>
  struct Forward : Kernel<V> {  // in: x, t
    static constexpr int tops = 2, sums = 3, stats_in = 0, stats_out = 7;
    static constexpr bool value_out = true;
    V K, leaders, others, ratio;  // of the target: how many lead, the others' sum; s_p / s_q
    // The ratio takes one logarithm, of a number above 1, so that two sums that are near do not round two.
    HD void topped(const Top<V>* top, const V*) {
      this->Q = Softmax<V>(top[0]), this->P = Softmax<V>(top[1]), leaders = top[1].count, others = top[1].sum;
      const auto up = this->Q.rest > this->P.rest;
      const V more = (top[0].sum - top[1].sum) + (top[0].count - top[1].count);
      const V l = log1p(select(up, more / this->P.s, (V(0) - more) / this->Q.s));
      this->log_ratio = select(up, l, V(0) - l);
      this->prepare(), ratio = this->P.s * this->over_q;
    }
    // In units of 1 / (moment_unit s_p): q - p - p d, without cancellation where q is near p.
    HD void add_sums(V* sum, const V* in) const {
      const Class<V> j = this->at(in[0], in[1]);
      const V a = raised(this->fall(j.t)), b = raised(this->fall(j.x));
      const auto leads = in[1] == this->P.max;
      sum[0] = sum[0] + select(j.near(), a * exp_excess(j.d), (b * ratio - a) - times(a, j.d));
      sum[1] = sum[1] + select(leads, j.e, V(0));
      sum[2] = sum[2] + times(select(leads, V(0), a), j.e);  // a select in a select gcc 12 takes lane by lane
    }
    // But for the few classes that lead or are masked.
    HD auto usual(const V* in) const { return (in[1] < this->P.max) & (abs(this->at(in[0], in[1]).e) < infinity<V>()); }
    HD void add_usual(V* sum, const V* in) const {
      const Class<V> j = this->at(in[0], in[1]);
      const V a = raised(this->fall(j.t)), b = raised(this->fall(j.x));
      sum[0] = sum[0] + select(j.near(), a * exp_excess(j.d), (b * ratio - a) - a * j.d);
      sum[2] = sum[2] + a * j.e;
    }
    HD void summed(const V* in_units) {
      const V unit = this->over_p * V(1 / moment_unit<V>);
      const V sum[] = {in_units[0] * unit, in_units[1], in_units[2] * unit};
      this->origin = sum[1] / leaders;
      this->moved = sum[2] - times(others / this->P.s, this->origin);
      // The ratio's rounding, off, is in every d_j: the terms' sum is K + e^off - 1 - off, and log_ratio K + E - off.
      // Only where K is small does it matter, and only there are E and K small enough to tell it.
      V off = ((this->origin + this->moved) - this->log_ratio) + sum[0];
      off = select(abs(off) + sum[0] < V(0.02), off, V(0));
      K = sum[0] - exp_excess(off), K = select(K < V(0), V(0), K);
      this->log_ratio = this->log_ratio + off;
    }
    HD V value() const { return K; }
    HD void stats(V* out) const {
      out[0] = this->Q.max, out[1] = this->Q.rest, out[2] = this->P.max, out[3] = this->P.rest;
      out[4] = this->origin, out[5] = this->moved, out[6] = this->log_ratio;
    }
  };

  template <class V, bool target_grad>
  struct BackwardTo : Kernel<V> {  // in: x, t
    static constexpr int out = target_grad ? 2 : 1;
    HD void map(V* out, const V* in) const {
      const Class<V> j = this->at(in[0], in[1]);
      out[0] = this->c * this->difference(j);
      if constexpr (target_grad) out[1] = this->c * this->centered(j);
    }
  };
  template <class V>
  using Backward = BackwardTo<V, false>;
  template <class V>
  using BackwardBoth = BackwardTo<V, true>;

  template <class V>
  struct DoubleBackward : Kernel<V> {  // in: x, h, t, k
    static constexpr int in = 4, out = 2, sums = 5;
    static constexpr bool value_out = true;
    V qh, ph, pk, cov, dh;  // <q, h>, <p, h>, <p, k>, sum_j k_j p_j (l_j - K), <q - p, h>
    HD void add_sums(V* sum, const V* in) const {
      const Class<V> j = this->at(in[0], in[2]);
      const V q = this->q(j), p = this->p(j);
      sum[0] = sum[0] + q * in[1];
      sum[1] = sum[1] + p * in[1];
      sum[2] = sum[2] + p * in[3];
      sum[3] = sum[3] + in[3] * this->centered(j);
      sum[4] = sum[4] + in[1] * this->difference(j);
    }
    HD void summed(const V* sum) { qh = sum[0], ph = sum[1], pk = sum[2], cov = sum[3], dh = sum[4]; }
    HD V value() const { return V(this->params.scale) * (dh + cov); }
    HD void map(V* out, const V* in) const {
      const Class<V> j = this->at(in[0], in[2]);
      const V h = in[1], k = in[3], q = this->q(j), p = this->p(j), c = this->c * V(this->params.scale);
      out[0] = c * (q * (h - qh) - p * (k - pk));
      out[1] = c * ((k - pk) * (this->centered(j) + p) - p * (cov + (h - ph)));
    }
  };
};

}  // namespace torchloss

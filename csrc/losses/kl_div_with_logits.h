#pragma once
#include "../row.h"

namespace torchloss {

// Kullback-Leibler divergence KL(P || Q) between two rows of logits, the input x and the target t, each times a (the
// reciprocal of the temperature, or a scale): q = softmax(a x), p = softmax(a t); with a z-loss of weight z on the
// input. With e_j = a [(x_j - max x) - (t_j - max t)]:
//
//   log q_j - log p_j = d_j = e_j - (log s_q - log s_p)
//   K     = -sum_j p_j d_j  =  sum_j q_j - p_j - p_j d_j      every term >= 0, for sum_j q_j - p_j = 0
//   L     = K + z lse_q^2
//   L_x   = a [q_j - p_j + zeta q_j],  zeta = 2 z lse_q
//   L_t   = a p_j (l_j - K),  l_j = -d_j,  l_j - K = E - e_j,  E = sum_j p_j e_j
//   with cotangents h of L_x and k of L_t:
//   in x: a^2 [q_j ((1 + zeta) (h_j - <q, h>) + 2 z <q, h>) - p_j (k_j - <p, k>)]
//   in t: a^2 p_j [(k_j - <p, k>) (l_j - K + 1) - sum_i k_i p_i (l_i - K) - (h_j - <p, h>)]
//
// E is split into e_o, that of the target's leader (of several, the mean), and what the others move it by: so E - e_j
// stays exact for the leader however far it leads.
struct KLDivWithLogits {
  static constexpr const char* name = "kl_div_with_logits";
  static constexpr Target target = Target::Probabilities;
  static constexpr bool class_weights = false;
  struct Options {
    double temperature = 1, z_loss = 0, softcap = 0, logit_scale = 1;
  };
  static constexpr const char* option_names = "temperature z_loss softcap logit_scale";
  struct Params {
    double z, scale;
  };
  static Params prepare(const Options& o, int64_t) { return {o.z_loss, o.logit_scale / o.temperature}; }

  // a - b = value + error.
  template <class V>
  struct Difference {
    V value, error;
    HD Difference(V a, V b) : value(a - b) {
      const V v = value - a;
      error = (a - (value - v)) - (b + v);
    }
  };

  // One class: its logits seen from the largest, e, and d.
  template <class V>
  struct Class {
    V x, t, e, d;
    HD auto near() const { return abs(d) < V(1); }
  };

  template <class V>
  struct Kernel : RowKernel<V, Params> {
    static constexpr int in = 2, logits = 2, saved_in = 7;
    static constexpr bool own_type = true;  // e of the leader is the origin that was saved
    Softmax<V> Q{V(0), V(0)}, P{V(0), V(0)};
    V log_ratio, origin, moved, c, zeta;  // log s_q - log s_p; e_o; E - e_o
    V scale_, over_q, over_p;             // a; 1 / s_q, 1 / s_p
    Difference<V> apart{V(0), V(0)};      // of the largest

    HD void start() {
      const V* saved = this->row.saved;
      Q = {saved[0], saved[1]}, P = {saved[2], saved[3]}, origin = saved[4], moved = saved[5], log_ratio = saved[6];
      c = this->row.grad[0] * this->scale();
      zeta = z_slope(this->params.z, this->scaled(Q.max), Q.rest);
      prepare();
    }
    // A row without a softmax makes all of the other's numbers NaN, too.
    HD void prepare() {
      const V nothing = log_ratio - log_ratio;
      scale_ = this->scale(), over_q = V(1) / Q.s + nothing, over_p = V(1) / P.s + nothing;
      apart = {Q.max, P.max};
    }
    HD Class<V> at(V x, V t) const {
      const V x_ = x - Q.max, t_ = t - P.max;
      if constexpr (rounded_to_16_bits<V>) {  // and so are the logits, hence these differences exact
        const V e = (x_ - t_) * scale_;
        return {x_, t_, e, e - log_ratio};
      }
      const Difference<V> here(x, t);
      V error = here.error - apart.error;  // NaN of an infinite logit
      error = select(error < infinity<V>(), error, V(0));
      const V e = here.value - apart.value;
      return {x_, t_, (e + error) * scale_, (e * scale_ - log_ratio) + error * scale_};  // d may be much smaller than e
    }
    HD V q(const Class<V>& j) const { return V(this->exp_of(j.x)) * over_q; }
    HD V p(const Class<V>& j) const { return V(this->exp_of(j.t)) * over_p; }
    // q - p + zeta q, with q - p as the larger of the two times 1 - e^-|d|: near d = 0 nothing cancels.
    HD V difference(const Class<V>& j) const {
      const auto up = j.d > V(0);
      const V signed_ = V(this->exp_of(select(up, j.x, j.t))) * select(up, V(0) - over_q, over_p);
      const V below = expm1_of_lower(V(0) - abs(j.d));
      return signed_ * (below + zeta * select(up, V(-1), V(1) + below));
    }
    HD V centered(const Class<V>& j) const { return times(p(j), (origin - j.e) + moved); }  // p (l - K)
  };

  template <class V>
  struct Forward : Kernel<V> {  // in: x, t
    static constexpr int softmaxes = 2, terms = 3, saved_in = 0, saved_out = 7, values = 1;
    V K, leaders, others, ratio;  // of the target: how many lead, the others' sum; s_p / s_q
    // The ratio takes one logarithm, of a number above 1, so that two sums that are near do not round two.
    HD void with_softmax(const SoftmaxState<V>* state, const V*) {
      this->Q = Softmax<V>(state[0]), this->P = Softmax<V>(state[1]), leaders = state[1].leaders,
      others = state[1].others;
      const auto up = this->Q.rest > this->P.rest;
      const V more = (state[0].others - state[1].others) + (state[0].leaders - state[1].leaders);
      const V l = log1p(select(up, more / this->P.s, (V(0) - more) / this->Q.s));
      this->log_ratio = select(up, l, V(0) - l);
      this->prepare(), ratio = this->P.s * this->over_q;
    }
    // In units of 1 / (kExpScale s_p): q - p - p d, without cancellation where q is near p.
    HD void add_terms(V* sum, const V* in) const {
      const Class<V> j = this->at(in[0], in[1]);
      const V a = scaled_up(this->exp_of(j.t)), b = scaled_up(this->exp_of(j.x));
      const auto leads = in[1] == this->P.max;
      sum[0] = sum[0] + select(j.near(), a * exp_excess(j.d), (b * ratio - a) - times(a, j.d));
      sum[1] = sum[1] + select(leads, j.e, V(0));
      sum[2] = sum[2] + times(select(leads, V(0), a), j.e);  // a select in a select gcc 12 takes lane by lane
    }
    // But for the few classes that lead or are masked.
    HD auto common(const V* in) const {
      return (in[1] < this->P.max) & (abs(this->at(in[0], in[1]).e) < infinity<V>());
    }
    HD void add_common_terms(V* sum, const V* in) const {
      const Class<V> j = this->at(in[0], in[1]);
      const V a = scaled_up(this->exp_of(j.t)), b = scaled_up(this->exp_of(j.x));
      sum[0] = sum[0] + select(j.near(), a * exp_excess(j.d), (b * ratio - a) - a * j.d);
      sum[2] = sum[2] + a * j.e;
    }
    HD void with_terms(const V* in_units) {
      const V unit = this->over_p * V(1 / kExpScale<V>);
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
    HD void value(V* out) const {
      *out = K;
      add_z_loss(*out, this->params.z, this->scaled(this->Q.max) + log1p(this->Q.rest));
    }
    HD void save(V* out) const {
      out[0] = this->Q.max, out[1] = this->Q.rest, out[2] = this->P.max, out[3] = this->P.rest;
      out[4] = this->origin, out[5] = this->moved, out[6] = this->log_ratio;
    }
  };

  template <class V, bool target_grad>
  struct BackwardTo : Kernel<V> {  // in: x, t
    static constexpr int out = target_grad ? 2 : 1;
    HD void output(V* out, const V* in) const {
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
    static constexpr int in = 4, out = 2, terms = 5, values = 1;
    V qh, ph, pk, cov, dh;  // <q, h>, <p, h>, <p, k>, sum_j k_j p_j (l_j - K), <q - p, h>
    HD void add_terms(V* sum, const V* in) const {
      const Class<V> j = this->at(in[0], in[2]);
      const V q = this->q(j), p = this->p(j);
      sum[0] = sum[0] + q * in[1];
      sum[1] = sum[1] + p * in[1];
      sum[2] = sum[2] + p * in[3];
      sum[3] = sum[3] + in[3] * this->centered(j);
      sum[4] = sum[4] + in[1] * this->difference(j);
    }
    HD void with_terms(const V* sum) { qh = sum[0], ph = sum[1], pk = sum[2], cov = sum[3], dh = sum[4]; }
    HD void value(V* out) const { *out = this->scale() * (dh + cov); }
    HD void output(V* out, const V* in) const {
      const Class<V> j = this->at(in[0], in[2]);
      const V h = in[1], k = in[3], q = this->q(j), p = this->p(j), c = this->c * this->scale(),
              z2 = times(V(2 * this->params.z), qh);
      out[0] = c * (q * ((h - qh) + (times(this->zeta, h - qh) + z2)) - p * (k - pk));
      out[1] = c * ((k - pk) * (this->centered(j) + p) - p * (cov + (h - ph)));
    }
  };

  using WithGradient = torchloss::WithGradient<Forward, Backward>;
};

}  // namespace torchloss

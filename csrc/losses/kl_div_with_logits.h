#pragma once
#include "../row.h"

namespace torchloss {

// Kullback-Leibler divergence KL(P || Q) between two rows of logits, the input x and the target t, at temperature T:
// q = softmax(x / T), p = softmax(t / T), l_j = log p_j - log q_j.
//
//   K     = sum_j p_j l_j  =  sum_j q_j - p_j + p_j l_j       every term >= 0, for sum_j q_j - p_j = 0
//   K_x   = (q_j - p_j) / T
//   K_t   = p_j (l_j - K) / T
//   with cotangents h of K_x and k of K_t:
//   in x: [q_j (h_j - <q, h>) - p_j (k_j - <p, k>)] / T^2
//   in t: p_j [(k_j - <p, k>) (l_j - K + 1) - sum_i k_i p_i (l_i - K) - (h_j - <p, h>)] / T^2
struct KLDivWithLogits {
  static constexpr const char *name = "kl_div_with_logits", *parameter = "temperature";
  static constexpr bool class_weights = false, float_target = true;

  // One class: log q - log p = d, and what follows from it without cancellation where q is near p.
  template <class V>
  struct Class {
    V p, q, d;
    HD Class(const Softmax<V>& q_, const Softmax<V>& p_, V x, V t)
        : p(p_.p(t)), q(q_.p(x)), d(q_.log_p(x) - p_.log_p(t)) {}
    HD auto near() const { return abs(d) < V(0.5); }
    HD V difference() const { return select(near(), p * expm1(d), q - p); }                 // q - p
    HD V term() const { return select(near(), p * exp_excess(d), (q - p) - times(p, d)); }  // q - p + p l
    HD V centered(V K) const { return V(0) - times(p, d + K); }                             // p (l - K)
  };

  template <class V>
  struct Kernel : RowKernel<V> {
    static constexpr int in = 2, stats_in = 5;
    Softmax<V> Q{V(0), V(0)}, P{V(0), V(0)};
    V K, c;
    HD V logit(V x) const { return x * V(this->params.scale); }
    HD Class<V> at(V x, V t) const { return {Q, P, logit(x), logit(t)}; }
    HD void start() {
      const V* stats = this->row.stats;
      Q = {stats[0], stats[1]}, P = {stats[2], stats[3]}, K = stats[4];
      c = this->row.grad * V(this->params.scale);
    }
  };

  template <class V>
  struct Forward : Kernel<V> {  // in: x, t
    static constexpr int tops = 2, sums = 1, stats_in = 0, stats_out = 5;
    static constexpr bool value_out = true;
    HD void topped(const Top<V>* top, const V*) { this->Q = Softmax<V>(top[0]), this->P = Softmax<V>(top[1]); }
    HD void add_sums(V* sum, const V* in) const { *sum = *sum + this->at(in[0], in[1]).term(); }
    HD void summed(const V* sum) { this->K = *sum; }
    HD V value() const { return this->K; }
    HD void stats(V* out) const {
      out[0] = this->Q.max, out[1] = this->Q.rest, out[2] = this->P.max, out[3] = this->P.rest, out[4] = this->K;
    }
  };

  template <class V, bool target_grad>
  struct BackwardTo : Kernel<V> {  // in: x, t
    static constexpr int out = target_grad ? 2 : 1;
    HD void map(V* out, const V* in) const {
      const Class<V> j = this->at(in[0], in[1]);
      out[0] = this->c * j.difference();
      if constexpr (target_grad) out[1] = this->c * j.centered(this->K);
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
      sum[0] = sum[0] + j.q * in[1];
      sum[1] = sum[1] + j.p * in[1];
      sum[2] = sum[2] + j.p * in[3];
      sum[3] = sum[3] + in[3] * j.centered(this->K);
      sum[4] = sum[4] + in[1] * j.difference();
    }
    HD void summed(const V* sum) { qh = sum[0], ph = sum[1], pk = sum[2], cov = sum[3], dh = sum[4]; }
    HD V value() const { return V(this->params.scale) * (dh + cov); }
    HD void map(V* out, const V* in) const {
      const Class<V> j = this->at(in[0], in[2]);
      const V h = in[1], k = in[3], c = this->c * V(this->params.scale);
      out[0] = c * (j.q * (h - qh) - j.p * (k - pk));
      out[1] = c * ((k - pk) * (j.centered(this->K) + j.p) - j.p * (cov + (h - ph)));
    }
  };
};

}  // namespace torchloss

#pragma once
#include "../row.h"

namespace torchloss {

// Entropy of a row of probabilities p, in units of log(base):
//
//   H = -sum_j p_j log p_j      (0 log 0 = 0)
//   H'_j = -(log p_j + 1),  H''_jj = -1 / p_j
struct Entropy {
  static constexpr const char *name = "entropy", *parameter = "base";
  static constexpr bool class_weights = false, float_target = false;

  template <class V>
  struct Forward : RowKernel<V> {  // in: p
    static constexpr int sums = 1;
    static constexpr bool value_out = true;
    V H;
    HD void add_sums(V* sum, const V* p) const { *sum = *sum - times(*p, log(*p)); }
    HD void summed(const V* sum) { H = *sum; }
    HD V value() const { return V(this->params.unit) * H; }
  };

  template <class V>
  struct Backward : RowKernel<V> {  // in: p
    static constexpr int out = 1;
    HD void map(V* out, const V* p) const { *out = V(-this->params.unit) * this->row.grad * (log(*p) + V(1)); }
  };

  template <class V>
  struct DoubleBackward : RowKernel<V> {  // in: p, h
    static constexpr int in = 2, out = 1, sums = 1;
    static constexpr bool value_out = true;
    V hH;
    HD void add_sums(V* sum, const V* in) const { *sum = *sum - times(in[1], log(in[0]) + V(1)); }
    HD void summed(const V* sum) { hH = *sum; }
    HD V value() const { return V(this->params.unit) * hH; }
    HD void map(V* out, const V* in) const {
      *out = V(-this->params.unit) * times(this->row.grad * in[1], V(1) / in[0]);
    }
  };
};

// Entropy of the softmax p of a row of logits x, in nats; l_j = log p_j:
//
//   H = log s - D,  D = sum_j p_j d_j,  d_j = x_j - m
//   H'_j = -p_j (l_j + H) = -p_j (d_j - D)                 without log s, which may be much larger than D
//   (H'' h)_j = -p_j [(h_j - <p, h>) (d_j - D + 1) - sum_i h_i p_i (d_i - D)]
struct SoftmaxEntropy {
  static constexpr const char *name = "softmax_entropy", *parameter = "unused";
  static constexpr bool class_weights = false, float_target = false;

  template <class V>
  struct Forward : RowKernel<V> {  // in: x
    static constexpr int tops = 1, more = 1, stats_out = 3;
    static constexpr bool value_out = true;
    V max, rest, D;

    template <class E, class M>
    HD void add_more(V* sums, V d, const E& e, M, const V*) const {
      *sums = *sums + moment(e, d);
    }
    template <class M>
    HD static void rebase_more(V* sums, const Top<V>& top, M, V d, V f) {
      *sums = f * *sums + times(f, d) * (V(moment_unit<V>) * (top.count + top.sum));
    }
    HD void topped(const Top<V>* top, const V* moment) {
      max = top->max, rest = top->rest(), D = *moment / (V(moment_unit<V>) * (V(1) + rest));
    }
    HD V value() const { return log1p(rest) - D; }
    HD void stats(V* out) const { out[0] = max, out[1] = rest, out[2] = D; }
  };

  template <class V>
  struct Backward : RowKernel<V> {  // in: x
    static constexpr int out = 1, stats_in = 3;
    V max, c, D;  // c: the gradient times -1 / s
    HD void start() {
      const V* stats = this->row.stats;
      max = stats[0], c = V(0) - this->row.grad / (V(1) + stats[1]), D = stats[2];
    }
    HD void map(V* out, const V* in) const {
      const V d = *in - max;
      *out = c * times(decay(d), d - D);
    }
  };

  template <class V>
  struct DoubleBackward : RowKernel<V> {  // in: x, h
    static constexpr int in = 2, out = 1, sums = 2, stats_in = 3;
    static constexpr bool value_out = true;
    V max, s, D, ph, cov;
    HD void start() {
      const V* stats = this->row.stats;
      max = stats[0], s = V(1) + stats[1], D = stats[2];
    }
    HD void add_sums(V* sum, const V* in) const {
      const V d = in[0] - max, p = decay(d) / s;
      sum[0] = sum[0] + p * in[1];
      sum[1] = sum[1] + in[1] * times(p, d - D);
    }
    HD void summed(const V* sum) { ph = sum[0], cov = sum[1]; }
    HD V value() const { return V(0) - cov; }
    HD void map(V* out, const V* in) const {
      const V d = in[0] - max, p = decay(d) / s;
      *out = this->row.grad * (p * cov - times(p, (d - D) + V(1)) * (in[1] - ph));
    }
  };
};

}  // namespace torchloss

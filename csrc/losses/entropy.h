#pragma once
#include "../row.h"

namespace torchloss {

// Entropy of a row of probabilities p, in units of log(base):
//
//   H = -sum_j p_j log p_j      (0 log 0 = 0)
//   H'_j = -(log p_j + 1),  H''_jj = -1 / p_j
struct Entropy {
  static constexpr const char* name = "entropy";
  static constexpr Target target = Target::None;
  static constexpr bool class_weights = false;
  struct Options {
    double base = 2.718281828459045;
  };
  static constexpr const char* option_names = "base";
  struct Params {
    double unit;
  };
  static Params prepare(const Options& o, int64_t) { return {1 / std::log(o.base)}; }

  template <class V>
  struct Forward : RowKernel<V, Params> {  // in: p
    static constexpr int terms = 1, values = 1;
    V H;
    HD void add_terms(V* sum, const V* p) const { *sum = *sum - times(*p, log(*p)); }
    HD void with_terms(const V* sum) { H = *sum; }
    HD void value(V* out) const { *out = V(this->params.unit) * H; }
  };

  template <class V>
  struct Backward : RowKernel<V, Params> {  // in: p
    static constexpr int out = 1;
    HD void output(V* out, const V* p) const { *out = V(-this->params.unit) * this->row.grad[0] * (log(*p) + V(1)); }
  };

  template <class V>
  struct DoubleBackward : RowKernel<V, Params> {  // in: p, h
    static constexpr int in = 2, out = 1, terms = 1, values = 1;
    V hH;
    HD void add_terms(V* sum, const V* in) const { *sum = *sum - times(in[1], log(in[0]) + V(1)); }
    HD void with_terms(const V* sum) { hH = *sum; }
    HD void value(V* out) const { *out = V(this->params.unit) * hH; }
    HD void output(V* out, const V* in) const {
      *out = V(-this->params.unit) * times(this->row.grad[0] * in[1], V(1) / in[0]);
    }
  };
};

// What the losses take that need the mean distance from the largest logit, D = sum_j p_j d_j, d_j = a (x_j - m).
template <class V, class P>
struct SoftmaxMoment : RowKernel<V, P> {  // in: x
  static constexpr int softmaxes = 1, accumulators = 1, saved_out = 3;
  V max, rest, D;

  template <class E, class M>
  HD void accumulate(V* sums, V d, const E& e, M, const V*) const {
    *sums = *sums + moment(e, d);
  }
  template <class M>
  HD static void rescale(V* sums, const SoftmaxState<V>& softmax, M, V d, V f) {
    *sums = f * *sums + times(f, d) * (V(kExpScale<V>) * (softmax.leaders + softmax.others));
  }
  HD void with_softmax(const SoftmaxState<V>* softmax, const V* moment) {
    max = softmax->max, rest = softmax->rest(), D = *moment / (V(kExpScale<V>) * (V(1) + rest));
  }
  HD void save(V* out) const { out[0] = max, out[1] = rest, out[2] = D; }
};

// Entropy of the softmax p of a row of logits x times a, in nats, with a z-loss of weight z; l_j = log p_j:
//
//   H         = log s - D + z lse^2,   D = sum_j p_j d_j,   d_j = a (x_j - m)
//   H'_j      = -a p_j (l_j + H - zeta) = -a p_j (d_j - D - zeta),   zeta = 2 z lse
//   (H'' h)_j = -a^2 p_j [(h_j - <p, h>) (d_j - D + 1 - zeta) - sum_i h_i p_i (d_i - D) - 2 z <p, h>]
//
// The second form of H' has no log s, which may be much larger.
struct UnscaledSoftmaxEntropyParams {
  double z;
};
struct SoftmaxEntropyParams : UnscaledSoftmaxEntropyParams {
  double scale;
};

struct SoftmaxEntropySecondOrder {
  using Params = SoftmaxEntropyParams;

  template <class V>
  struct DoubleBackward : RowKernel<V, Params> {  // in: x, h
    static constexpr int in = 2, out = 1, terms = 2, saved_in = 3, values = 1;
    V max, s, D, zeta, ph, cov;
    HD void start() {
      const V* saved = this->row.saved;
      max = saved[0], s = V(1) + saved[1], D = saved[2];
      zeta = z_slope(this->params.z, this->scaled(max), saved[1]);
    }
    HD void add_terms(V* sum, const V* in) const {
      const V d = in[0] - max, p = V(this->exp_of(d)) / s;
      sum[0] = sum[0] + p * in[1];
      sum[1] = sum[1] + in[1] * times(p, this->scaled(d) - D);
    }
    HD void with_terms(const V* sum) { ph = sum[0], cov = sum[1]; }
    HD void value(V* out) const { *out = this->scale() * (times(zeta, ph) - cov); }
    HD void output(V* out, const V* in) const {
      const V d = in[0] - max, p = V(this->exp_of(d)) / s, c = this->row.grad[0] * this->scale() * this->scale();
      const V even = cov + times(V(2 * this->params.z), ph);
      *out = c * (p * even - times(p, (this->scaled(d) - D) + (V(1) - zeta)) * (in[1] - ph));
    }
  };
};

template <class P>
struct SoftmaxEntropyOf : SoftmaxEntropySecondOrder {
  using Params = P;
  template <class Options>
  static bool takes(const Options& o) {
    return HasScale<P> || o.logit_scale == 1;
  }

  template <class V>
  struct Forward : SoftmaxMoment<V, Params> {  // in: x
    static constexpr int values = 1;
    HD void value(V* out) const {
      const V log_s = log1p(this->rest);
      *out = log_s - this->D;
      add_z_loss(*out, this->params.z, this->scaled(this->max) + log_s);
    }
  };

  template <class V>
  struct Backward : RowKernel<V, Params> {  // in: x
    static constexpr int out = 1, saved_in = 3;
    V max, c, center;  // c: the gradient times -a / s; D + zeta
    HD void start() {
      const V *saved = this->row.saved, rest = saved[1];
      max = saved[0], c = V(0) - this->row.grad[0] * this->scale() / (V(1) + rest);
      center = saved[2] + z_slope(this->params.z, this->scaled(max), rest);
    }
    HD void output(V* out, const V* in) const {
      const V d = *in - max;
      *out = c * times(V(this->exp_of(d)), this->scaled(d) - center);
    }
  };

  using WithGradient = torchloss::WithGradient<Forward, Backward>;
};

struct SoftmaxEntropy : SoftmaxEntropyOf<SoftmaxEntropyParams> {
  static constexpr const char* name = "softmax_entropy";
  static constexpr Target target = Target::None;
  static constexpr bool class_weights = false;
  struct Options {
    double z_loss = 0, softcap = 0, logit_scale = 1;
  };
  static constexpr const char* option_names = "z_loss softcap logit_scale";
  static Params prepare(const Options& o, int64_t) { return {{o.z_loss}, o.logit_scale}; }
  using Special = Kernels<SoftmaxEntropyOf<UnscaledSoftmaxEntropyParams>>;
};

}  // namespace torchloss

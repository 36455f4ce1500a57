#pragma once
#include "math.h"

// What the losses of a row of numbers are made of: an online softmax over the row, and what is read off it.
//
// a) The online softmax state of a row of logits is the largest logit m, how many have it (the leaders), and the sum of
//    the others' e^(x_j - m). Leaving the leaders out keeps what a sum loses: with rest = s - 1, s = sum_j e^(x_j - m),
//    log s = log1p(rest) and 1 - p = rest / s stay exact however far one logit leads.
// b) A RowState is that state with a loss's further accumulators. To see it from a larger maximum is to rescale it; two
//    that have the same maximum are added. join() is both. The lanes of a vector, chunks of a long row, the threads of
//    a block (which agree on the maximum first) and one day the ranks of a process group use the same rescale and add.
// c) A loss is a struct that declares its op, and holds a kernel over a number type V for each pass over the row:
//      Forward, Backward, DoubleBackward; BackwardBoth where the target has a gradient, too
//    A kernel derives from RowKernel, which holds the defaults, and has
//      in, out        streams read and written, one number per class: in[0] holds the logits
//      softmaxes      how many of the leading streams are logits whose softmax state is wanted (0, 1 or 2)
//      accumulators   sums kept beside the first softmax state while its maximum is still moving
//      terms          plain sums, taken in a second reading, when the softmaxes are known
//      saved_in, saved_out   numbers per row that an earlier pass left, or that this one leaves
//      values         results per row
//    and a method for each. A device's loop calls, row by row:
//      start;  accumulate, rescale and with_softmax;  add_terms and with_terms;  value and save;  output, and at_target
//      for the target column.
//    For a class that is `common`, as nearly all are, a kernel may have shorter forms: add_common_terms, output_common.
namespace torchloss {

enum class Target { None, Index, Probabilities };  // the last is any target of the input's size

template <class V>
struct SoftmaxState {
  V max = lowest(), leaders = V(0), others = V(0);
  HD static V lowest() { return V(0) - infinity<V>(); }
  // s - 1. NaN where no softmax exists: no finite logit, or an infinite one.
  HD V rest() const { return others + (leaders - V(1)) + (max - max); }
};

template <class V, int n>
struct RowState {
  SoftmaxState<V> softmax;
  V sums[n > 0 ? n : 1] = {};
};

// The same state seen from a maximum at least its own; and the compensation of its sums, a state too, with no leaders.
template <class K, class V, int n>
HD void rescale(const K& kernel, RowState<V, n>& state, RowState<V, n>& compensation, V max) {
  const auto same = state.softmax.max == max;
  const V d = select(same, V(0), kernel.scaled(state.softmax.max - max)), factor = exp_nonpositive(d);
  for (RowState<V, n>* s : {&compensation, &state}) {
    SoftmaxState<V>& softmax = s->softmax;
    if constexpr (n > 0) K::rescale(s->sums, softmax, same, d, factor);
    softmax.others = select(same, softmax.others, (softmax.leaders + softmax.others) * factor);
    softmax.leaders = select(same, softmax.leaders, V(0));
    softmax.max = max;
  }
}
template <class K, class V, int n>
HD void rescale(const K& kernel, RowState<V, n>& state, V max) {
  RowState<V, n> nothing;
  rescale(kernel, state, nothing, max);
}

// Adds a state that has the same maximum.
template <class V, int n>
HD void add(RowState<V, n>& state, const RowState<V, n>& other) {
  state.softmax.leaders = state.softmax.leaders + other.softmax.leaders;
  state.softmax.others = state.softmax.others + other.softmax.others;
  for (int k = 0; k < n; ++k) state.sums[k] = state.sums[k] + other.sums[k];
}

// sum + x, and in `compensation` what the rounding lost: over millions of classes a plain float sum drifts.
template <class V>
HD void add_compensated(V& sum, V& compensation, V x) {
  const V s = sum + x, b = s - sum;
  compensation = compensation + ((sum - (s - b)) + (x - b));
  sum = s;
}

template <class V, int n>
HD void add_compensated(RowState<V, n>& state, RowState<V, n>& compensation, const RowState<V, n>& other) {
  state.softmax.leaders = state.softmax.leaders + other.softmax.leaders;
  add_compensated(state.softmax.others, compensation.softmax.others, other.softmax.others);
  for (int k = 0; k < n; ++k) add_compensated(state.sums[k], compensation.sums[k], other.sums[k]);
}

// The sum with its compensation: without one (a NaN) where the sum is infinite.
template <class V>
HD V compensated(V sum, V compensation) {
  return select(compensation == compensation, sum + compensation, sum);
}

template <class V, int n>
HD void compensate(RowState<V, n>& state, const RowState<V, n>& compensation) {
  state.softmax.others = compensated(state.softmax.others, compensation.softmax.others);
  for (int k = 0; k < n; ++k) state.sums[k] = compensated(state.sums[k], compensation.sums[k]);
}

template <class K, class V, int n>
HD RowState<V, n> join(const K& kernel, RowState<V, n> a, RowState<V, n> b) {
  const V max = larger(a.softmax.max, b.softmax.max);
  rescale(kernel, a, max);
  rescale(kernel, b, max);
  add(a, b);
  return a;
}

// Where e^(x - max) is taken from: the maximum, or 0 while there is none, so that -inf gives 0 and not NaN.
template <class V>
HD V reference(V max) {
  return select(max == SoftmaxState<V>::lowest(), V(0), max);
}

// Adds a class with the logit x < max, seen from max; gives its exponential.
template <class K, class V, int n>
HD V accumulate_below(RowState<V, n>& state, const K& kernel, V max, V x, const V* in) {
  const V d = x - max;
  const auto e = kernel.exp_of(d);
  state.softmax.others = state.softmax.others + V(e);
  if constexpr (n > 0) kernel.accumulate(state.sums, kernel.scaled(d), e, false, in);
  return V(e);
}

// Adds a class with the logit x <= max, seen from reference(max); gives its exponential.
template <class K, class V, int n>
HD V accumulate(RowState<V, n>& state, const K& kernel, V reference, V x, const V* in) {
  const V d = x - reference;
  const auto e = kernel.exp_of(d);
  const auto leads = x == reference;
  state.softmax.leaders = state.softmax.leaders + select(leads, V(1), V(0));
  state.softmax.others = state.softmax.others + select(leads, V(0), V(e));
  if constexpr (n > 0) kernel.accumulate(state.sums, kernel.scaled(d), e, leads, in);
  return V(e);
}

constexpr int kMaxValues = 4;

// The numbers of one row, as a device's loop sets them.
template <class V>
struct Row {
  V grad[kMaxValues] = {V(1), V(1), V(1), V(1)};  // c = dL/d(value), of each value
  V weight = V(1);                                // of its class target: w_y
  V x_y = V(0);                                   // the logit of the class target
  V h_y = V(0);                                   // the cotangent of the class target
  V saved[7] = {};
};

// The saved form of a softmax state: p_j = e^(x_j - max) / (1 + rest).
template <class V>
struct Softmax {
  V max, rest, s;
  HD Softmax(V max, V rest) : max(max), rest(rest), s(V(1) + rest) {}
  HD explicit Softmax(const SoftmaxState<V>& state) : Softmax(state.max, state.rest()) {}
  // 1 - p of a logit x with the exponential e, without cancellation for the largest.
  HD V q(V x, V e) const { return select(x == max, rest, V(1) + (rest - e)) / s; }
};

// Adds z lse^2, and its slope zeta = 2 z lse: without a z-loss neither takes a logarithm.
template <class V>
HD void add_z_loss(V& loss, double z, V lse) {
  if (z != 0) loss = loss + V(z) * lse * lse;
}
template <class V>
HD V z_slope(double z, V max, V rest) {
  if (z == 0) return V(0);
  return V(2 * z) * (max + log1p(rest));
}

// A logit's distance from the largest is in units of the softmax's once it is scaled: a temperature's reciprocal.
// Params without a scale are those of a loss that is not of logits.
template <class P>
concept HasScale = requires(P p) { p.scale; };

template <class V, class P>
struct RowKernel {
  using Params = P;
  static constexpr int in = 1, out = 0, softmaxes = 0, accumulators = 0, terms = 0, saved_in = 0, saved_out = 0;
  static constexpr int values = 0, grads = 1;  // grads: of the loss's values, from above
  static constexpr int logits = 1;        // the leading streams that a softcap goes over, and its slope their outputs
  static constexpr int weights = -1;      // which of the streams are class weights, usually absent and then 1
  static constexpr bool bulk = true;      // reads its streams, not only what they hold for the target
  static constexpr bool targets = false;  // of class indices: takes row.weight, skips ignored rows, has a column
  static constexpr bool x_at_target = false;  // wants row.x_y, of in[0]
  static constexpr bool h_at_target = false;  // wants row.h_y, of in[1]
  // Its passes must agree to the last bit: none may compute in a wider type than the numbers are saved in.
  static constexpr bool own_type = false;
  // Its output can be had from in[0]'s exponentials, without in[0]: output_from_exp.
  static constexpr bool from_exp = false;
  Row<V> row;
  P params;

  HD V scale() const {
    if constexpr (HasScale<P>) return V(params.scale);
    return V(1);
  }
  HD V scaled(V d) const {  // a difference of two logits
    if constexpr (HasScale<P>) return d * scale();
    return d;
  }
  HD auto exp_of(V d) const {  // e to that
    if constexpr (HasScale<P>)
      return scaled_exp(d, scale());
    else
      return scaled_exp(d);
  }
  HD void start() {}
  HD void with_softmax(const SoftmaxState<V>*, const V*) {}
  HD void with_terms(const V*) {}
};

// The kernels of a loss for the options that most calls have, which let them do less; the fewest first. Each tells
// whether it `takes` the options.
template <class... K>
struct Kernels {};

// A loss and its gradient in one pass: the gradient begins with what the loss would have saved, and may take the
// exponentials that the loss has summed up.
template <template <class> class Forward, template <class> class Backward>
struct WithGradient {
  template <class V>
  struct Kernel : Forward<V> {
    static constexpr int out = Backward<V>::out;
    static constexpr bool from_exp = Backward<V>::from_exp;
    Backward<V> gradient;

    HD void start_output() {
      Row<V>& r = gradient.row;  // by the number: all of it is a dozen vectors
      r.grad[0] = this->row.grad[0], r.weight = this->row.weight, r.x_y = this->row.x_y;
      this->save(r.saved);
      gradient.params = this->params;
      gradient.start();
    }
    HD void output(V* out, const V* in) const { gradient.output(out, in); }
    HD void output_from_exp(V* out, V e, const V* in) const { gradient.output_from_exp(out, e, in); }
    HD V at_target() const
      requires requires(Backward<V> b) { b.at_target(); }
    {
      return gradient.at_target();
    }
  };
};

}  // namespace torchloss

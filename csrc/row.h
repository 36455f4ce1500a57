#pragma once
#include "math.h"

// What the losses of a row of numbers are made of: a fold over the row, which joins from parts, and a read-off.
//
// a) A row of logits is summed up by its Top: the largest logit m and, besides the 1 of the largest itself, the sum of
//    the others' e^(x_j - m). Leaving the largest out keeps what a sum loses: log s = log1p(rest) and 1 - p = rest / s
//    stay exact however far one logit leads.
// b) What is known of two parts of a row joins into what is known of both. The parts may be the lanes of a vector, the
//    threads of a block, chunks of a long row or the ranks of a process group: the same rebase and + serve all.
// c) A loss is a struct over a number type V with
//      in, out        streams read and written, one number per class: in[0] holds the logits
//      tops           how many of the leading streams are logits of which the Top is wanted (0, 1 or 2)
//      more           sums kept beside the first Top while its maximum is still moving
//      sums           plain sums, taken in a second reading, when the tops are known
//      stats_in, stats_out   numbers per row that an earlier pass left, or that this one leaves
//    and a method for each; RowKernel holds the defaults. A device's loop calls, row by row:
//      add_more, rebase_more and topped;  add_sums and summed;  value and stats;  map, and hit at the class target.
//    For a class that is `usual`, as nearly all are, a loss may have shorter forms: add_usual and map_usual.
namespace torchloss {

template <class V>
struct Top {
  V max = lowest(), count = V(0), sum = V(0);  // of the largest: its logit, how often; the others' sum of e^(x - max)
  HD static V lowest() { return V(0) - infinity<V>(); }
  // s - 1, s = sum_j e^(x_j - max). NaN where no softmax exists: no finite logit, or an infinite one.
  HD V rest() const { return sum + (count - V(1)) + (max - max); }
};

// A Top with `more` sums beside it.
template <class V, int more>
struct Part {
  Top<V> top;
  V sums[more > 0 ? more : 1] = {};
};

// The same part seen from a maximum at least its own; and what its roundings lost, a part too, whose count is 0.
template <class L, class V, int more>
HD void rebase(const L& loss, Part<V, more>& part, Part<V, more>& lost, V max) {
  const auto same = part.top.max == max;
  const V d = select(same, V(0), loss.scaled(part.top.max - max)), f = decay(d);
  for (Part<V, more>* p : {&lost, &part}) {
    Top<V>& top = p->top;
    if constexpr (more > 0) L::rebase_more(p->sums, top, same, d, f);
    top.sum = select(same, top.sum, (top.count + top.sum) * f);
    top.count = select(same, top.count, V(0));
    top.max = max;
  }
}
template <class L, class V, int more>
HD void rebase(const L& loss, Part<V, more>& part, V max) {
  Part<V, more> nothing;
  rebase(loss, part, nothing, max);
}

// Adds a part that has the same maximum.
template <class V, int more>
HD void add(Part<V, more>& part, const Part<V, more>& other) {
  part.top.count = part.top.count + other.top.count;
  part.top.sum = part.top.sum + other.top.sum;
  for (int k = 0; k < more; ++k) part.sums[k] = part.sums[k] + other.sums[k];
}

// sum + x, and in `lost` what the rounding lost: over millions of classes a plain float sum drifts.
template <class V>
HD void add_kept(V& sum, V& lost, V x) {
  const V s = sum + x, b = s - sum;
  lost = lost + ((sum - (s - b)) + (x - b));
  sum = s;
}

template <class V, int more>
HD void add_kept(Part<V, more>& part, Part<V, more>& lost, const Part<V, more>& other) {
  part.top.count = part.top.count + other.top.count;
  add_kept(part.top.sum, lost.top.sum, other.top.sum);
  for (int k = 0; k < more; ++k) add_kept(part.sums[k], lost.sums[k], other.sums[k]);
}

// The sum with what was lost: nothing (a NaN) where the sum is infinite.
template <class V>
HD V settled(V sum, V lost) {
  return select(lost == lost, sum + lost, sum);
}

template <class V, int more>
HD void settle(Part<V, more>& part, const Part<V, more>& lost) {
  part.top.sum = settled(part.top.sum, lost.top.sum);
  for (int k = 0; k < more; ++k) part.sums[k] = settled(part.sums[k], lost.sums[k]);
}

template <class L, class V, int more>
HD Part<V, more> join(const L& loss, Part<V, more> a, Part<V, more> b) {
  const V max = larger(a.top.max, b.top.max);
  rebase(loss, a, max);
  rebase(loss, b, max);
  add(a, b);
  return a;
}

// Where e^(x - max) is taken from: the maximum, or 0 while there is none, so that -inf gives 0 and not NaN.
template <class V>
HD V reference(V max) {
  return select(max == Top<V>::lowest(), V(0), max);
}

// Adds a class with the logit x < max, seen from max; gives e^(x - max).
template <class L, class V, int more>
HD V add_lower(Part<V, more>& part, const L& loss, V max, V x, const V* in) {
  const V d = x - max;
  const auto e = loss.fall(d);
  part.top.sum = part.top.sum + V(e);
  if constexpr (more > 0) loss.add_more(part.sums, d, e, false, in);
  return V(e);
}

// Adds a class with the logit x <= max, seen from reference(max); gives e^(x - reference).
template <class L, class V, int more>
HD V add(Part<V, more>& part, const L& loss, V reference, V x, const V* in) {
  const V d = x - reference;
  const auto e = loss.fall(d);
  const auto top = x == reference;
  part.top.count = part.top.count + select(top, V(1), V(0));
  part.top.sum = part.top.sum + select(top, V(0), V(e));
  if constexpr (more > 0) loss.add_more(part.sums, d, e, top, in);
  return V(e);
}

// The numbers that hold for every row.
struct RowParams {
  double smoothing = 0;  // label smoothing, epsilon
  double uniform = 0;    // epsilon / C
  double scale = 1;      // of the logits: 1 / temperature
  double unit = 1;       // of the result: 1 / log(base)
};

// The numbers of one row, as a device's loop sets them.
template <class V>
struct Row {
  V grad = V(1);    // the row's scale c = dL/d(value)
  V weight = V(1);  // of its class target: w_y
  V x_y = V(0);     // the logit of the class target
  V h_y = V(0);     // the cotangent of the class target
  V stats[7] = {};
};

// The saved form of a Top: p_j = e^(x_j - max) / (1 + rest).
template <class V>
struct Softmax {
  V max, rest, s;
  HD Softmax(V max, V rest) : max(max), rest(rest), s(V(1) + rest) {}
  HD explicit Softmax(const Top<V>& top) : Softmax(top.max, top.rest()) {}
  HD V p(V x) const { return decay(x - max) / s; }
  // 1 - p, without cancellation for the largest.
  HD V q(V x) const { return select(x == max, rest, V(1) + (rest - decay(x - max))) / s; }
};

template <class V>
struct RowKernel {
  static constexpr int in = 1, out = 0, tops = 0, more = 0, sums = 0, stats_in = 0, stats_out = 0;
  static constexpr int weights = -1;          // which of the streams are class weights, usually absent and then 1
  static constexpr bool keeps = false;        // its map starts from the e^(x - max) of the first Top: map_decayed
  static constexpr bool bulk = true;          // reads its streams, not only what they hold for the target
  static constexpr bool value_out = false;    // gives a value
  static constexpr bool targets = false;      // of class indices: takes row.weight, skips ignored rows, hits one class
  static constexpr bool x_at_target = false;  // wants row.x_y, of in[0]
  static constexpr bool h_at_target = false;  // wants row.h_y, of in[1]
  Row<V> row;
  RowParams params;
  HD V scaled(V d) const { return d; }            // a difference of two logits; only without `more`
  HD auto fall(V d) const { return falling(d); }  // e to that
  HD void topped(const Top<V>*, const V*) {}
  HD void summed(const V*) {}
};

}  // namespace torchloss

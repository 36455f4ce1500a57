#pragma once
// CUDA's loop over rows, for the kernels of row.h.
//
// A team of threads shares a row (shape.h), each taking its pieces (row_pieces.cuh). The order of a row's additions
// depends on its size, strides and alignment, never on timing. A grid of one block also does what RowResults asks for;
// otherwise another kernel does (sums.cuh).
#include "../rowwise.h"
#include "device.h"
#include "row_pieces.cuh"
#include "sums.cuh"

namespace torchloss {

// Of float64 calls, for it is long and rare.
__device__ __noinline__ inline double softcapped64(double x, double cap) { return softcapped(x, cap); }
__device__ __noinline__ inline double softcap_slope64(double x, double cap) { return softcap_slope(x, cap); }

// `capped`: the logits pass a softcap; those of float64 if there is one.
template <class S, class K, bool capped>
struct RowLoop {
  using V = Number<S>;
  static constexpr int in = K::in, out = K::out;
  static constexpr bool has_target_column = K::targets && requires(K kernel) { kernel.at_target(); };
  // The most threads of a block, so that the numbers of each fit in its registers.
  static constexpr int threads = in * sizeof(V) == 4 ? kThreads : in * sizeof(V) <= 12 ? kThreads / 2 : kThreads / 4;
  // The readings of a row: for its softmaxes, its terms, its outputs.
  static constexpr int terms_reading = K::softmaxes > 0, output_reading = terms_reading + (K::terms > 0);
  static constexpr bool read_again = output_reading + (out > 0) > 1;

  const RowArgs& args;
  const int64_t r;
  const bool exists;  // the last block may have threads left over, which only keep the others company
  bool counts;        // the row is neither ignored nor has it a bad target
  V blank = V(0);     // what its outputs are if it does not count
  int64_t y = -1;
  V row_weight = V(1);
  V raw_x_y = V(0);  // the target's logit before its softcap
  const Team team;
  RowPieces<S, in, K::bulk, K::weights> pieces;
  S* to[out > 0 ? out : 1];
  K kernel;

  __device__ RowLoop(const RowArgs& args, const Team& team, unsigned chunk, int64_t row)
      : args(args),
        r(row < args.rows ? row : args.rows - 1),
        exists(row < args.rows),
        team(team),
        pieces(args, team, chunk) {}

  // Every thread of the block calls this, for it reduces over teams. The row's value and weight are added to `totals`.
  __device__ void run(double* totals) {
    start();
    if constexpr (K::softmaxes > 0) fold();
    if constexpr (K::terms > 0) sum();
    // Where the output may lie over the input, every thread has read the target's logit.
    if constexpr (output_reading > 0 && has_target_column) __syncwarp();
    if (!exists) return;
    if (team.rank == 0) finish(totals);
    if constexpr (requires { kernel.start_output(); }) kernel.start_output();
    if constexpr (out > 0) counts ? output() : blank_output();
  }

  __device__ void start() {
    Row<V>& row = kernel.row;
    args.params.get(kernel.params);
    if (args.row_weight) row_weight = compute_number(args.row_weight, r);
#pragma unroll
    for (int k = 0; k < K::grads; ++k) {
      V grad = row_weight;
      if (args.grad) {
        grad = compute_number(args.grad, k * args.grad_value_stride + r * args.grad_stride);
        if (args.total) grad = grad / compute_number(args.total, 0);
        if (args.row_weight) grad = grad * row_weight;
      } else if (args.total) {
        grad = grad / compute_number(args.total, 0);
      }
      row.grad[k] = grad;
    }
#pragma unroll
    for (int k = 0; k < K::saved_in; ++k) row.saved[k] = compute_number(args.saved_in, k * args.rows + r);
#pragma unroll
    for (int k = 0; k < out; ++k) to[k] = pieces.first_class(args.out[k], r);
    pieces.place(r);
    counts = exists;
    if constexpr (K::targets) read_target();
    bool alike = true;
#pragma unroll
    for (int k = 0; k < out; ++k) alike = alike && pieces.alike(args.out[k], to[k]);
    pieces.cut(counts ? args.classes : 0, alike);
    kernel.start();
  }
  __device__ static V compute_number(const void* p, int64_t i) { return static_cast<const Scalar<V>*>(p)[i]; }

  __device__ void read_target() {
    y = args.target[r];
    const bool ignored = y == args.ignore_index, bad = y < 0 || y >= args.classes;
    counts = exists && !ignored && !bad;
    blank = ignored ? V(0) : V(kNaN<Scalar<V>>);
    if (!counts) return;
    Row<V>& row = kernel.row;
    if (args.weight) row.weight = widened(static_cast<const S*>(args.weight)[y * args.weight_stride]);
    if constexpr (K::x_at_target) {
      raw_x_y = pieces.number(0, y);
      row.x_y = with_softcap(raw_x_y);
    }
    if constexpr (K::h_at_target) row.h_y = pieces.number(1, y);
  }

  __device__ void fold() {
    RowState<V, K::accumulators> state, compensation;
    RowState<V, 0> second, second_compensation;
    pieces.template each<0>([&](const auto& piece) {
      fold_piece<0>(state, compensation, piece);
      if constexpr (K::softmaxes == 2) fold_piece<1>(second, second_compensation, piece);
    });
    compensate(state, compensation);
    if constexpr (K::softmaxes == 2) compensate(second, second_compensation);
    // What join() does, of all threads at once.
    V max[K::softmaxes], sums[2 * K::softmaxes + K::accumulators];
    max[0] = state.softmax.max;
    if constexpr (K::softmaxes == 2) max[1] = second.softmax.max;
    reduce(team, max, Maximum());
    rescale(kernel, state, max[0]);
    sums[0] = state.softmax.leaders, sums[1] = state.softmax.others;
    if constexpr (K::softmaxes == 2) {
      rescale(kernel, second, max[1]);
      sums[2] = second.softmax.leaders, sums[3] = second.softmax.others;
    }
    V* accumulators = sums + 2 * K::softmaxes;
#pragma unroll
    for (int k = 0; k < K::accumulators; ++k) accumulators[k] = state.sums[k];
    reduce(team, sums, Plus());
    SoftmaxState<V> softmaxes[K::softmaxes];
#pragma unroll
    for (int t = 0; t < K::softmaxes; ++t) {
      SoftmaxState<V>& softmax = softmaxes[t];
      softmax.max = max[t], softmax.leaders = sums[2 * t], softmax.others = sums[2 * t + 1];
    }
    kernel.with_softmax(softmaxes, accumulators);
  }

  // A piece is summed by itself and then added, with compensation. Nearly every piece is below the maximum so far, and
  // then nobody counts who leads.
  template <int t, int n, class Piece>
  __device__ void fold_piece(RowState<V, n>& state, RowState<V, n>& compensation, const Piece& piece) const {
    RowState<V, n> local;
    local.softmax.max = largest<t>(piece);
    if (local.softmax.max < state.softmax.max) {
      for_each(piece, [&](int, const V* x) { accumulate_below(local, kernel, state.softmax.max, x[t], x); });
    } else {
      if (local.softmax.max > state.softmax.max) rescale(kernel, state, compensation, local.softmax.max);
      const V from = reference(local.softmax.max);
      for_each(piece, [&](int, const V* x) { accumulate(local, kernel, from, x[t], x); });
    }
    add_compensated(state, compensation, local);
  }

  __device__ __forceinline__ V with_softcap(V x) const {
    if constexpr (!capped) return x;
    if constexpr (sizeof(V) == 8) return args.softcap != 0 ? softcapped64(x, args.softcap) : x;
    return softcapped(x, V(args.softcap));
  }
  // The derivative in x of what has this one in the capped x.
  __device__ __forceinline__ V through_softcap(V derivative, V x) const {
    if constexpr (!capped) return derivative;
    if constexpr (sizeof(V) == 8) return args.softcap != 0 ? derivative * softcap_slope64(x, args.softcap) : derivative;
    return derivative * softcap_slope(x, V(args.softcap));
  }

  template <int t, class Piece>
  __device__ V largest(const Piece& piece) const {
    V max = logit<t>(piece, 0);
    for_each(piece, [&](int, const V* x) { max = Maximum()(x[t], max); });
    return max;
  }

  // Number i of stream k, as the kernel sees it.
  template <int k, class Piece>
  __device__ V logit(const Piece& piece, int i) const {
    const V x = piece.number(k, i);
    return k < K::logits ? with_softcap(x) : x;
  }

  // Calls f with the place of each class in the piece, and its numbers.
  template <class Piece, class F>
  __device__ __forceinline__ void for_each(const Piece& piece, const F& f) const {
#pragma unroll
    for (int i = 0; i < piece.n; ++i) {
      V x[in];
#pragma unroll
      for (int k = 0; k < in; ++k) x[k] = k < K::logits ? with_softcap(piece.number(k, i)) : piece.number(k, i);
      if (piece.has(i)) f(i, x);
    }
  }

  // Whether the kernel's shorter formulas serve for all of the piece, as they do for nearly every one.
  template <class Piece>
  __device__ bool common(const Piece& piece) const {
    bool all = true;
    for_each(piece, [&](int, const V* x) { all = all & kernel.common(x); });
    return all;
  }

  __device__ void sum() {
    V sums[K::terms] = {}, compensation[K::terms] = {};
    pieces.template each<terms_reading>([&](const auto& piece) { sum_piece(sums, compensation, piece); });
#pragma unroll
    for (int k = 0; k < K::terms; ++k) sums[k] = compensated(sums[k], compensation[k]);
    reduce(team, sums, Plus());
    kernel.with_terms(sums);
  }

  template <class Piece>
  __device__ void sum_piece(V* sums, V* compensation, const Piece& piece) const {
    V local[K::terms] = {};
    bool shorter = false;
    if constexpr (requires { &K::add_common_terms; }) {
      shorter = common(piece);
      if (shorter) for_each(piece, [&](int, const V* x) { kernel.add_common_terms(local, x); });
    }
    if (!shorter) for_each(piece, [&](int, const V* x) { kernel.add_terms(local, x); });
#pragma unroll
    for (int k = 0; k < K::terms; ++k) add_compensated(sums[k], compensation[k], local[k]);
  }

  __device__ void finish(double* totals) const {
    if constexpr (K::values > 0) {
      V values[K::values];
      kernel.value(values);
#pragma unroll
      for (int k = 0; k < K::values; ++k) {
        values[k] = counts ? values[k] * row_weight : blank;
        static_cast<V*>(args.values)[k * args.rows + r] = values[k];
      }
      totals[0] = static_cast<double>(values[0]);
      totals[1] = static_cast<double>(counts ? kernel.row.weight : blank);
      if (args.row_weight && counts) totals[1] *= static_cast<double>(row_weight);
    }
    if constexpr (K::saved_out > 0) {
      V saved[K::saved_out];
      kernel.save(saved);
#pragma unroll
      for (int k = 0; k < K::saved_out; ++k)
        static_cast<V*>(args.saved_out)[k * args.rows + r] = counts ? saved[k] : blank;
    }
  }

  __device__ void output() const {
    pieces.template each<output_reading>([&](const auto& piece) { output_piece(piece); });
    if constexpr (has_target_column)
      if (pieces.share.takes(y)) {
        to[0][y * args.out[0].class_stride] = narrowed<S>(through_softcap(kernel.at_target(), raw_x_y));
      }
  }

  template <class Piece>
  __device__ void output_piece(const Piece& piece) const {
    if constexpr (requires { &K::output_common; })
      if (common(piece)) return output_piece(piece, [&](V* result, const V* x) { kernel.output_common(result, x); });
    output_piece(piece, [&](V* result, const V* x) { kernel.output(result, x); });
  }
  template <class Piece, class F>
  __device__ void output_piece(const Piece& piece, const F& f) const {
    V results[out][piece.n];
    for_each(piece, [&](int i, const V* x) {
      V result[out];
      f(result, x);
#pragma unroll
      for (int k = 0; k < out; ++k)
        results[k][i] = k < K::logits ? through_softcap(result[k], piece.number(k, i)) : result[k];
    });
#pragma unroll
    for (int k = 0; k < out; ++k)
      if (to[k]) put(to[k], args.out[k].class_stride, piece, results[k]);
  }

  template <int ones>
  __device__ static void put(S* to, int64_t, const Wide<S, in, ones>& piece, const V (&x)[kWidth<S>]) {
    store16(to + piece.at, packed<S>(x));
  }
  template <int n>
  __device__ static void put(S* to, int64_t stride, const Loose<S, in>& piece, const V (&x)[n]) {
#pragma unroll
    for (int i = 0; i < n; ++i)
      if (piece.has(i)) to[piece.at(i) * stride] = narrowed<S>(x[i]);
  }

  __device__ void blank_output() const {
#pragma unroll
    for (int k = 0; k < out; ++k)
      if (to[k])
#pragma unroll 1
        for (int64_t j = team.rank; j < args.classes; j += team.size)
          to[k][j * args.out[k].class_stride] = narrowed<S>(blank);
  }
};

template <class S, class K, bool capped>
__global__ void __launch_bounds__((RowLoop<S, K, capped>::threads), 1)
    rows_kernel(const __grid_constant__ RowArgs args, const __grid_constant__ Shape shape) {
  using Loop = RowLoop<S, K, capped>;
  if constexpr (K::saved_in > 0)
    if (args.unless_one && Loop::compute_number(args.grad, 0) == Number<S>(1)) return;
  const int thread = threadIdx.x, warp = thread / kLanes;
  const Team team{shape.team, (shape.across ? warp : thread) & (shape.team - 1), shape.across, block_memory()};
  const int mine = shape.across ? (warp >> team.shift()) * kLanes + thread % kLanes : thread >> team.shift();
  double totals[2] = {};
  Loop(args, team, shape.chunk, blockIdx.x * shape.rows() + mine).run(totals);
  if constexpr (K::values > 0) {
    const GridSum<RowTotals> sum{RowTotals(args)};
    if (gridDim.x == 1 && sum.to.wanted()) sum.add_block(totals);
  }
}

template <class S, class K, bool capped>
void run_rows(const RowArgs& args) {
  using Loop = RowLoop<S, K, capped>;
  launch_rows(args, rows_kernel<S, K, capped>, {kWidth<S>, K::in, Loop::threads, Loop::read_again});
}

template <template <class> class K, bool rare>
void Cuda::rows(const RowArgs& args) {
  dispatch_floating(args.dtype, [&]<class S>() {
    using Kernel = K<Number<S>>;
    constexpr bool may_be_capped = HasScale<typename Kernel::Params> && !rare;
    if constexpr (!may_be_capped || sizeof(S) == 8) {  // of float64, which is for checks, one kernel does both
      run_rows<S, Kernel, may_be_capped>(args);
    } else {
      args.softcap != 0 ? run_rows<S, Kernel, true>(args) : run_rows<S, Kernel, false>(args);
    }
  });
}

extern template struct RowOps<Cuda>;  // sums.cu

}  // namespace torchloss

#pragma once
// CUDA's loop over rows, for the kernels of row.h.
//
// A team of threads shares a row (shape.h), each taking its pieces (row_pieces.cuh). The order of a row's additions
// depends on its size, strides and alignment, never on timing. A grid of one block sums up its rows itself; otherwise
// another kernel does.
#include "row_pieces.cuh"
#include "sums.cuh"

namespace torchloss {

template <class S, class K>
struct RowLoop {
  using V = Number<S>;
  static constexpr int in = K::in, out = K::out;
  // The most threads of a block, so that the numbers of each fit in its registers.
  static constexpr int threads = in * sizeof(V) == 4 ? kThreads : in * sizeof(V) <= 12 ? kThreads / 2 : kThreads / 4;
  static constexpr bool read_again = (K::tops > 0) + (K::sums > 0) + (K::out > 0) > 1;

  const RowArgs& args;
  const int64_t r;
  const bool exists;  // the last block may have threads left over, which only keep the others company
  bool counts;        // the row is neither ignored nor has it a bad target
  V blank = V(0);     // what its outputs are if it does not count
  int64_t y = -1;
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

  // Every thread of the block calls this, for it joins the numbers of teams. The row's value and weight are added to
  // the totals.
  __device__ void run(double* totals) {
    start();
    if constexpr (K::tops > 0) fold();
    if constexpr (K::sums > 0) sum();
    if (!exists) return;
    if (team.rank == 0) finish(totals);
    if constexpr (out > 0) counts ? map() : blank_out();
  }

  __device__ void start() {
    Row<V>& row = kernel.row;
    kernel.params = args.params;
    if (args.grad) {
      row.grad = widened(static_cast<const S*>(args.grad)[r * args.grad_stride]);
      if (args.total) row.grad = row.grad / *static_cast<const V*>(args.total);
    }
#pragma unroll
    for (int k = 0; k < K::stats_in; ++k) row.stats[k] = static_cast<const V*>(args.stats_in)[k * args.rows + r];
#pragma unroll
    for (int k = 0; k < out; ++k) to[k] = pieces.first_class(args.out[k], r);
    pieces.place(r);
    counts = exists;
    if constexpr (K::targets) aim();
    bool alike = true;
#pragma unroll
    for (int k = 0; k < out; ++k) alike = alike && pieces.alike(args.out[k], to[k]);
    pieces.cut(counts ? args.classes : 0, alike);
    if constexpr (requires { kernel.start(); }) kernel.start();
  }

  // Looks up the row's class target.
  __device__ void aim() {
    y = args.target[r];
    const bool ignored = y == args.ignore_index, bad = y < 0 || y >= args.classes;
    counts = exists && !ignored && !bad;
    blank = ignored ? V(0) : V(kNaN<Scalar<V>>);
    if (!counts) return;
    Row<V>& row = kernel.row;
    if (args.weight) row.weight = widened(static_cast<const S*>(args.weight)[y * args.weight_stride]);
    if constexpr (K::x_at_target) row.x_y = pieces.number(0, y);
    if constexpr (K::h_at_target) row.h_y = pieces.number(1, y);
  }

  __device__ void fold() {
    Part<V, K::more> first, lost;
    Part<V, 0> second, second_lost;
    pieces.template each<true>([&](const auto& piece) {
      fold_piece<0>(first, lost, piece);
      if constexpr (K::tops == 2) fold_piece<1>(second, second_lost, piece);
    });
    settle(first, lost);
    if constexpr (K::tops == 2) settle(second, second_lost);
    constexpr int tops = K::tops;
    V max[tops], sums[2 * tops + K::more];
    max[0] = first.top.max;
    if constexpr (tops == 2) max[1] = second.top.max;
    reduce(team, max, Maximum());
    rebase(kernel, first, max[0]);
    sums[0] = first.top.count, sums[1] = first.top.sum;
#pragma unroll
    for (int k = 0; k < K::more; ++k) sums[2 * tops + k] = first.sums[k];
    if constexpr (tops == 2) {
      rebase(kernel, second, max[1]);
      sums[2] = second.top.count, sums[3] = second.top.sum;
    }
    reduce(team, sums, Plus());
    Top<V> top[tops];
#pragma unroll
    for (int t = 0; t < tops; ++t) top[t].max = max[t], top[t].count = sums[2 * t], top[t].sum = sums[2 * t + 1];
    V more[3] = {};
#pragma unroll
    for (int k = 0; k < K::more; ++k) more[k] = sums[2 * tops + k];
    kernel.topped(top, more);
  }

  // A piece is summed by itself and then added, keeping what that loses: `lost` is seen from the same maximum. Nearly
  // every piece is below the maximum so far, and then nobody counts who leads.
  template <int t, int more, class Piece>
  __device__ void fold_piece(Part<V, more>& part, Part<V, more>& lost, const Piece& piece) const {
    Part<V, more> local;
    local.top.max = highest<t>(piece);
    if (local.top.max < part.top.max) {
      for_each(piece, [&](int, const V* x) { add_lower(local, kernel, part.top.max, x[t], x); });
    } else {
      if (local.top.max > part.top.max) {
        rebase(kernel, part, local.top.max);
        rebase(kernel, lost, local.top.max);
      }
      const V origin = reference(local.top.max);
      for_each(piece, [&](int, const V* x) { add(local, kernel, origin, x[t], x); });
    }
    add_kept(part, lost, local);
  }

  template <int t, class Piece>
  __device__ static V highest(const Piece& piece) {
    V max = piece.number(t, 0);
    for_each(piece, [&](int, const V* x) { max = Maximum()(x[t], max); });
    return max;
  }

  // Calls f with the place of each class in the piece, and its numbers.
  template <class Piece, class F>
  __device__ __forceinline__ static void for_each(const Piece& piece, const F& f) {
#pragma unroll
    for (int i = 0; i < piece.n; ++i) {
      V x[in];
#pragma unroll
      for (int k = 0; k < in; ++k) x[k] = piece.number(k, i);
      if (piece.has(i)) f(i, x);
    }
  }

  // Whether the kernel's shorter formulas serve for all of the piece, as they do for nearly every one.
  template <class Piece>
  __device__ bool usual(const Piece& piece) const {
    bool all = true;
    for_each(piece, [&](int, const V* x) { all = all & kernel.usual(x); });
    return all;
  }

  __device__ void sum() {
    V sums[K::sums] = {}, lost[K::sums] = {};
    pieces.template each<K::tops == 0>([&](const auto& piece) { sum_piece(sums, lost, piece); });
#pragma unroll
    for (int k = 0; k < K::sums; ++k) sums[k] = settled(sums[k], lost[k]);
    reduce(team, sums, Plus());
    kernel.summed(sums);
  }

  template <class Piece>
  __device__ void sum_piece(V* sums, V* lost, const Piece& piece) const {
    V local[K::sums] = {};
    bool shorter = false;
    if constexpr (requires { &K::add_usual; }) {
      shorter = usual(piece);
      if (shorter) for_each(piece, [&](int, const V* x) { kernel.add_usual(local, x); });
    }
    if (!shorter) for_each(piece, [&](int, const V* x) { kernel.add_sums(local, x); });
#pragma unroll
    for (int k = 0; k < K::sums; ++k) add_kept(sums[k], lost[k], local[k]);
  }

  __device__ void finish(double* totals) const {
    if constexpr (K::value_out) {
      const V value = counts ? kernel.value() : blank;
      static_cast<V*>(args.values)[r] = value;
      totals[0] = static_cast<double>(value);
      totals[1] = static_cast<double>(counts ? kernel.row.weight : blank);
    }
    if constexpr (K::stats_out > 0) {
      V stats[K::stats_out];
      kernel.stats(stats);
#pragma unroll
      for (int k = 0; k < K::stats_out; ++k)
        static_cast<V*>(args.stats_out)[k * args.rows + r] = counts ? stats[k] : blank;
    }
  }

  __device__ void map() const {
    pieces.template each<K::tops + K::sums == 0>([&](const auto& piece) { map_piece(piece); });
    if constexpr (K::targets && requires { kernel.hit(); })
      if (pieces.share.takes(y)) to[0][y * args.out[0].class_stride] = narrowed<S>(kernel.hit());
  }

  template <class Piece>
  __device__ void map_piece(const Piece& piece) const {
    if constexpr (requires { &K::map_usual; })
      if (usual(piece)) return map_piece(piece, [&](V* result, const V* x) { kernel.map_usual(result, x); });
    map_piece(piece, [&](V* result, const V* x) { kernel.map(result, x); });
  }
  template <class Piece, class F>
  __device__ void map_piece(const Piece& piece, const F& f) const {
    V results[out][piece.n];
    for_each(piece, [&](int i, const V* x) {
      V result[out];
      f(result, x);
#pragma unroll
      for (int k = 0; k < out; ++k) results[k][i] = result[k];
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

  __device__ void blank_out() const {
#pragma unroll
    for (int k = 0; k < out; ++k)
      if (to[k])
        for (int64_t j = team.rank; j < args.classes; j += team.size)
          to[k][j * args.out[k].class_stride] = narrowed<S>(blank);
  }
};

template <class S, class K>
__global__ void __launch_bounds__((RowLoop<S, K>::threads), 1)
    rows_kernel(const __grid_constant__ RowArgs args, const __grid_constant__ Shape shape,
                const __grid_constant__ Sink<RowTotals> sink) {
  const int thread = threadIdx.x, warp = thread / kLanes;
  const Team team{shape.team, (shape.across ? warp : thread) & (shape.team - 1), shape.across, block_memory()};
  const int mine = shape.across ? (warp >> team.shift()) * kLanes + thread % kLanes : thread >> team.shift();
  double totals[2] = {};
  RowLoop<S, K>(args, team, shape.chunk, blockIdx.x * shape.rows() + mine).run(totals);
  if constexpr (K::value_out)
    if (sink.to.total) sink.add_block(totals);
}

// Whether the rows were few enough for their totals, too.
template <class S, class K>
bool run_rows(const RowArgs& args, RowTotals totals = {}) {
  if (args.rows == 0) return false;
  using Loop = RowLoop<S, K>;
  const Shape shape = shape_of(args, {kWidth<S>, K::in, Loop::threads, Loop::read_again});
  const size_t shared = 16 * (room<S>(shape.threads) + kGroups * shape.chunk * K::in * shape.threads);
  const int64_t blocks = divide_up(args.rows, shape.rows());
  if (blocks > 1) totals.total = nullptr;
  launch(rows_kernel<S, K>, {blocks, shape.threads, shared}, args.device, args, shape, Sink<RowTotals>{totals});
  return totals.total;
}

}  // namespace torchloss

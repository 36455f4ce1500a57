#pragma once
// CUDA's loop over rows, for the kernels of row.h.
//
// A team of threads shares a row (shape.h). A thread takes pieces of 16 bytes: those aligned in the first stream, and
// the classes before and after them one by one. Between two readings of a row, its pieces wait in shared memory, as far
// as there is room; a thread reads back only what it wrote itself.
#include "pieces.cuh"
#include "shape.h"

namespace torchloss {

// What a block's teams need to join their numbers, in units of 16 bytes.
template <class V>
__host__ __device__ constexpr int room(int threads) {
  return threads * sizeof(V) / 16;
}

template <class S, class K>
struct RowLoop {
  using V = typename Compute<S>::type;
  static constexpr int in = K::in, out = K::out, width = kWidth<S>;
  // So that the numbers of a thread fit in its registers: the most threads of a block, and blocks of a multiprocessor.
  static constexpr int threads = in > 3 ? kThreads / 2 : kThreads, blocks = sizeof(V) == 4 && in == 1 ? 2 : 1;
  static constexpr bool read_again = (K::tops > 0) + (K::sums > 0) + (K::out > 0) > 1;

  template <int N>
  struct Piece {
    int64_t at;  // its first class
    S numbers[in][N];
    __device__ void of_class(int i, V* x) const {
#pragma unroll
      for (int k = 0; k < in; ++k) x[k] = static_cast<V>(numbers[k][i]);
    }
  };

  const RowArgs& args;
  const Shape& shape;
  const Team team;
  const int64_t r;
  const bool exists;  // the last block may have threads left over, which only keep the others company
  bool counts;        // the row is neither ignored nor has it a bad target
  V blank = V(0);     // what its outputs are if it does not count
  int64_t y = -1, classes;
  int head = 0;  // classes before the first aligned piece
  const S* from[in];
  S* to[out > 0 ? out : 1];
  K kernel;

  __device__ RowLoop(const RowArgs& args, const Shape& shape, const Team& team, int64_t row)
      : args(args), shape(shape), team(team), r(row < args.rows ? row : args.rows - 1), exists(row < args.rows) {}

  // Every thread of the block calls this, for it joins the numbers of teams.
  __device__ void run() {
    start();
    if constexpr (K::tops > 0) fold();
    if constexpr (K::sums > 0) sum();
    if (!exists) return;
    if (team.rank == 0) finish();
    if constexpr (out > 0) counts ? map() : blank_out();
  }

  __device__ void start() {
    Row<V>& row = kernel.row;
    kernel.params = args.params;
    if (args.grad) {
      row.grad = static_cast<V>(static_cast<const S*>(args.grad)[r * args.grad_stride]);
      if (args.total) row.grad = row.grad / *static_cast<const V*>(args.total);
    }
#pragma unroll
    for (int k = 0; k < K::stats_in; ++k) row.stats[k] = static_cast<const V*>(args.stats_in)[k * args.rows + r];
#pragma unroll
    for (int k = 0; k < in; ++k) from[k] = first_class(args.in[k]);
#pragma unroll
    for (int k = 0; k < out; ++k) to[k] = first_class(args.out[k]);
    counts = exists;
    if constexpr (K::targets) aim();
    classes = counts ? args.classes : 0;
    if (args.in[0].class_stride == 1)
      head = static_cast<int>(min(classes, static_cast<int64_t>(-reinterpret_cast<uintptr_t>(from[0]) % 16 / sizeof(S))));
    if constexpr (requires { kernel.start(); }) kernel.start();
  }

  __device__ S* first_class(const RowStream& stream) const {
    return stream.data ? static_cast<S*>(stream.data) + stream.rows.offset(r) : nullptr;
  }

  // Looks up the row's class target.
  __device__ void aim() {
    y = args.target[r];
    const bool ignored = y == args.ignore_index, bad = y < 0 || y >= args.classes;
    counts = exists && !ignored && !bad;
    blank = ignored ? V(0) : kNaN<V>;
    if (!counts) return;
    Row<V>& row = kernel.row;
    if (args.weight) row.weight = static_cast<V>(static_cast<const S*>(args.weight)[y * args.weight_stride]);
    if constexpr (K::x_at_target) row.x_y = number(0, y);
    if constexpr (K::h_at_target) row.h_y = number(1, y);
  }

  __device__ V number(int k, int64_t j) const {
    return from[k] ? static_cast<V>(from[k][j * args.in[k].class_stride]) : static_cast<V>(args.in[k].fill);
  }

  // Calls f with this thread's pieces of the row. `fresh`: they have not been read before.
  template <bool fresh, class F>
  __device__ void each_piece(const F& f) const {
    const int64_t pieces = (classes - head) / width;
    int64_t c = team.rank;
    Piece<width> piece, next;
    if (c < pieces) get<fresh>(next, c, 0);
    for (int i = 0; c < pieces; c += team.size, ++i) {
      piece = next;
      if (c + team.size < pieces) get<fresh>(next, c + team.size, i + 1);  // on its way while f works
      f(piece);
    }
    const int edges = static_cast<int>(classes - pieces * width);
    for (int e = team.rank; e < edges; e += team.size) {
      Piece<1> edge;
      edge.at = e < head ? e : e + pieces * width;
      fetch(edge);
      f(edge);
    }
  }

  // Piece c of the row, the i-th of this thread.
  template <bool fresh>
  __device__ void get(Piece<width>& piece, int64_t c, int i) const {
    piece.at = head + c * width;
    const bool keep = read_again && i < shape.kept;
    uint4* slot = block_memory() + room<V>(blockDim.x) + i * in * blockDim.x + threadIdx.x;
    if (fresh || !keep) fetch(piece);
    if (!keep) return;
#pragma unroll
    for (int k = 0; k < in; ++k) {
      if constexpr (fresh)
        memcpy(slot + k * blockDim.x, piece.numbers[k], 16);
      else
        memcpy(piece.numbers[k], slot + k * blockDim.x, 16);
    }
  }

  template <int N>
  __device__ void fetch(Piece<N>& piece) const {
#pragma unroll
    for (int k = 0; k < in; ++k) {
      const RowStream& stream = args.in[k];
      if (from[k]) {
        load(piece.numbers[k], from[k] + piece.at * stream.class_stride, stream.class_stride);
      } else {
#pragma unroll
        for (int i = 0; i < N; ++i) piece.numbers[k][i] = static_cast<S>(static_cast<V>(stream.fill));
      }
    }
  }

  __device__ void fold() {
    Part<V, K::more> first;
    Part<V, 0> second;
    each_piece<true>([&](const auto& piece) {
      fold_piece<0>(first, piece);
      if constexpr (K::tops == 2) fold_piece<1>(second, piece);
    });
    constexpr int tops = K::tops;
    V max[tops], sums[2 * tops + K::more];
    max[0] = first.top.max;
    if constexpr (tops == 2) max[1] = second.top.max;
    reduce(team, max, Maximum());
    rebase<K>(first, max[0]);
    sums[0] = first.top.count, sums[1] = first.top.sum;
#pragma unroll
    for (int k = 0; k < K::more; ++k) sums[2 * tops + k] = first.sums[k];
    if constexpr (tops == 2) {
      rebase<K>(second, max[1]);
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

  // A piece is summed by itself and then added: shorter chains, and less rounding than one by one.
  template <int t, int more, int N>
  __device__ void fold_piece(Part<V, more>& part, const Piece<N>& piece) const {
    V x[in];
    Part<V, more> local;
    local.top.max = part.top.max;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      piece.of_class(i, x);
      local.top.max = larger(kernel.logit(x[t]), local.top.max);
    }
    if (local.top.max > part.top.max) rebase<K>(part, local.top.max);
    const V origin = reference(local.top.max);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      piece.of_class(i, x);
      add(local, kernel, origin, kernel.logit(x[t]), x);
    }
    add(part, local);
  }

  __device__ void sum() {
    V sums[K::sums] = {};
    each_piece<K::tops == 0>([&](const auto& piece) { sum_piece(sums, piece); });
    reduce(team, sums, Plus());
    kernel.summed(sums);
  }

  template <int N>
  __device__ void sum_piece(V* sums, const Piece<N>& piece) const {
    V x[in], local[K::sums] = {};
#pragma unroll
    for (int i = 0; i < N; ++i) {
      piece.of_class(i, x);
      kernel.add_sums(local, x);
    }
#pragma unroll
    for (int k = 0; k < K::sums; ++k) sums[k] = sums[k] + local[k];
  }

  __device__ void finish() const {
    if constexpr (K::value_out) static_cast<V*>(args.values)[r] = counts ? kernel.value() : blank;
    if constexpr (K::stats_out > 0) {
      V stats[K::stats_out];
      kernel.stats(stats);
#pragma unroll
      for (int k = 0; k < K::stats_out; ++k)
        static_cast<V*>(args.stats_out)[k * args.rows + r] = counts ? stats[k] : blank;
    }
  }

  __device__ void map() const {
    each_piece<K::tops + K::sums == 0>([&](const auto& piece) { map_piece(piece); });
  }

  template <int N>
  __device__ void map_piece(const Piece<N>& piece) const {
    S results[out][N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      V x[in], result[out];
      piece.of_class(i, x);
      kernel.map(result, x);
#pragma unroll
      for (int k = 0; k < out; ++k) results[k][i] = static_cast<S>(result[k]);
    }
    if constexpr (K::targets && requires { kernel.hit(); }) {
      const int64_t i_y = y - piece.at;
      if (i_y >= 0 && i_y < N) {
        const S hit = static_cast<S>(kernel.hit());
#pragma unroll
        for (int i = 0; i < N; ++i) results[0][i] = i == i_y ? hit : results[0][i];
      }
    }
#pragma unroll
    for (int k = 0; k < out; ++k)
      if (to[k]) store(to[k] + piece.at * args.out[k].class_stride, args.out[k].class_stride, results[k]);
  }

  __device__ void blank_out() const {
#pragma unroll
    for (int k = 0; k < out; ++k)
      if (to[k])
        for (int64_t j = team.rank; j < args.classes; j += team.size)
          to[k][j * args.out[k].class_stride] = static_cast<S>(blank);
  }
};

template <class S, class K>
__global__ void __launch_bounds__((RowLoop<S, K>::threads), (RowLoop<S, K>::blocks))
    rows_kernel(const __grid_constant__ RowArgs args, const __grid_constant__ Shape shape) {
  const int thread = threadIdx.x, warp = thread / kLanes;
  const Team team{shape.team, (shape.across ? warp : thread) % shape.team, shape.across, block_memory()};
  const int mine = shape.across ? warp / team.size * kLanes + thread % kLanes : thread / team.size;
  for (int64_t first = blockIdx.x * shape.rows(); first < args.rows; first += gridDim.x * shape.rows())
    RowLoop<S, K>(args, shape, team, first + mine).run();
}

template <class S, class K>
void run_rows(const RowArgs& args) {
  if (args.rows == 0) return;
  Shape shape = shape_of(args, kWidth<S>, RowLoop<S, K>::threads);
  if (RowLoop<S, K>::read_again) shape.kept = pieces_to_keep(args, shape, kWidth<S>, K::in);
  const size_t shared = 16 * (room<typename RowLoop<S, K>::V>(shape.threads) + shape.kept * K::in * shape.threads);
  launch(rows_kernel<S, K>, {divide_up(args.rows, shape.rows()), shape.threads, shared}, args.device, args, shape);
}

}  // namespace torchloss

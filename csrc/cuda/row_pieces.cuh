#pragma once
// What a thread reads of a row. Where its streams are runs of memory that lie alike, pieces of 16 bytes, which come
// through shared memory (walk.h), and before them the few classes at either end; else all classes one by one, several
// at a time. A thread reads back only what it brought itself, so that nobody waits for others.
#include "pieces.cuh"
#include "shape.h"
#include "walk.h"

namespace torchloss {

// 16 bytes of every stream: neighbouring classes. Those of `ones` are all 1, which takes no instructions.
template <class S, int in, int ones>
struct Wide {
  static constexpr int n = kWidth<S>;
  int64_t at;  // the first
  uint4 bits[in];

  __device__ bool has(int) const { return true; }
  __device__ Number<S> number(int k, int i) const {
    return k == ones ? Number<S>(1) : torchloss::number<S>(bits[k], i);
  }
};

// Classes one by one, as far as there are.
template <class S, int in>
struct Loose {
  static constexpr int n = sizeof(S) == 8 ? 2 : 4;
  const Share& share;
  const int64_t first;  // of the row's edges
  S numbers[in][n];

  __device__ bool has(int i) const { return first + i * share.size < share.edges; }
  __device__ int64_t at(int i) const { return share.edge(first + i * share.size); }
  __device__ Number<S> number(int k, int i) const { return widened(numbers[k][i]); }
};

// What a block's teams need to join their numbers, in units of 16 bytes: see launch_rows. The slots lie behind it.
template <class S>
__host__ __device__ constexpr int room(int threads) {
  return threads * sizeof(typename Compute<S>::type) / 16;
}

// `bulk`: somebody looks at the numbers. Else they are all 0, and only their places matter. `weights`: the stream that
// is usually absent, and then 1; or -1.
template <class S, int in, bool bulk, int weights>
struct RowPieces {
  static constexpr int width = kWidth<S>;

  const RowStream* streams;
  const unsigned chunk;
  const S* from[in];  // the streams' first class in this row
  Share share;

  __device__ RowPieces(const RowArgs& args, const Team& team, unsigned chunk)
      : streams(args.in), chunk(chunk), share(team.size, team.rank, team.shift()) {}

  __device__ void place(int64_t row) {
#pragma unroll
    for (int k = 0; k < in; ++k) from[k] = first_class(streams[k], row);
  }
  __device__ static S* first_class(const RowStream& stream, int64_t row) {
    return stream.data ? static_cast<S*>(stream.data) + offset_of(stream.rows, row) : nullptr;
  }
  // Whether the numbers lie as those of the first stream do.
  __device__ bool alike(const RowStream& stream, const S* numbers) const {
    return !numbers || (stream.class_stride == 1 && misalignment(numbers) == misalignment(from[0]));
  }
  __device__ void cut(int64_t classes, bool outputs_alike) {
    bool wide = chunk > 0 && outputs_alike;
#pragma unroll
    for (int k = 0; k < in; ++k) wide = wide && alike(streams[k], from[k]);
    share.cut(classes, width, (16 - misalignment(from[0])) % 16 / sizeof(S), wide);
  }

  __device__ Number<S> number(int k, int64_t j) const {
    return widened(from[k] ? from[k][j * streams[k].class_stride] : fill(k));
  }

  // Calls f with this thread's pieces, in reading 0, 1, 2 of the row; the edges while the first pieces are on their
  // way.
  template <int reading, class F>
  __device__ __forceinline__ void each(const F& f) const {
    const Ring<F> ring(*this, f);
    const Walk walk(ring, share.mine(), chunk);
    if constexpr (reading == 0)
      if (share.pieces > 0) walk.start();
    each_edge(f);
    if constexpr (reading % 2 == 0)
      walk.up();
    else
      walk.down();
  }

  template <class F>
  __device__ __forceinline__ void each_edge(const F& f) const {
    for (int64_t first = share.rank; first < share.edges; first += Loose<S, in>::n * share.size) {
      Loose<S, in> some{share, first};
#pragma unroll
      for (int i = 0; i < some.n; ++i)
        if (some.has(i)) {
          const int64_t j = some.at(i);
#pragma unroll
          for (int k = 0; k < in; ++k) some.numbers[k][i] = one(k, j);
        }
      f(some);
    }
  }

  __device__ S one(int k, int64_t j) const {
    if constexpr (!bulk) return static_cast<S>(0.f);
    return from[k] ? from[k][j * streams[k].class_stride] : fill(k);
  }
  __device__ S fill(int k) const { return static_cast<S>(static_cast<float>(streams[k].fill)); }

  // See walk.h.
  template <class F>
  struct Ring {
    const RowPieces& row;
    const F& f;
    const S* from[in];        // this thread's first piece
    const unsigned step;      // numbers between its pieces
    const unsigned slots;     // in shared memory
    const unsigned distance;  // bytes from a stream's slot to the next's

    __device__ Ring(const RowPieces& row, const F& f)
        : row(row),
          f(f),
          step(row.share.step()),
          slots(shared_address(block_memory() + room<S>(blockDim.x) + threadIdx.x)),
          distance(blockDim.x * 16) {
#pragma unroll
      for (int k = 0; k < in; ++k) from[k] = row.from[k] + row.share.first();
    }
    __device__ bool there(int k) const { return bulk && (k == 0 || row.from[k]); }
    __device__ unsigned slot(unsigned place, int k) const { return slots + (place * in + k) * distance; }

    __device__ void ask(unsigned i, unsigned place) const {
#pragma unroll
      for (int k = 0; k < in; ++k)
        if (there(k)) bring16(slot(place, k), from[k] + static_cast<uint64_t>(i) * step);
    }
    __device__ void commit() const { brought_together(); }
    __device__ void wait() const { wait_for_all_but<kGroups - 1>(); }
    __device__ void use(unsigned i, unsigned place) const {
      if constexpr (weights >= 0 && sizeof(S) < 8)
        if (!row.from[weights]) return use<weights>(i, place);
      use<-1>(i, place);
    }
    template <int ones>
    __device__ void use(unsigned i, unsigned place) const {
      Wide<S, in, ones> piece;
      piece.at = row.share.first() + static_cast<uint64_t>(i) * step;
#pragma unroll
      for (int k = 0; k < in; ++k)
        piece.bits[k] = there(k) ? brought16(slot(place, k)) : filled(bulk ? row.fill(k) : static_cast<S>(0.f));
      f(piece);
    }
  };
};

}  // namespace torchloss

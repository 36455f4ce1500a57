#pragma once
// What a thread reads of a row: pieces of 16 bytes of every stream, those aligned in the first stream, and the classes
// before and after them one by one. Between two readings of a row, its pieces wait in shared memory, as far as there is
// room; a thread reads back only what it wrote itself.
#include "pieces.cuh"
#include "shape.h"

namespace torchloss {

// N neighbouring classes.
template <class S, int in, int N>
struct Piece {
  using V = typename Compute<S>::type;
  int64_t at;  // the first
  S numbers[in][N];

  __device__ void of_class(int i, V* x) const {
#pragma unroll
    for (int k = 0; k < in; ++k) x[k] = static_cast<V>(numbers[k][i]);
  }
};

// What a block's teams need to join their numbers, in units of 16 bytes. The kept pieces lie behind it.
template <class S>
__host__ __device__ constexpr int room(int threads) {
  return threads * sizeof(typename Compute<S>::type) / 16;
}

template <class S, int in>
struct RowPieces {
  static constexpr int width = kWidth<S>;
  using Wide = Piece<S, in, width>;

  const RowStream* streams;
  const Team team;
  const int kept;
  const S* from[in];  // the streams' first class in this row
  int64_t classes;
  int head;  // classes before the first aligned piece

  __device__ RowPieces(const RowArgs& args, const Team& team, int kept) : streams(args.in), team(team), kept(kept) {}

  __device__ void place(int64_t row) {
#pragma unroll
    for (int k = 0; k < in; ++k) from[k] = first_class(streams[k], row);
  }
  __device__ static S* first_class(const RowStream& stream, int64_t row) {
    return stream.data ? static_cast<S*>(stream.data) + stream.rows.offset(row) : nullptr;
  }
  __device__ void cut(int64_t n) {
    classes = n;
    const int64_t unaligned = -reinterpret_cast<uintptr_t>(from[0]) % 16 / sizeof(S);
    head = streams[0].class_stride == 1 ? static_cast<int>(min(n, unaligned)) : 0;
  }

  __device__ auto number(int k, int64_t j) const {
    using V = typename Compute<S>::type;
    return from[k] ? static_cast<V>(from[k][j * streams[k].class_stride]) : static_cast<V>(streams[k].fill);
  }

  // Calls f with this thread's pieces. `fresh`: the row has not been read before; `again`: it will be.
  template <bool fresh, bool again, class F>
  __device__ void each(const F& f) const {
    const int64_t pieces = (classes - head) / width;
    int64_t c = team.rank;
    Wide piece, next;
    if (c < pieces) get<fresh, again>(next, c, 0);
    for (int i = 0; c < pieces; c += team.size, ++i) {
      piece = next;
      if (c + team.size < pieces) get<fresh, again>(next, c + team.size, i + 1);  // on its way while f works
      f(piece);
    }
    const int edges = static_cast<int>(classes - pieces * width);
    for (int e = team.rank; e < edges; e += team.size) {
      Piece<S, in, 1> edge;
      edge.at = e < head ? e : e + pieces * width;
      fetch(edge);
      f(edge);
    }
  }

  // Piece c of the row, the i-th of this thread.
  template <bool fresh, bool again>
  __device__ void get(Wide& piece, int64_t c, int i) const {
    piece.at = head + c * width;
    uint4* slot = block_memory() + room<S>(blockDim.x) + i * in * blockDim.x + threadIdx.x;
    if constexpr (!fresh) {
      if (i >= kept) return fetch(piece);
#pragma unroll
      for (int k = 0; k < in; ++k) memcpy(piece.numbers[k], slot + k * blockDim.x, 16);
    } else {
      fetch(piece);
      if constexpr (again) keep(piece, slot, i);
    }
  }

  __device__ void keep(const Wide& piece, uint4* slot, int i) const {
    if (i >= kept) return;
#pragma unroll
    for (int k = 0; k < in; ++k) memcpy(slot + k * blockDim.x, piece.numbers[k], 16);
  }

  template <int N>
  __device__ void fetch(Piece<S, in, N>& piece) const {
#pragma unroll
    for (int k = 0; k < in; ++k) {
      const int64_t stride = streams[k].class_stride;
      if (from[k]) {
        load(piece.numbers[k], from[k] + piece.at * stride, stride);
      } else {
#pragma unroll
        for (S& number : piece.numbers[k]) number = static_cast<S>(static_cast<float>(streams[k].fill));
      }
    }
  }
};

}  // namespace torchloss

#pragma once
// CUDA's loop over elements, for the jets of the pointwise losses.
//
// Where every stream is a run of memory, or one number for all, a thread takes 16 bytes of each at once; the rest, and
// streams in another order, go one by one. Several neighbours are added in the compute type, the rest of a sum in
// double.
#include "../pointwise.h"
#include "pieces.cuh"
#include "sums.cuh"

namespace torchloss {

template <template <class> class L, int order, class S>
struct PointLoop {
  using V = typename Compute<S>::type;
  enum { X, T, W, P, G, H, K, streams };
  static constexpr int outs = order < 2 ? 1 : order;

  __host__ __device__ static constexpr bool reads(int s) {
    return s <= W || (s == P && has_pos_weight<L>) || (s == G && order > 0) || ((s == H || s == K) && order == 3);
  }
  __host__ __device__ static const PointStream& stream(const PointArgs& args, int s) {
    return s == X   ? args.x
           : s == T ? args.t
           : s == W ? args.w
           : s == P ? args.p
           : s == G ? args.g
           : s == H ? args.h
                    : args.k;
  }
  // Of n elements or one for all of them.
  __host__ __device__ static bool constant(const PointStream& p) { return !p.data || p.layout.n == 0; }

  static bool in_runs(const PointArgs& args) {
    const auto run = [](const PointStream& p) { return p.layout.contiguous() && aligned(p.data); };
    for (int s = 0; s < streams; ++s)
      if (reads(s) && !constant(stream(args, s)) && !run(stream(args, s))) return false;
    for (int k = 0; k < outs; ++k)
      if (args.out[k].data && !run(args.out[k])) return false;
    return true;
  }

  const PointArgs& args;
  const L<V> loss;

  __device__ explicit PointLoop(const PointArgs& args) : args(args), loss(make_loss<L, V>(args.parameter)) {}

  // N elements from the i-th on; gives the sum of their out[0].
  template <int N>
  __device__ V elements(int64_t i) const {
    S in[streams][N], out[outs][N];
#pragma unroll
    for (int s = 0; s < streams; ++s)
      if (reads(s)) fetch(in[s], stream(args, s), i);
    V sum = V(0);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      V x[streams], result[outs];
#pragma unroll
      for (int s = 0; s < streams; ++s) x[s] = reads(s) ? static_cast<V>(in[s][j]) : V(0);
      element(x, result);
      sum = sum + result[0];
#pragma unroll
      for (int k = 0; k < outs; ++k) out[k][j] = static_cast<S>(result[k]);
    }
#pragma unroll
    for (int k = 0; k < outs; ++k)
      if (args.out[k].data) place(args.out[k], i, out[k]);
    return sum;
  }

  __device__ void element(const V* x, V* out) const {
    const Jet<V> j = jet(loss, x[X], x[T], x[P]);
    const V w = x[W];
    if constexpr (order == 0) {
      out[0] = w * j.value;
      if constexpr (has_domain<L>) out[0] = select(L<V>::outside(x[X], x[T]) == V(0), out[0], kNaN<V>);
    } else {
      const V c = x[G] * V(args.scale) * w;
      if constexpr (order < 3) out[0] = c * j.dx;
      if constexpr (order == 2) out[1] = c * j.dt;
      if constexpr (order == 3) {
        const V h = x[H], k = x[K];
        out[0] = w * (times(h, j.dx) + times(k, j.dt));
        out[1] = c * (times(h, j.dxx) + times(k, j.dxt));
        out[2] = c * (times(h, j.dxt) + times(k, j.dtt));
      }
    }
  }

  template <int N>
  __device__ void fetch(S (&v)[N], const PointStream& p, int64_t i) const {
    const S* data = static_cast<const S*>(p.data);
    if (constant(p)) {
      const S x = data ? *data : static_cast<S>(static_cast<V>(p.fill));
#pragma unroll
      for (S& place : v) place = x;
    } else if constexpr (N == 1) {
      v[0] = data[p.layout.offset(i)];
    } else {
      load16(v, data + i);
    }
  }

  template <int N>
  __device__ void place(const PointStream& p, int64_t i, const S (&v)[N]) const {
    S* data = static_cast<S*>(p.data);
    if constexpr (N == 1)
      data[p.layout.offset(i)] = v[0];
    else
      store16(data + i, v);
  }
};

constexpr int kPointThreads = 256;

template <template <class> class L, int order, class S>
__global__ void __launch_bounds__(kPointThreads, 3)
    points_kernel(const __grid_constant__ PointArgs args, int64_t pieces, const __grid_constant__ Sink sink) {
  const PointLoop<L, order, S> loop(args);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  double sum = 0;
  for (int64_t c = first; c < pieces; c += step) sum += loop.template elements<kWidth<S>>(c * kWidth<S>);
  for (int64_t i = pieces * kWidth<S> + first; i < args.n; i += step) sum += loop.template elements<1>(i);
  if (sink.out) sink.add_block(sum);
}

template <template <class> class L, int order, class S>
void run_points(const PointArgs& args) {
  if (args.n == 0 && !args.sum) return;
  constexpr int64_t small = 16 * kPointThreads, most = 8192;  // pieces for one block to finish alone; blocks
  const int64_t pieces = PointLoop<L, order, S>::in_runs(args) ? args.n / kWidth<S> : 0;
  const int64_t steps = std::max(pieces, args.n - pieces * kWidth<S>);
  const bool alone = args.sum && steps <= small;
  const int64_t blocks = alone ? 1 : std::min(divide_up(steps, 2 * kPointThreads), most);
  Sink sink{args.sum, args.dtype, args.scale};
  const MaybeTensor held = args.sum ? slots(sink, blocks, args.device) : std::nullopt;
  launch(points_kernel<L, order, S>, {blocks, kPointThreads, kPointThreads * sizeof(double)}, args.device, args, pieces,
         sink);
  if (held) finish(sink, blocks, args.device);
}

}  // namespace torchloss

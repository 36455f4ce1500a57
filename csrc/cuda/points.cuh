#pragma once
// CUDA's loop over elements, for the jets of the pointwise losses.
//
// Where every stream is a run of memory, or one number for all, a thread asks for several pieces of 16 bytes of each
// before it looks at the first; the rest, and streams in another order, go one by one. The numbers of a piece are added
// in the compute type, the rest of a sum in double.
#include "../pointwise.h"
#include "device.h"
#include "pieces.cuh"
#include "sums.cuh"

namespace torchloss {

template <template <class> class L, int order, class S>
struct PointLoop {
  using V = Number<S>;
  enum { X, T, W, P, G, H, K, streams };
  static constexpr int outs = order < 2 ? 1 : order, width = kWidth<S>;
  // Pieces that a thread asks for at once.
  __host__ __device__ static constexpr int ahead(bool bare) {
    return order == 3 || sizeof(S) == 8 || (has_pos_weight<L> && !bare) ? 1 : 2;
  }

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
  // A weight: 1 where it is absent.
  __host__ __device__ static constexpr bool weighs(int s) { return s == W || s == P; }
  // Of n elements or one for all of them.
  __host__ __device__ static bool constant(const PointStream& p) { return !p.data || p.layout.n == 0; }

  static bool in_runs(const PointArgs& args) {
    const auto run = [](const PointStream& p) { return p.layout.contiguous() && misalignment(p.data) == 0; };
    for (int s = 0; s < streams; ++s)
      if (reads(s) && !constant(stream(args, s)) && !run(stream(args, s))) return false;
    for (int k = 0; k < outs; ++k)
      if (args.out[k].data && !run(args.out[k])) return false;
    return true;
  }

  const PointArgs& args;
  const L<V> loss;
  const V factor;

  __device__ explicit PointLoop(const PointArgs& args)
      : args(args),
        loss(make_loss<L, V>(args)),
        factor((order > 0 && args.factor ? V(*static_cast<const Scalar<V>*>(args.factor)) : V(1)) /
               V(order == 1 || order == 2 ? static_cast<Scalar<V>>(args.count) : Scalar<V>(1))) {}

  // What several threads read of one number for all.
  __device__ S one(const PointStream& p) const {
    return p.data ? *static_cast<const S*>(p.data) : narrowed<S>(V(p.fill));
  }

  // As is usual: no weights, and x and t of n elements. To know it before the loop saves instructions.
  __device__ bool bare() const { return !args.w.data && !args.p.data && !constant(args.x) && !constant(args.t); }

  // 16 bytes of every stream that is read.
  template <bool bare>
  struct Piece {
    uint4 bits[streams];

    __device__ static constexpr bool holds(int s) { return reads(s) && !(bare && weighs(s)); }
    __device__ V number(int s, int j) const {
      return holds(s) ? torchloss::number<S>(bits[s], j) : V(weighs(s) ? 1 : 0);
    }
  };

  template <bool bare>
  __device__ void fetch(Piece<bare>& piece, const Piece<bare>& constants, int64_t i) const {
#pragma unroll
    for (int s = 0; s < streams; ++s) {
      const PointStream& p = stream(args, s);
      const bool one = !(bare && s <= T) && constant(p);
      if (piece.holds(s)) piece.bits[s] = one ? constants.bits[s] : load16(static_cast<const S*>(p.data) + i);
    }
  }

  // The elements from the i-th on; gives the sum of their out[0].
  template <bool bare>
  __device__ V elements(const Piece<bare>& piece, int64_t i) const {
    V out[outs][width], sum = V(0);
#pragma unroll
    for (int j = 0; j < width; ++j) {
      V x[streams], result[outs];
#pragma unroll
      for (int s = 0; s < streams; ++s) x[s] = piece.number(s, j);
      element(x, result);
      sum = sum + result[0];
#pragma unroll
      for (int k = 0; k < outs; ++k) out[k][j] = result[k];
    }
#pragma unroll
    for (int k = 0; k < outs; ++k)
      if (args.out[k].data) store16(static_cast<S*>(args.out[k].data) + i, packed<S>(out[k]));
    return sum;
  }

  // One element, in whatever order the streams lie.
  __device__ V element(int64_t i) const {
    V x[streams], out[outs];
#pragma unroll
    for (int s = 0; s < streams; ++s) {
      const PointStream& p = stream(args, s);
      x[s] = !reads(s) ? V(0) : widened(constant(p) ? one(p) : static_cast<const S*>(p.data)[offset_of(p.layout, i)]);
    }
    element(x, out);
#pragma unroll
    for (int k = 0; k < outs; ++k) {
      const PointStream& p = args.out[k];
      if (p.data) static_cast<S*>(p.data)[offset_of(p.layout, i)] = narrowed<S>(out[k]);
    }
    return out[0];
  }

  // Pieces c, c + step, c + 2 step ... of n.
  __device__ double pieces(int64_t c, int64_t step, int64_t n) const {
    if constexpr (has_pos_weight<L>)
      if (bare()) return pieces<true>(c, step, n);
    return pieces<false>(c, step, n);
  }
  template <bool bare>
  __device__ double pieces(int64_t c, int64_t step, int64_t n) const {
    constexpr int many = ahead(bare);
    Piece<bare> constants;
#pragma unroll
    for (int s = 0; s < streams; ++s)
      if (constants.holds(s) && constant(stream(args, s))) constants.bits[s] = filled(one(stream(args, s)));
    double sum = 0;
    for (; c < n; c += many * step) {
      Piece<bare> some[many];
#pragma unroll
      for (int k = 0; k < many; ++k)
        if (c + k * step < n) fetch(some[k], constants, (c + k * step) * width);
#pragma unroll
      for (int k = 0; k < many; ++k)
        if (c + k * step < n) sum += static_cast<double>(elements(some[k], (c + k * step) * width));
    }
    return sum;
  }

  __device__ void element(const V* x, V* out) const {
    const Jet<V> j = jet(loss, x[X], x[T], x[P]);
    const V w = x[W];
    if constexpr (order == 0) {
      out[0] = w * j.value;
      if constexpr (has_domain<L>) out[0] = select(L<V>::outside(x[X], x[T]) == V(0), out[0], V(kNaN<Scalar<V>>));
    } else {
      const V c = x[G] * factor * w;
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
};

constexpr int kPointThreads = 256;

template <template <class> class L, int order, class S>
__global__ void __launch_bounds__(kPointThreads, order < 2 ? 3 : 2)
    points_kernel(const __grid_constant__ PointArgs args, int64_t pieces,
                  const __grid_constant__ GridSum<Total> total) {
  using Loop = PointLoop<L, order, S>;
  const Loop loop(args);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  double sum = 0;
  if (pieces > 0) sum = loop.pieces(first, step, pieces);
  for (int64_t i = pieces * Loop::width + first; i < args.n; i += step) sum += static_cast<double>(loop.element(i));
  double sums[] = {sum};
  if (total.to.out) total.add_block(sums);
}

template <template <class> class L, int order, class S>
void run_points(const PointArgs& args) {
  if (args.n == 0 && !args.sum) return;
  constexpr int64_t small = 16 * kPointThreads, most = 8192;  // pieces for one block to finish alone; blocks
  const int64_t pieces = PointLoop<L, order, S>::in_runs(args) ? args.n / kWidth<S> : 0;
  const int64_t steps = std::max(pieces, args.n - pieces * kWidth<S>);
  const bool alone = args.sum && steps <= small;
  const int64_t blocks = alone ? 1 : std::min(divide_up(steps, 2 * kPointThreads), most);
  GridSum<Total> total{{args.sum, compute_type(args.dtype), 1 / args.count}};
  const Tensor held = args.sum ? reserve_partials(total, blocks, args.device) : Tensor();
  launch(points_kernel<L, order, S>, {blocks, kPointThreads, kPointThreads * sizeof(double)}, args.device, args, pieces,
         total);
  if (held) finish(total, blocks, args.device);
}

template <template <class> class L, int order>
bool Cuda::pointwise(const PointArgs& args) {
  const DeviceGuard guard(args.device);
  dispatch_floating(args.dtype, [&]<class S>() { run_points<L, order, S>(args); });
  return true;
}

extern template struct PointOps<Cuda>;  // sums.cu

}  // namespace torchloss

#pragma once
// The CPU's loop over elements, for the jets of the pointwise losses.
//
// The elements are cut into blocks that do not depend on the number of threads; a block's sum goes into a slot of its
// own, and the slots are added in order: the same result on any number of threads. What does not lie in memory as a run
// of numbers of the loop's type (another dtype, a broadcast, a transposed view) passes through a buffer in the L1
// cache.
#include "../pointwise.h"
#include "device.h"
#include "isa.h"
#include "lanes.h"
#include "move.h"

namespace torchloss {

constexpr int64_t kBlock = 16384;  // elements of one slot
constexpr int kRun = 512;          // elements of one buffer

template <template <class> class L, int order, class T, int bytes>
struct PointLoop {
  using V = Lanes<T, bytes>;
  using Mask = typename V::Mask;
  static constexpr int size = V::size;
  enum { X, Tg, W, P, G, H, K, streams };  // those that the order reads
  static constexpr bool reads(int s) {
    return s <= W || (s == P && has_pos_weight<L>) || (s == G && order > 0) || ((s == H || s == K) && order == 3);
  }
  static constexpr int outs = order == 0 || order == 1 ? 1 : order;

  const PointArgs& a;
  const PointStream* in[streams];
  L<V> loss;
  V factor = V(1);
  V outside = V(0);  // of the loss's domain: how often
  alignas(64) T in_buffer[streams][kRun], out_buffer[3][kRun];

  HD explicit PointLoop(const PointArgs& a)
      : a(a), in{&a.x, &a.t, &a.w, &a.p, &a.g, &a.h, &a.k}, loss(make_loss<L, V>(a)) {
    if (a.factor) factor = V(read<T>(a.factor, compute_type(a.dtype), 0));
    if (order == 1 || order == 2) factor = factor / V(a.count);
    for (int s = 0; s < streams; ++s)
      if (reads(s) && constant(*in[s])) fill(s);
  }
  static bool constant(const PointStream& s) { return !s.data || s.layout.n == 0; }
  HD void fill(int s) {
    const T x = in[s]->data ? read<T>(in[s]->data, a.dtype, 0) : static_cast<T>(in[s]->fill);
    std::fill_n(in_buffer[s], std::min<int64_t>(kRun, a.n), x);
  }

  // The sum of out[0] over [begin, end), or 0 if it is not summed.
  HD double block(int64_t begin, int64_t end) {
    V sum(0);
    V compensation(0);
    for (int64_t i = begin; i < end; i += kRun) run(i, std::min<int64_t>(kRun, end - i), sum, compensation);
    return static_cast<double>(compensated(sum, compensation).sum());
  }

  HD void run(int64_t first, int64_t n, V& sum, V& compensation) {
    const T* x[streams];
    for (int s = 0; s < streams; ++s)
      if (reads(s)) x[s] = fetch(s, first, n);
    T* y[outs];
    for (int s = 0; s < outs; ++s) y[s] = place(s, first);
    const bool summed = a.sum;
    int64_t i = 0;
    while (i < n) {
      V few(0);
      for (const int64_t end = std::min(n - n % size, i + kVectorsPerSum * size); i < end; i += size) {
        V out[3];
        element(x, i, out);
        if (summed)
          few = few + out[0];
        else
          out[0].store(y[0] + i);
        for (int s = 1; s < outs; ++s) out[s].store(y[s] + i);
      }
      if (n - i < size) {
        if (i < n) last(x, y, i, n - i, summed, few);
        i = n;
      }
      add_compensated(sum, compensation, few);
    }
    for (int s = summed; s < outs; ++s)
      if (y[s] == out_buffer[s]) scatter(a.out[s], first, n, y[s]);
  }

  // The elements that do not fill a vector.
  HD void last(const T* const* x, T* const* y, int64_t i, int64_t n, bool summed, V& sum) {
    alignas(64) T tail[streams][size];
    const T* t[streams];
    for (int s = 0; s < streams; ++s) {
      if (!reads(s)) continue;
      for (int l = 0; l < size; ++l) tail[s][l] = x[s][i + std::min<int64_t>(l, n - 1)];
      t[s] = tail[s];
    }
    V out[3];
    element(t, 0, out);
    if (summed) sum = sum + select(Mask::first(n), out[0], V(0));
    for (int s = summed; s < outs; ++s) {
      out[s].store(tail[X]);
      std::copy_n(tail[X], n, y[s] + i);
    }
  }

  HD void element(const T* const* p, int64_t i, V* out) {
    const auto get = [&](int s) __attribute__((always_inline)) { return V::load(p[s] + i); };
    const V x = get(X), w = get(W);
    const Jet<V> j = jet(loss, x, get(Tg), has_pos_weight<L> ? get(has_pos_weight<L> ? P : X) : x);
    if constexpr (order == 0) {
      out[0] = w * j.value;
      if constexpr (has_domain<L>) outside = outside + L<V>::outside(x, get(Tg));
    } else {
      const V c = get(G) * factor * w;
      if constexpr (order < 3) out[0] = c * j.dx;
      if constexpr (order == 2) out[1] = c * j.dt;
      if constexpr (order == 3) {
        const V h = get(H), k = get(K);
        out[0] = w * (times(h, j.dx) + times(k, j.dt));
        out[1] = c * (times(h, j.dxx) + times(k, j.dxt));
        out[2] = c * (times(h, j.dxt) + times(k, j.dtt));
      }
    }
  }

  HD const T* fetch(int s, int64_t first, int64_t n) {
    const PointStream& p = *in[s];
    if (constant(p)) return in_buffer[s];
    if (p.layout.contiguous() && a.dtype == own_type<T>()) return static_cast<const T*>(p.data) + first;
    lines<false>(p, first, n, in_buffer[s]);
    return in_buffer[s];
  }
  HD T* place(int s, int64_t first) {
    const PointStream& p = a.out[s];
    const bool direct = p.data && p.layout.contiguous() && a.dtype == own_type<T>();
    return direct ? static_cast<T*>(p.data) + first : out_buffer[s];
  }
  HD void scatter(const PointStream& p, int64_t first, int64_t n, T* buffer) {
    if (p.data) lines<true>(p, first, n, buffer);
  }

  // Moves a run of elements line by line of the innermost dimension.
  template <bool store>
  HD void lines(const PointStream& p, int64_t first, int64_t n, T* buffer) {
    const int64_t inner = p.layout.n ? p.layout.size[0] : 1, stride = p.layout.n ? p.layout.stride[0] : 0;
    for (int64_t i = 0; i < n;) {
      const int64_t here = std::min(n - i, p.layout.n > 1 ? inner - (first + i) % inner : n);
      move_run<T, store>(p.data, a.dtype, p.layout.offset(first + i), stride, here, buffer + i);
      i += here;
    }
  }
};

template <template <class> class L, int order, class T>
struct PointBody {
  template <int bytes>
  HD static void run(const PointArgs* a, int64_t begin, int64_t end, double* slots, bool* valid) {
    PointLoop<L, order, T, bytes> loop(*a);
    for (int64_t b = begin; b < end; ++b) slots[b] = loop.block(b * kBlock, std::min(a->n, (b + 1) * kBlock));
    if (loop.outside.sum() > 0) __atomic_store_n(valid, false, __ATOMIC_RELAXED);
  }
};

template <template <class> class L, int order, class T>
bool run_points(const PointArgs& a) {
  const int64_t blocks = a.n / kBlock + (a.n % kBlock != 0);
  double sum = 0;
  bool valid = true;
  std::vector<double> many(blocks > 1 ? blocks : 0);
  double* slots = blocks > 1 ? many.data() : &sum;
  const auto run = [&](int64_t begin, int64_t end) {
    IsaFor<T, PointBody<L, order, T>, order == 3>::run(&a, begin, end, slots, &valid);
  };
  if (blocks > 1)
    torch::stable::parallel_for(0, blocks, 1, run);
  else if (blocks == 1)
    run(0, 1);
  for (double s : many) sum += s;
  if (a.sum) write<T>(a.sum, compute_type(a.dtype), 0, static_cast<T>(sum / a.count));
  return valid;
}

template <template <class> class L, int order>
bool Cpu::pointwise(const PointArgs& a) {
  return in_float64(a.dtype == ScalarType::Double) ? run_points<L, order, double>(a) : run_points<L, order, float>(a);
}

}  // namespace torchloss

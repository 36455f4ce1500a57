#pragma once
// The CPU's loop over rows, for the kernels of row.h.
//
// A vector's lanes are classes of one row (along), or one class of as many rows (across: where classes do not lie side
// by side in memory, or rows are short). The kernel does not know which: along, its lanes join at the end of a fold.
// A row is read in chunks that stay in the L1 cache: first for the maximum, then for the sums.
#include "../rowwise.h"
#include "lanes.h"
#include "move.h"

namespace torchloss {

constexpr int kChunk = 32;  // vectors

template <template <class> class K, class T, int bytes>
struct RowLoop {
  using V = Lanes<T, bytes>;
  using Mask = typename V::Mask;
  using Loss = K<V>;
  static constexpr int L = V::size, in = Loss::in, out = Loss::out;

  const RowArgs& a;
  const bool across;
  Loss loss;
  int64_t row = 0;  // the first of this tile
  int rows = 1;     // in this tile
  int64_t in_at[in][L], out_at[out + 1][L];
  bool in_direct[in], out_direct[out + 1];
  Lines in_lines[in], out_lines[out + 1];
  alignas(64) T in_buffer[in][kChunk * L], out_buffer[out + 1][kChunk * L], constant[in][L];

  struct View {
    const T* p;
    int64_t step;
    HD V operator[](int64_t i) const { return V::load(p + i * step); }
  };

  HD RowLoop(const RowArgs& a, bool across) : a(a), across(across) {
    loss.params = a.params;
    for (int s = 0; s < in; ++s) V(a.in[s].fill).store(constant[s]);
  }

  HD void tile(int64_t first) {
    row = first;
    rows = across ? static_cast<int>(std::min<int64_t>(L, a.rows - first)) : 1;
    for (int s = 0; s < in; ++s) place(a.in[s], in_at[s], in_lines[s], in_direct[s]);
    for (int s = 0; s < out; ++s) place(a.out[s], out_at[s], out_lines[s], out_direct[s]);
    const Mask live = start();
    if constexpr (Loss::targets)
      if (!across && !live.all()) return ignore();
    if constexpr (Loss::tops > 0) fold();
    if constexpr (Loss::sums > 0) sum();
    finish(live);
    if constexpr (out > 0) map(live);
    if constexpr (out > 0 && Loss::targets) hit();
  }

  HD void place(const RowStream& s, int64_t* at, Lines& lines, bool& direct) {
    const int n = across ? L : 1;
    bool adjacent = across && rows == L;
    if (s.data) {
      for (int l = 0; l < n; ++l) at[l] = s.rows.offset(row + std::min(l, rows - 1));
      for (int l = 1; l < n; ++l) adjacent &= at[l] == at[0] + l;
    }
    lines = {s.data, a.dtype, s.class_stride, at, across ? rows : 0, adjacent};
    direct = a.dtype == own_type<T>() && (across ? adjacent : s.class_stride == 1);
  }

  // Sets the row's numbers; says which lanes hold a row that counts.
  HD Mask start() {
    Row<V>& r = loss.row;
    Mask live = Mask::of(true);
    if (a.grad) {
      r.grad = per_row([&](int64_t i) { return read<T>(a.grad, a.dtype, i * a.grad_stride); });
      if (a.total) r.grad = r.grad / V(*static_cast<const T*>(a.total));
    }
    for (int k = 0; k < Loss::stats_in; ++k)
      r.stats[k] = per_row([&](int64_t i) { return static_cast<const T*>(a.stats_in)[k * a.rows + i]; });
    if constexpr (Loss::targets) {
      live = ~(per_row([&](int64_t i) { return a.target[i] == a.ignore_index ? T(1) : T(0); }) == V(1));
      r.weight = per_row([&](int64_t i) {
        return a.target[i] == a.ignore_index ? T(0)
               : a.weight                    ? read<T>(a.weight, a.dtype, a.target[i] * a.weight_stride)
                                             : T(1);
      });
    }
    if constexpr (Loss::x_at_target) r.x_y = at_target(0);
    if constexpr (Loss::h_at_target) r.h_y = at_target(1);
    if constexpr (requires { loss.start(); }) loss.start();
    return live;
  }

  // One number for each row of the tile; along, the same in every lane.
  template <class F>
  HD V per_row(F f) {
    if (!across) return V(f(row));
    alignas(64) T x[L];
    for (int l = 0; l < L; ++l) x[l] = f(row + std::min(l, rows - 1));
    return V::load(x);
  }
  HD V at_target(int s) {
    return per_row([&](int64_t i) {
      const int64_t y = a.target[i];
      if (y == a.ignore_index || !a.in[s].data) return T(a.in[s].fill);
      return read<T>(a.in[s].data, a.dtype, in_at[s][across ? i - row : 0] + y * a.in[s].class_stride);
    });
  }

  // f(first class, vectors, mask of the lanes that hold a class): the last vector along a row may be partly empty.
  template <class F>
  HD void chunks(F f) {
    const int64_t vectors = across ? a.classes : a.classes / L, width = across ? 1 : L;
    for (int64_t v = 0; v < vectors; v += kChunk)
      f(v * width, std::min<int64_t>(kChunk, vectors - v), Mask::of(true), std::false_type{});
    if (const int64_t tail = across ? 0 : a.classes % L; tail) f(vectors * L, 1, Mask::first(tail), std::true_type{});
  }
  HD View view(int s, int64_t first, int64_t vectors, bool tail) {
    const Lines& m = in_lines[s];
    if (!m.data) return {constant[s], 0};
    if (in_direct[s] && !tail) {
      const T* p = static_cast<const T*>(m.data) + m.offsets[0] + first * m.stride;
      return {p, across ? m.stride : L};
    }
    if (tail) V(0).store(in_buffer[s]);
    move<T, false>(m, first, across ? vectors : tail ? a.classes - first : vectors * L, in_buffer[s], L);
    return {in_buffer[s], L};
  }
  HD void views(View* v, int64_t first, int64_t vectors, bool tail) {
    for (int s = 0; s < in; ++s) v[s] = view(s, first, vectors, tail);
  }

  HD void fold() {
    Part<V, Loss::more> part, lost;
    Part<V, 0> second, second_lost;
    chunks([&](int64_t first, int64_t n, Mask live, auto tail) __attribute__((always_inline)) {
      View v[in];
      views(v, first, n, tail);
      fold_chunk<tail>(part, lost, v, v[0], n, live);
      if constexpr (Loss::tops > 1) fold_chunk<tail>(second, second_lost, v, v[1], n, live);
    });
    settle(part, lost);
    if constexpr (Loss::tops > 1) settle(second, second_lost);
    if (!across) {
      together(part);
      if constexpr (Loss::tops > 1) together(second);
    }
    const Top<V> tops[2] = {part.top, second.top};
    loss.topped(tops, part.sums);
  }

  // `lost` is what the roundings of `part` lost: a part as well, seen from the same maximum.
  template <bool tail, int more>
  HD void fold_chunk(Part<V, more>& part, Part<V, more>& lost, const View* v, View logits, int64_t n, Mask live) {
    V max = part.top.max;
    for (int64_t i = 0; i < n; ++i) {
      V x = logits[i];
      if constexpr (tail) x = select(live, x, Top<V>::lowest());
      max = larger(x, max);
    }
    rebase(loss, part, max);
    rebase(loss, lost, max);
    const V from = reference(max);
    for (int64_t i = 0; i < n;) {
      Part<V, more> few;
      for (const int64_t end = std::min(n, i + kFew); i < end; ++i) {
        V x[in];
        for (int s = 0; s < in; ++s) x[s] = v[s][i];
        add(few, loss, from, logits[i], x);
      }
      if constexpr (tail) keep(few, live);
      add_kept(part, lost, few);
    }
  }
  template <int more>
  HD static void keep(Part<V, more>& part, Mask live) {
    part.top.count = select(live, part.top.count, V(0));
    part.top.sum = select(live, part.top.sum, V(0));
    for (int k = 0; k < more; ++k) part.sums[k] = select(live, part.sums[k], V(0));
  }
  // Joins the lanes; every lane gets the result.
  template <int more>
  HD void together(Part<V, more>& part) {
    rebase(loss, part, V(part.top.max.max()));
    part.top.count = V(part.top.count.sum());
    part.top.sum = V(part.top.sum.sum());
    for (int k = 0; k < more; ++k) part.sums[k] = V(part.sums[k].sum());
  }

  HD void sum() {
    V total[Loss::sums] = {}, lost[Loss::sums] = {};
    chunks([&](int64_t first, int64_t n, Mask live, auto tail) __attribute__((always_inline)) {
      View v[in];
      views(v, first, n, tail);
      for (int64_t i = 0; i < n;) {
        V few[Loss::sums] = {};
        for (const int64_t end = std::min(n, i + kFew); i < end; ++i) {
          V x[in];
          for (int s = 0; s < in; ++s) x[s] = v[s][i];
          loss.add_sums(few, x);
        }
        for (int k = 0; k < Loss::sums; ++k) add_kept(total[k], lost[k], tail ? select(live, few[k], V(0)) : few[k]);
      }
    });
    for (int k = 0; k < Loss::sums; ++k) total[k] = settled(total[k], lost[k]);
    if (!across)
      for (V& t : total) t = V(t.sum());
    loss.summed(total);
  }

  HD void map(Mask live) {
    chunks([&](int64_t first, int64_t n, Mask, auto tail) __attribute__((always_inline)) {
      View v[in];
      views(v, first, n, tail);
      T* to[out];
      int64_t step[out];
      for (int s = 0; s < out; ++s) {
        const Lines& m = out_lines[s];
        const bool direct = out_direct[s] && !tail;
        to[s] = direct ? static_cast<T*>(m.data) + m.offsets[0] + first * m.stride : out_buffer[s];
        step[s] = direct && across ? m.stride : L;
      }
      for (int64_t i = 0; i < n; ++i) {
        V x[in], y[out];
        for (int s = 0; s < in; ++s) x[s] = v[s][i];
        loss.map(y, x);
        for (int s = 0; s < out; ++s) (Loss::targets ? select(live, y[s], V(0)) : y[s]).store(to[s] + i * step[s]);
      }
      for (int s = 0; s < out; ++s)
        if (to[s] == out_buffer[s])
          move<T, true>(out_lines[s], first, across ? n : tail ? a.classes - first : n * L, out_buffer[s], L);
    });
  }

  // The gradient at the class target has a form of its own.
  HD void hit() {
    if constexpr (requires { loss.hit(); }) {
      const V y = loss.hit();
      for (int l = 0; l < rows; ++l) {
        const int64_t target = a.target[row + l];
        if (target != a.ignore_index)
          write<T>(a.out[0].data, a.dtype, out_at[0][l] + target * a.out[0].class_stride, y[l]);
      }
    }
  }

  HD void finish(Mask live) {
    if constexpr (Loss::value_out) {
      V value = loss.value();
      if constexpr (Loss::targets) value = select(live, value, V(0));
      for (int l = 0; l < rows; ++l) static_cast<T*>(a.values)[row + l] = value[l];
    }
    if constexpr (Loss::stats_out > 0) {
      V stats[Loss::stats_out];
      loss.stats(stats);
      for (int k = 0; k < Loss::stats_out; ++k)
        for (int l = 0; l < rows; ++l) static_cast<T*>(a.stats_out)[k * a.rows + row + l] = stats[k][l];
    }
  }

  // An ignored row counts nothing, whatever its logits are.
  HD void ignore() {
    if constexpr (Loss::value_out) static_cast<T*>(a.values)[row] = T(0);
    for (int k = 0; k < Loss::stats_out; ++k) static_cast<T*>(a.stats_out)[k * a.rows + row] = T(0);
    if constexpr (out > 0) {
      for (int s = 0; s < out; ++s) V(0).store(out_buffer[s]);
      for (int64_t j = 0; j < a.classes; j += L)
        for (int s = 0; s < out; ++s)
          move<T, true>(out_lines[s], j, std::min<int64_t>(L, a.classes - j), out_buffer[s], L);
    }
  }
};

template <template <class> class K, class T>
struct RowBody {
  template <int bytes>
  HD static void run(const RowArgs* a, bool across, int64_t begin, int64_t end) {
    RowLoop<K, T, bytes> loop(*a, across);
    const int64_t step = across ? loop.L : 1;
    for (int64_t r = begin; r < end; ++r) loop.tile(r * step);
  }
};

inline int vector_bytes() {
#ifdef TORCHLOSS_MULTI_ISA
  return 16 << cpu_level();
#else
  return 16;
#endif
}

template <template <class> class K, class T>
void run_rows(const RowArgs& a) {
  const int64_t lanes = vector_bytes() / sizeof(T);
  const bool across = a.in[0].class_stride != 1 || a.classes < 4 * lanes;
  const int64_t tiles = across ? (a.rows + lanes - 1) / lanes : a.rows;
  const int64_t work = std::max<int64_t>(1, a.classes * (across ? lanes : 1));
  torch::stable::parallel_for(0, tiles, std::max<int64_t>(1, 16384 / work), [&](int64_t begin, int64_t end) {
    MultiIsa<RowBody<K, T>>::run(&a, across, begin, end);
  });
}

}  // namespace torchloss

#pragma once
// The CPU's loop over rows, for the kernels of row.h.
//
// A vector's lanes are classes of one row (along), or one class of as many rows (across: where classes do not lie side
// by side in memory, or rows are short). The kernel does not know which: along, its lanes join at the end of a fold.
// A row is read in chunks that stay in the L1 cache: first for the maximum, then for the sums. Across, the numbers of a
// group of rows are first brought together (stage.h), and those of the results taken apart at the end.
#include "../rowwise.h"
#include "kept.h"
#include "lanes.h"
#include "move.h"
#include "stage.h"

namespace torchloss {

template <template <class> class K, class T, int bytes>
struct RowLoop {
  using V = Lanes<T, bytes>;
  using Mask = typename V::Mask;
  using Loss = K<V>;
  static constexpr int L = V::size, in = Loss::in, out = Loss::out;
  using Staged = Stage<T, L, in, out>;
  using Place = typename Staged::Place;

  struct View {
    const T* p;
    int64_t step;
    HD V operator[](int64_t i) const { return V::load(p + i * step); }
  };

  const RowArgs& a;
  const bool across;
  Loss loss;
  int64_t row = 0;       // the first of this tile
  int rows = 1;          // in this tile
  bool in_range = true;  // every target so far
  int64_t target[L];     // -1 for a row that does not count
  V grad = V(1);         // that of all rows, if they have the same
  Staged stage;
  Place in_place[in], out_place[out + 1];  // of this tile; without a pointer it passes through a buffer
  alignas(64) T in_buffer[in][kChunk * L], out_buffer[out + 1][kChunk * L], constant[in][L];
  Kept<V, Loss::keeps> kept;

  HD RowLoop(const RowArgs& a, bool across, int64_t width)
      : a(a), across(across), stage(a, across ? width : 0, Loss::bulk), kept(a, across, plain(a.out[0])) {
    loss.params = a.params;
    if (a.grad && !a.grad_stride) grad = V(read<T>(a.grad, a.dtype, 0));
    for (int s = 0; s < in; ++s) V(a.in[s].fill).store(constant[s]);
  }

  HD void group(int64_t first, int64_t n) {
    stage.load(first, n);
    for (int64_t i = 0; i < n; i += L) {
      for (int s = 0; s < in; ++s) in_place[s] = bulk(s) ? stage.input(s, i) : Place{constant[s], 0};
      for (int s = 0; s < out; ++s) out_place[s] = stage.output(s, i);
      tile(first + i, static_cast<int>(std::min<int64_t>(L, n - i)));
    }
    stage.store(first, n);
  }
  HD void one(int64_t first) {
    for (int s = 0; s < in; ++s) in_place[s] = bulk(s) ? direct(a.in[s], first) : Place{constant[s], 0};
    for (int s = 0; s < out; ++s) out_place[s] = direct(a.out[s], first);
    tile(first, 1);
  }
  HD bool bulk(int s) const { return Loss::bulk && a.in[s].data; }
  HD Place direct(const RowStream& s, int64_t first) const {
    return {plain(s) ? static_cast<T*>(s.data) + s.rows.offset(first) : nullptr, L};
  }
  HD bool plain(const RowStream& s) const { return a.dtype == own_type<T>() && s.class_stride == 1; }

  HD void tile(int64_t first, int rows_) {
    row = first, rows = rows_;
    const Mask live = start();
    if constexpr (Loss::targets)
      if (!across && !live.all()) return ignore();
    if constexpr (Loss::tops > 0) fold();
    if constexpr (Loss::sums > 0) sum();
    finish(live);
    if constexpr (out > 0) map(live);
    if constexpr (out > 0 && Loss::targets) hit();
  }

  // Sets the row's numbers; says which lanes hold a row that counts.
  HD Mask start() {
    Row<V>& r = loss.row;
    Mask live = Mask::of(true);
    r.grad = grad;
    if (a.grad && a.grad_stride) {
      alignas(64) T g[L] = {};
      move_run<T, false>(const_cast<void*>(a.grad), a.dtype, row, 1, rows, g);
      r.grad = per_row(g);
    }
    if (a.total) r.grad = r.grad / V(*static_cast<const T*>(a.total));
    for (int k = 0; k < Loss::stats_in; ++k) r.stats[k] = per_row(static_cast<const T*>(a.stats_in) + k * a.rows + row);
    if constexpr (Loss::targets) {
      live = read_targets();
      r.weight = only(live, V(1));
      if (a.weight) {
        alignas(64) T weight[L];
        for (int l = 0; l < (across ? L : 1); ++l)
          weight[l] = target[l] < 0 ? T(0) : read<T>(a.weight, a.dtype, target[l] * a.weight_stride);
        r.weight = across ? V::load(weight) : V(weight[0]);
      }
    }
    if constexpr (Loss::x_at_target) r.x_y = at_target(0);
    if constexpr (Loss::h_at_target) r.h_y = at_target(1);
    if constexpr (requires { loss.start(); }) loss.start();
    return live;
  }

  // One number for each row of the tile; along, the same in every lane.
  HD V per_row(const T* p) const {
    if (!across) return V(*p);
    if (rows == L) return V::load(p);
    alignas(64) T x[L] = {};
    std::copy_n(p, rows, x);
    return V::load(x);
  }
  // Says which lanes hold a row that counts. The mask is made by way of memory, for one of which gcc 12 knows that it
  // comes from a comparison it may apply lane by lane.
  HD Mask read_targets() {
    alignas(64) typename IntOf<T>::type counts[L];
    bool good = true;
    for (int l = 0; l < (across ? L : 1); ++l) {
      const int64_t y = a.target[row + (across ? std::min(l, rows - 1) : 0)];
      const bool valid = y >= 0 && y < a.classes, ignored = y == a.ignore_index;
      good &= valid | ignored;
      target[l] = valid & !ignored ? y : -1;
    }
    in_range &= good;
    for (int l = 0; l < L; ++l) counts[l] = target[across ? l : 0] < 0 ? 0 : -1;
    return Mask::load(counts);
  }
  HD V at_target(int s) {
    alignas(64) T x[L];
    for (int l = 0; l < (across ? L : 1); ++l) {
      if (!a.in[s].data || (!across && target[l] < 0))
        x[l] = a.in[s].fill;
      else if (across && Loss::bulk)
        x[l] = in_place[s].p[l + std::max<int64_t>(target[l], 0) * in_place[s].step];
      else
        x[l] = read<T>(a.in[s].data, a.dtype, at(a.in[s], std::min(l, rows - 1), std::max<int64_t>(target[l], 0)));
    }
    return across ? V::load(x) : V(x[0]);
  }
  HD int64_t at(const RowStream& s, int l, int64_t c) const { return s.rows.offset(row + l) + c * s.class_stride; }

  // f(first class, vectors, mask of the lanes that count): along a row, what is left after the whole vectors are the
  // last lanes of a vector that ends with the row. (Rows shorter than a vector are read across.)
  template <class F>
  HD void chunks(F f) {
    const int64_t vectors = across ? a.classes : a.classes / L, width = across ? 1 : L;
    for (int64_t v = 0; v < vectors; v += kChunk)
      f(v * width, std::min<int64_t>(kChunk, vectors - v), Mask::of(true), std::false_type{});
    if (const int64_t tail = across ? 0 : a.classes % L; tail)
      f(a.classes - L, 1, ~Mask::first(L - tail), std::true_type{});
  }
  HD View view(int s, int64_t first, int64_t vectors) {
    const Place& here = in_place[s];
    if (across || !bulk(s)) return {here.p + (across ? first * here.step : 0), here.step};
    if (here.p) return {here.p + first, L};
    run<false>(a.in[s], first, vectors * L, in_buffer[s]);
    return {in_buffer[s], L};
  }
  template <bool store>
  HD void run(const RowStream& s, int64_t first, int64_t n, T* buffer) {
    move_run<T, store>(s.data, a.dtype, at(s, 0, first), s.class_stride, n, buffer);
  }
  HD void views(View* v, int64_t first, int64_t vectors, int from = 0) {
    for (int s = from; s < in; ++s) v[s] = view(s, first, vectors);
  }

  HD void fold() {
    Part<V, Loss::more> part, lost;
    Part<V, 0> second, second_lost;
    int64_t chunk = 0;
    chunks([&](int64_t first, int64_t n, Mask live, auto tail) __attribute__((always_inline)) {
      View v[in];
      views(v, first, n);
      fold_chunk<tail, Loss::keeps>(part, lost, v, v[0], n, live, first);
      if constexpr (Loss::keeps)
        if (kept.any()) kept.from[chunk++] = part.top.max;
      if constexpr (Loss::tops > 1) fold_chunk<tail, false>(second, second_lost, v, v[1], n, live, first);
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

  // `lost` is what the roundings of `part` lost: a part as well, seen from the same maximum. Along a row, the lanes
  // share one maximum. Few vectors hold a logit that reaches it, and only among those few it is looked for.
  template <bool tail, bool keeps, int more>
  HD void fold_chunk(Part<V, more>& part, Part<V, more>& lost, const View* v, View logits, int64_t n, Mask live,
                     int64_t first) {
    V largest = Top<V>::lowest(), of_few[kChunk / kFew];
    for (int64_t i = 0; i < n;) {
      V here = Top<V>::lowest();
      V& slot = of_few[i / kFew];
      for (const int64_t end = std::min(n, i + kFew); i < end; ++i)
        here = larger(tail ? select(live, logits[i], Top<V>::lowest()) : logits[i], here);
      slot = here, largest = larger(here, largest);
    }
    raise(part, lost, larger(largest, part.top.max), first == 0);
    Place keep{};
    if constexpr (keeps) {
      keep = kept_place(first, tail);
      if (!tail && kept.row) will_write(a.out[0], first, n * L);
    }
    for (int64_t i = 0; i < n; i += kFew) {
      if ((of_few[i / kFew] < part.top.max).all())
        sum_few<tail, true, keeps>(part, lost, v, logits, i, std::min(n, i + kFew), live, keep);
      else
        sum_few<tail, false, keeps>(part, lost, v, logits, i, std::min(n, i + kFew), live, keep);
    }
  }
  template <int more>
  HD void raise(Part<V, more>& part, Part<V, more>& lost, V max, bool first) {
    if (!first && (max == part.top.max).all()) return;
    if (!across) max = V(max.max());
    if (first)
      part.top.max = lost.top.max = max;
    else
      rebase(loss, part, lost, max);
  }
  template <bool tail, bool below, bool keeps, int more>
  HD void sum_few(Part<V, more>& part, Part<V, more>& lost, const View* v, View logits, int64_t begin, int64_t end,
                  Mask live, Place here) {
    const V from = reference(part.top.max);
    Part<V, more> few;
    for (int64_t i = begin; i < end; ++i) {
      V x[in];
      for (int s = 0; s < in; ++s) x[s] = v[s][i];
      const V e = below ? add_lower(few, loss, from, logits[i], x) : add(few, loss, from, logits[i], x);
      if constexpr (keeps) e.store(here.p + i * here.step);
    }
    if constexpr (tail) keep(few, live);
    add_kept(part, lost, few);
  }
  template <int more>
  HD static void keep(Part<V, more>& part, Mask live) {
    part.top.count = only(live, part.top.count);
    part.top.sum = only(live, part.top.sum);
    for (int k = 0; k < more; ++k) part.sums[k] = only(live, part.sums[k]);
  }
  // Joins the lanes; every lane gets the result.
  template <int more>
  HD void together(Part<V, more>& part) {
    part.top.count = V(part.top.count.sum());
    part.top.sum = V(part.top.sum.sum());
    for (int k = 0; k < more; ++k) part.sums[k] = V(part.sums[k].sum());
  }

  HD void sum() {
    V total[Loss::sums] = {}, lost[Loss::sums] = {};
    chunks([&](int64_t first, int64_t n, Mask live, auto tail) __attribute__((always_inline)) {
      View v[in];
      views(v, first, n);
      for (int64_t i = 0; i < n;) {
        V few[Loss::sums] = {};
        for (const int64_t end = std::min(n, i + kFew); i < end; ++i) {
          V x[in];
          for (int s = 0; s < in; ++s) x[s] = v[s][i];
          loss.add_sums(few, x);
        }
        for (int k = 0; k < Loss::sums; ++k) add_kept(total[k], lost[k], tail ? only(live, few[k]) : few[k]);
      }
    });
    for (int k = 0; k < Loss::sums; ++k) total[k] = settled(total[k], lost[k]);
    if (!across)
      for (V& t : total) t = V(t.sum());
    loss.summed(total);
  }

  // The gradient's place comes into the cache while its exponentials are computed.
  HD void will_write(const RowStream& s, int64_t first, int64_t n) const {
    if (s.class_stride != 1) return;
    constexpr int64_t line = 64;
    const char* p = static_cast<const char*>(element(s.data, a.dtype, at(s, 0, first)));
    const int64_t size = n * (a.dtype == own_type<T>() ? sizeof(T) : 2);
    for (int64_t i = 0; i < size; i += line) __builtin_prefetch(p + i, 1, 2);
  }

  // Where the exponentials of a chunk are between fold and map.
  HD Place kept_place(int64_t first, bool tail) {
    const Place& there = out_place[0];
    if (!kept.any()) return {out_buffer[0], L};
    if (tail) return {kept.tail, L};
    if (there.p) return {there.p + first * (across ? there.step : 1), there.step};
    return {kept.row.get() + first, L};
  }

  HD void map(Mask live) {
    if constexpr (Loss::keeps)
      if (kept.any()) return map_chunks<true>(live);
    map_chunks<false>(live);
  }
  template <bool keeps>
  HD void map_chunks(Mask live) {
    int64_t chunk = 0;
    chunks([&](int64_t first, int64_t n, Mask, auto tail) __attribute__((always_inline)) {
      View v[in];
      views(v, first, n, keeps);
      T* to[out];
      int64_t step[out];
      for (int s = 0; s < out; ++s) {
        const Place& there = out_place[s];
        const bool direct = across || (there.p && !tail);
        to[s] = direct ? there.p + first * (across ? there.step : 1) : out_buffer[s];
        step[s] = direct ? there.step : L;
      }
      Place keep{};
      V rebased;
      if constexpr (keeps) keep = kept_place(first, tail), rebased = decay(kept.from[chunk++] - loss.max);
      for (int64_t i = 0; i < n; ++i) {
        V x[in], y[out];
        for (int s = keeps; s < in; ++s) x[s] = v[s][i];
        if constexpr (keeps)
          loss.map_decayed(y, V::load(keep.p + i * keep.step) * rebased, x);
        else
          loss.map(y, x);
        for (int s = 0; s < out; ++s) (Loss::targets ? only(live, y[s]) : y[s]).store(to[s] + i * step[s]);
      }
      for (int s = 0; s < out; ++s)
        if (to[s] == out_buffer[s]) give_back(s, first, n * L, tail ? L - a.classes % L : 0);
    });
  }

  // Moves n results to where they belong, but for some that are there already.
  HD void give_back(int s, int64_t first, int64_t n, int64_t done) {
    if (T* p = out_place[s].p)
      std::copy(out_buffer[s] + done, out_buffer[s] + n, p + first + done);
    else
      run<true>(a.out[s], first + done, n - done, out_buffer[s] + done);
  }

  // The gradient at the class target has a form of its own.
  HD void hit() {
    if constexpr (requires { loss.hit(); }) {
      alignas(64) T y[L];
      loss.hit().store(y);
      for (int l = 0; l < rows; ++l) {
        if (target[l] < 0) continue;
        if (across)
          out_place[0].p[l + target[l] * out_place[0].step] = y[l];
        else
          write<T>(a.out[0].data, a.dtype, at(a.out[0], 0, target[0]), y[0]);
      }
    }
  }

  HD void finish(Mask live) {
    if constexpr (Loss::value_out) {
      V value = loss.value();
      if constexpr (Loss::targets) value = only(live, value);
      put(value, static_cast<T*>(a.values) + row);
    }
    if constexpr (Loss::stats_out > 0) {
      V stats[Loss::stats_out];
      loss.stats(stats);
      for (int k = 0; k < Loss::stats_out; ++k) put(stats[k], static_cast<T*>(a.stats_out) + k * a.rows + row);
    }
  }
  // The numbers of the tile's rows.
  HD void put(V x, T* to) const {
    if (rows == L) return x.store(to);
    alignas(64) T y[L];
    x.store(y);
    std::copy_n(y, rows, to);
  }

  // An ignored row counts nothing, whatever its logits are.
  HD void ignore() {
    if constexpr (Loss::value_out) static_cast<T*>(a.values)[row] = T(0);
    for (int k = 0; k < Loss::stats_out; ++k) static_cast<T*>(a.stats_out)[k * a.rows + row] = T(0);
    if constexpr (out > 0) {
      for (int s = 0; s < out; ++s) std::fill_n(out_buffer[s], kChunk * L, T(0));
      for (int64_t j = 0; j < a.classes; j += kChunk * L)
        for (int s = 0; s < out; ++s)
          run<true>(a.out[s], j, std::min<int64_t>(kChunk * L, a.classes - j), out_buffer[s]);
    }
  }
};

template <template <class> class K, class T>
struct RowBody {
  // Units are groups of `width` rows, or rows.
  template <int bytes>
  HD static void run(const RowArgs* a, bool across, int64_t width, int64_t begin, int64_t end, bool* in_range) {
    RowLoop<K, T, bytes> loop(*a, across, width);
    for (int64_t u = begin; u < end; ++u)
      across ? loop.group(u * width, std::min(width, a->rows - u * width)) : loop.one(u);
    if (!loop.in_range) __atomic_store_n(in_range, false, __ATOMIC_RELAXED);
  }
};

inline int vector_bytes() {
#ifdef TORCHLOSS_MULTI_ISA
  return 16 << cpu_level();
#else
  return 16;
#endif
}

// False if a target was out of range: its row is then as if ignored.
template <template <class> class K, class T>
bool run_rows(const RowArgs& a) {
  using Loss = K<Lanes<T, 16>>;
  const int64_t lanes = vector_bytes() / sizeof(T);
  const int64_t bytes_of_class = (Loss::in + Loss::out) * sizeof(T);
  const bool wide = a.classes > kMostStaged / (lanes * bytes_of_class);
  // What a row costs besides its classes, a fold above all, is shared by as many rows as there are lanes.
  const int64_t short_row = (a.rows < lanes ? 4 : Loss::tops ? 16 : 8) * lanes;
  const bool across =
      a.in[0].class_stride != 1 ? !wide && (a.rows >= lanes || a.classes < 4096) : a.classes < short_row;
  const int64_t width = across ? stage_width(a, lanes, bytes_of_class) : 1;
  const int64_t units = (a.rows + width - 1) / width, work = std::max<int64_t>(1, a.classes * width);
  bool in_range = true;
  torch::stable::parallel_for(0, units, std::max<int64_t>(1, 16384 / work), [&](int64_t begin, int64_t end) {
    MultiIsa<RowBody<K, T>>::run(&a, across, width, begin, end, &in_range);
  });
  return in_range;
}

}  // namespace torchloss

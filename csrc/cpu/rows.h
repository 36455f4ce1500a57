#pragma once
// The CPU's loop over rows, for the kernels of row.h.
//
// A vector's lanes are classes of one row, or, a row per lane, one class of as many rows: where classes do not lie side
// by side in memory, or rows are short. The kernel does not know which: in one row, the lanes join at the end of a
// fold. A row is read in chunks that stay in the L1 cache: first for the maximum, then for the sums. With a row per
// lane, the numbers of a group of rows are first brought together (staging.h), and those of the results taken apart at
// the end.
#include "../rowwise.h"
#include "device.h"
#include "isa.h"
#include "lanes.h"
#include "move.h"
#include "row_cache.h"
#include "softcap.h"
#include "staging.h"

namespace torchloss {

extern template struct RowOps<Cpu>;  // compiled once, in device.cpp

// Numbers of the compute type of a call, which is T or, in the loop for float64, any.
template <class T>
HD T compute_number(const RowArgs& a, const void* p, int64_t i) {
  if constexpr (sizeof(T) == 8)
    if (a.dtype != ScalarType::Double) return static_cast<const float*>(p)[i];
  return static_cast<const T*>(p)[i];
}
template <class T>
HD void put_compute_number(const RowArgs& a, void* p, int64_t i, T x) {
  if constexpr (sizeof(T) == 8)
    if (a.dtype != ScalarType::Double) {
      static_cast<float*>(p)[i] = static_cast<float>(x);
      return;
    }
  static_cast<T*>(p)[i] = x;
}

template <template <class> class K, class T, int bytes>
struct RowLoop {
  using V = Lanes<T, bytes>;
  using Mask = typename V::Mask;
  using Kernel = K<V>;
  static constexpr int L = V::size, in = Kernel::in, out = Kernel::out;
  static constexpr bool has_target_column = requires(Kernel k) { k.at_target(); };
  // Its output can start from the exponentials of its own fold.
  static constexpr bool caches_exp = Kernel::from_exp && Kernel::softmaxes > 0;
  static constexpr int readings = (Kernel::softmaxes > 0) + (Kernel::terms > 0) + (out > 0);
  static constexpr bool caches_softcap = readings > 1 && !caches_exp;
  using Place = typename StagingBuffer<T>::Place;

  struct View {
    const T* p;
    int64_t step;
    HD V operator[](int64_t i) const { return V::load(p + i * step); }
  };

  const RowArgs& a;
  const bool row_per_lane;
  const bool capped;
  Kernel kernel;
  int64_t row = 0;       // the first of this tile
  int rows = 1;          // in this tile
  bool in_range = true;  // every target so far
  int64_t target[L];     // -1 for a row that does not count
  V grad = V(1);         // that of all rows, if they have the same
  V row_weight = V(1);
  V slope_x_y;  // of the softcap, for the target's logit
  StagingBuffer<T> staging;
  Place in_place[in], out_place[out + 1];  // of this tile; without a pointer it passes through a buffer
  alignas(64) T in_buffer[in][kChunk * L], out_buffer[out + 1][kChunk * L], slope_buffer[out + 1][kChunk * L];
  alignas(64) T constant[in][L];
  ExpCache<V, caches_exp> exp_cache;
  SoftcapCache<V, Kernel::logits, (out > 0), caches_softcap> softcap_cache;

  HD RowLoop(const RowArgs& a, bool row_per_lane, int64_t width)
      : a(a),
        row_per_lane(row_per_lane),
        capped(a.softcap != 0),
        staging(a, width, L),
        exp_cache(a, row_per_lane, plain(a.out[0])),
        softcap_cache(a, row_per_lane) {
    if (row_per_lane) staging.reserve(Kernel::bulk ? in : 0, out);
    a.params.get(kernel.params);
    if (a.grad && !a.grad_stride) grad = V(compute_number<T>(a, a.grad, 0));
    if (a.total) grad = grad / V(compute_number<T>(a, a.total, 0));
    for (int s = 0; s < in; ++s) V(a.in[s].fill).store(constant[s]);
  }

  // A group of n rows, a row per lane; or one row.
  HD void group(int64_t first, int64_t n) {
    if (row_per_lane) staging.load(first, n);
    for (int64_t i = 0; i < n; i += L) {
      for (int s = 0; s < in; ++s)
        in_place[s] = !bulk(s) ? Place{constant[s], 0} : row_per_lane ? staging.input(s, i) : direct(a.in[s], first);
      for (int s = 0; s < out; ++s) out_place[s] = row_per_lane ? staging.output(s, i) : direct(a.out[s], first);
      tile(first + i, static_cast<int>(std::min<int64_t>(L, n - i)));
    }
    if (row_per_lane) staging.store(first, n);
  }
  HD bool bulk(int s) const { return Kernel::bulk && a.in[s].data; }
  HD Place direct(const RowStream& s, int64_t first) const {
    return {plain(s) ? static_cast<T*>(s.data) + s.rows.offset(first) : nullptr, L};
  }
  HD bool plain(const RowStream& s) const { return a.dtype == own_type<T>() && s.class_stride == 1; }

  HD void tile(int64_t first, int rows_) {
    row = first, rows = rows_;
    const Mask counts = start();
    if constexpr (Kernel::targets)
      if (!row_per_lane && !counts.all()) return ignore();
    if constexpr (caches_softcap) softcap_cache.filled = false;
    if constexpr (Kernel::softmaxes > 0) fold();
    if constexpr (caches_softcap && Kernel::softmaxes > 0) softcap_cache.filled = true;
    if constexpr (Kernel::terms > 0) sum();
    if constexpr (caches_softcap) softcap_cache.filled = true;
    finish(counts);
    if constexpr (requires { kernel.start_output(); }) kernel.start_output();
    if constexpr (out > 0) output(counts);
    if constexpr (has_target_column) output_at_target();
  }

  // Sets the row's numbers; says which lanes hold a row that counts.
  HD Mask start() {
    Row<V>& r = kernel.row;
    Mask counts = Mask::of(true);
    if (a.row_weight) row_weight = per_row(a.row_weight, 0);
    for (int k = 0; k < Kernel::grads; ++k) {
      r.grad[k] = grad;
      if (a.grad && a.grad_stride) r.grad[k] = per_row(a.grad, k * a.grad_value_stride);
      if (a.row_weight) r.grad[k] = r.grad[k] * row_weight;
    }
    for (int k = 0; k < Kernel::saved_in; ++k) r.saved[k] = per_row(a.saved_in, k * a.rows);
    if constexpr (Kernel::targets) {
      counts = read_targets();
      r.weight = only(counts, V(1));
      if (a.weight) {
        alignas(64) T weight[L];
        for (int l = 0; l < (row_per_lane ? L : 1); ++l)
          weight[l] = target[l] < 0 ? T(0) : read<T>(a.weight, a.dtype, target[l] * a.weight_stride);
        r.weight = row_per_lane ? V::load(weight) : V(weight[0]);
      }
    }
    if constexpr (Kernel::x_at_target) r.x_y = read_at_target(0);
    if constexpr (Kernel::h_at_target) r.h_y = read_at_target(1);
    kernel.start();
    return counts;
  }

  // A number of the compute type for each row of the tile; in one row, the same in every lane.
  HD V per_row(const void* p, int64_t offset) const {
    if (!row_per_lane) return V(compute_number<T>(a, p, offset + row));
    if (rows == L && compute_type(a.dtype) == own_type<T>()) return V::load(static_cast<const T*>(p) + offset + row);
    alignas(64) T x[L] = {};
    for (int l = 0; l < rows; ++l) x[l] = compute_number<T>(a, p, offset + row + l);
    return V::load(x);
  }
  // Says which lanes hold a row that counts. The mask is made by way of memory, for one of which gcc 12 knows that it
  // comes from a comparison it may apply lane by lane.
  HD Mask read_targets() {
    alignas(64) typename IntOf<T>::type counts[L];
    bool good = true;
    for (int l = 0; l < (row_per_lane ? L : 1); ++l) {
      const int64_t y = a.target[row + (row_per_lane ? std::min(l, rows - 1) : 0)];
      const bool valid = y >= 0 && y < a.classes, ignored = y == a.ignore_index;
      good &= valid | ignored;
      target[l] = valid & !ignored ? y : -1;
    }
    in_range &= good;
    for (int l = 0; l < L; ++l) counts[l] = target[row_per_lane ? l : 0] < 0 ? 0 : -1;
    return Mask::load(counts);
  }
  // The number in the target column; of a row that does not count, that of class 0.
  HD V read_at_target(int s) {
    alignas(64) T x[L];
    for (int l = 0; l < (row_per_lane ? L : 1); ++l) {
      if (!a.in[s].data || (!row_per_lane && target[l] < 0))
        x[l] = a.in[s].fill;
      else if (row_per_lane && Kernel::bulk)
        x[l] = in_place[s].p[l + std::max<int64_t>(target[l], 0) * in_place[s].step];
      else
        x[l] = read<T>(a.in[s].data, a.dtype, at(a.in[s], std::min(l, rows - 1), std::max<int64_t>(target[l], 0)));
    }
    const V raw = row_per_lane ? V::load(x) : V(x[0]);
    if (!capped || s > 0) return raw;
    alignas(64) T slope[L];
    raw.store(x);
    softcap<T, bytes>(x, L, x, slope, 1, a.softcap);  // as the chunks, to the last bit
    slope_x_y = V::load(slope);
    return V::load(x);
  }
  HD int64_t at(const RowStream& s, int l, int64_t c) const { return s.rows.offset(row + l) + c * s.class_stride; }

  // f(first class, vectors, lanes of the vector that an earlier chunk has counted): in one row, what is left after the
  // whole vectors are the last lanes of a vector that ends with the row. (Rows shorter than a vector are read a row per
  // lane.) In one place, so that the loop is compiled once.
  template <class F>
  HD void chunks(F f) {
    for (int64_t first = 0; first < a.classes;) {
      const int64_t left = a.classes - first, vectors = row_per_lane ? left : left / L;
      const int64_t n = std::min<int64_t>(kChunk, std::max<int64_t>(vectors, 1)), counted = vectors > 0 ? 0 : L - left;
      f(first - counted, n, counted);
      first += n * (row_per_lane ? 1 : L);
    }
  }
  HD View raw_view(int s, int64_t first, int64_t vectors) {
    const Place& here = in_place[s];
    if (row_per_lane || !bulk(s)) return {here.p + (row_per_lane ? first * here.step : 0), here.step};
    if (here.p) return {here.p + first, L};
    run<false>(a.in[s], first, vectors * L, in_buffer[s]);
    return {in_buffer[s], L};
  }
  HD View view(int s, int64_t first, int64_t vectors, T* slopes) {
    if (!capped || s >= Kernel::logits) return raw_view(s, first, vectors);
    T* value = in_buffer[s];
    if constexpr (caches_softcap)
      if (softcap_cache.used()) {
        value = softcap_cache.value(s) + first * (row_per_lane ? L : 1);
        if (softcap_cache.filled) return {value, L};
      }
    const View raw = raw_view(s, first, vectors);
    softcap<T, bytes>(raw.p, raw.step, value, slopes, vectors, a.softcap);
    return {value, L};
  }
  // Where the slopes of a chunk's softcap are.
  HD T* slopes(int s, int64_t first, int64_t counted) {
    if (s >= out || s >= Kernel::logits) return nullptr;
    if constexpr (caches_exp) {
      if (exp_cache.used() && counted) return exp_cache.slopes_of_tail;
      if (exp_cache.used()) return exp_cache.slopes.get() + first * (row_per_lane ? L : 1);
    }
    if constexpr (caches_softcap)
      if (softcap_cache.used()) return softcap_cache.slope(s) + first * (row_per_lane ? L : 1);
    return slope_buffer[s];
  }
  // In a reading before the output's: only if they stay.
  HD T* early_slopes(int s, int64_t first, int64_t counted) {
    if constexpr (caches_exp)
      if (exp_cache.used()) return slopes(s, first, counted);
    if constexpr (caches_softcap)
      if (softcap_cache.used()) return slopes(s, first, counted);
    return nullptr;
  }
  template <bool store>
  HD void run(const RowStream& s, int64_t first, int64_t n, T* buffer) {
    move_run<T, store>(s.data, a.dtype, at(s, 0, first), s.class_stride, n, buffer);
  }

  HD void fold() {
    RowState<V, Kernel::accumulators> state, compensation;
    RowState<V, 0> second, second_compensation;
    int64_t chunk = 0;
    chunks([&](int64_t first, int64_t n, int64_t counted) __attribute__((always_inline)) {
      View v[in];
      for (int s = 0; s < in; ++s) v[s] = view(s, first, n, early_slopes(s, first, counted));
      fold_chunk<caches_exp>(state, compensation, v, v[0], first, n, counted);
      if constexpr (caches_exp)
        if (exp_cache.used()) exp_cache.maxima[chunk++] = state.softmax.max;
      if constexpr (Kernel::softmaxes > 1) fold_chunk<false>(second, second_compensation, v, v[1], first, n, counted);
    });
    compensate(state, compensation);
    if constexpr (Kernel::softmaxes > 1) compensate(second, second_compensation);
    if (!row_per_lane) {
      join_lanes(state);
      if constexpr (Kernel::softmaxes > 1) join_lanes(second);
    }
    if constexpr (Kernel::softmaxes > 1) {
      const SoftmaxState<V> softmaxes[2] = {state.softmax, second.softmax};
      kernel.with_softmax(softmaxes, state.sums);
    } else {
      kernel.with_softmax(&state.softmax, state.sums);
    }
  }

  // In one row the lanes share a maximum. Few vectors hold a logit that reaches it, and only among those few it is
  // looked for.
  template <bool caches, int n_sums>
  HD void fold_chunk(RowState<V, n_sums>& state, RowState<V, n_sums>& compensation, const View* v, View logits,
                     int64_t first, int64_t n, int64_t counted) {
    V largest = SoftmaxState<V>::lowest(), of_few[kChunk / kVectorsPerSum];
    if (counted)  // the other lanes may hold exponentials by now, where the output goes over the input
      largest = of_few[0] = select(~Mask::first(counted), logits[0], largest);
    for (int64_t i = counted ? n : 0; i < n;) {
      V here = SoftmaxState<V>::lowest();
      V& slot = of_few[i / kVectorsPerSum];
      for (const int64_t end = std::min(n, i + kVectorsPerSum); i < end; ++i) here = larger(logits[i], here);
      slot = here, largest = larger(here, largest);
    }
    raise(state, compensation, larger(largest, state.softmax.max), first == 0);
    Place cache{};
    if constexpr (caches) {
      cache = cached_exp(first, counted);
      if (!counted && exp_cache.row) prefetch_for_writing(a.out[0], first, n * L);
    }
    for (int64_t i = 0; i < n; i += kVectorsPerSum) {
      const int64_t end = std::min(n, i + kVectorsPerSum);
      if ((of_few[i / kVectorsPerSum] < state.softmax.max).all())
        sum_few<true, caches>(state, compensation, v, logits, i, end, counted, cache);
      else
        sum_few<false, caches>(state, compensation, v, logits, i, end, counted, cache);
    }
  }
  template <int n_sums>
  HD void raise(RowState<V, n_sums>& state, RowState<V, n_sums>& compensation, V max, bool first) {
    if (!first && (max == state.softmax.max).all()) return;
    if (!row_per_lane) max = V(max.max());
    if (first)
      state.softmax.max = compensation.softmax.max = max;
    else
      rescale(kernel, state, compensation, max);
  }
  template <bool below, bool caches, int n_sums>
  HD void sum_few(RowState<V, n_sums>& state, RowState<V, n_sums>& compensation, const View* v, View logits,
                  int64_t begin, int64_t end, int64_t counted, Place cache) {
    const V from = reference(state.softmax.max);
    RowState<V, n_sums> few;
    for (int64_t i = begin; i < end; ++i) {
      V x[in];
      for (int s = 0; s < in; ++s) x[s] = v[s][i];
      const V e =
          below ? accumulate_below(few, kernel, from, logits[i], x) : accumulate(few, kernel, from, logits[i], x);
      if constexpr (caches) e.store(cache.p + i * cache.step);
    }
    if (counted) only_counting(few, ~Mask::first(counted));
    add_compensated(state, compensation, few);
  }
  template <int n_sums>
  HD static void only_counting(RowState<V, n_sums>& state, Mask counts) {
    state.softmax.leaders = only(counts, state.softmax.leaders);
    state.softmax.others = only(counts, state.softmax.others);
    for (int k = 0; k < n_sums; ++k) state.sums[k] = only(counts, state.sums[k]);
  }
  // join() of all lanes at once: their maximum is the same already. Every lane gets the result.
  template <int n_sums>
  HD void join_lanes(RowState<V, n_sums>& state) {
    state.softmax.leaders = V(state.softmax.leaders.sum());
    state.softmax.others = V(state.softmax.others.sum());
    for (int k = 0; k < n_sums; ++k) state.sums[k] = V(state.sums[k].sum());
  }

  HD void sum() {
    V total[Kernel::terms] = {}, compensation[Kernel::terms] = {};
    chunks([&](int64_t first, int64_t n, int64_t counted) __attribute__((always_inline)) {
      View v[in];
      for (int s = 0; s < in; ++s) v[s] = view(s, first, n, early_slopes(s, first, counted));
      for (int64_t i = 0; i < n;) {
        V few[Kernel::terms] = {};
        for (const int64_t end = std::min(n, i + kVectorsPerSum); i < end; ++i) {
          V x[in];
          for (int s = 0; s < in; ++s) x[s] = v[s][i];
          kernel.add_terms(few, x);
        }
        if (counted)
          for (V& f : few) f = only(~Mask::first(counted), f);
        for (int k = 0; k < Kernel::terms; ++k) add_compensated(total[k], compensation[k], few[k]);
      }
    });
    for (int k = 0; k < Kernel::terms; ++k) total[k] = compensated(total[k], compensation[k]);
    if (!row_per_lane)
      for (V& t : total) t = V(t.sum());
    kernel.with_terms(total);
  }

  // The gradient's place comes into the cache while its exponentials are computed.
  HD void prefetch_for_writing(const RowStream& s, int64_t first, int64_t n) const {
    if (s.class_stride != 1) return;
    constexpr int64_t line = 64;
    const char* p = static_cast<const char*>(element(s.data, a.dtype, at(s, 0, first)));
    const int64_t bytes_of_run = n * element_size(a.dtype);
    for (int64_t i = 0; i < bytes_of_run; i += line) __builtin_prefetch(p + i, 1, 2);
  }

  // Where the exponentials of a chunk are between fold and output.
  HD Place cached_exp(int64_t first, int64_t counted) {
    const Place& there = out_place[0];
    if (!exp_cache.used()) return {out_buffer[0], L};
    if (counted) return {exp_cache.tail, L};
    if (there.p) return {there.p + first * (row_per_lane ? there.step : 1), there.step};
    return {exp_cache.row.get() + first, L};
  }

  HD void output(Mask counts) {
    int64_t chunk = 0;
    chunks([&](int64_t first, int64_t n, int64_t counted) __attribute__((always_inline)) {
      View v[in];
      for (int s = caches_exp; s < in; ++s) v[s] = view(s, first, n, slopes(s, first, counted));
      T* to[out];
      int64_t step[out];
      for (int s = 0; s < out; ++s) {
        const Place& there = out_place[s];
        const bool direct = row_per_lane || (there.p && !counted);
        to[s] = direct ? there.p + first * (row_per_lane ? there.step : 1) : out_buffer[s];
        step[s] = direct ? there.step : L;
      }
      Place cache{};
      V factor(1);
      if constexpr (caches_exp) {
        cache = cached_exp(first, counted);
        if (exp_cache.used())
          factor = V(kernel.exp_of(exp_cache.maxima[chunk++] - kernel.max));
        else
          compute_exp(view(0, first, n, slopes(0, first, counted)), n, cache);
      }
      const Kernel k = kernel;  // whose numbers no store below can change
      for (int64_t i = 0; i < n; ++i) {
        V x[in], y[out];
        for (int s = caches_exp; s < in; ++s) x[s] = v[s][i];
        if constexpr (caches_exp)
          k.output_from_exp(y, V::load(cache.p + i * cache.step) * factor, x);
        else
          k.output(y, x);
        for (int s = 0; s < out; ++s) (Kernel::targets ? only(counts, y[s]) : y[s]).store(to[s] + i * step[s]);
      }
      for (int s = 0; s < out; ++s) {
        if (capped && s < Kernel::logits) multiply({to[s], step[s]}, {slopes(s, first, counted), L}, n);
        if (to[s] == out_buffer[s]) give_back(s, first, n * L, counted);
      }
    });
  }
  HD void multiply(Place y, View by, int64_t n) {
    for (int64_t i = 0; i < n; ++i) (V::load(y.p + i * y.step) * by[i]).store(y.p + i * y.step);
  }
  HD void compute_exp(View x, int64_t n, Place to) {
    for (int64_t i = 0; i < n; ++i) V(kernel.exp_of(x[i] - kernel.max)).store(to.p + i * to.step);
  }

  // Moves n results to where they belong, but for some that are there already.
  HD void give_back(int s, int64_t first, int64_t n, int64_t done) {
    if (T* p = out_place[s].p)
      std::copy(out_buffer[s] + done, out_buffer[s] + n, p + first + done);
    else
      run<true>(a.out[s], first + done, n - done, out_buffer[s] + done);
  }

  // The gradient in the target column has a form of its own.
  HD void output_at_target() {
    alignas(64) T y[L];
    V gradient = kernel.at_target();
    if (capped) gradient = gradient * slope_x_y;
    gradient.store(y);
    for (int l = 0; l < rows; ++l) {
      if (target[l] < 0) continue;
      if (row_per_lane)
        out_place[0].p[l + target[l] * out_place[0].step] = y[l];
      else
        write<T>(a.out[0].data, a.dtype, at(a.out[0], 0, target[0]), y[0]);
    }
  }

  HD void finish(Mask counts) {
    if constexpr (Kernel::values > 0) {
      V values[Kernel::values];
      kernel.value(values);
      for (int k = 0; k < Kernel::values; ++k) {
        if (a.row_weight) values[k] = values[k] * row_weight;
        put(Kernel::targets ? only(counts, values[k]) : values[k], a.values, k);
      }
    }
    if constexpr (Kernel::saved_out > 0) {
      V saved[Kernel::saved_out];
      kernel.save(saved);
      for (int k = 0; k < Kernel::saved_out; ++k) put(saved[k], a.saved_out, k);
    }
  }
  // The k-th numbers of the tile's rows.
  HD void put(V x, void* to, int k) const {
    const int64_t first = k * a.rows + row;
    if (rows == L && compute_type(a.dtype) == own_type<T>()) return x.store(static_cast<T*>(to) + first);
    alignas(64) T y[L];
    x.store(y);
    for (int l = 0; l < rows; ++l) put_compute_number<T>(a, to, first + l, y[l]);
  }

  // An ignored row counts for nothing, whatever its logits are.
  HD void ignore() {
    for (int k = 0; k < Kernel::values; ++k) put_compute_number<T>(a, a.values, k * a.rows + row, T(0));
    for (int k = 0; k < Kernel::saved_out; ++k) put_compute_number<T>(a, a.saved_out, k * a.rows + row, T(0));
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
  HD static void run(const RowArgs* a, bool row_per_lane, int64_t width, int64_t begin, int64_t end, bool* in_range) {
    RowLoop<K, T, bytes> loop(*a, row_per_lane, width);
    for (int64_t u = begin; u < end; ++u) loop.group(u * width, std::min(width, a->rows - u * width));
    if (!loop.in_range) __atomic_store_n(in_range, false, __ATOMIC_RELAXED);
  }
};

// How the rows of a call are read.
struct RowPlan {
  bool row_per_lane;
  int64_t width, units, grain;

  RowPlan(const RowArgs& a, int streams, bool folds, int64_t vector_bytes, int64_t number_bytes) {
    const int64_t lanes = vector_bytes / number_bytes, bytes_of_class = streams * number_bytes;
    const bool wide = a.classes > kMaxStagedClasses / (lanes * bytes_of_class);
    // What a row costs besides its classes, a fold above all, is shared by as many rows as there are lanes.
    const int64_t short_row = (a.rows < lanes ? 4 : folds ? 16 : 8) * lanes;
    row_per_lane = a.in[0].class_stride != 1 ? !wide && (a.rows >= lanes || a.classes < 4096) : a.classes < short_row;
    width = row_per_lane ? staging_width(a, lanes, bytes_of_class) : 1;
    units = (a.rows + width - 1) / width;
    grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, a.classes * width));
  }
};

// False if a target was out of range: its row is then as if ignored.
template <template <class> class K, class T, class Isa = IsaFor<T, RowBody<K, T>>>
bool run_rows(const RowArgs& a) {
  using Kernel = K<Lanes<T, 16>>;
  const RowPlan plan(a, Kernel::in + Kernel::out, Kernel::softmaxes > 0, Isa::bytes(), sizeof(T));
  bool in_range = true;
  const auto some = [&](int64_t begin, int64_t end) {
    Isa::run(&a, plan.row_per_lane, plan.width, begin, end, &in_range);
  };
  if (plan.units <= plan.grain)  // spares small calls the threads' preparations
    some(0, plan.units);
  else
    torch::stable::parallel_for(0, plan.units, plan.grain, some);
  return in_range;
}

template <template <class> class K, bool rare>
bool run_rows_in_any_type(const RowArgs& a) {
  if (a.dtype == ScalarType::Double) return run_rows<K, double>(a);
  if (!in_float64(false)) return run_rows<K, float, IsaFor<float, RowBody<K, float>, rare>>(a);
  if constexpr (K<Lanes<float, 16>>::own_type)
    return run_rows<K, float, Baseline<RowBody<K, float>>>(a);
  else
    return run_rows<K, double>(a);
}

template <template <class> class K, bool rare>
void Cpu::rows(const RowArgs& a) {
  if (a.unless_one && compute_number<double>(a, a.grad, 0) == 1) return;
  if (!run_rows_in_any_type<K, rare>(a)) {
    check_targets(a);
    STD_TORCH_CHECK(false, a.op, ": a target changed while it was read");
  }
  finish(a);
}

}  // namespace torchloss

#pragma once
// The numbers of a group of rows, class by class, so that a vector holds one class of as many rows as it has lanes.
#include <memory>

#include "../rowwise.h"
#include "move.h"

namespace torchloss {

constexpr int64_t kStageBytes = 64 << 10;  // of a group, roughly: it stays in the L2 cache
constexpr int kMostTiles = 16;             // of a group
// Of a group of the least width. Rows of more classes are read one by one, along them: a stage has a place for each of
// their classes, and an expanded tensor may have more classes than memory has bytes.
constexpr int64_t kMaxStagedClasses = 64 << 20;

// How many rows of so many classes are staged at once; always whole vectors.
inline int64_t staging_width(const RowArgs& a, int64_t lanes, int64_t bytes_of_class) {
  const int64_t tiles =
      std::clamp<int64_t>(kStageBytes / std::max<int64_t>(a.classes * lanes * bytes_of_class, 1), 1, kMostTiles);
  return lanes * std::min(tiles, std::max<int64_t>((a.rows + lanes - 1) / lanes, 1));
}

template <class T, int L, int in, int out>
class StagingBuffer {
  const RowArgs& a;
  const int64_t pitch;  // from class to class: not a power of two, or all classes would share a few places in the cache
  std::unique_ptr<T[]> memory;
  T *ins[in] = {}, *outs[out + 1] = {};

  // A stream that is the same for every row has one vector per class.
  HD static bool varies(const RowStream& s) { return s.rows.n > 0; }
  HD int64_t step(const RowStream& s) const { return varies(s) ? pitch : L; }

  template <bool store>
  HD void move_rows(const RowStream& s, int64_t first, int64_t n, T* to) {
    runs(s.rows, first, n, [&](int64_t at, int64_t stride, int64_t rows, int64_t before) {
      move<T, store>({element(s.data, a.dtype, at), a.dtype, rows, stride, a.classes, s.class_stride}, to + before,
                     step(s));
    });
  }

 public:
  // A stream's numbers of a tile: at p, `step` from class to class.
  struct Place {
    T* p;
    int64_t step;
  };

  // Without a width, nothing is staged.
  HD StagingBuffer(const RowArgs& a, int64_t width, bool inputs) : a(a), pitch(width + L) {
    if (width == 0) return;
    constexpr int64_t line = 64 / sizeof(T);
    int64_t size = line;
    for (int s = 0; s < in; ++s) size += inputs && a.in[s].data ? a.classes * step(a.in[s]) : 0;
    for (int s = 0; s < out; ++s) size += a.classes * step(a.out[s]);
    memory.reset(new T[size]);
    T* p = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory.get()) + 63) / 64 * 64);
    for (int s = 0; s < in; ++s)
      if (inputs && a.in[s].data) ins[s] = p, p += a.classes * step(a.in[s]);
    for (int s = 0; s < out; ++s) outs[s] = p, p += a.classes * step(a.out[s]);
    for (int s = 0; s < in; ++s)
      if (ins[s] && !varies(a.in[s]))
        for (int l = 0; l < L; ++l)
          move<T, false>({a.in[s].data, a.dtype, 1, 0, a.classes, a.in[s].class_stride}, ins[s] + l, L);
  }

  HD void load(int64_t first, int64_t n) {
    for (int s = 0; s < in; ++s)
      if (ins[s] && varies(a.in[s])) move_rows<false>(a.in[s], first, n, ins[s]);
  }
  HD void store(int64_t first, int64_t n) {
    for (int s = 0; s < out; ++s) move_rows<true>(a.out[s], first, n, outs[s]);
  }
  // Of the tile that begins at a row of the group.
  HD Place input(int s, int64_t row) const { return {ins[s] + (varies(a.in[s]) ? row : 0), step(a.in[s])}; }
  HD Place output(int s, int64_t row) const { return {outs[s] + (varies(a.out[s]) ? row : 0), step(a.out[s])}; }
};

}  // namespace torchloss

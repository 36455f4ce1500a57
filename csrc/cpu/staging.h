#pragma once
// The numbers of a group of rows, class by class, so that a vector holds one class of as many rows as it has lanes.
#include <memory>

#include "../rowwise.h"

namespace torchloss {

// How many rows go through a staging buffer at once; whole vectors.
int64_t staging_width(const RowArgs& a, int64_t lanes, int64_t bytes_of_class);

// The limit for a group of the least width. Longer rows are read one by one, along their classes: a staging buffer has
// a place for each class, and an expanded tensor may have more classes than memory has bytes.
constexpr int64_t kMaxStagedClasses = 64 << 20;

template <class T>
class StagingBuffer {
  const RowArgs& a;
  const int64_t lanes, pitch;  // from class to class: not a power of two, or all would share a few places in the cache
  std::unique_ptr<T[]> memory;
  T *ins[kMaxStreams] = {}, *outs[kMaxOutputs] = {};
  int outputs = 0;

  // A stream that is the same for every row has one vector per class.
  static bool varies(const RowStream& s) { return s.rows.n > 0; }
  int64_t step(const RowStream& s) const { return varies(s) ? pitch : lanes; }
  template <bool store>
  void move_rows(const RowStream& s, int64_t first, int64_t n, T* to);

 public:
  // A stream's numbers of a tile: at p, `step` from class to class.
  struct Place {
    T* p;
    int64_t step;
  };

  StagingBuffer(const RowArgs& a, int64_t width, int64_t lanes) : a(a), lanes(lanes), pitch(width + lanes) {}
  void reserve(int inputs, int outputs);

  void load(int64_t first, int64_t n);
  void store(int64_t first, int64_t n);
  // The place of the tile that begins at a row of the group.
  Place input(int s, int64_t row) const { return {ins[s] + (varies(a.in[s]) ? row : 0), step(a.in[s])}; }
  Place output(int s, int64_t row) const { return {outs[s] + (varies(a.out[s]) ? row : 0), step(a.out[s])}; }
};

}  // namespace torchloss

#pragma once
// The exponentials of a row between its loss and its gradient, chunk by chunk; each chunk's refer to the running
// maximum at that point. They stay where the gradient will be, or in a row of their own where its numbers are of
// another type or stride. So do the slopes of a softcap.
#include <memory>

#include "../rowwise.h"
#include "lanes.h"

namespace torchloss {

constexpr int kChunk = 64;  // vectors: what is read twice at once, and stays in the L1 cache
// The most classes of a row whose exponentials are cached: they stay in the L2 cache, or not far from it.
constexpr int64_t kMaxCachedClasses = 256 << 10;

template <class V, bool wanted>
struct ExpCache {
  static constexpr int L = V::size;
  using T = Scalar<V>;
  std::unique_ptr<T[]> row, slopes;
  std::unique_ptr<V[]> maxima;  // the chunks'
  alignas(64) T tail[L], slopes_of_tail[L];

  HD ExpCache(const RowArgs& a, bool row_per_lane, bool in_place) {
    if (a.classes > kMaxCachedClasses) return;
    maxima.reset(new V[a.classes / (row_per_lane ? kChunk : kChunk * L) + 2]);
    if (!row_per_lane && !in_place) row.reset(new T[a.classes]);
    if (a.softcap != 0) slopes.reset(new T[a.classes * (row_per_lane ? L : 1)]);
  }
  HD bool used() const { return maxima != nullptr; }
};

template <class V>
struct ExpCache<V, false> {
  HD ExpCache(const RowArgs&, bool, bool) {}
  HD bool used() const { return false; }
};

// The logits of a row after their softcap, and its slopes, for a kernel that reads them more than once.
template <class V, int logits, bool slopes, bool wanted>
struct SoftcapCache {
  using T = Scalar<V>;
  std::unique_ptr<T[]> numbers;  // all logits' values, then the slopes
  int64_t row = 0;
  bool filled = false;  // for the row in work

  HD SoftcapCache(const RowArgs& a, bool row_per_lane) {
    if (a.softcap == 0 || a.classes > kMaxCachedClasses) return;
    row = a.classes * (row_per_lane ? V::size : 1);
    numbers.reset(new T[row * logits * (slopes ? 2 : 1)]);
  }
  HD bool used() const { return numbers != nullptr; }
  HD T* value(int s) const { return numbers.get() + s * row; }
  HD T* slope(int s) const { return numbers.get() + (logits + s) * row; }
};

template <class V, int logits, bool slopes>
struct SoftcapCache<V, logits, slopes, false> {
  HD SoftcapCache(const RowArgs&, bool) {}
};

}  // namespace torchloss

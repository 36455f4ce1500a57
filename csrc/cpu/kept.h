#pragma once
// The exponentials of a row between its loss and its gradient, chunk by chunk; each chunk's are seen from the maximum
// so far. They stay where the gradient will be, or in a row of their own where its numbers are of another type or
// stride.
#include <memory>

#include "../rowwise.h"
#include "lanes.h"

namespace torchloss {

constexpr int kChunk = 64;  // vectors: what is read twice at once, and stays in the L1 cache
// Of so many classes at most: they stay in the L2 cache, or not far from it. In longer rows they are computed again.
constexpr int64_t kMostKept = 256 << 10;

template <class V, bool wanted>
struct Kept {
  static constexpr int L = V::size;
  using T = Scalar<V>;
  std::unique_ptr<T[]> row;
  std::unique_ptr<V[]> from;  // the chunks' maxima
  alignas(64) T tail[L];

  HD Kept(const RowArgs& a, bool across, bool in_place) {
    if (a.classes > kMostKept) return;
    from.reset(new V[a.classes / (across ? kChunk : kChunk * L) + 2]);
    if (!across && !in_place) row.reset(new T[a.classes]);
  }
  HD bool any() const { return from != nullptr; }
};

template <class V>
struct Kept<V, false> {
  HD Kept(const RowArgs&, bool, bool) {}
};

}  // namespace torchloss

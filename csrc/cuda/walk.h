#pragma once
// Which classes of a row a thread takes, and in which order. Nothing here needs a GPU: tests/cpp/test_walk.cpp.
#include <cstdint>

#include "../math.h"

#ifdef __CUDACC__
#define ROLLED _Pragma("unroll 1")
#else
#define ROLLED
#endif

namespace torchloss {

// A row is a head of a few classes, whole pieces of `width` classes, and a tail; or all edge, without a piece. Pieces
// and edges go round the team, so that neighbouring threads have neighbours.
struct Share {
  int size, rank, shift;  // of the team, a power of two: this member, and log2 of the size
  int width, head;
  int64_t pieces, edges;

  HD Share(int size, int rank, int shift) : size(size), rank(rank), shift(shift), width(1), head(0), pieces(0) {}

  HD void cut(int64_t classes, int width_, int head_, bool wide) {
    width = width_, head = head_;
    pieces = wide && classes > head ? (classes - head) / width : 0;
    edges = classes - pieces * width;
  }
  HD unsigned mine() const { return pieces > rank ? static_cast<unsigned>((pieces - rank + size - 1) >> shift) : 0; }
  HD int64_t first() const { return head + rank * width; }                        // class in my pieces
  HD int step() const { return size * width; }                                    // classes from one to the next
  HD int64_t edge(int64_t e) const { return e < head ? e : e + pieces * width; }  // class of the edge e

  // Whether class j is mine.
  HD bool takes(int64_t j) const {
    const int64_t c = j - head;
    const int64_t turn = c < 0 ? j : c < pieces * width ? c / width : j - pieces * width;
    return (turn & (size - 1)) == rank;
  }
};

// The order of a thread's pieces: they come from memory by themselves, a few groups ahead.
//
// Piece i waits in slot i % (kGroups chunk) of the thread's own. The first reading goes up and leaves its last pieces
// in the slots; a second one goes down from there, and leaves its last ones, which are the first, to a third, up again.
// So of a row that fits nothing is read twice, and of a longer one what was read last, and may still be in the L2
// cache, comes first.
constexpr unsigned kGroups = 4;  // of `chunk` pieces, on their way at once

// A ring has  ask(i, slot)  start to bring piece i;  commit()  what was asked for since the last is a group;
// wait()  until at most the latest kGroups - 1 groups are on their way;  use(i, slot).
template <class Ring>
struct Walk {
  const Ring& ring;
  const unsigned pieces, chunk, slots = kGroups * chunk;

  HD Walk(const Ring& ring, unsigned pieces, unsigned chunk) : ring(ring), pieces(pieces), chunk(chunk) {}

  HD unsigned end(unsigned first) const { return first + chunk < pieces ? first + chunk : pieces; }

  // The first groups, before the first up().
  HD void start() const {
    ROLLED for (unsigned first = 0; first < slots; first += chunk) {
      ROLLED for (unsigned i = first; i < end(first); ++i) ring.ask(i, i);
      ring.commit();
    }
  }
  // After start() or down(), and with the pieces that it has left.
  HD void up() const {
    for (unsigned first = 0, place = 0; first < pieces; first += chunk) {
      ring.wait();
      for (unsigned i = first, slot = place; i < end(first); ++i, ++slot) {
        ring.use(i, slot);
        if (i + slots < pieces) ring.ask(i + slots, slot);
      }
      ring.commit();
      place = place + chunk < slots ? place + chunk : 0;
    }
  }
  // After up(), and with the pieces that it has left.
  HD void down() const {
    if (pieces == 0) return;
    const unsigned last = (pieces - 1) / chunk;
    unsigned first = last * chunk, place = last % kGroups * chunk;
    while (true) {
      ring.wait();
      for (unsigned i = first, slot = place; i < end(first); ++i, ++slot) {
        ring.use(i, slot);
        if (i >= slots) ring.ask(i - slots, slot);
      }
      ring.commit();
      if (first == 0) return;
      first -= chunk, place = (place > 0 ? place : slots) - chunk;
    }
  }
};

}  // namespace torchloss

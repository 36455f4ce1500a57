// CUDA's order of a row (cuda/walk.h), for every size in a range: each class is taken once, by the thread that says so;
// and a thread finds in a slot the piece that it expects, though copies arrive as late as they may.
#include <cstdio>
#include <deque>
#include <vector>

#include "cuda/walk.h"

namespace torchloss {
namespace {

int failures = 0;

void expect(bool good, const char* what, long a, long b, long c) {
  if (!good && failures++ < 5) std::printf("%s: %ld, %ld, %ld  FAILED\n", what, a, b, c);
}

void test_share(int width, int head, int size, int64_t classes, bool wide) {
  std::vector<int> taken(classes, 0);
  int shift = 0;
  while (1 << shift < size) ++shift;
  for (int rank = 0; rank < size; ++rank) {
    Share share(size, rank, shift);
    share.cut(classes, width, head, wide);
    const auto take = [&](int64_t j) {
      expect(j >= 0 && j < classes, "a class outside the row", classes, rank, j);
      ++taken[j];
      expect(share.takes(j), "taken by another", classes, rank, j);
    };
    for (int64_t e = rank; e < share.edges; e += size) take(share.edge(e));
    for (unsigned i = 0; i < share.mine(); ++i) {
      const int64_t first = share.first() + int64_t(i) * share.step();
      expect((first - head) % width == 0, "not aligned", classes, rank, first);
      for (int j = 0; j < width; ++j) take(first + j);
    }
  }
  for (int64_t j = 0; j < classes; ++j) expect(taken[j] == 1, "taken so many times", classes, j, taken[j]);
}

// Shared memory into which copies come only when they are waited for.
struct Ring {
  struct Copy {
    unsigned piece, slot;
  };
  unsigned slots;
  mutable std::vector<int> memory, used;  // the piece in each slot; the pieces in the order of their use
  mutable std::vector<Copy> asked;
  mutable std::deque<std::vector<Copy>> groups;
  mutable unsigned copies = 0;

  Ring(unsigned slots) : slots(slots), memory(slots, -1) {}
  void ask(unsigned i, unsigned slot) const {
    expect(slot < slots, "no such slot", i, slot, slots);
    memory[slot] = -1;  // from now on it may be overwritten at any time
    asked.push_back({i, slot});
    ++copies;
  }
  void commit() const {
    groups.push_back(asked);
    asked.clear();
  }
  void wait() const {
    while (groups.size() >= kGroups) {
      for (const Copy& c : groups.front()) memory[c.slot] = static_cast<int>(c.piece);
      groups.pop_front();
    }
  }
  void use(unsigned i, unsigned slot) const {
    expect(slot < slots && memory[slot] == int(i), "another piece in the slot", i, slot, memory[slot]);
    used.push_back(static_cast<int>(i));
  }
};

void test_walk(unsigned pieces, unsigned chunk) {
  const Ring ring(kGroups * chunk);
  const Walk walk(ring, pieces, chunk);
  if (pieces > 0) walk.start();
  walk.up();
  expect(ring.copies == pieces, "copies of the first reading", pieces, chunk, ring.copies);
  for (unsigned i = 0; i < pieces; ++i) expect(ring.used.at(i) == int(i), "not upwards", pieces, chunk, i);
  ring.used.clear(), ring.copies = 0;
  walk.down();
  std::vector<int> times(pieces, 0);
  for (int i : ring.used) ++times[i];
  for (unsigned i = 0; i < pieces; ++i) expect(times[i] == 1, "used so many times again", pieces, i, times[i]);
  const unsigned again = pieces > ring.slots ? pieces - ring.slots : 0;
  expect(ring.copies == again, "copies of the second reading", pieces, chunk, ring.copies);
}

}  // namespace
}  // namespace torchloss

int main() {
  using namespace torchloss;
  for (int width : {2, 4, 8})
    for (int head = 0; head < width; ++head)
      for (int size : {1, 2, 8, 32, 128})
        for (int64_t classes = 0; classes < 1100; classes += classes < 70 ? 1 : 103)
          for (bool wide : {false, true}) test_share(width, head, size, classes, wide);
  for (unsigned chunk = 1; chunk < 8; ++chunk)
    for (unsigned pieces = 0; pieces < 100; ++pieces) test_walk(pieces, chunk);
  std::printf("%d failures\n", failures);
  return failures ? 1 : 0;
}

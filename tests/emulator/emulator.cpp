// Runs a kernel on the CPU, block after block. A block's threads are fibers, of which one runs until it waits: at a
// barrier for all, at a shuffle for its warp. Shared memory begins as NaNs, a copy into it arrives as late as it may,
// and an access outside it, a misaligned copy, a deadlock and a shuffle that part of a warp misses end the program.
#include <cuda_runtime.h>
#include <setjmp.h>
#include <ucontext.h>

#include <deque>
#include <memory>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace torchloss {
alignas(16) uint4 memory[232448 / 16 + 1];  // a block's
}

namespace {

enum Wait { Nothing, Barrier, Warp };

struct Copy {
  unsigned to;
  const void* from;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  Wait wait = Nothing;
  jmp_buf place;  // where it goes on: to jump there is no call to the system, as swapcontext is
  bool begun = false, done = false;
  uint64_t value, got;
  int distance;
  std::vector<Copy> asked;
  std::deque<std::vector<Copy>> groups;
};

constexpr size_t kStack = 65536;
std::vector<Fiber> fibers;
jmp_buf scheduler;
unsigned me;
size_t shared_bytes;
const std::function<void()>* body;

char* shared() { return reinterpret_cast<char*>(torchloss::memory); }

[[noreturn]] void die(const char* what) {
  fprintf(stderr, "emulator: %s (block %u, thread %u)\n", what, blockIdx.x, me);
  abort();
}

void resume(unsigned thread) {
  threadIdx.x = me = thread;
  Fiber& f = fibers[thread];
  if (_setjmp(scheduler)) return;
  if (f.begun) _longjmp(f.place, 1);
  f.begun = true;
  setcontext(&f.context);
}

void wait_for(Wait what) {
  fibers[me].wait = what;
  if (!_setjmp(fibers[me].place)) _longjmp(scheduler, 1);
}

void entry() {
  (*body)();
  fibers[me].done = true;
  _longjmp(scheduler, 1);
}

void start(unsigned thread) {
  Fiber& f = fibers[thread];
  if (!f.stack) f.stack.reset(new char[kStack]), getcontext(&f.context);
  f.context.uc_stack.ss_sp = f.stack.get(), f.context.uc_stack.ss_size = kStack;
  makecontext(&f.context, entry, 0);
  f.wait = Nothing, f.begun = f.done = false;
  f.asked.clear(), f.groups.clear();
}

// Exchanges the numbers of a warp if all of its threads wait for that.
bool shuffle(unsigned first) {
  for (unsigned t = first; t < first + 32; ++t)
    if (fibers[t].done || fibers[t].wait != Warp) return false;
  for (unsigned t = first; t < first + 32; ++t) {
    if (fibers[t].distance != fibers[first].distance) die("the distances of a shuffle differ");
    fibers[t].got = fibers[first + ((t - first) ^ fibers[t].distance)].value;
    fibers[t].wait = Nothing;
  }
  return true;
}

void run_block(unsigned threads) {
  memset(shared(), 0xff, shared_bytes);
  for (unsigned t = 0; t < threads; ++t) start(t);
  while (true) {
    unsigned done = 0, at_barrier = 0;
    bool moved = false;
    for (unsigned t = 0; t < threads; ++t) {
      if (!fibers[t].done && fibers[t].wait == Nothing) resume(t), moved = true;
      done += fibers[t].done;
      at_barrier += !fibers[t].done && fibers[t].wait == Barrier;
    }
    if (done == threads) return;
    for (unsigned t = 0; t < threads; t += 32) moved |= shuffle(t);
    if (at_barrier == threads) {
      for (unsigned t = 0; t < threads; ++t) fibers[t].wait = Nothing;
      moved = true;
    }
    if (!moved) die("deadlock");
  }
}

}  // namespace

void run_emulated(unsigned blocks, unsigned threads, size_t bytes, const std::function<void()>& kernel) {
  body = &kernel, shared_bytes = bytes;
  gridDim.x = blocks, blockDim.x = threads;
  if (bytes > sizeof(torchloss::memory) || threads > 1024 || threads % 32) die("a launch that CUDA would refuse");
  if (fibers.size() < threads) fibers.resize(threads);
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) run_block(threads);
}

void emulated_barrier() { wait_for(Barrier); }

uint64_t emulated_exchange(uint64_t value, int distance) {
  Fiber& f = fibers[me];
  f.value = value, f.distance = distance;
  wait_for(Warp);
  return fibers[me].got;
}

void bring_emulated(unsigned to, const void* from) {
  if (to % 16 || to + 16 > shared_bytes) die("a copy beyond shared memory");
  if (reinterpret_cast<uintptr_t>(from) % 16) die("a misaligned copy");
  memset(shared() + to, 0xff, 16);
  fibers[me].asked.push_back({to, from});
}

void commit_emulated() {
  Fiber& f = fibers[me];
  f.groups.push_back(std::move(f.asked));
  f.asked.clear();
}

void wait_emulated(int groups_left) {
  Fiber& f = fibers[me];
  for (; static_cast<int>(f.groups.size()) > groups_left; f.groups.pop_front())
    for (const Copy& c : f.groups.front()) memcpy(shared() + c.to, c.from, 16);
}

uint4 brought_emulated(unsigned from) {
  if (from % 16 || from + 16 > shared_bytes) die("a read beyond shared memory");
  uint4 v;
  memcpy(&v, shared() + from, 16);
  return v;
}

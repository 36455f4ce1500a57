#pragma once
// How a row is shared out among threads. Everything but `chunk`, which changes no result, depends on sizes and strides
// alone.
#include "../rowwise.h"
#include "launch.h"
#include "team.cuh"
#include "walk.h"

namespace torchloss {

struct Shape {
  int threads = 128;    // of a block
  int team = 1;         // those of a row
  bool across = false;  // see Team
  unsigned chunk = 0;   // see walk.h; 0: all classes one by one

  __host__ __device__ int64_t rows() const { return threads / team; }  // of a block
};

// What a kernel asks for.
struct Demand {
  int width, streams;  // numbers in 16 bytes; streams of the row
  int most_threads;    // of a block, and about as many fit in a multiprocessor
  bool read_again;     // it reads its rows twice
};

// Where neighbouring rows lie side by side in memory, neighbouring threads take neighbouring rows; otherwise the
// threads of a team sit side by side along the row.
inline bool rows_side_by_side(const RowArgs& args) {
  const RowStream& x = args.in[0];
  return x.class_stride != 1 && x.rows.n > 0 && x.rows.stride[0] == 1;
}

constexpr int64_t kEnough = 1 << 17;  // threads to keep a GPU busy
constexpr int64_t kSpare = 16 << 10;  // bytes of a multiprocessor's shared memory that are left to others

inline int64_t shared_memory(int device) {
  int most = 0;  // of a block; a multiprocessor has hardly more
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return most - kSpare;
}

// A whole block to a row: some 16 pieces for each thread; fewer where there are few rows, or where the row takes so
// much shared memory that few blocks fit in a multiprocessor.
inline int block_for_row(const RowArgs& args, const Demand& demand, int64_t pieces, int64_t memory) {
  int threads = 128;
  const auto fewer_than = [&](int64_t each) { return threads < demand.most_threads && pieces > each * threads; };
  while (threads < 256 && fewer_than(16)) threads *= 2;
  while (args.rows * threads < kEnough && fewer_than(4)) threads *= 2;
  if (!demand.read_again) return threads;
  const int64_t blocks = std::max<int64_t>(1, memory / (16 * demand.streams * pieces));
  while (blocks * threads < demand.most_threads && fewer_than(4)) threads *= 2;
  return threads;
}

// A row that is read again stays in shared memory if it fits; else groups of two pieces suffice to keep memory busy.
inline unsigned chunk_of(const Shape& shape, const Demand& demand, int64_t pieces, int64_t memory) {
  const int64_t whole = divide_up(divide_up(pieces, shape.team), int64_t{kGroups});
  const int64_t users = demand.read_again ? shape.threads : demand.most_threads;
  const int64_t fits = std::max<int64_t>(1, memory / (16 * demand.streams * users * int64_t{kGroups}));
  return static_cast<unsigned>(std::min({whole, fits, demand.read_again ? fits : 2}));
}

// The kernel over all rows, and then what RowResults asks for.
void launch_rows(const RowArgs& args, void (*kernel)(RowArgs, Shape), const Demand& demand);

inline Shape shape_of(const RowArgs& args, const Demand& demand) {
  Shape shape;
  const int64_t pieces = divide_up(args.classes, demand.width);
  shape.across = rows_side_by_side(args);
  if (shape.across) {
    while (shape.team < demand.most_threads / kLanes && args.rows * shape.team < kEnough && shape.team * 4 <= pieces)
      shape.team *= 2;
    shape.threads = std::max(shape.threads, shape.team * kLanes);
    return shape;
  }
  const bool wide = pieces > 4;  // a row may begin anywhere in 16 bytes
  const int64_t memory = wide ? shared_memory(args.device) : 0;
  if (pieces <= 8 * kLanes) {
    while (shape.team < kLanes && shape.team * (wide ? 2 : 4) < (wide ? pieces : args.classes)) shape.team *= 2;
    if (args.rows * shape.team <= demand.most_threads)  // one block does it all
      while (shape.rows() < args.rows) shape.threads *= 2;
  } else {
    shape.team = shape.threads = block_for_row(args, demand, pieces, memory);
  }
  if (!wide) return shape;
  shape.chunk = chunk_of(shape, demand, pieces, memory);
  return shape;
}

}  // namespace torchloss

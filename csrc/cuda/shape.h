#pragma once
// How a row is shared out among threads. Everything but `kept`, which changes no result, depends on sizes and strides
// alone.
#include "../rowwise.h"
#include "launch.h"
#include "team.cuh"

namespace torchloss {

struct Shape {
  int threads = 128;    // of a block
  int team = 1;         // those of a row
  bool across = false;  // see Team
  int kept = 0;         // pieces that a thread keeps in shared memory for the next reading of the row

  __host__ __device__ int64_t rows() const { return threads / team; }  // of a block
};

// Where neighbouring rows lie side by side in memory, neighbouring threads take neighbouring rows; otherwise the
// threads of a team sit side by side along the row.
inline bool rows_side_by_side(const RowArgs& args) {
  const RowStream& x = args.in[0];
  return x.class_stride != 1 && x.rows.n > 0 && x.rows.stride[0] == 1;
}

inline Shape shape_of(const RowArgs& args, int width, int most_threads) {
  Shape shape;
  const int64_t pieces = divide_up(args.classes, width);
  shape.across = rows_side_by_side(args);
  if (shape.across) {
    constexpr int64_t enough = 1 << 17;  // threads to keep a GPU busy
    while (shape.team < most_threads / kLanes && args.rows * shape.team < enough && shape.team * 4 <= pieces)
      shape.team *= 2;
    shape.threads = std::max(shape.threads, shape.team * kLanes);
  } else if (pieces > 8 * kLanes) {
    while (shape.threads < most_threads && shape.threads * 4 < pieces) shape.threads *= 2;
    shape.team = shape.threads;
  } else {
    while (shape.team < kLanes && shape.team < pieces) shape.team *= 2;
  }
  return shape;
}

// As many of a thread's pieces as leave room for a thousand threads on a multiprocessor.
inline int pieces_to_keep(const RowArgs& args, const Shape& shape, int width, int streams) {
  int shared = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, args.device));
  const int64_t most = (shared - (16 << 10)) / 1024 / (16 * streams);
  return static_cast<int>(
      std::clamp<int64_t>(divide_up(args.classes, width * shape.team), 0, std::max<int64_t>(most, 0)));
}

}  // namespace torchloss

#pragma once
// A team of threads, and how their numbers become one that all of them hold. The order of the additions depends on the
// team's size alone, and every member gets the same bits, for both operations commute.
#include "narrow.cuh"

namespace torchloss {

constexpr int kThreads = 1024;  // the most in a block
constexpr int kLanes = 32;      // of a warp

// Either neighbouring threads: a power of two up to a warp, or the whole block, which is one too. Or, `across`, one
// lane in each of `size` neighbouring warps, whose other lanes belong to other teams.
struct Team {
  int size, rank;
  bool across;
  void* room;  // in shared memory: a number for each thread of the block

  __device__ int shift() const { return __ffs(size) - 1; }  // log2 of the size
};

// The block's dynamic shared memory.
__device__ inline uint4* block_memory() {
  extern __shared__ uint4 memory[];
  return memory;
}

struct Plus {
  template <class V>
  __device__ V operator()(V a, V b) const {
    return a + b;
  }
};

struct Maximum {
  template <class V>
  __device__ V operator()(V a, V b) const {
    return greater(a, b);
  }
};

template <int n, class V, class F>
__device__ __forceinline__ void reduce_lanes(V (&v)[n], int lanes, F f) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int k = 0; k < n; ++k) v[k] = f(v[k], from_lane(v[k], distance));
  }
}

template <int n, class V, class F>
__device__ __forceinline__ void reduce_across(const Team& team, V (&v)[n], F f) {
  V* shared = static_cast<V*>(team.room);
  const V* first = shared + threadIdx.x - team.rank * kLanes;
#pragma unroll
  for (int k = 0; k < n; ++k) {
    __syncthreads();  // the numbers before these have been read
    shared[threadIdx.x] = v[k];
    __syncthreads();
    v[k] = first[0];
    for (int i = 1; i < team.size; ++i) v[k] = f(v[k], first[i * kLanes]);
  }
}

// Every thread of the block calls this, with a team of the same size and kind.
template <int n, class V, class F>
__device__ __forceinline__ void reduce(const Team& team, V (&v)[n], F f) {
  if (team.size == 1) return;
  if (team.across) return reduce_across(team, v, f);
  reduce_lanes(v, min(team.size, kLanes), f);
  if (team.size <= kLanes) return;
  static_assert(n <= kLanes);  // or the numbers of the warps would need more room
  V* shared = static_cast<V*>(team.room);
  const int warps = team.size / kLanes, warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  __syncthreads();  // the numbers before these have been read
  if (lane == 0)
    for (int k = 0; k < n; ++k) shared[k * warps + warp] = v[k];
  __syncthreads();
#pragma unroll
  for (int k = 0; k < n; ++k) v[k] = shared[k * warps + lane % warps];
  reduce_lanes(v, warps, f);
}

}  // namespace torchloss

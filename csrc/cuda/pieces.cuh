#pragma once
// 16 bytes of a stream, the most that a thread moves at once.
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

namespace torchloss {

template <class S>
constexpr int kWidth = 16 / sizeof(S);

__host__ __device__ inline bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

template <class S>
__device__ __forceinline__ void load16(S (&v)[kWidth<S>], const S* p) {
  const uint4 bits = __ldg(reinterpret_cast<const uint4*>(p));
  memcpy(v, &bits, 16);
}

template <class S>
__device__ __forceinline__ void store16(S* p, const S (&v)[kWidth<S>]) {
  uint4 bits;
  memcpy(&bits, v, 16);
  *reinterpret_cast<uint4*>(p) = bits;
}

// v[i] = p[i stride], at once where that is possible.
template <int N, class S>
__device__ __forceinline__ void load(S (&v)[N], const S* p, int64_t stride) {
  if constexpr (N == kWidth<S>) {
    if (stride == 1 && aligned(p)) return load16(v, p);
  }
#pragma unroll
  for (int i = 0; i < N; ++i, p += stride) v[i] = *p;
}

template <int N, class S>
__device__ __forceinline__ void store(S* p, int64_t stride, const S (&v)[N]) {
  if constexpr (N == kWidth<S>) {
    if (stride == 1 && aligned(p)) return store16(p, v);
  }
#pragma unroll
  for (int i = 0; i < N; ++i, p += stride) *p = v[i];
}

}  // namespace torchloss

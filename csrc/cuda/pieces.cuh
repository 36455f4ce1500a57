#pragma once
// 16 bytes of a stream, the most that a thread moves at once, and the numbers in them.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "narrow.cuh"

namespace torchloss {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

template <class S>
constexpr int kWidth = 16 / sizeof(S);

__host__ __device__ inline uintptr_t misalignment(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16; }

template <class S>
__device__ __forceinline__ uint4 load16(const S* p) {
  return __ldg(reinterpret_cast<const uint4*>(p));
}

template <class S>
__device__ __forceinline__ void store16(S* p, const uint4& bits) {
  *reinterpret_cast<uint4*>(p) = bits;
}

// Where element i lies: Layout::offset, with half of its divisions of 64 bits, and as a call, for they are most of a
// kernel's code where they are repeated for each stream.
__device__ __noinline__ inline int64_t offset_in_dims(const Layout& layout, int64_t i) {
  int64_t at = 0;
  int d = 0;
#pragma unroll 1
  for (auto rest = static_cast<uint64_t>(i); d + 1 < layout.n; ++d) {
    const uint64_t size = layout.size[d], next = rest / size;
    at += static_cast<int64_t>(rest - next * size) * layout.stride[d];
    rest = next, i = static_cast<int64_t>(next);
  }
  return at + i * layout.stride[d];
}
__device__ __forceinline__ int64_t offset_of(const Layout& layout, int64_t i) {
  if (layout.n > 1) return offset_in_dims(layout, i);
  return layout.n ? i * layout.stride[0] : 0;
}

// From global into shared memory, past the registers: the copy goes on while the thread does something else. The thread
// that asked may read what came when it has waited for it.
__device__ __forceinline__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ void bring16(unsigned to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ uint4 brought16(unsigned from) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(from)
               : "memory");
  return v;
}
// What was asked for since the last call is a group.
__device__ __forceinline__ void brought_together() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int latest>
__device__ __forceinline__ void wait_for_all_but() {
  asm volatile("cp.async.wait_group %0;" ::"n"(latest) : "memory");
}

template <class S>
__device__ __forceinline__ Number<S> widened(S x) {
  return static_cast<typename Compute<S>::type>(x);
}
template <class S>
__device__ __forceinline__ S narrowed(Number<S> x) {
  return static_cast<S>(static_cast<typename Compute<S>::type>(x));
}

// Number i, a constant, of the 16 bytes: an instruction, where the compiler would take bfloat16s apart with two.
template <class S>
__device__ __forceinline__ Number<S> number(const uint4& bits, int i) {
  if constexpr (std::is_same_v<S, BFloat16>) {
    const unsigned pair = i < 2 ? bits.x : i < 4 ? bits.y : i < 6 ? bits.z : bits.w;
    return __uint_as_float(i % 2 ? pair & 0xffff0000u : pair << 16);
  } else {
    S numbers[kWidth<S>];
    memcpy(numbers, &bits, 16);
    return widened(numbers[i]);
  }
}

// The numbers, rounded to S, side by side; those of 16 bits in pairs.
template <class S>
__device__ __forceinline__ uint4 packed(const Number<S> (&x)[kWidth<S>]) {
  uint4 bits;
  if constexpr (std::is_same_v<S, BFloat16>) {
    __nv_bfloat162 pairs[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = __floats2bfloat162_rn(x[2 * i].v, x[2 * i + 1].v);
    memcpy(&bits, pairs, 16);
  } else if constexpr (std::is_same_v<S, Half>) {
    __half2 pairs[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = __floats2half2_rn(x[2 * i].v, x[2 * i + 1].v);
    memcpy(&bits, pairs, 16);
  } else {
    memcpy(&bits, x, 16);
  }
  return bits;
}

// A number in all places.
template <class S>
__device__ __forceinline__ uint4 filled(S x) {
  S numbers[kWidth<S>];
#pragma unroll
  for (S& number : numbers) number = x;
  uint4 bits;
  memcpy(&bits, numbers, 16);
  return bits;
}

}  // namespace torchloss

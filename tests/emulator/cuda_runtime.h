#pragma once
// What csrc/cuda asks of CUDA, for a C++ compiler: emulator.cpp runs the kernels, a thread at a time.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>

#define __device__
#define __global__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() {}
  dim3(unsigned x) : x(x) {}
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

void run_emulated(unsigned blocks, unsigned threads, size_t shared, const std::function<void()>& kernel);
void emulated_barrier();
uint64_t emulated_exchange(uint64_t value, int distance);

// cp.async: asked for, grouped, waited for; and a read of what has come.
void bring_emulated(unsigned to, const void* from);
void commit_emulated();
void wait_emulated(int groups_left);
uint4 brought_emulated(unsigned from);

inline void __syncthreads() { emulated_barrier(); }
inline void __syncwarp() { emulated_exchange(0, 0); }
template <class T>
T __shfl_xor_sync(unsigned, T v, int distance) {
  uint64_t bits = 0;
  memcpy(&bits, &v, sizeof v);
  bits = emulated_exchange(bits, distance);
  memcpy(&v, &bits, sizeof v);
  return v;
}
template <class T>
T __ldg(const T* p) {
  return *p;
}
inline float __uint_as_float(unsigned u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline int min(int a, int b) { return a < b ? a : b; }
inline long min(long a, long b) { return a < b ? a : b; }

using cudaStream_t = void*;
inline int cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  memset(p, value, bytes);
  return 0;
}
enum { cudaDevAttrMaxSharedMemoryPerBlockOptin };
inline int cudaDeviceGetAttribute(int* v, int, int) {
  const char* bytes = getenv("EMULATED_SHARED_MEMORY");
  *v = bytes ? atoi(bytes) : 232448;
  return 0;
}

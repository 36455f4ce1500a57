#pragma once
// One body, two instruction sets, chosen once at load by what the processor has; or one for what is rare.
//
// A loop in float32 is compiled for AVX-512 and AVX2, and its second derivative for AVX2 alone. A loop in float64 is
// compiled once, for any processor; one without AVX2 runs it for every dtype, but for the few losses whose passes must
// agree to the last bit (row.h: own_type). TORCHLOSS_CPU=default|avx2|avx512 lowers the choice, so that each can be
// tested on one machine.
#include <cstdlib>
#include <cstring>
#include <type_traits>

namespace torchloss {

// Copies of every loop take long to compile: where speed does not count (-DTORCHLOSS_ONE_ISA: see .ci/run and
// tools/asan.sh), and on other processors, there is one alone.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(TORCHLOSS_ONE_ISA)
#define TORCHLOSS_TARGET(options) __attribute__((target(options), flatten))
constexpr bool kMultiIsa = true;
#else
#define TORCHLOSS_TARGET(options) __attribute__((flatten))
constexpr bool kMultiIsa = false;
#endif

// 2: AVX-512; 1: AVX2; 0: neither.
inline int cpu_level() {
#if defined(__x86_64__) && defined(__GNUC__)
  static const int level = [] {
    __builtin_cpu_init();
    int has = 0;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) has = 1;
    if (has && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
      has = 2;
    const char* wish = std::getenv("TORCHLOSS_CPU");
    if (!wish) return has;
    const int at_most = !std::strcmp(wish, "avx512") ? 2 : !std::strcmp(wish, "avx2") ? 1 : 0;
    return at_most < has ? at_most : has;
  }();
  return level;
#else
  return 0;
#endif
}

// Body::run<bytes>(args...) with vectors of so many bytes, all of it inlined.
template <class Body>
struct Baseline {
  template <class... A>
  __attribute__((flatten)) static void run(A... a) {
    Body::template run<16>(a...);
  }
  static int bytes() { return 16; }
};

template <class Body>
struct Avx2 {
  template <class... A>
  TORCHLOSS_TARGET("arch=x86-64-v3")
  static void run(A... a) {
    Body::template run<32>(a...);
  }
  static int bytes() { return 32; }
};

template <class Body>
struct MultiIsa {
  template <class... A>
  TORCHLOSS_TARGET("arch=x86-64-v4,prefer-vector-width=512")
  static void avx512(A... a) {
    Body::template run<64>(a...);
  }
  template <class... A>
  static void run(A... a) {
    cpu_level() == 2 ? avx512(a...) : Avx2<Body>::run(a...);
  }
  static int bytes() { return cpu_level() == 2 ? 64 : 32; }
};

// And for every level: for what is short, and for what a loop of any of them calls.
template <class Body>
struct EveryIsa {
  template <class... A>
  static void run(A... a) {
    kMultiIsa&& cpu_level() > 0 ? MultiIsa<Body>::run(a...) : Baseline<Body>::run(a...);
  }
};

// What a loop in T is compiled for.
template <class T, class Body, bool rare = false>
using IsaFor = std::conditional_t<!kMultiIsa || sizeof(T) == 8, Baseline<Body>,
                                  std::conditional_t<rare, Avx2<Body>, MultiIsa<Body>>>;

// Whether a loop for float64 and one alone for the others have to do with this dtype: see above.
inline bool in_float64(bool is_double) { return is_double || (kMultiIsa && cpu_level() == 0); }

}  // namespace torchloss

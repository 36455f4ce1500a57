#pragma once
// One body, three instruction sets, chosen once at load by what the processor has.
// TORCHLOSS_CPU=default|avx2|avx512 lowers the choice, so that each can be tested on one machine.
#include <cstdlib>
#include <cstring>

namespace torchloss {

// Three copies of every loop take long to compile: where speed does not count (-DTORCHLOSS_ONE_ISA: see .ci/run and
// tools/asan.sh) there is the narrowest alone.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(TORCHLOSS_ONE_ISA)
#define TORCHLOSS_MULTI_ISA

inline int cpu_level() {
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
}

// Body::run<bytes>(args...) with vectors of as many bytes as the instruction set has, all of it inlined.
template <class Body>
struct MultiIsa {
  template <class... A>
  __attribute__((target("arch=x86-64-v4,prefer-vector-width=512"), flatten)) static void v4(A... a) {
    Body::template run<64>(a...);
  }
  template <class... A>
  __attribute__((target("arch=x86-64-v3"), flatten)) static void v3(A... a) {
    Body::template run<32>(a...);
  }
  template <class... A>
  __attribute__((flatten)) static void v1(A... a) {
    Body::template run<16>(a...);
  }
  template <class... A>
  static void run(A... a) {
    switch (cpu_level()) {
      case 2:
        return v4(a...);
      case 1:
        return v3(a...);
      default:
        return v1(a...);
    }
  }
};

#else

template <class Body>
struct MultiIsa {
  template <class... A>
  static void run(A... a) {
    Body::template run<16>(a...);
  }
};

#endif

}  // namespace torchloss

// How far the vectors' functions (cpu/lanes.h, math.h) are from the truth, which the next wider type gives.
//
//   test_math [--all]
//
// Takes every 1021st float, or with --all each of the 2^32; doubles by chance, from all magnitudes and from where the
// functions bend. Prints the largest error of each, in units in the last place, and fails if one is above its bound.
// TORCHLOSS_CPU chooses the instruction set, as in the library.
#include <bit>
#include <cstdio>
#include <cstring>
#include <random>
#include <thread>
#include <type_traits>
#include <vector>

#include "cpu/half.h"
#include "cpu/isa.h"

namespace torchloss {
namespace {

// Where the result must be exact, besides: at 0, infinity and NaN, and at the subnormals.
enum Exact { Nowhere, Specials, SpecialsAndSubnormals };

// A function: over vectors, and in the wider type; and how many ulps it may be off.
template <class Of, class Truth>
struct Function {
  const char* name;
  double bound;
  Exact exact;
  Of of;
  Truth truth;
  double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();  // its domain
};

template <class T>
using Wider = std::conditional_t<sizeof(T) == 4, double, long double>;

template <class Of, class T>
struct Apply {
  template <int bytes>
  HD static void run(const T* x, T* y, int64_t n) {
    using V = Lanes<T, bytes>;
    for (int64_t i = 0; i < n; i += V::size) Of{}(V::load(x + i)).store(y + i);
  }
};

// The distance of y from the truth, in units of the last place that the truth has as a T.
template <class T, class W>
double ulps(T y, W exact) {
  using Int = typename IntOf<T>::type;
  using Limits = std::numeric_limits<T>;
  constexpr double wrong = std::numeric_limits<double>::infinity();
  const T nearest = static_cast<T>(exact);
  if (exact != exact) return y != y ? 0 : wrong;
  if (y == nearest && std::signbit(y) == std::signbit(nearest)) {
    if (std::isinf(y)) return 0;
  } else if (y != y || exact == 0 || std::isinf(exact)) {
    return wrong;
  }
  const T magnitude = std::min(std::abs(nearest), Limits::max());
  const T below = std::bit_cast<T>(static_cast<Int>(std::bit_cast<Int>(magnitude) - 1));
  const T above = std::bit_cast<T>(static_cast<Int>(std::bit_cast<Int>(magnitude) + 1));
  const W unit = magnitude == Limits::max() ? W(magnitude) - W(below) : W(above) - W(magnitude);
  const W finite = std::isinf(y) ? std::copysign(W(Limits::max()) + unit, W(y)) : W(y);
  return static_cast<double>(std::abs(finite - exact) / unit);
}

template <class T>
struct Worst {
  double error = 0;
  T at = 0;
  void see(double e, T x) {
    if (e > error) error = e, at = x;
  }
};

template <class T, class Of, class Truth>
void measure(const Function<Of, Truth>& f, const T* x, int n, Worst<T>& worst) {
  alignas(64) T y[1024];
  MultiIsa<Apply<Of, T>>::run(x, y, int64_t(n));
  for (int i = 0; i < n; ++i)
    if (!(x[i] < f.low || x[i] > f.high)) worst.see(ulps(y[i], f.truth(Wider<T>(x[i]))), x[i]);
}

// Inputs 0 to count, a thousand at a time, over all the processor's threads.
template <class T, class F, class Input>
Worst<T> sweep(const F& f, uint64_t count, Input input) {
  const unsigned threads = std::max(1u, std::thread::hardware_concurrency());
  std::vector<Worst<T>> worsts(threads);
  std::vector<std::thread> workers;
  for (unsigned t = 0; t < threads; ++t)
    workers.emplace_back([=, &f, &worsts] {
      alignas(64) T x[1024];
      auto make = input(t);
      for (uint64_t i = t * 1024ull; i < count; i += threads * 1024ull) {
        for (int j = 0; j < 1024; ++j) x[j] = make(i + j);
        measure(f, x, 1024, worsts[t]);
      }
    });
  for (auto& w : workers) w.join();
  for (const auto& w : worsts) worsts[0].see(w.error, w.at);
  return worsts[0];
}

auto some_double(unsigned thread) {
  return [random = std::mt19937_64(thread)](uint64_t i) mutable {
    const uint64_t bits = random();
    const double unit = 2 * static_cast<double>(bits >> 11) * 0x1p-53 - 1;  // in [-1, 1)
    switch (i % 5) {
      case 0:
        return std::bit_cast<double>(bits);
      case 1:
        return 750 * unit;
      case 2:
        return unit;
      case 3:
        return 1 + unit * std::ldexp(1.0, -static_cast<int>(i % 50));
      default:
        return unit * std::ldexp(1.0, -static_cast<int>(i % 60));
    }
  };
}

template <class T, class F>
bool report(const F& f, const Worst<T>& worst) {
  const bool good = worst.error <= f.bound;
  std::printf("%-6s %-10s %.4f ulp at %a, bound %g%s\n", sizeof(T) == 4 ? "float" : "double", f.name, worst.error,
              static_cast<double>(worst.at), f.bound, good ? "" : "  FAILED");
  return good;
}

// What a formula may rely on to the bit: zeros and their signs, infinities, NaN; and what subnormals round to.
template <class T, class Of, class Truth>
bool specials(const Function<Of, Truth>& f) {
  using Limits = std::numeric_limits<T>;
  const T inf = Limits::infinity(), nan = Limits::quiet_NaN(), tiny = Limits::denorm_min(), small = Limits::min();
  const T marked =
      std::bit_cast<T>(static_cast<typename IntOf<T>::type>(std::bit_cast<typename IntOf<T>::type>(nan) | 0x1ff));
  alignas(64) const T x[16] = {0,       -T(0), inf,   -inf,     nan,          -nan,        marked,
                               -marked, tiny,  -tiny, 3 * tiny, small - tiny, tiny - small};
  alignas(64) T y[16];
  MultiIsa<Apply<Of, T>>::run(x, y, int64_t{16});
  bool good = true;
  for (int i = 0; i < 13; ++i) {
    if (f.exact < (i < 8 ? Specials : SpecialsAndSubnormals) || x[i] < f.low || x[i] > f.high) continue;
    const T exact = static_cast<T>(f.truth(Wider<T>(x[i])));
    if (exact != exact ? y[i] != y[i] : exact == y[i] && std::signbit(exact) == std::signbit(y[i])) continue;
    std::printf("%s(%a) = %a, not %a  FAILED\n", f.name, double(x[i]), double(y[i]), double(exact)), good = false;
  }
  return good;
}

template <class F>
bool test(bool all, const F& f) {
  const uint64_t step = all ? 1 : 1021;
  const auto floats = sweep<float>(f, (uint64_t{1} << 32) / step, [step](unsigned) {
    return [step](uint64_t i) { return std::bit_cast<float>(static_cast<uint32_t>(i * step)); };
  });
  const auto doubles = sweep<double>(f, uint64_t{1} << (all ? 26 : 19), some_double);
  bool good = report(f, floats);
  good &= report(f, doubles);
  good &= specials<float>(f);
  good &= specials<double>(f);
  return good;
}

// Inlined for certain: two that are equal gcc 12 merges into one, which it calls with vectors where no register has
// them.
#define OF(f) [](auto x) __attribute__((always_inline)) { return f(x); }

bool test_all(bool all) {
  bool good = true;
  const auto go = [&](const auto&... f) { ((good &= test(all, f)), ...); };
  go(Function{"exp", 1.1, SpecialsAndSubnormals, OF(exp), [](auto x) { return std::exp(x); }},
     Function{"log", 0.9, Specials, OF(log), [](auto x) { return std::log(x); }},
     Function{"expm1", 2, Specials, OF(expm1), [](auto x) { return std::expm1(x); }},
     Function{"log1p", 0.9, SpecialsAndSubnormals, OF(log1p), [](auto x) { return std::log1p(x); }},
     Function{"exp_excess", 2.6, Nowhere, OF(exp_excess),
              [](auto x) {
                auto sum = 0 * x;
                for (int k = 28; k >= 2; --k) sum = (sum + 1) * x / k;
                return sum * x;
              },
              -1, 1},
     Function{"log1p_to_2", 1.5, SpecialsAndSubnormals, OF(log1p_to_2), [](auto x) { return std::log1p(x); }, 0.0, 1.0},
     Function{"exp_nonpositive", 1.25, SpecialsAndSubnormals, OF(exp_nonpositive), [](auto x) { return std::exp(x); },
              -std::numeric_limits<double>::infinity(), 0});
  return good;
}

// 16-bit numbers against the compiler's own: each of them widened, and floats of all kinds rounded.
template <Half format>
struct Rounding {
  template <int bytes>
  HD static void run(const uint16_t* h, float* wide, const float* x, uint16_t* rounded, int n) {
    using V = Lanes<float, bytes>;
    for (int i = 0; i < n; i += V::size) {
      Halves<format, V>::load(h + i).store(wide + i);
      Halves<format, V>::store(V::load(x + i), rounded + i);
    }
  }
};

uint16_t bfloat16_of(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x), low = u & 0xffff, high = u >> 16;
  if (x != x) return 0x7fc0;
  return static_cast<uint16_t>(low > 0x8000 || (low == 0x8000 && high % 2) ? high + 1 : high);
}

template <Half format>
bool halves(bool all) {
  constexpr int n = 1024;
  alignas(64) uint16_t h[n], rounded[n];
  alignas(64) float wide[n], x[n];
  const uint64_t step = all ? 1 : 1021;
  int wrong = 0;
  for (uint64_t first = 0; first < (uint64_t{1} << 32); first += n * step) {
    for (int i = 0; i < n; ++i) {
      h[i] = static_cast<uint16_t>(first / step + i);
      x[i] = std::bit_cast<float>(static_cast<uint32_t>(first + i * step));
      if (i % 4 == 1) x[i] = std::bit_cast<float>(std::bit_cast<uint32_t>(x[i]) & 0xfffff000);  // ties
    }
    MultiIsa<Rounding<format>>::run(static_cast<const uint16_t*>(h), static_cast<float*>(wide),
                                    static_cast<const float*>(x), static_cast<uint16_t*>(rounded), n);
    for (int i = 0; i < n; ++i) {
      float exact = std::bit_cast<float>(static_cast<uint32_t>(h[i]) << 16);
      uint16_t nearest = bfloat16_of(x[i]);
      if constexpr (format == Half::float16) {
        exact = static_cast<float>(std::bit_cast<_Float16>(h[i]));
        nearest = std::bit_cast<uint16_t>(static_cast<_Float16>(x[i]));
      }
      const bool nan = x[i] != x[i], still = (rounded[i] & 0x7fff) > (format == Half::float16 ? 0x7c00 : 0x7f80);
      wrong += exact != exact ? wide[i] == wide[i] : std::bit_cast<uint32_t>(wide[i]) != std::bit_cast<uint32_t>(exact);
      wrong += nan ? !still : rounded[i] != nearest;
    }
  }
  std::printf("%s: %d wrong%s\n", format == Half::float16 ? "float16" : "bfloat16", wrong, wrong ? "  FAILED" : "");
  return wrong == 0;
}

}  // namespace
}  // namespace torchloss

int main(int argc, char** argv) {
#if defined(__x86_64__) && defined(__GNUC__)
  std::printf("level %d\n", torchloss::cpu_level());
#endif
  using namespace torchloss;
  const bool all = argc > 1 && !std::strcmp(argv[1], "--all");
  bool good = halves<Half::bfloat16>(all);
  good &= halves<Half::float16>(all);
  return test_all(all) && good ? 0 : 1;
}

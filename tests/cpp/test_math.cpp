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

#include "cpu/isa.h"
#include "cpu/lanes.h"

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
  bool small_only = false;  // defined for |x| <= 1
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
    if (!f.small_only || std::abs(x[i]) <= T(1)) worst.see(ulps(y[i], f.truth(Wider<T>(x[i]))), x[i]);
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
  alignas(64) const T x[16] = {0, -T(0), inf, -inf, nan, -nan, 0, 0, tiny, -tiny, 3 * tiny, small - tiny, tiny - small};
  alignas(64) T y[16];
  MultiIsa<Apply<Of, T>>::run(x, y, int64_t{16});
  bool good = true;
  for (int i = 0; i < 13; ++i) {
    if (f.exact < (i < 8 ? Specials : SpecialsAndSubnormals)) continue;
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

bool test_all(bool all) {
  bool good = true;
  const auto go = [&](const auto&... f) { ((good &= test(all, f)), ...); };
  go(Function{"exp", 1.1, SpecialsAndSubnormals, [](auto x) { return exp(x); }, [](auto x) { return std::exp(x); }},
     Function{"log", 0.9, Specials, [](auto x) { return log(x); }, [](auto x) { return std::log(x); }},
     Function{"expm1", 2, Specials, [](auto x) { return expm1(x); }, [](auto x) { return std::expm1(x); }},
     Function{"log1p", 0.9, SpecialsAndSubnormals, [](auto x) { return log1p(x); },
              [](auto x) { return std::log1p(x); }},
     Function{"exp_excess", 2.6, Nowhere, [](auto x) { return exp_excess(x); },
              [](auto x) {
                auto sum = 0 * x;
                for (int k = 28; k >= 2; --k) sum = (sum + 1) * x / k;
                return sum * x;
              },
              true});
  return good;
}

}  // namespace
}  // namespace torchloss

int main(int argc, char** argv) {
#if defined(__x86_64__) && defined(__GNUC__)
  std::printf("level %d\n", torchloss::cpu_level());
#endif
  return torchloss::test_all(argc > 1 && !std::strcmp(argv[1], "--all")) ? 0 : 1;
}

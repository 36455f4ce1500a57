// What is known of two parts of a row joins into what is known of both (row.h): whatever the parts, whatever the order.
//
// Random rows, cut at random, empty parts included, are joined in the order of a random tree and compared with the
// formula, summed class by class in long double. Every lane of a vector is a row of its own. TORCHLOSS_CPU chooses the
// instruction set, as in the library.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <random>
#include <type_traits>

#include "cpu/isa.h"
#include "cpu/lanes.h"
#include "losses/cross_entropy.h"
#include "losses/entropy.h"

namespace torchloss {
namespace {

constexpr int kClasses = 40, kParts = 12, kLanes = 16;

// As many rows as a vector may have lanes, how to cut and join them, and what came of it.
template <class T>
struct Problem {
  int classes, parts, cut[kParts + 1], join[kParts][2];
  double smoothing, scale;
  alignas(64) T in[3][kClasses][kLanes];  // x, w, q
  alignas(64) T x_y[kLanes], w_y[kLanes], value[kLanes], saved[4][kLanes];
  int y[kLanes];
};

template <class V>
constexpr bool scalar = std::is_floating_point_v<V>;

template <class V>
HD V load(const Scalar<V>* p) {
  if constexpr (scalar<V>)
    return *p;
  else
    return V::load(p);
}

template <class V>
HD void store(V v, Scalar<V>* p) {
  if constexpr (scalar<V>)
    *p = v;
  else
    v.store(p);
}

template <template <class> class K>
struct Joined {
  template <class V>
  HD static void run_over(Problem<Scalar<V>>* problem) {
    using Loss = K<V>;
    auto& a = *problem;
    Loss loss;
    loss.params.scale = a.scale, loss.params.z = 0;
    if constexpr (requires { loss.params.smoothing; })
      loss.params.smoothing = a.smoothing, loss.params.uniform = a.smoothing / a.classes;
    loss.row.x_y = load<V>(a.x_y), loss.row.weight = load<V>(a.w_y);
    RowState<V, Loss::accumulators> part[kParts];
    for (int p = 0; p < a.parts; ++p) {
      V max = SoftmaxState<V>::lowest();
      for (int j = a.cut[p]; j < a.cut[p + 1]; ++j) max = larger(load<V>(a.in[0][j]), max);
      rescale(loss, part[p], max);
      for (int j = a.cut[p]; j < a.cut[p + 1]; ++j) {
        V in[Loss::in];
        for (int s = 0; s < Loss::in; ++s) in[s] = load<V>(a.in[s][j]);
        accumulate(part[p], loss, reference(max), in[0], in);
      }
    }
    for (int k = 0; k + 1 < a.parts; ++k) part[a.join[k][0]] = join(loss, part[a.join[k][0]], part[a.join[k][1]]);
    const auto& whole = part[a.parts > 1 ? a.join[a.parts - 2][0] : 0];
    loss.with_softmax(&whole.softmax, whole.sums);
    V value, saved[4];
    loss.value(&value);
    store(value, a.value);
    loss.save(saved);
    for (int k = 0; k < Loss::saved_out; ++k) store(saved[k], a.saved[k]);
  }
};

template <template <class> class K, class T>
struct Vector {
  template <int bytes>
  HD static void run(Problem<T>* a) {
    Joined<K>::template run_over<Lanes<T, bytes>>(a);
  }
};

// The vectors of each instruction set, narrow ones too, in either type.
template <class Body, class A>
int run_on_this_level(A a) {
  if (cpu_level() == 2) return MultiIsa<Body>::avx512(a), 64;
  if (cpu_level() == 1) return Avx2<Body>::run(a), 32;
  return Baseline<Body>::run(a), 16;
}
int vector_bytes() { return 16 << cpu_level(); }

using Real = long double;
enum Kind { Index, Smooth, Probs, Entropies };

// sum_j a_j l_j with l_j = -log p_j, the a_j of each loss, and what its backward pass needs.
template <class T>
struct Truth {
  Real value, saved[4];

  Truth(const Problem<T>& a, Kind kind, int lane) {
    Real max = -infinity<Real>(), others = 0, mass = 0, leader = 0, sum = 0, mean = 0;
    int leaders = 0;
    const auto in = [&](int s, int j) { return Real(a.in[s][j][lane]); };
    for (int j = 0; j < a.classes; ++j) max = in(0, j) > max ? in(0, j) : max;
    for (int j = 0; j < a.classes; ++j) in(0, j) == max ? ++leaders : others += std::exp(a.scale * (in(0, j) - max));
    const Real rest = others + (leaders - 1) + (max - max);
    const Real uniform = Real(a.smoothing) / a.classes, sharp = 1 - Real(a.smoothing);
    for (int j = 0; j < a.classes; ++j) {
      const bool is_y = j == a.y[lane];
      const Real l = a.scale * (max - in(0, j)) + std::log1p(rest),
                 p = std::exp(a.scale * (in(0, j) - max)) / (1 + rest), w = in(1, j);
      if (kind == Index && !is_y) continue;
      if (kind == Entropies && p == 0) continue;
      const Real a_j = kind == Index    ? w
                       : kind == Smooth ? (is_y ? sharp * w : 0) + uniform * w
                       : kind == Probs  ? w * (sharp * in(2, j) + uniform)
                                        : p;
      sum += a_j * l;
      if (kind == Entropies) mean += p * a.scale * (in(0, j) - max);
      mass += kind == Smooth ? w : a_j;
      if (in(0, j) == max) leader += a_j;
    }
    value = sum;
    saved[0] = max, saved[1] = rest, saved[3] = leader;
    saved[2] = kind == Smooth ? mass : kind == Probs ? mass - leader : kind == Index ? 0 : mean;
  }
};

template <class T>
bool near(T ours, Real exact, Real tolerance) {
  if (exact != exact) return ours != ours;
  return ours == static_cast<T>(exact) || std::abs(Real(ours) - exact) <= tolerance * std::abs(exact);
}

template <class T>
struct Random {
  std::mt19937_64 bits{1};
  int below(int n) { return static_cast<int>(bits() % n); }
  Real unit() { return static_cast<Real>(bits() >> 11) * 0x1p-53L; }

  // A row's logits spread over at most 80, so that e^(x_j - m) is a normal number; some rows hold special ones.
  void row(Problem<T>& a, int lane) {
    constexpr Real spreads[] = {0, 1, 10, 80}, inf = std::numeric_limits<Real>::infinity();
    constexpr Real specials[] = {-inf, -inf, -inf, 0, -1e30L, 1e30L, inf, std::numeric_limits<Real>::quiet_NaN()};
    const Real spread = spreads[below(4)], offset = below(4) ? 0 : 1e6L;
    const int special = below(3) ? 0 : 1 + below(8), how_many = below(2) ? 4 : 1;  // of 4
    for (int j = 0; j < a.classes; ++j) {
      const bool here = special && below(4) < how_many;
      a.in[0][j][lane] = T(here ? specials[special - 1] : offset + spread * (unit() - 0.5L));
      a.in[1][j][lane] = T(below(8) ? 0.1L + unit() : 0);
      a.in[2][j][lane] = T(below(8) ? 0.1L + unit() : 0);
    }
    for (int ties = below(4); ties > 0; --ties) {  // of the maximum
      T max = a.in[0][0][lane];
      for (int j = 1; j < a.classes; ++j) max = std::max(max, a.in[0][j][lane]);
      a.in[0][below(a.classes)][lane] = max;
    }
    a.y[lane] = below(a.classes);
    a.x_y[lane] = a.in[0][a.y[lane]][lane], a.w_y[lane] = a.in[1][a.y[lane]][lane];
  }

  void problem(Problem<T>& a) {
    a.classes = 1 + below(kClasses), a.parts = 1 + below(kParts);
    a.smoothing = 0.3, a.scale = below(2) ? 1 : 0.75;
    a.cut[0] = 0, a.cut[a.parts] = a.classes;
    for (int p = 1; p < a.parts; ++p) a.cut[p] = below(a.classes + 1);
    std::sort(a.cut, a.cut + a.parts + 1);
    int alive[kParts];
    for (int p = 0; p < a.parts; ++p) alive[p] = p;
    for (int k = 0, n = a.parts; n > 1; ++k, --n) {
      std::swap(alive[below(n)], alive[n - 1]);
      a.join[k][0] = alive[below(n - 1)], a.join[k][1] = alive[n - 1];
    }
    for (int lane = 0; lane < kLanes; ++lane) row(a, lane);
  }
};

template <class T, class Run>
int test(const char* name, Kind kind, int saved, int lanes, int trials, Run run) {
  static Problem<T> a;
  Random<T> random;
  int failures = 0;
  for (int trial = 0; trial < trials; ++trial) {
    random.problem(a);
    run(&a);
    // exp(d) inherits d's rounding, eps |d| over a row's joins; a join rounds thrice, a sum once for each class.
    const Real tolerance = std::numeric_limits<T>::epsilon() * Real(80 + 4 * a.parts + a.classes + 16);
    for (int lane = 0; lane < lanes; ++lane) {
      const Truth<T> truth(a, kind, lane);
      bool good = near(a.value[lane], truth.value, tolerance);
      for (int k = 0; k < saved && truth.value == truth.value; ++k)
        good &= near(a.saved[k][lane], truth.saved[k], k ? tolerance : 0);
      if (!good && failures++ < 3)
        std::printf("%s, %d lanes, %d bytes, trial %d: %d classes in %d parts give %.9Lg, not %.9Lg  FAILED\n", name,
                    lanes, int(sizeof(T)), trial, a.classes, a.parts, Real(a.value[lane]), truth.value);
    }
  }
  return failures;
}

template <template <class> class K, class T>
int test_type(const char* name, Kind kind) {
  const int saved = K<T>::saved_out;
  return test<T>(name, kind, saved, 1, 8000, [](Problem<T>* a) { Joined<K>::template run_over<T>(a); }) +
         test<T>(name, kind, saved, vector_bytes() / int(sizeof(T)), 2000,
                 [](Problem<T>* a) { run_on_this_level<Vector<K, T>>(a); });
}

template <template <class> class K>
int test_loss(const char* name, Kind kind) {
  const int failures = test_type<K, float>(name, kind) + test_type<K, double>(name, kind);
  std::printf("%-24s %d failures\n", name, failures);
  return failures;
}

}  // namespace
}  // namespace torchloss

int main() {
  using namespace torchloss;
  std::printf("vectors of %d bytes\n", vector_bytes());
  const int failures = test_loss<CrossEntropyOfIndex<false, CrossEntropyParams>::Forward>("cross_entropy", Index) +
                       test_loss<CrossEntropy::Forward>("cross_entropy, smoothed", Smooth) +
                       test_loss<CrossEntropyProbs::Forward>("cross_entropy_probs", Probs) +
                       test_loss<SoftmaxEntropy::Forward>("softmax_entropy", Entropies);
  return failures ? 1 : 0;
}

#pragma once
// A vector of numbers that the formulas may be written over, and the functions of math.h for it.
//
// Lanes<T, bytes> wraps the compiler's vector extension, so the same source becomes AVX-512, AVX2 or SSE2 code by the
// target of the function that it is inlined into (isa.h). No function here has a branch; only exp_by_table has a table.
// The ulps in the comments were measured of every float, and of samples of the doubles: tests/cpp/test_math.cpp.
#include <cstdint>
#include <cstring>
#include <iterator>

#include "../math.h"

namespace torchloss {

// So many vectors are added plainly before a compensated addition.
constexpr int kVectorsPerSum = 8;

template <class T>
struct IntOf;
template <>
struct IntOf<float> {
  using type = int32_t;
};
template <>
struct IntOf<double> {
  using type = int64_t;
};

template <class T, int bytes>
struct Lanes {
  typedef T V __attribute__((vector_size(bytes)));
  typedef typename IntOf<T>::type I __attribute__((vector_size(bytes)));
  static constexpr int size = bytes / sizeof(T);

  struct Mask {
    I i;
    friend HD Mask operator&(Mask a, Mask b) { return {a.i & b.i}; }
    friend HD Mask operator|(Mask a, Mask b) { return {a.i | b.i}; }
    friend HD Mask operator~(Mask a) { return {~a.i}; }
    static HD Mask load(const typename IntOf<T>::type* p) {
      Mask m;
      std::memcpy(&m.i, p, bytes);
      return m;
    }
    static HD Mask of(bool b) { return {I{} - (b ? 1 : 0)}; }
    static HD Mask first(int64_t n) {  // the first n lanes
      I index;
      for (int l = 0; l < size; ++l) index[l] = l;
      return {index < static_cast<typename IntOf<T>::type>(n)};
    }
    HD bool all() const {  // the lanes are 0 or -1
#ifdef __x86_64__
      if constexpr (bytes >= 32 && sizeof(T) == 4) {
        int signs;
        if constexpr (bytes == 64)
          asm("vpmovd2m %1, %%k1; kmovd %%k1, %0" : "=r"(signs) : "v"(i) : "k1");
        else
          asm("vmovmskps %1, %0" : "=r"(signs) : "x"(i));
        return signs == (1 << size) - 1;
      }
#endif
      int64_t word[bytes / 8], all = -1;
      std::memcpy(word, &i, bytes);
      for (int64_t w : word) all &= w;
      return all == -1;
    }
  };

  V v;
  HD Lanes() : v{} {}  // 0, as a float{} is
  HD Lanes(V v) : v(v) {}
  HD Lanes(float s) : Lanes(all(static_cast<T>(s))) {}
  HD Lanes(double s) : Lanes(all(static_cast<T>(s))) {}
  HD Lanes(int s) : Lanes(all(static_cast<T>(s))) {}
  // By way of memory, which the compiler sees through: s - V{} it would put together lane by lane (gcc 12).
  HD static Lanes all(T s) {
    alignas(bytes) T a[size];
    for (int l = 0; l < size; ++l) a[l] = s;
    return load(a);
  }
  HD T operator[](int lane) const { return v[lane]; }

  HD static Lanes load(const T* p) {
    Lanes a;
    std::memcpy(&a.v, p, bytes);
    return a;
  }
  HD void store(T* p) const { std::memcpy(p, &v, bytes); }

  friend HD Lanes operator+(Lanes a, Lanes b) { return a.v + b.v; }
  friend HD Lanes operator-(Lanes a, Lanes b) { return a.v - b.v; }
  friend HD Lanes operator*(Lanes a, Lanes b) { return a.v * b.v; }
  friend HD Lanes operator/(Lanes a, Lanes b) { return a.v / b.v; }
  friend HD Mask operator<(Lanes a, Lanes b) { return {a.v < b.v}; }
  friend HD Mask operator<=(Lanes a, Lanes b) { return {a.v <= b.v}; }
  friend HD Mask operator>(Lanes a, Lanes b) { return {a.v > b.v}; }
  friend HD Mask operator>=(Lanes a, Lanes b) { return {a.v >= b.v}; }
  friend HD Mask operator==(Lanes a, Lanes b) { return {a.v == b.v}; }

  // 0 where the mask is not set. For a mask held in a variable: gcc 12 does a select by it lane by lane.
  friend HD Lanes only(Mask m, Lanes x) { return (V)((I)x.v & m.i); }
  friend HD Lanes select(Mask m, Lanes yes, Lanes no) { return m.i ? yes.v : no.v; }
  // As in math.h, by the one instruction that does just this, which gcc 12 does not find.
  friend HD Lanes larger(Lanes x, Lanes running) {
#ifdef __x86_64__
    if constexpr (bytes >= 32) {
      V v;
      if constexpr (sizeof(T) == 4)
        asm("vmaxps %2, %1, %0" : "=v"(v) : "v"(x.v), "v"(running.v));
      else
        asm("vmaxpd %2, %1, %0" : "=v"(v) : "v"(x.v), "v"(running.v));
      return v;
    }
#endif
    return select(x > running, x, running);
  }
  static HD I sign_bit() { return (I)(-0.0 - V{}); }
  friend HD Lanes abs(Lanes x) { return (V)((I)x.v & ~sign_bit()); }
  friend HD Lanes minus_abs(Lanes x) { return (V)((I)x.v | sign_bit()); }
  // x, which is not negative, with another number's sign.
  friend HD Lanes with_sign(Lanes x, Lanes of) { return (V)((I)x.v | ((I)of.v & sign_bit())); }

  // Reductions over all lanes, by halves: in the same order for every row.
  HD T max() const {
    if constexpr (bytes > 16) {
      const Lanes<T, bytes / 2> a = half(0), b = half(1);
      return larger(a, b).max();
    } else {
      T m = v[0];
      for (int l = 1; l < size; ++l) m = v[l] > m ? v[l] : m;
      return m;
    }
  }
  HD T sum() const {
    if constexpr (bytes > 16)
      return (half(0) + half(1)).sum();
    else if constexpr (size == 4)
      return (v[0] + v[2]) + (v[1] + v[3]);
    else
      return v[0] + v[1];
  }
  HD Lanes<T, bytes / 2> half(int which) const {
    T a[size];
    store(a);
    return Lanes<T, bytes / 2>::load(a + which * size / 2);
  }
};

template <class T, int bytes>
struct ScalarOf<Lanes<T, bytes>> {
  using type = T;
};

// What exp and log need to know of a floating-point format. Coefficients by tools/minimax.py.
template <class T>
struct Format;

template <>
struct Format<float> {
  static constexpr int mantissa = 23, bias = 127;
  static constexpr float round = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
  static constexpr float log2_e = 1.44269504f;
  static constexpr float exp_low = -104.f, exp_high = 89.f;
  static constexpr float ln2_high = 0.693145751953125f, ln2_low = 1.42860682030941723e-6f;
  static constexpr float exp[] = {1.392625083e-3f, 8.363232884e-3f, 4.166655421e-2f, 1.666657666e-1f, 0.5f};
  static constexpr float log[] = {2.333161447e-1f, 2.855077863e-1f, 4.000012221e-1f, 6.666666656e-1f};
  static constexpr float log_to_2[] = {2.323025561e-1f, 2.170542707e-1f, 2.859242607e-1f, 3.999970508e-1f,
                                       6.666666732e-1f};
  static constexpr int32_t sqrt_half = 0x3f3504f3;
};

template <>
struct Format<double> {
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr double round = 6755399441055744.;  // 1.5 * 2^52
  static constexpr double log2_e = 1.4426950408889634;
  static constexpr double exp_low = -746., exp_high = 710.;
  static constexpr double ln2_high = 0.6931471805596629565, ln2_low = 2.8235290563031577e-13;
  static constexpr double exp[] = {2.091475532589320219e-9,
                                   2.510531272962210178e-8,
                                   2.755727347871858047e-7,
                                   2.755725517000088744e-6,
                                   2.48015873256774619e-5,
                                   1.984126987500227879e-4,
                                   1.388888888888371117e-3,
                                   8.33333333332608312e-3,
                                   4.166666666666666978e-2,
                                   1.666666666666667103e-1,
                                   0.5};
  static constexpr double log[] = {1.461780715341732e-1,   1.53316117220550079e-1,  1.81828924325368712e-1,
                                   2.222221108937949e-1,   2.857142862625383761e-1, 3.999999999989889051e-1,
                                   6.666666666666669708e-1};
  static constexpr int64_t sqrt_half = 0x3fe6a09e667f3bcd;
};

// The polynomial with the coefficients c, highest power first. Each is made a constant of its own: from an array in a
// loop the compiler would put the lanes together one by one.
template <const auto& c, size_t i = std::size(c) - 1, class V>
HD V horner(V x) {
  constexpr auto last = c[i];
  if constexpr (i == 0)
    return V(last);
  else
    return horner<c, i - 1>(x) * x + V(last);
}

// 2^n for a normal result.
template <class T, int bytes>
HD Lanes<T, bytes> power_of_two(typename Lanes<T, bytes>::I n) {
  return (typename Lanes<T, bytes>::V)((n + Format<T>::bias) << Format<T>::mantissa);
}

// x = n ln 2 + r with |r| <= ln 2 / 2: n, and e^r - 1.
template <class T, int bytes>
struct Reduced {
  using L = Lanes<T, bytes>;
  using F = Format<T>;
  typename L::I n;
  L expm1_r;

  HD explicit Reduced(L x) {
    const L shifted = x * L(F::log2_e) + L(F::round), k = shifted - L(F::round);
    n = (typename L::I)shifted.v - (typename L::I)L(F::round).v;
    const L r = (x - k * L(F::ln2_high)) - k * L(F::ln2_low);
    expm1_r = r + r * r * horner<F::exp>(r);
  }
};

// e^x, to 1.1 ulp, down to the smallest subnormal: 2^n is applied in two halves.
template <class T, int bytes>
HD Lanes<T, bytes> exp(Lanes<T, bytes> x) {
  using F = Format<T>;
  const Reduced<T, bytes> d(clamp(x, Lanes<T, bytes>(F::exp_low), Lanes<T, bytes>(F::exp_high)));
  const auto half = d.n >> 1;
  return (Lanes<T, bytes>(1) + d.expm1_r) * power_of_two<T, bytes>(half) * power_of_two<T, bytes>(d.n - half);
}

#ifdef __x86_64__
// As below, to 1.1 ulp, with what AVX-512 has for it. x = (n + j/16) ln 2 + r with |r| <= ln 2 / 32, where a polynomial
// of a low degree is enough; 2^(j/16) comes from a table that fits in a register, and 2^n by scaling.
template <int bytes>
HD Lanes<float, bytes> exp_by_table(Lanes<float, bytes> x) {
  using L = Lanes<float, bytes>;
  using F = Format<float>;
  static constexpr float roots[] = {1.f,          1.044273782f, 1.090507733f, 1.138788635f, 1.189207115f, 1.241857812f,
                                    1.296839555f, 1.354255547f, 1.414213562f, 1.476826146f, 1.542210825f, 1.610490332f,
                                    1.681792831f, 1.75625216f,  1.834008086f, 1.915206561f};
  constexpr float up = F::round / 16;
  x = larger(L(F::exp_low), x);
  const L shifted = x * L(F::log2_e) + L(up), k = shifted - L(up);  // n + j/16, with j in the low bits of `shifted`
  const L r = (x - k * L(F::ln2_high)) - k * L(F::ln2_low);
  const L root = __builtin_shuffle(L::load(roots).v, (typename L::I)shifted.v);
  const L y = root * (((L(1.f / 6) * r + L(0.5f)) * r + L(1)) * r) + root;
  typename L::V scaled;
  asm("vscalefps %2, %1, %0" : "=v"(scaled) : "v"(y.v), "v"(k.v));  // y 2^floor(k)
  return scaled;
}
#endif

// e^x for x <= 0 (up to 40 at least), to 1.25 ulp, down to the smallest subnormal: 2^n = 2^(n + 64) 2^-64 takes one
// shift, one sum and one product.
template <class T, int bytes>
HD Lanes<T, bytes> exp_nonpositive(Lanes<T, bytes> x) {
  using L = Lanes<T, bytes>;
  using F = Format<T>;
#ifdef __x86_64__
  if constexpr (sizeof(T) == 4 && bytes == 64) return exp_by_table<bytes>(x);
#endif
  constexpr T up = F::round + 64;
  x = select(L(F::exp_low) > x, L(F::exp_low), x);
  const L shifted = x * L(F::log2_e) + L(up), k = shifted - L(up);
  const L r = (x - k * L(F::ln2_high)) - k * L(F::ln2_low);
  const L y = (horner<F::exp>(r) * r + L(1)) * r + L(1);
  const auto scaled = (typename L::I)y.v + ((typename L::I)shifted.v << F::mantissa);
  return L((typename L::V)scaled) * L(T(0x1p-64)) + (x - x);  // a NaN, whatever its bits, stays one
}

// The softcap of a logit and its slope, as math.h has them, of one exponential and one division; over = 2 / cap.
template <class T, int bytes>
struct Softcapped {
  using L = Lanes<T, bytes>;
  L value, slope;

  HD Softcapped(L x, L cap, L over) {
    using F = Format<T>;
    constexpr T up = F::round + 64;
    const L d = larger(L(F::exp_low), minus_abs(x * over));
    const L shifted = d * L(F::log2_e) + L(up), k = shifted - L(up);
    const L r = (d - k * L(F::ln2_high)) - k * L(F::ln2_low);
    const L p = r * r * horner<F::exp>(r) + r;  // e^r - 1
    const auto bits = ((typename L::I)shifted.v << F::mantissa) + (typename L::I)L(1).v;
    const L power = L((typename L::V)bits) * L(T(0x1p-64));  // 2^n, as in exp_nonpositive
    const L e = power * p + power, minus_E = (L(1) - power) - power * p, over_s = L(1) / (L(1) + e);
    value = with_sign(cap * minus_E * over_s, x);
    slope = L(4) * e * (over_s * over_s);
  }
};

// e^x - 1, to 2 ulp, as 2^n (e^r - 1) + (2^n - 1), with 2^n = 2 2^(n-1) so that n may be as large as e^x allows.
template <class T, int bytes>
HD Lanes<T, bytes> expm1(Lanes<T, bytes> x) {
  using L = Lanes<T, bytes>;
  const Reduced<T, bytes> d(clamp(x, L(-40), L(Format<T>::exp_high)));
  const L half = power_of_two<T, bytes>(d.n - 1), y = half * d.expm1_r + (half - L(0.5));
  return select(x == L(0), x, y + y);
}

// log of u = 2^k (1 + f), sqrt(1/2) <= 1 + f < sqrt(2), plus a small c:
// log(1 + f) = f - f^2/2 + s (f^2/2 + R),  s = f / (2 + f),  R a polynomial in s^2.
template <class T, int bytes>
HD Lanes<T, bytes> log_of_normal(Lanes<T, bytes> u, Lanes<T, bytes> c, typename Lanes<T, bytes>::I k0) {
  using L = Lanes<T, bytes>;
  using F = Format<T>;
  const auto bits = (typename L::I)u.v, k_ = (bits - F::sqrt_half) >> F::mantissa;
  const L f = L((typename L::V)(bits - (k_ << F::mantissa))) - L(1);
  const L k = __builtin_convertvector(k_ + k0, typename L::V);
  const L s = f / (L(2) + f), z = s * s, R = z * horner<F::log>(z), h = L(0.5) * f * f;
  return k * L(F::ln2_high) - ((h - (s * (h + R) + (k * L(F::ln2_low) + c))) - f);
}

// log x, to 0.9 ulp, also of a subnormal.
template <class T, int bytes>
HD Lanes<T, bytes> log(Lanes<T, bytes> x) {
  using L = Lanes<T, bytes>;
  using F = Format<T>;
  constexpr int shift = F::mantissa + 2;
  const auto tiny = x < L(std::numeric_limits<T>::min());
  const L u = select(tiny, x * L(static_cast<T>(int64_t{1} << shift)), x);
  L y = log_of_normal<T, bytes>(u, L(0), tiny.i & -shift);
  y = select(x == L(0), L(0) - infinity<L>(), select(x < L(0), L(std::numeric_limits<T>::quiet_NaN()), y));
  return select(x < infinity<L>(), y, x);
}

// log(1 + x), to 0.9 ulp: the logarithm of the rounded u = 1 + x, corrected by what the rounding loses.
template <class T, int bytes>
HD Lanes<T, bytes> log1p(Lanes<T, bytes> x) {
  using L = Lanes<T, bytes>;
  const L u = L(1) + x, compensation = select(x > L(1), L(1) - (u - x), x - (u - L(1)));
  L y = log_of_normal<T, bytes>(u, compensation / u, typename L::I{});
  y = select(x == L(-1), L(0) - infinity<L>(), select(x < L(-1), L(std::numeric_limits<T>::quiet_NaN()), y));
  y = select(x == L(0), x + x, y);  // not x: an arm that two selects share gcc 12 takes lane by lane
  return select(x < infinity<L>(), y, x);
}

// log(1 + x) for 0 <= x <= 1, to 1.5 ulp: as above without a k, for 1 + x need not be reduced. s <= 1/3.
template <int bytes>
HD Lanes<float, bytes> log1p_to_2(Lanes<float, bytes> x) {
  using L = Lanes<float, bytes>;
  const L s = x / (L(2) + x), z = s * s, R = z * horner<Format<float>::log_to_2>(z), h = L(0.5f) * x * x;
  return x - (h - s * (h + R));
}

}  // namespace torchloss

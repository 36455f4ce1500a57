#pragma once
// Vectors of 16-bit numbers, widened to floats and rounded back (to nearest, ties to even; a NaN stays one).
#include "lanes.h"

namespace torchloss {

enum class Half { bfloat16, float16 };  // the upper half of a float; or 1 bit of sign, 5 of exponent, 10 of mantissa

// The element types are parameters, for gcc 12 takes a vector of bytes yet unknown for one element of a known type.
template <Half format, class V, class B = uint32_t, class N = uint16_t>
struct Halves {
  static constexpr int bytes = sizeof(V);
  typedef B Bits __attribute__((vector_size(bytes)));
  typedef N Narrow __attribute__((vector_size(bytes / 2)));

#ifdef __x86_64__
  static constexpr bool at_once = format == Half::float16 && bytes >= 32;  // has an instruction
#else
  static constexpr bool at_once = false;
#endif

  HD static V load(const void* p) {
    Narrow h;
    std::memcpy(&h, p, sizeof(h));
    if constexpr (at_once) {
      typename V::V x;
      asm("vcvtph2ps %1, %0" : "=v"(x) : "v"(h));
      return x;
    }
    const Bits u = __builtin_convertvector(h, Bits);
    return (typename V::V)(format == Half::float16 ? from_float16(u) : u << 16);
  }
  HD static void store(V x, void* p) {
    const Bits u = (Bits)x.v;
    if constexpr (at_once) {
      Narrow h;
      asm("vcvtps2ph $0, %1, %0" : "=v"(h) : "v"(x.v));  // 0: to nearest, ties to even
      std::memcpy(p, &h, sizeof(h));
      return;
    }
    const Narrow h = __builtin_convertvector(format == Half::float16 ? to_float16(u) : to_bfloat16(u), Narrow);
    std::memcpy(p, &h, sizeof(h));
  }

  HD static Bits to_bfloat16(Bits u) {
    const Bits rounded = (u + ((u & 0x10000) != 0 ? Bits{} + 0x8000 : Bits{} + 0x7fff)) >> 16;
    const typename V::V x = (typename V::V)u;
    return x == x ? rounded : Bits{} + 0x7fc0;
  }
  // By a product, which also normalizes a subnormal.
  HD static Bits from_float16(Bits u) {
    const Bits magnitude = (u & 0x7fff) << 13, infinite = magnitude >= 0x0f800000 ? Bits{} + 0x7f800000 : Bits{};
    return (Bits)((typename V::V)magnitude * V(0x1p112f).v) | infinite | (u & 0x8000) << 16;
  }
  // Above 2^-14 by adding half a unit; below by adding 1/2, whose last place is the subnormals' unit.
  HD static Bits to_float16(Bits u) {
    const Bits sign = u & 0x80000000, a = u ^ sign;
    const Bits normal = (a - (112u << 23) + 0xfff + ((a >> 13) & 1)) >> 13;
    const Bits subnormal = (Bits)((typename V::V)a + V(0.5f).v) - 0x3f000000;
    const Bits finite = a < 0x38800000 ? subnormal : normal;
    const Bits large = a > 0x7f800000 ? Bits{} + 0x7e00 : Bits{} + 0x7c00;
    return (a < 0x47800000 ? finite : large) | sign >> 16;
  }
};

}  // namespace torchloss

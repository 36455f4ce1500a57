#!/usr/bin/env python3
"""Prints the polynomials of csrc/math.h and csrc/cpu/lanes.h, and the error that each leaves in its function.

Needs mpmath. A Chebyshev interpolation in 50 digits stands in for the minimax polynomial: its error is at most a few
times larger, and far below a rounding here.
"""

import mpmath as mp

mp.mp.dps = 50


def exp_rest(r: mp.mpf) -> mp.mpf:
    """(e^r - 1 - r) / r^2."""
    return (mp.expm1(r) - r) / r**2 if abs(r) > mp.mpf(10) ** -12 else mp.mpf(1) / 2 + r / 6 + r * r / 24


def log_rest(z: mp.mpf) -> mp.mpf:
    """(2 atanh(s) / s - 2) / z for s = sqrt(z): log(1 + f) = 2 atanh(s), s = f / (2 + f)."""
    s = mp.sqrt(z)
    return (2 * mp.atanh(s) / s - 2) / z if z > mp.mpf(10) ** -20 else mp.mpf(2) / 3 + z * 2 / 5


def show(name: str, function, low, high, terms: int, weight) -> None:
    coefficients, error = mp.chebyfit(function, [low, high], terms, error=True)
    print(f"{name}: error {mp.nstr(error * weight, 2)}")
    for c in coefficients:  # highest power first, as Horner's scheme takes them
        print("   ", mp.nstr(c, 19))


def main() -> None:
    half_ln2 = mp.log(2) / 2 * mp.mpf("1.001")
    z = ((mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)) ** 2 * mp.mpf("1.001")
    for dtype, exp_terms, log_terms, excess_terms in (("float", 5, 4, 8), ("double", 11, 7, 14)):
        show(f"{dtype} exp, of r in |r| <= ln 2 / 2", exp_rest, -half_ln2, half_ln2, exp_terms, half_ln2**2)
        show(f"{dtype} log, of s^2", log_rest, mp.mpf(0), z, log_terms, z)
        show(f"{dtype} exp_excess, of d in |d| <= 1", exp_rest, mp.mpf(-1), mp.mpf(1), excess_terms, 1)
    show("float log1p up to log 2, of s^2", log_rest, mp.mpf(0), mp.mpf("1.001") / 9, 5, mp.mpf(1) / 9)
    for dtype, bits in (("float", 15), ("double", 41)):
        high = mp.floor(mp.log(2) * 2**bits) / 2**bits
        print(f"{dtype} ln 2 = {mp.nstr(high, 20)} + {mp.nstr(mp.log(2) - high, 18)}")


if __name__ == "__main__":
    main()

// exp, log, tanh and the like of vectors: float and double within 3 units in the last place. NaN,
// infinities and overflow come out as in libm; results below the normal range may be less accurate.
#pragma once

#include "vec.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

// What a vector's lanes are, and the integers as wide.
template <class V>
using LaneOf = decltype(V{}[0] + V{}[0]);
template <class V>
using IntegersOf = decltype(V{} < V{});
template <class V>
constexpr bool kIsDouble = sizeof(LaneOf<V>) == 8;

// c[0] + x * (c[1] + x * (c[2] + ...)).
template <class V>
INLINE V polynomial(V, LaneOf<V> c) {
  return V{} + c;
}
template <class V, class... Rest>
INLINE V polynomial(V x, LaneOf<V> c, Rest... rest) {
  return polynomial(x, static_cast<LaneOf<V>>(rest)...) * x + c;
}

template <class V>
INLINE V absolute(V x) {
  constexpr int kSign = sizeof(LaneOf<V>) * 8 - 1;
  using I = IntegersOf<V>;
  const I one = I{} + 1;
  return bit_copy<V>(bit_copy<I>(x) & ~(one << kSign));
}
template <class V>
INLINE V with_sign_of(V magnitude, V sign) {
  constexpr int kSign = sizeof(LaneOf<V>) * 8 - 1;
  using I = IntegersOf<V>;
  const I one = I{} + 1, mask = one << kSign;
  return bit_copy<V>((bit_copy<I>(magnitude) & ~mask) | (bit_copy<I>(sign) & mask));
}

// NaN passes both.
template <class V>
INLINE V at_least(V x, LaneOf<V> least) {
  return x < least ? V{} + least : x;
}
template <class V>
INLINE V at_most(V x, LaneOf<V> most) {
  return x > most ? V{} + most : x;
}

// The first of equal ones; no NaN beats another number.
template <class V>
INLINE V larger(V a, V b) {
  return b > a ? b : a;
}

INLINE float square_root(float x) { return __builtin_sqrtf(x); }
INLINE double square_root(double x) { return __builtin_sqrt(x); }

// A float of this size ends at units: what is added to it is rounded to a whole number.
template <class V>
constexpr LaneOf<V> kUnits = kIsDouble<V> ? 0x1.8p52 : 0x1.8p23f;

// x * 2^n for a whole n; infinity and 0 beyond the range.
template <class V>
INLINE V times_power_of_two(V x, V n) {
#ifdef __AVX512F__
  if constexpr (sizeof(V) == 64 && kIsDouble<V>) return (V)_mm512_scalef_pd((__m512d)x, (__m512d)n);
  if constexpr (sizeof(V) == 64 && !kIsDouble<V>) return (V)_mm512_scalef_ps((__m512)x, (__m512)n);
#endif
  using I = IntegersOf<V>;
  const I whole = bit_copy<I>(n + kUnits<V>) - bit_copy<I>(V{} + kUnits<V>);
  const I half = whole >> 1, rest = whole - half;  // in two steps: 2^n may not be a normal number
  if constexpr (kIsDouble<V>) {
    return x * bit_copy<V>((half + 1023) << 52) * bit_copy<V>((rest + 1023) << 52);
  } else {
    return x * bit_copy<V>((half + 127) << 23) * bit_copy<V>((rest + 127) << 23);
  }
}

// e^x = 2^n * (1 + fraction).
template <class V>
struct Exponent {
  V n;
  V fraction;  // e^r - 1 for |r| <= log(2) / 2
};
template <class V>
INLINE Exponent<V> exponent_of(V x) {
  using F = LaneOf<V>;
  const V n = (x * F(1.4426950408889634074) + kUnits<V>)-kUnits<V>;
  V r, tail;
  if constexpr (kIsDouble<V>) {
    r = x - n * 0x1.62e42feep-1;  // log(2) in two parts: the product with the first is exact
    r = r - n * 1.90821492927058770002e-10;
    tail = polynomial(r, 1. / 2, 1. / 6, 1. / 24, 1. / 120, 1. / 720, 1. / 5040, 1. / 40320,
                      1. / 362880, 1. / 3628800, 1. / 39916800, 1. / 479001600, 1. / 6227020800.);
  } else {
    r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    tail = polynomial(r, 5.0000001201e-1f, 1.6666665459e-1f, 4.1665795894e-2f, 8.3334519073e-3f,
                      1.3981999507e-3f, 1.9875691500e-4f);
  }
  return {n, tail * (r * r) + r};
}

template <class V>
INLINE V vexp(V x) {
  // Beyond these bounds the scaling below overflows to infinity, or underflows to 0.
  x = at_most(at_least(x, kIsDouble<V> ? -746 : -104), kIsDouble<V> ? 710 : 89);
  const Exponent<V> e = exponent_of(x);
  return times_power_of_two(e.fraction + 1, e.n);
}

// e^x for an x <= 0, or hardly more; 0 where it would not be a normal number: such numbers are
// slow, and probabilities would be full of them.
template <class V>
INLINE V probability(V x) {
  constexpr LaneOf<V> kLeast = kIsDouble<V> ? -708 : -87;
  const Exponent<V> e = exponent_of(at_least(x, kLeast));
  const V y = times_power_of_two(e.fraction + 1, e.n);
  return x < kLeast ? V{} : y;
}

// e^x - 1.
template <class V>
INLINE V vexpm1(V x) {
  const V bounded = at_most(at_least(x, kIsDouble<V> ? -50 : -25), kIsDouble<V> ? 710 : 89);
  const Exponent<V> e = exponent_of(bounded);
  const V half = times_power_of_two(V{} + LaneOf<V>(0.5), e.n);
  const V y = (e.fraction * half + (half - LaneOf<V>(0.5))) * 2;
  return x == 0 ? x : y;  // keeps the sign of a zero
}

template <class V>
INLINE V vsigmoid(V x) {
  return 1 / (1 + vexp(-x));
}

template <class V>
INLINE V vtanh(V x) {
  const V e = vexpm1(absolute(x) * -2);
  return with_sign_of(-e / (e + 2), x);
}

// log of a positive x, in the manner of fdlibm: x = 2^k * (1 + f), and with s = f / (2 + f)
// log(1 + f) = f - f^2 / 2 + s * (f^2 / 2 + R(s^2)).
template <class V>
INLINE V vlog(V x) {
  using F = LaneOf<V>;
  using I = IntegersOf<V>;
  constexpr int kMantissa = kIsDouble<V> ? 52 : 23;
  constexpr F kLeast = kIsDouble<V> ? F(0x1p-1022) : F(0x1p-126);
  const auto subnormal = x < kLeast;
  const V normal = subnormal ? x * (kIsDouble<V> ? F(0x1p52) : F(0x1p23)) : x;
  const I bits = bit_copy<I>(normal);
  const I root = bit_copy<I>(V{} + F(0.70710678118654752440));  // 1 + f from here to twice this
  const I k = (bits - root) >> kMantissa;
  const V f = bit_copy<V>(bits - (k << kMantissa)) - 1;
  const V exponent = __builtin_convertvector(k - (subnormal & kMantissa), V);
  const V s = f / (f + 2), z = s * s, half_square = f * f * F(0.5);
  V rest, low;
  F high;
  if constexpr (kIsDouble<V>) {
    rest =
        z * polynomial(z, 6.666666666666735130e-01, 3.999999999940941908e-01,
                       2.857142874366239149e-01, 2.222219843214978396e-01, 1.818357216161805012e-01,
                       1.531383769920937332e-01, 1.479819860511658591e-01);
    high = 6.93147180369123816490e-01;
    low = exponent * 1.90821492927058770002e-10;
  } else {
    rest = z * polynomial(z, 0.66666662693f, 0.40000972152f, 0.28498786688f, 0.24279078841f);
    high = 6.9313812256e-01f;
    low = exponent * 9.0580006145e-06f;
  }
  const V y = exponent * high - ((half_square - (s * (half_square + rest) + low)) - f);
  const V infinity = V{} + F(__builtin_inf()), nan = V{} + F(__builtin_nan(""));
  return x > 0 ? (x < infinity ? y : x) : x == 0 ? -infinity : nan;
}

// log(1 + x) for 0 <= x <= 1 or NaN.
template <class V>
INLINE V vlog1p(V x) {
  const V y = x + 1;
  return vlog(y) + (x - (y - 1)) / y;  // what the sum lost
}

template <class V>
INLINE V verf(V x) {
  const V t = absolute(x), s = x * x;
  if constexpr (kIsDouble<V>) {
    const V small = x + x * polynomial(s, 0.12837916709551256654, -0.37612638903183540438,
                                       0.11283791670945006266, -0.02686617064323777036,
                                       0.0052239776071164227321, -0.00085483259753896920806,
                                       0.00012055294904839707917, -0.000014924736907419660338,
                                       1.644742470331736241e-6, -1.6208483801871705902e-7,
                                       1.3720064546777685604e-8, -7.7958988270021422416e-10);
    const V bounded = at_most(t, 6);  // beyond, erf is 1
    // erfc(t) * e^(t^2), interpolated for 1 <= t <= 6 at Chebyshev's points in (t - 3) / (t + 3).
    const V scaled =
        polynomial((bounded - 3) / (bounded + 3), 0.17900115118138995023, -0.32623356004303717477,
                   0.24560380171233194479, -0.15011593650078743912, 0.071665837197748743386,
                   -0.024392499318273193125, 0.0042691363475083562605, 0.00070774644439015373147,
                   -0.00059706235170932842794, 0.000045254726354833541373,
                   0.000064061820735305467428, -0.000012848894512523528795,
                   -8.0080213194126843348e-6, 2.0236031796417566352e-6, 1.2801900862962661938e-6);
    const V large = 1 - scaled * vexp(-bounded * bounded);
    return t < 1 ? small : with_sign_of(large, x);
  } else {
    // x * p(x^2) / q(x^2), fitted for relative errors below 2e-8; beyond, erf is 1.
    const V p = polynomial(s, 1.1283791459f, 1.9058467542e-1f, 5.2767913006e-2f, 3.7721119169e-3f,
                           2.8482578579e-4f, 2.0459940808e-6f);
    const V q = polynomial(s, 1.f, 5.0223400391e-1f, 1.1417880255e-1f, 1.4982323960e-2f,
                           1.1637368903e-3f, 3.8046499458e-5f);
    return t > 3.925f ? with_sign_of(V{} + 1, x) : x * (p / q);
  }
}

}  // namespace
}  // namespace torchext::cpu::TORCHEXT_ISA

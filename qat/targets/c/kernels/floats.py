"""Products that are rounded as float32 rounds them: the C of the float arithmetic, and of what softmax and norms compute."""

from __future__ import annotations

HEAD = """\
/* A sum x becomes the code next to f32(f32(x) m): a product of two float32. A processor computes it as such where its
 * instructions for that are known here, and any other, or with -DWITHOUT_FLOATS any, in integers: the same codes. */
#define FLOAT_ARITHMETIC
#if defined(WITHOUT_FLOATS)
#elif defined(__GNUC__) && (defined(__arm__) || defined(__aarch64__)) && defined(__ARM_FP)
#if __ARM_FP & 4
#define USE_VFP
#endif
#if defined(__ARM_FEATURE_MVE) && __ARM_FEATURE_MVE & 2
#define USE_HELIUM_FLOATS
#endif
#elif defined(__SSE2__)
#include <emmintrin.h>
#define USE_SSE
#endif
"""

#: Of layers.
NO_SHIFT = "static const uint8_t no_shift[1] = {0};\n"

ROUND = """\
/* x / 2^bits, to the nearest integer, ties to the even one; bits from 1 to 63. */
static inline uint64_t shift_to_even(uint64_t x, int32_t bits)
{
    const uint64_t half = (uint64_t)1 << (bits - 1);
    const uint64_t rest = x & (2 * half - 1);
    x >>= bits;
    return x + (rest > half || (rest == half && (x & 1)));
}

/* x rounded to a float32: 24 bits and what they are to be shifted by. */
static inline uint64_t to_float(uint64_t x, int32_t *shift)
{
    int32_t bits = 0;
    while (x >> bits >> 24)
        bits++;
    *shift = bits;
    return bits ? shift_to_even(x, bits) : x;
}
"""

TIMES = """\
/* The zeros above the highest bit of x, which is not 0. */
static inline int32_t zeros(uint32_t x)
{
#ifdef __GNUC__
    return __builtin_clz(x);
#else
    int32_t n = 0, step;
    for (step = 16; step; step >>= 1)
        if (!(x >> (32 - step))) {
            n += step;
            x <<= step;
        }
    return n;
#endif
}

/* x multiplier / 2^shift, rounded to a float32 and then to an integer, ties to the even one, both times; |x| and multiplier up
 * to 2^24. What is 2^30 or more is 2^30. In integers, so that no processor or compiler option can change it. */
static inline int32_t times(int32_t x, uint32_t multiplier, int32_t shift)
{
    const uint64_t product = (uint64_t)(uint32_t)(x < 0 ? -x : x) * multiplier;
    uint32_t high = (uint32_t)(product >> 32), low = (uint32_t)product, y;
    int32_t up = 0, n;
    if (!product)
        return 0;
    if (!high) {
        high = low;
        low = 0;
        up = 32;
    }
    n = zeros(high);
    if (n) {
        high = high << n | low >> (32 - n);
        low <<= n;
    }
    /* Its highest bit is the first of 32 now; then of 31, the last of which stands for all below; then it is rounded to 24. */
    high = high >> 1 | (high & 1) | (low != 0);
    high = (high + 63 + (high >> 7 & 1)) >> 7;
    shift -= 40 - n - up;
    if (shift > 25)
        return 0;
    if (shift > 0)
        y = (high + ((uint32_t)1 << (shift - 1)) - 1 + (high >> shift & 1)) >> shift;
    else
        y = shift > -7 ? high << -shift : (uint32_t)1 << 30;
    y = y < (uint32_t)1 << 30 ? y : (uint32_t)1 << 30;
    return x < 0 ? -(int32_t)y : (int32_t)y;
}
"""

#: After TIMES.
ROUNDED = """\
#if defined(USE_VFP) && defined(USE_ASSEMBLY) && !defined(__clang__)
#define APART __attribute__((noinline)) /* those that call it use no registers of the floating-point unit */
#else
#define APART inline
#endif
/* rint(f32(f32(x) m)) of the float32 m with these bits, up to 2^17. What is beyond 2^30 is that, or further beyond. */
static APART int32_t rounded(int32_t x, int32_t bits)
{
#ifdef USE_VFP
    /* To the nearest integer, ties to the even one, and to the next int32 where it is beyond. */
    float m, y;
    int32_t code;
    (void)times;
    memcpy(&m, &bits, 4);
    y = (float)x * m;
#ifdef __aarch64__
    __asm__("fcvtns %w0, %s1" : "=r"(code) : "w"(y));
#else
    __asm__("vcvtr.s32.f32 %0, %1" : "=t"(y) : "t"(y));
    memcpy(&code, &y, 4);
#endif
    return code;
#elif defined(USE_SSE)
    __m128 y = _mm_mul_ss(_mm_cvtsi32_ss(_mm_setzero_ps(), x), _mm_castsi128_ps(_mm_cvtsi32_si128(bits)));
    y = _mm_max_ss(_mm_min_ss(y, _mm_set_ss(0x1p30f)), _mm_set_ss(-0x1p30f)); /* beyond int32 there is no integer */
    (void)times;
    return _mm_cvtss_si32(y);
#else
    uint32_t magnitude = x < 0 ? 0u - (uint32_t)x : (uint32_t)x;
    int32_t shift = 150 - (bits >> 23), y;
    if (magnitude >> 24) { /* to 24 bits, ties to the even one */
        const int32_t more = 8 - zeros(magnitude);
        magnitude = (magnitude >> more) + ((magnitude & ((1u << more) - 1)) + (magnitude >> more & 1) > 1u << (more - 1));
        shift -= more;
    }
    y = times((int32_t)magnitude, ((uint32_t)bits & 0x7FFFFF) | 0x800000, shift);
    return x < 0 ? -y : y;
#endif
}
"""

#: After ROUND and TIMES.
ROUNDED_LONG = """\
/* As rounded, of sums beyond int32. */
static inline int32_t rounded_long(int64_t x, int32_t bits)
{
    int32_t more, y;
    const uint64_t magnitude = to_float(x < 0 ? 0u - (uint64_t)x : (uint64_t)x, &more);
    y = times((int32_t)magnitude, ((uint32_t)bits & 0x7FFFFF) | 0x800000, 150 - (bits >> 23) - more);
    return x < 0 ? -y : y;
}
"""

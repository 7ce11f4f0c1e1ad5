"""Small functions of C files: the rounding of the fixed arithmetic, clipping, words of four bytes."""

from __future__ import annotations

REQUANTIZE = """\
/* x m with m = multiplier 2^-31 2^-right, rounded twice: floor(x multiplier 2^-31 + 1/2), then to the nearest integer, ties
 * away from 0. A right shift of a negative number has to keep its sign, as with every compiler in use. */
static inline int32_t requantize(int32_t x, int32_t multiplier, int32_t right)
{
    const int32_t high = (int32_t)(((int64_t)x * multiplier + ((int64_t)1 << 30)) >> 31);
    const int32_t mask = (int32_t)(((uint32_t)1 << right) - 1u);
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0));
}
"""

CLIP = """\
/* The code next to x in [low, high]. */
static inline uint8_t clip(int32_t x, int32_t low, int32_t high)
{
    return (uint8_t)(x < low ? low : x > high ? high : x);
}
"""

#: After REQUANTIZE and CLIP, or in the float arithmetic after ROUNDED and CLIP.
CODE_OF_SUM = """\
/* The code of an output's sum, the bias in it. */
static inline uint8_t code_of_sum(const Scaling *scaling, int32_t sum, int32_t output)
{
    const int32_t multiplier = scaling->multiplier[scaling->each_multiplier ? output : 0];
#ifdef FLOAT_ARITHMETIC
    return (uint8_t)(clip(rounded(sum, multiplier), scaling->low, scaling->high) + scaling->zero);
#else
    const int32_t shift = scaling->each_shift ? output : 0;
    if (scaling->left)
        sum *= (int32_t)1 << scaling->left[shift];
    return clip(requantize(sum, multiplier, scaling->right[shift]) + scaling->zero, scaling->low, scaling->high);
#endif
}
"""

WORD = """\
#if defined(USE_VNNI) || defined(USE_AVX2) || defined(USE_NEON) || (defined(USE_SIMD32) && !defined(USE_HELIUM))
/* Four bytes, wherever they lie. */
static inline uint32_t word(const void *bytes)
{
    uint32_t x;
    memcpy(&x, bytes, 4);
    return x;
}
#endif
"""

UNPACK = """\
/* Weights of indices of so many bits into a table, the first index in the lowest bits of the first byte. */
static inline void unpack(const uint8_t *from, int32_t bits, const int8_t *values, int32_t count, int8_t *to)
{
#ifdef USE_HELIUM
    /* Sixteen at a time: their bytes are gathered, shifted and masked, and their values gathered. */
    const uint8x16_t places = vmulq_n_u8(vidupq_n_u8(0, 1), (uint8_t)bits);
    const int8x16_t shifts = vnegq_s8(vreinterpretq_s8_u8(vandq_u8(places, vdupq_n_u8(7))));
    const uint8x16_t bytes = vshrq_n_u8(places, 3), mask = vdupq_n_u8((uint8_t)((1 << bits) - 1));
    for (; count > 0; count -= 16, from += 2 * bits, to += 16) {
        const mve_pred16_t lanes = vctp8q((uint32_t)count);
        const uint8x16_t x = vshlq_u8(vldrbq_gather_offset_z_u8(from, bytes, lanes), shifts);
        vstrbq_p_s8(to, vldrbq_gather_offset_z_s8(values, vandq_u8(x, mask), lanes), lanes);
    }
#else
    int32_t i;
    for (i = 0; i < count; i++)
        to[i] = values[from[i * bits / 8] >> (i * bits % 8) & ((1 << bits) - 1)];
#endif
}
"""

CORRECT = """\
/* Weights that did not fit into a byte were stored less by[o]: sums[o] += by[o] sum of x[r * pitch + k] over r and k. */
static inline void correct(const uint8_t *x, int32_t rows, int32_t pitch, int32_t inputs, const int16_t *by, int32_t outputs,
                           uint32_t *sums)
{
    int32_t r, k, o;
    uint32_t total = 0;
    for (r = 0; r < rows; r++)
        for (k = 0; k < inputs; k++)
            total += x[r * pitch + k];
    for (o = 0; o < outputs; o++)
        sums[o] += (uint32_t)by[o] * total;
}
"""

#: After WORD.
LARGER = """\
/* to[i] becomes the larger of to[i] and a[i]. */
static inline void larger(const uint8_t *restrict a, uint8_t *restrict to, int32_t count)
{
#ifdef USE_HELIUM
    for (; count > 0; count -= 16, a += 16, to += 16) {
        const mve_pred16_t lanes = vctp8q((uint32_t)count);
        vstrbq_p_u8(to, vmaxq_u8(vldrbq_z_u8(a, lanes), vldrbq_z_u8(to, lanes)), lanes);
    }
#else
#ifdef USE_SIMD32
    for (; count >= 4; count -= 4, a += 4, to += 4) {
        const uint32_t x = word(a), y = word(to);
        uint32_t largest;
        (void)__usub8(x, y); /* says of each byte which is larger */
        largest = __sel(x, y);
        memcpy(to, &largest, 4);
    }
#endif
    for (; count > 0; count--, a++, to++)
        *to = *a > *to ? *a : *to;
#endif
}
"""

LARGER_WIDE = """\
/* to[i] becomes the larger of to[i] and a[i]. */
static inline void larger_wide(const uint16_t *restrict a, uint16_t *restrict to, int32_t count)
{
    for (; count > 0; count--, a++, to++)
        *to = *a > *to ? *a : *to;
}
"""

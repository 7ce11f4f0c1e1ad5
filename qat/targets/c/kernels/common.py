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
#if defined(USE_VNNI) || defined(USE_AVX2) || defined(USE_SIMD32)
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
    int32_t i;
    for (i = 0; i < count; i++)
        to[i] = values[from[i * bits / 8] >> (i * bits % 8) & ((1 << bits) - 1)];
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

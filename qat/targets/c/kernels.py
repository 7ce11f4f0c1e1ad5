"""The C that is the same in every file of the C target: multiplying, requantizing, softmax.

Activations are bytes, a code c of a grid [qmin, qmax] being stored as c - qmin, so that all products are of an unsigned and
a signed byte. Weights lie in blocks of up to 16 outputs, in each block as [inputs / 4][outputs][4]: one word of four inputs
meets the words of all outputs of the block one after another, which is what the vector instructions of x86 want, and costs
a microcontroller nothing. Sums are formed modulo 2^32 (unsigned, where the language defines it), and only their end is within
int32: subtracting an input's zero point is part of the bias.
"""

from __future__ import annotations

BLOCK = 16  #: outputs whose weights lie beside one another

HEAD = """\
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
#include <immintrin.h>
#define USE_VNNI
#elif defined(__AVX2__)
#include <immintrin.h>
#define USE_AVX2
#elif defined(__ARM_FEATURE_SIMD32) && defined(__GNUC__)
#include <arm_acle.h>
#define USE_SIMD32
#endif

#define BLOCK 16 /* outputs whose weights lie beside one another */
"""

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

#: After REQUANTIZE and CLIP.
FINISH = """\
/* Where the sums of a layer become codes. bias: of 1, 2 or 4 bytes each. left: 0 where no multiplier is above 1. Multipliers,
 * and shifts, may be one for all outputs. */
typedef struct {
    const void *bias;
    const int32_t *multiplier;
    const uint8_t *left, *right;
    int32_t zero, low, high;
    uint8_t bias_bytes, each_multiplier, each_shift;
} Scaling;

/* y[o] = clip(requantize(sums[o] + bias[first + o]) + zero), for up to BLOCK outputs. sums: BLOCK of them. */
static inline void finish(const uint32_t *sums, const Scaling *scaling, int32_t first, int32_t outputs, uint8_t *y)
{
#ifdef USE_VNNI
    const __mmask16 mask = (__mmask16)((1u << outputs) - 1u);
    const __m512i one = _mm512_set1_epi32(1);
    const __m512i half = _mm512_set1_epi64((long long)1 << 30);
    const __m512i multiplier = scaling->each_multiplier ? _mm512_maskz_loadu_epi32(mask, scaling->multiplier + first)
                                                        : _mm512_set1_epi32(scaling->multiplier[0]);
    const __m512i right = scaling->each_shift ? _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, scaling->right + first))
                                              : _mm512_set1_epi32(scaling->right[0]);
    const __m512i bits = _mm512_sub_epi32(_mm512_sllv_epi32(one, right), one);
    const void *const from = (const int8_t *)scaling->bias + first * scaling->bias_bytes;
    const __m512i bias = scaling->bias_bytes == 1   ? _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, from))
                         : scaling->bias_bytes == 2 ? _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(mask, from))
                                                    : _mm512_maskz_loadu_epi32(mask, from);
    __m512i x = _mm512_add_epi32(_mm512_loadu_si512(sums), bias);
    __m512i even, odd, threshold;
    __mmask16 up;
    if (scaling->left)
        x = _mm512_sllv_epi32(x, scaling->each_shift ? _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, scaling->left + first))
                                                     : _mm512_set1_epi32(scaling->left[0]));
    even = _mm512_add_epi64(_mm512_mul_epi32(x, multiplier), half);
    odd = _mm512_mul_epi32(_mm512_srli_epi64(x, 32), _mm512_srli_epi64(multiplier, 32));
    odd = _mm512_slli_epi64(_mm512_add_epi64(odd, half), 1);
    x = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 31), odd);
    threshold = _mm512_add_epi32(_mm512_srli_epi32(bits, 1), _mm512_srli_epi32(x, 31));
    up = _mm512_cmpgt_epi32_mask(_mm512_and_si512(x, bits), threshold);
    x = _mm512_srav_epi32(x, right);
    x = _mm512_mask_add_epi32(x, up, x, one);
    x = _mm512_add_epi32(x, _mm512_set1_epi32(scaling->zero));
    x = _mm512_max_epi32(x, _mm512_set1_epi32(scaling->low));
    x = _mm512_min_epi32(x, _mm512_set1_epi32(scaling->high));
    _mm512_mask_cvtepi32_storeu_epi8(y, mask, x);
    (void)requantize;
    (void)clip;
#else
    int32_t o;
#if defined(USE_AVX2) && defined(__GNUC__)
    __asm__ volatile("" ::: "memory"); /* GCC 12 -O3 makes other codes of sums that it has kept in vectors */
#endif
    for (o = 0; o < outputs; o++) {
        const int32_t i = first + o, shift = scaling->each_shift ? i : 0;
        const int32_t bias = scaling->bias_bytes == 1   ? ((const int8_t *)scaling->bias)[i]
                             : scaling->bias_bytes == 2 ? ((const int16_t *)scaling->bias)[i]
                                                        : ((const int32_t *)scaling->bias)[i];
        int32_t x = (int32_t)(sums[o] + (uint32_t)bias);
        if (scaling->left)
            x *= (int32_t)1 << scaling->left[shift];
        x = requantize(x, scaling->multiplier[scaling->each_multiplier ? i : 0], scaling->right[shift]);
        y[o] = clip(x + scaling->zero, scaling->low, scaling->high);
    }
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

#: After WORD.
MULTIPLY = """\
#ifdef USE_AVX2
/* What multiply computes, for 8 outputs, or as many as `mask` says. Bytes are widened: the instruction that multiplies them as
 * they are saturates. Each 32-bit lane holds the sum of two of a word's four products until the end. */
static inline void multiply8(const uint8_t *x, int32_t stride, const int32_t pixels, int32_t rows, int32_t pitch,
                             int32_t quads, const int8_t *w, int32_t outputs, __m256i mask, uint32_t *sums)
{
    __m256i low[4], high[4];
    int32_t p, r, q;
    for (p = 0; p < pixels; p++)
        low[p] = high[p] = _mm256_setzero_si256();
    for (r = 0; r < rows; r++) {
        const uint8_t *from = x + r * pitch;
        for (q = 0; q < quads; q++, from += 4, w += 4 * outputs) {
            const __m256i bytes = _mm256_maskload_epi32((const int *)(const void *)w, mask);
            const __m256i w0 = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(bytes));
            const __m256i w1 = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(bytes, 1));
            for (p = 0; p < pixels; p++) {
                const __m256i inputs = _mm256_cvtepu8_epi16(_mm_set1_epi32((int)word(from + p * stride)));
                low[p] = _mm256_add_epi32(low[p], _mm256_madd_epi16(inputs, w0));
                high[p] = _mm256_add_epi32(high[p], _mm256_madd_epi16(inputs, w1));
            }
        }
    }
    for (p = 0; p < pixels; p++) {
        const __m256i s = _mm256_permute4x64_epi64(_mm256_hadd_epi32(low[p], high[p]), 0xD8);
        _mm256_storeu_si256((__m256i *)(void *)(sums + p * BLOCK), s);
    }
}
#endif

/* sums[p * BLOCK + o] = sum of x[p * stride + r * pitch + k] w[r][k][o] over r < rows and k < 4 * quads, for `pixels` p (up
 * to 4) and up to BLOCK outputs o. w: a block of weights, [rows * quads][outputs][4]. */
static inline void multiply(const uint8_t *x, int32_t stride, int32_t pixels, int32_t rows, int32_t pitch, int32_t quads,
                            const int8_t *w, int32_t outputs, uint32_t *sums)
{
#if defined(USE_VNNI)
    const __mmask16 mask = (__mmask16)((1u << outputs) - 1u);
    const __m512i zero = _mm512_setzero_si512();
    __m512i s0 = zero, s1 = zero, s2 = zero, s3 = zero;
    int32_t p, r, q;
#define WEIGHTS(i) _mm512_maskz_loadu_epi32(mask, w + 4 * (i) * outputs)
#define INPUTS(i) _mm512_set1_epi32((int)word(from + 4 * (i)))
    if (pixels == 4) {
        for (r = 0; r < rows; r++) {
            const uint8_t *from = x + r * pitch;
            for (q = 0; q < quads; q++, from += 4, w += 4 * outputs) {
                const __m512i weights = WEIGHTS(0);
                s0 = _mm512_dpbusd_epi32(s0, INPUTS(0), weights);
                s1 = _mm512_dpbusd_epi32(s1, _mm512_set1_epi32((int)word(from + stride)), weights);
                s2 = _mm512_dpbusd_epi32(s2, _mm512_set1_epi32((int)word(from + 2 * stride)), weights);
                s3 = _mm512_dpbusd_epi32(s3, _mm512_set1_epi32((int)word(from + 3 * stride)), weights);
            }
        }
        _mm512_storeu_si512(sums, s0);
        _mm512_storeu_si512(sums + BLOCK, s1);
        _mm512_storeu_si512(sums + 2 * BLOCK, s2);
        _mm512_storeu_si512(sums + 3 * BLOCK, s3);
        return;
    }
    for (p = 0; p < pixels; p++) {
        const int8_t *begin = w;
        s0 = s1 = s2 = s3 = zero; /* four sums, since one would wait for itself */
        for (r = 0; r < rows; r++) {
            const uint8_t *from = x + p * stride + r * pitch;
            for (q = 0; q + 4 <= quads; q += 4, from += 16, w += 16 * outputs) {
                s0 = _mm512_dpbusd_epi32(s0, INPUTS(0), WEIGHTS(0));
                s1 = _mm512_dpbusd_epi32(s1, INPUTS(1), WEIGHTS(1));
                s2 = _mm512_dpbusd_epi32(s2, INPUTS(2), WEIGHTS(2));
                s3 = _mm512_dpbusd_epi32(s3, INPUTS(3), WEIGHTS(3));
            }
            for (; q < quads; q++, from += 4, w += 4 * outputs)
                s0 = _mm512_dpbusd_epi32(s0, INPUTS(0), WEIGHTS(0));
        }
        s0 = _mm512_add_epi32(_mm512_add_epi32(s0, s1), _mm512_add_epi32(s2, s3));
        _mm512_storeu_si512(sums + p * BLOCK, s0);
        w = begin;
    }
#undef WEIGHTS
#undef INPUTS
#elif defined(USE_AVX2)
    int32_t o, p;
    for (o = 0; o < outputs; o += 8) {
        const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(outputs - o), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        if (pixels == 4)
            multiply8(x, stride, 4, rows, pitch, quads, w + 4 * o, outputs, mask, sums + o);
        else
            for (p = 0; p < pixels; p++)
                multiply8(x + p * stride, 0, 1, rows, pitch, quads, w + 4 * o, outputs, mask, sums + p * BLOCK + o);
    }
#elif defined(USE_SIMD32)
    /* Two products in one instruction: bytes 0 and 2 of both words as halves, then bytes 1 and 3. */
#define LOW(extend, x) extend(x)
#define HIGH(extend, x) extend((x) >> 8)
    int32_t o, p, r, q;
    for (o = 0; o < outputs; o++) {
        const int8_t *begin = w + 4 * o;
        for (p = 0; p < pixels;) {
            const int8_t *at = begin;
            const uint8_t *base = x + p * stride;
            if (pixels - p >= 2) { /* two pixels share the unpacked weights */
                int32_t s = 0, t = 0;
                for (r = 0; r < rows; r++) {
                    const uint8_t *from = base + r * pitch;
                    for (q = 0; q < quads; q++, from += 4, at += 4 * outputs) {
                        const uint32_t weights = word(at), a = word(from), b = word(from + stride);
                        const int16x2_t low = LOW(__sxtb16, weights), high = HIGH(__sxtb16, weights);
                        s = __smlad((int16x2_t)LOW(__uxtb16, a), low, s);
                        t = __smlad((int16x2_t)LOW(__uxtb16, b), low, t);
                        s = __smlad((int16x2_t)HIGH(__uxtb16, a), high, s);
                        t = __smlad((int16x2_t)HIGH(__uxtb16, b), high, t);
                    }
                }
                sums[p * BLOCK + o] = (uint32_t)s;
                sums[(p + 1) * BLOCK + o] = (uint32_t)t;
                p += 2;
            } else {
                int32_t s = 0;
                for (r = 0; r < rows; r++) {
                    const uint8_t *from = base + r * pitch;
                    for (q = 0; q < quads; q++, from += 4, at += 4 * outputs) {
                        const uint32_t weights = word(at), a = word(from);
                        s = __smlad((int16x2_t)LOW(__uxtb16, a), LOW(__sxtb16, weights), s);
                        s = __smlad((int16x2_t)HIGH(__uxtb16, a), HIGH(__sxtb16, weights), s);
                    }
                }
                sums[p * BLOCK + o] = (uint32_t)s;
                p++;
            }
        }
    }
#undef LOW
#undef HIGH
#else
    int32_t o, p, r, q;
    for (p = 0; p < pixels; p++)
        for (o = 0; o < outputs; o++) {
            const int8_t *at = w + 4 * o;
            uint32_t s = 0;
            for (r = 0; r < rows; r++) {
                const uint8_t *from = x + p * stride + r * pitch;
                for (q = 0; q < quads; q++, from += 4, at += 4 * outputs) {
                    s += (uint32_t)((int32_t)from[0] * at[0] + (int32_t)from[1] * at[1]);
                    s += (uint32_t)((int32_t)from[2] * at[2] + (int32_t)from[3] * at[3]);
                }
            }
            sums[p * BLOCK + o] = s;
        }
#endif
}
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

#: After ROUND; for codes of a type.
SOFTMAX = """\
/* y[i] = min(rint(e[i] * share), 255) of one pixel, e[i] = table[largest - x[i]] and share = 256 / sum of e, where quotient and
 * product are rounded as float32 rounds them; in integers, so that no processor or compiler option can change it. */
static void softmax{BITS}(const {CODE} *x, int32_t channels, const uint32_t *table, uint8_t *y)
{
    {CODE} largest = 0;
    uint32_t sum = 0;
    uint64_t share;
    int32_t i, scale, more;
    for (i = 0; i < channels; i++)
        if (x[i] > largest)
            largest = x[i];
    for (i = 0; i < channels; i++)
        sum += table[largest - x[i]];
    /* 2^63 / sum = 2^55 share, more than 24 bits; its last bit stands for the remainder, so that no tie is made up. */
    share = ((uint64_t)1 << 63) / sum;
    share |= (uint64_t)(share * sum != (uint64_t)1 << 63);
    share = to_float(share, &scale);
    for (i = 0; i < channels; i++) {
        uint64_t product = to_float(table[largest - x[i]] * share, &more);
        product = shift_to_even(product, 55 - scale - more);
        y[i] = (uint8_t)(product > 255 ? 255 : product);
    }
}
"""

MAIN = """\
#ifdef {NAME}_MAIN
/* Reads samples of raw bytes, all inputs of a sample one after another, and writes their codes (with {NAME}_TRACE those of
 * every node, as they are stored): from stdin to stdout, or between two files that are named. */
#include <stdio.h>

int main(int argc, char **argv)
{{
{BUFFERS}
    FILE *from = stdin, *to = stdout;
    if (argc == 3) {{
        from = fopen(argv[1], "rb");
        to = fopen(argv[2], "wb");
        if (!from || !to)
            return 2;
    }}
    for (;;) {{
{READ}
        {NAME_LOWER}_run({ARGUMENTS});
#ifndef {NAME}_TRACE
{WRITE}
#endif
    }}
    return fclose(to) ? 3 : 0;
}}
#endif
"""


def softmax(code: str) -> str:
    """The C of a softmax of codes of that type; after ROUND."""
    return SOFTMAX.replace("{CODE}", code).replace("{BITS}", "16" if code == "uint16_t" else "8")

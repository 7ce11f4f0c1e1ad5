"""Sums of products and their codes on x86, with AVX-512 VNNI and with AVX2."""

from __future__ import annotations

MULTIPLY_VNNI = """\
/* sums[p * BLOCK + o] = sum of x[p * stride + r * pitch + k] w[r][k][o] over r < rows and k < 4 * quads, for `pixels` p (up
 * to 4) and up to BLOCK outputs o. w: a block of weights, [rows * quads][outputs][4]. */
static inline void multiply(const uint8_t *x, int32_t stride, int32_t pixels, int32_t rows, int32_t pitch, int32_t quads,
                            const int8_t *w, int32_t outputs, uint32_t *sums)
{
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
}
"""

FINISH_AVX2 = """\
/* Up to 8 numbers of 1, 2 or 4 bytes, in the low bytes of what is returned. */
static inline __m256i load_up_to_8(const void *from, int32_t bytes, int32_t count)
{
    uint8_t all[32] = {0};
    if (count == 8 && bytes == 4)
        return _mm256_loadu_si256((const __m256i *)from);
    if (count == 8 && bytes == 1)
        memcpy(all, from, 8);
    else
        memcpy(all, from, (size_t)(bytes * count));
    return _mm256_loadu_si256((const __m256i *)(const void *)all);
}

/* y[o] = the code of sums[o] + bias[first + o], for up to BLOCK outputs. sums: BLOCK of them. */
static inline void finish(const uint32_t *sums, const Scaling *scaling, int32_t first, int32_t outputs, uint8_t *y)
{
    int32_t o;
#if defined(__GNUC__)
    __asm__ volatile("" ::: "memory"); /* GCC 12 -O3 makes other codes of sums that it has kept in vectors */
#endif
    for (o = 0; o < outputs; o += 8) {
        const int32_t count = outputs - o < 8 ? outputs - o : 8, bytes = scaling->bias_bytes;
        const __m256i loaded = load_up_to_8((const int8_t *)scaling->bias + (first + o) * bytes, bytes, count);
        const __m256i bias = bytes == 1   ? _mm256_cvtepi8_epi32(_mm256_castsi256_si128(loaded))
                             : bytes == 2 ? _mm256_cvtepi16_epi32(_mm256_castsi256_si128(loaded))
                                          : loaded;
        const __m256i multiplier = scaling->each_multiplier ? load_up_to_8(scaling->multiplier + first + o, 4, count)
                                                            : _mm256_set1_epi32(scaling->multiplier[0]);
        __m256i x = _mm256_add_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(sums + o)), bias);
        uint8_t codes[8];
#ifdef FLOAT_ARITHMETIC
        __m256 product = _mm256_mul_ps(_mm256_cvtepi32_ps(x), _mm256_castsi256_ps(multiplier));
        product = _mm256_max_ps(product, _mm256_set1_ps((float)scaling->low)); /* there are no integers beyond int32 */
        product = _mm256_min_ps(product, _mm256_set1_ps((float)scaling->high));
        x = _mm256_add_epi32(_mm256_cvtps_epi32(product), _mm256_set1_epi32(scaling->zero));
#else
        const __m256i half = _mm256_set1_epi64x((long long)1 << 30), one = _mm256_set1_epi32(1);
        __m256i right = _mm256_set1_epi32(scaling->right[0]), bits, even, odd, threshold;
        if (scaling->each_shift)
            right = _mm256_cvtepu8_epi32(_mm256_castsi256_si128(load_up_to_8(scaling->right + first + o, 1, count)));
        if (scaling->left) {
            __m256i left = _mm256_set1_epi32(scaling->left[0]);
            if (scaling->each_shift)
                left = _mm256_cvtepu8_epi32(_mm256_castsi256_si128(load_up_to_8(scaling->left + first + o, 1, count)));
            x = _mm256_sllv_epi32(x, left);
        }
        bits = _mm256_sub_epi32(_mm256_sllv_epi32(one, right), one);
        even = _mm256_add_epi64(_mm256_mul_epi32(x, multiplier), half);
        odd = _mm256_mul_epi32(_mm256_srli_epi64(x, 32), _mm256_srli_epi64(multiplier, 32));
        odd = _mm256_slli_epi64(_mm256_add_epi64(odd, half), 1);
        x = _mm256_blend_epi32(_mm256_srli_epi64(even, 31), odd, 0xAA);
        threshold = _mm256_add_epi32(_mm256_srli_epi32(bits, 1), _mm256_srli_epi32(x, 31));
        threshold = _mm256_cmpgt_epi32(_mm256_and_si256(x, bits), threshold);
        x = _mm256_sub_epi32(_mm256_srav_epi32(x, right), threshold);
        x = _mm256_add_epi32(x, _mm256_set1_epi32(scaling->zero));
        x = _mm256_max_epi32(x, _mm256_set1_epi32(scaling->low));
        x = _mm256_min_epi32(x, _mm256_set1_epi32(scaling->high));
#endif
        x = _mm256_packus_epi32(x, x);
        x = _mm256_permute4x64_epi64(_mm256_packus_epi16(x, x), 0x08);
        x = _mm256_permutevar8x32_epi32(x, _mm256_setr_epi32(0, 2, 0, 0, 0, 0, 0, 0));
        _mm_storel_epi64((__m128i *)(void *)codes, _mm256_castsi256_si128(x));
        if (count == 8)
            memcpy(y + o, codes, 8);
        else
            memcpy(y + o, codes, (size_t)count);
    }
    (void)code_of_sum;
}
"""

MULTIPLY_AVX2 = """\
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

/* sums[p * BLOCK + o] = sum of x[p * stride + r * pitch + k] w[r][k][o] over r < rows and k < 4 * quads, for `pixels` p (up
 * to 4) and up to BLOCK outputs o. w: a block of weights, [rows * quads][outputs][4]. */
static inline void multiply(const uint8_t *x, int32_t stride, int32_t pixels, int32_t rows, int32_t pitch, int32_t quads,
                            const int8_t *w, int32_t outputs, uint32_t *sums)
{
    int32_t o, p;
    for (o = 0; o < outputs; o += 8) {
        const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(outputs - o), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        if (pixels == 4)
            multiply8(x, stride, 4, rows, pitch, quads, w + 4 * o, outputs, mask, sums + o);
        else
            for (p = 0; p < pixels; p++)
                multiply8(x + p * stride, 0, 1, rows, pitch, quads, w + 4 * o, outputs, mask, sums + p * BLOCK + o);
    }
}
"""

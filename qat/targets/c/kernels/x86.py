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

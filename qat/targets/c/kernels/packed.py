"""The C of packed weights: ``multiply`` of kernels.py where a weight is an index of 4, 2 or 1 bits into a table of bytes.

Blocks are as those of bytes, but a word, of four inputs of one output, has 16, 8 or 4 bits; the first index lies lowest, and of
two words in one byte the first. Each word is spread, so that every index has a byte of its own, and looked up.
"""

from __future__ import annotations

#: How the indices of a word come to lie in bytes of their own, in two steps of a shift and a mask.
STEPS = {
    4: ((8, "0x00FF00FF"), (4, "0x0F0F0F0F")),
    2: ((12, "0x000F000F"), (6, "0x03030303")),
    1: ((14, "0x00030003"), (7, "0x01010101")),
}
WORDS = {
    4: "(uint32_t)w[2 * o] | (uint32_t)w[2 * o + 1] << 8",
    2: "(uint32_t)w[o]",
    1: "(uint32_t)w[o / 2] >> (o % 2 * 4) & 15u",
}
LOAD_512 = {
    4: "_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, w))",
    2: "_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, w))",
    1: "halves512(_mm512_cvtepu8_epi64(_mm_maskz_loadu_epi8((__mmask16)((1u << ((outputs + 1) / 2)) - 1u), w)))",
}
LOAD_256 = {
    4: "_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(w + 2 * o)))",
    2: "_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(w + o)))",
    1: "halves256(_mm256_cvtepu8_epi64(_mm_cvtsi32_si128((int)word(w + o / 2))))",
}

HALVES = """\
#if defined(USE_VNNI)
/* The two words of each byte, one to a lane. */
static inline __m512i halves512(__m512i x)
{
    return _mm512_and_si512(_mm512_or_si512(x, _mm512_slli_epi64(x, 28)), _mm512_set1_epi32(15));
}
#elif defined(USE_AVX2)
/* The two words of each byte, one to a lane. */
static inline __m256i halves256(__m256i x)
{
    return _mm256_and_si256(_mm256_or_si256(x, _mm256_slli_epi64(x, 28)), _mm256_set1_epi32(15));
}
#endif
"""

MULTIPLY = """\
/* The four indices of a word, each in a byte of its own. */
static inline uint32_t spread@B(uint32_t x)
{
    x = (x | x << @S1) & @M1u;
    return (x | x << @S2) & @M2u;
}

/* Word o of a block. */
static inline uint32_t word@B(const uint8_t *w, int32_t o)
{
    return @WORD;
}

/* As multiply, where a weight is values[index]. w: a block of indices, [rows * quads][outputs] words. */
static inline void multiply@B(const uint8_t *x, int32_t stride, int32_t pixels, int32_t rows, int32_t pitch, int32_t quads,
                             const uint8_t *w, const int8_t *values, int32_t outputs, uint32_t *sums)
{
    const int32_t step = (outputs * @B + 1) / 2; /* bytes of the words of all outputs */
#if defined(USE_VNNI)
    const __mmask16 mask = (__mmask16)((1u << outputs) - 1u);
    const __m512i table = _mm512_broadcast_i32x4(_mm_maskz_loadu_epi8((__mmask16)@TABLE, values));
    __m512i s[4];
    int32_t p, r, q;
    for (p = 0; p < 4; p++)
        s[p] = _mm512_setzero_si512();
    for (r = 0; r < rows; r++) {
        const uint8_t *from = x + r * pitch;
        for (q = 0; q < quads; q++, from += 4, w += step) {
            __m512i i = @LOAD512;
            i = _mm512_and_si512(_mm512_or_si512(i, _mm512_slli_epi32(i, @S1)), _mm512_set1_epi32(@M1));
            i = _mm512_and_si512(_mm512_or_si512(i, _mm512_slli_epi32(i, @S2)), _mm512_set1_epi32(@M2));
            i = _mm512_shuffle_epi8(table, i);
            s[0] = _mm512_dpbusd_epi32(s[0], _mm512_set1_epi32((int)word(from)), i);
            for (p = 1; p < pixels; p++)
                s[p] = _mm512_dpbusd_epi32(s[p], _mm512_set1_epi32((int)word(from + p * stride)), i);
        }
    }
    for (p = 0; p < pixels; p++)
        _mm512_storeu_si512(sums + p * BLOCK, s[p]);
    (void)word@B;
    (void)spread@B;
    (void)mask;
#elif defined(USE_AVX2)
    const uint8_t *const begin = w;
    uint8_t padded[16] = {0};
    __m256i table;
    int32_t o, p, r, q, k;
    memcpy(padded, values, @COUNT);
    table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)padded));
    for (o = 0; o < outputs; o += 8) {
        __m256i low[4], high[4];
        for (p = 0; p < pixels; p++)
            low[p] = high[p] = _mm256_setzero_si256();
        w = begin;
        for (r = 0; r < rows; r++) {
            const uint8_t *from = x + r * pitch;
            for (q = 0; q < quads; q++, from += 4, w += step) {
                __m256i i, w0, w1;
                if (outputs - o >= 8) {
                    i = @LOAD256;
                } else { /* there may be nothing behind them */
                    uint32_t words[8] = {0};
                    for (k = o; k < outputs; k++)
                        words[k - o] = word@B(w, k);
                    i = _mm256_loadu_si256((const __m256i *)(const void *)words);
                }
                i = _mm256_and_si256(_mm256_or_si256(i, _mm256_slli_epi32(i, @S1)), _mm256_set1_epi32(@M1));
                i = _mm256_and_si256(_mm256_or_si256(i, _mm256_slli_epi32(i, @S2)), _mm256_set1_epi32(@M2));
                i = _mm256_shuffle_epi8(table, i);
                w0 = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(i));
                w1 = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(i, 1));
                for (p = 0; p < pixels; p++) {
                    const __m256i inputs = _mm256_cvtepu8_epi16(_mm_set1_epi32((int)word(from + p * stride)));
                    low[p] = _mm256_add_epi32(low[p], _mm256_madd_epi16(inputs, w0));
                    high[p] = _mm256_add_epi32(high[p], _mm256_madd_epi16(inputs, w1));
                }
            }
        }
        for (p = 0; p < pixels; p++) {
            const __m256i s = _mm256_permute4x64_epi64(_mm256_hadd_epi32(low[p], high[p]), 0xD8);
            _mm256_storeu_si256((__m256i *)(void *)(sums + p * BLOCK + o), s);
        }
    }
    (void)spread@B;
#else
    int32_t o, p, r, q;
    for (o = 0; o < outputs; o++) {
        const uint8_t *at = w;
        uint32_t s[4] = {0, 0, 0, 0};
        for (r = 0; r < rows; r++) {
            const uint8_t *from = x + r * pitch;
            for (q = 0; q < quads; q++, from += 4, at += step) {
                const uint32_t i = spread@B(word@B(at, o));
                const int32_t w0 = values[i & 255u], w1 = values[i >> 8 & 255u];
                const int32_t w2 = values[i >> 16 & 255u], w3 = values[i >> 24];
                const uint8_t *in = from;
#ifdef USE_SIMD32
                const int16x2_t even = (int16x2_t)(((uint32_t)w0 & 0xFFFFu) | (uint32_t)w2 << 16);
                const int16x2_t odd = (int16x2_t)(((uint32_t)w1 & 0xFFFFu) | (uint32_t)w3 << 16);
                for (p = 0; p < pixels; p++, in += stride) {
                    const uint32_t inputs = word(in);
                    const int32_t half = __smlad((int16x2_t)__uxtb16(inputs), even, (int32_t)s[p]);
                    s[p] = (uint32_t)__smlad((int16x2_t)__uxtb16(inputs >> 8), odd, half);
                }
#else
                for (p = 0; p < pixels; p++, in += stride)
                    s[p] += (uint32_t)(in[0] * w0 + in[1] * w1 + in[2] * w2 + in[3] * w3);
#endif
            }
        }
        for (p = 0; p < pixels; p++)
            sums[p * BLOCK + o] = s[p];
    }
#endif
}
"""


def multiply(bits: int) -> str:
    """The C of ``multiply`` for indices of so many bits; after WORD and HALVES."""
    (s1, m1), (s2, m2) = STEPS[bits]
    parts = {
        "@WORD": WORDS[bits],
        "@LOAD512": LOAD_512[bits],
        "@LOAD256": LOAD_256[bits],
        "@TABLE": f"0x{(1 << (1 << bits)) - 1:X}",
        "@COUNT": str(1 << bits),
        "@S1": str(s1),
        "@S2": str(s2),
        "@M1": m1,
        "@M2": m2,
        "@B": str(bits),
    }
    text = MULTIPLY
    for name, value in parts.items():
        text = text.replace(name, value)
    return text

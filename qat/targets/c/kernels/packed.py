"""The C of packed weights: ``multiply`` where a weight is an index of 4, 2 or 1 bits into a table of bytes.

Blocks are as those of bytes, [inputs][outputs], but as many inputs of an output as fill 32 bits lie together: in byte b
those of inputs b, 4 + b, 8 + b, ..., the first lowest, so that a shift and a mask make words of four inputs of them. What is
left follows, in words of four inputs of 16, 8 or 4 bits, the first index lowest, and of two words in one byte the first.
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

WORD = """\
/* Of four inputs of output o, the indices that do not fill up a word. */
static inline uint32_t word@B(const uint8_t *w, int32_t o)
{
    return @WORD;
}
"""

MULTIPLY = """\
/* The four indices of a word, each in a byte of its own. */
static inline uint32_t spread@B(uint32_t x)
{
    x = (x | x << @S1) & @M1u;
    return (x | x << @S2) & @M2u;
}

/* As multiply, where a weight is values[index]. w: a block of indices, [quads of all rows / @Q][outputs] words of 32
 * bits, of which byte b has those of inputs b, 4 + b, ...; then [rest][outputs] smaller ones. */
static inline void multiply@B(const uint8_t *x, int32_t stride, int32_t pixels, int32_t rows, int32_t pitch, int32_t quads,
                             const uint8_t *w, const int8_t *values, int32_t outputs, uint32_t *sums)
{
    const int32_t step = (outputs * @B + 1) / 2; /* bytes of the words of all outputs */
    const int32_t all = rows * quads;
    const uint8_t *row = x, *from = x;
#define NEXT_QUAD \\
    from += 4; \\
    if (++q == quads) { /* words run on from row to row */ \\
        q = 0; \\
        from = row += pitch; \\
    }
#if defined(USE_VNNI)
    const __mmask16 mask = (__mmask16)((1u << outputs) - 1u);
    const __m512i table = _mm512_broadcast_i32x4(_mm_maskz_loadu_epi8((__mmask16)@TABLE, values));
    __m512i s[4];
    int32_t p, k, n, q = 0;
    for (p = 0; p < 4; p++)
        s[p] = _mm512_setzero_si512();
    for (n = 0; n < all;) {
        const int32_t whole = n + @Q <= all, together = whole ? @Q : 1;
        __m512i words;
        if (whole) {
            words = _mm512_maskz_loadu_epi32(mask, w);
            w += 4 * outputs;
        } else {
            words = @LOAD512;
            words = _mm512_and_si512(_mm512_or_si512(words, _mm512_slli_epi32(words, @S1)), _mm512_set1_epi32(@M1));
            words = _mm512_or_si512(words, _mm512_slli_epi32(words, @S2));
            w += step;
        }
        for (k = 0; k < together; k++, n++, words = _mm512_srli_epi32(words, @B)) {
            const __m512i i = _mm512_shuffle_epi8(table, _mm512_and_si512(words, _mm512_set1_epi32(@M2)));
            s[0] = _mm512_dpbusd_epi32(s[0], _mm512_set1_epi32((int)word(from)), i);
            for (p = 1; p < pixels; p++)
                s[p] = _mm512_dpbusd_epi32(s[p], _mm512_set1_epi32((int)word(from + p * stride)), i);
            NEXT_QUAD
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
    int32_t o, p, k, n, q;
    memcpy(padded, values, @COUNT);
    table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)padded));
    for (o = 0; o < outputs; o += 8) {
        __m256i low[4], high[4];
        for (p = 0; p < pixels; p++)
            low[p] = high[p] = _mm256_setzero_si256();
        w = begin;
        from = row = x;
        for (n = 0, q = 0; n < all;) {
            const int32_t whole = n + @Q <= all, together = whole ? @Q : 1;
            __m256i words;
            if (outputs - o >= 8) {
                words = whole ? _mm256_loadu_si256((const __m256i *)(const void *)(w + 4 * o)) : @LOAD256;
            } else { /* there may be nothing behind them */
                uint32_t some[8] = {0};
                for (k = o; k < outputs; k++)
                    some[k - o] = whole ? word(w + 4 * k) : word@B(w, k);
                words = _mm256_loadu_si256((const __m256i *)(const void *)some);
            }
            if (!whole) {
                words = _mm256_and_si256(_mm256_or_si256(words, _mm256_slli_epi32(words, @S1)), _mm256_set1_epi32(@M1));
                words = _mm256_or_si256(words, _mm256_slli_epi32(words, @S2));
            }
            w += whole ? 4 * outputs : step;
            for (k = 0; k < together; k++, n++, words = _mm256_srli_epi32(words, @B)) {
                const __m256i i = _mm256_shuffle_epi8(table, _mm256_and_si256(words, _mm256_set1_epi32(@M2)));
                const __m256i w0 = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(i));
                const __m256i w1 = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(i, 1));
                for (p = 0; p < pixels; p++) {
                    const __m256i inputs = _mm256_cvtepu8_epi16(_mm_set1_epi32((int)word(from + p * stride)));
                    low[p] = _mm256_add_epi32(low[p], _mm256_madd_epi16(inputs, w0));
                    high[p] = _mm256_add_epi32(high[p], _mm256_madd_epi16(inputs, w1));
                }
                NEXT_QUAD
            }
        }
        for (p = 0; p < pixels; p++) {
            const __m256i s = _mm256_permute4x64_epi64(_mm256_hadd_epi32(low[p], high[p]), 0xD8);
            _mm256_storeu_si256((__m256i *)(void *)(sums + p * BLOCK + o), s);
        }
    }
    (void)spread@B;
#else
    int32_t o, p, k, n, q;
    for (o = 0; o < outputs; o++) {
        const uint8_t *at = w;
        uint32_t s[4] = {0, 0, 0, 0};
        from = row = x;
        for (n = 0, q = 0; n < all;) {
            const int32_t whole = n + @Q <= all, together = whole ? @Q : 1;
            const uint32_t rest = whole ? 0 : spread@B(word@B(at, o));
            for (k = 0; k < together; k++, n++) {
                const uint8_t *in = from;
                int32_t weights[4];
                for (p = 0; p < 4; p++)
                    weights[p] = values[whole ? at[4 * o + p] >> (@B * k) & @MASK : (int32_t)(rest >> (8 * p) & @MASKu)];
                for (p = 0; p < pixels; p++, in += stride)
                    s[p] += (uint32_t)(in[0] * weights[0] + in[1] * weights[1] + in[2] * weights[2] + in[3] * weights[3]);
                NEXT_QUAD
            }
            at += whole ? 4 * outputs : step;
        }
        for (p = 0; p < pixels; p++)
            sums[p * BLOCK + o] = s[p];
    }
#endif
#undef NEXT_QUAD
}
"""


def words(bits: int) -> str:
    """The C that reads the indices of four inputs."""
    return WORD.replace("@WORD", WORDS[bits]).replace("@B", str(bits))


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
        "@MASK": str((1 << bits) - 1),
        "@Q": str(8 // bits),
        "@B": str(bits),
    }
    text = words(bits) + "\n" + MULTIPLY
    for name, value in parts.items():
        text = text.replace(name, value)
    return text

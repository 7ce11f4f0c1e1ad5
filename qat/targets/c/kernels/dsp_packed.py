"""Sums of packed weights with Arm's DSP extension: indices of a progression meet inputs as they are; others are looked up."""

from __future__ import annotations

from itertools import pairwise

from qat.targets.c.kernels import packed

#: After WORDS of packed.py. Indices of inputs 4 k + b lie in byte b of a word, B k bits up.
OF_INDICES = """\
/* The weights of two indices in the halves of a word, where they are no progression. */
static inline uint32_t looked_up@B(const int8_t *values, uint32_t pair)
{
    return ((uint32_t)values[pair & 0xFFFFu] & 0xFFFFu) | (uint32_t)values[pair >> 16] << 16;
}

/* The weights, or indices, of four inputs whose indices lie at bits 0 and 16 of two words. values: 0, or a table. */
typedef struct {
    int16x2_t even, odd;
} Quad@B;

static inline Quad@B quad@B(uint32_t even, uint32_t odd, const int8_t *values)
{
    Quad@B quad;
    even &= @Mu;
    odd &= @Mu;
    quad.even = (int16x2_t)(values ? looked_up@B(values, even) : even);
    quad.odd = (int16x2_t)(values ? looked_up@B(values, odd) : odd);
    return quad;
}

static inline Four add_quad@B(Four s, Quad@B w, const uint32_t *x)
{
    s.s0 = __smlad(w.odd, (int16x2_t)x[4], __smlad(w.even, (int16x2_t)x[0], s.s0));
    s.s1 = __smlad(w.odd, (int16x2_t)x[5], __smlad(w.even, (int16x2_t)x[1], s.s1));
    s.s2 = __smlad(w.odd, (int16x2_t)x[6], __smlad(w.even, (int16x2_t)x[2], s.s2));
    s.s3 = __smlad(w.odd, (int16x2_t)x[7], __smlad(w.even, (int16x2_t)x[3], s.s3));
    return s;
}

static inline Four plus@B(Four s, int32_t x)
{
    s.s0 += x;
    s.s1 += x;
    s.s2 += x;
    s.s3 += x;
    return s;
}

static inline Four four_of_indices@B(const uint8_t *w, const int8_t *values, int32_t o, int32_t outputs, const uint32_t *x,
                                     int32_t quads, Four s)
{
    const uint8_t *at = w;
    int32_t q = quads / @Q, k;
#if defined(USE_ASSEMBLY) && defined(__thumb__)
    if (!values && q > 0) {
        uint32_t v, half, left = (uint32_t)(q - 1) << 16 | (uint32_t)(4 * outputs);
        /* As in multiply_four. */
#define HALF(rotate) \\
    "and %[half], %[v], #@M\\n " rotate "ldm %[x]!, {r0, r1, r2, r3}\\n" \\
    "smlad %[s0], %[half], r0, %[s0]\\n smlad %[s1], %[half], r1, %[s1]\\n" \\
    "smlad %[s2], %[half], r2, %[s2]\\n smlad %[s3], %[half], r3, %[s3]\\n"
#define HALVES @HALVES
#define LOOP(code) \\
    __asm__(code \\
            : [s0] "+r"(s.s0), [s1] "+r"(s.s1), [s2] "+r"(s.s2), [s3] "+r"(s.s3), [w] "+r"(at), [x] "+r"(x), \\
              [left] "+r"(left), [v] "=&r"(v), [half] "=&r"(half) \\
            : \\
            : "r0", "r1", "r2", "r3", "cc", "memory")
        if (outputs == BLOCK) {
            left = (uint32_t)q;
            LOOP("tst %[left], #1\\n beq 1f\\n ldr %[v], [%[w]], #64\\n" HALVES "subs %[left], %[left], #1\\n beq 2f\\n"
                 "1:\\n ldr %[v], [%[w]], #64\\n" HALVES "ldr %[v], [%[w]], #64\\n" HALVES
                 "subs %[left], %[left], #2\\n bne 1b\\n"
                 "2:\\n");
        } else {
            LOOP("1:\\n ldr %[v], [%[w]]\\n uxtah %[w], %[w], %[left]\\n" HALVES
                 "subs %[left], %[left], #65536\\n bcs 1b\\n");
        }
#undef LOOP
#undef HALVES
#undef HALF
        q = 0;
    }
#endif
    for (; q > 0; q--, at += 4 * outputs) {
        const uint32_t v = word(at);
        for (k = 0; k < @Q; k++, x += 8)
            s = add_quad@B(s, quad@B(v >> @B * k, v >> (8 + @B * k), values), x);
    }
    at -= 4 * o;
    for (q = quads / @Q * @Q; q < quads; q++, at += (outputs * @B + 1) / 2, x += 8) {
        const uint32_t some = word@B(at, o), v = some | some << (16 - 2 * @B);
        s = add_quad@B(s, quad@B(v, v >> @B, values), x);
    }
    return s;
}

/* Of a patch of one: outputs o to o + count of a block, one or four. */
static inline void one_of_indices@B(const uint8_t *w, const int8_t *values, int32_t o, const int32_t count, int32_t outputs,
                                    const uint32_t *x, int32_t quads, int32_t start, int32_t *sums)
{
    const uint8_t *at = w + 4 * o;
    int32_t q = quads / @Q, k, s0 = start, s1 = start, s2 = start, s3 = start;
    if (!values)
        for (; q > 0; q--, at += 4 * outputs, x += 2 * @Q) {
            const uint32_t v0 = word(at), v1 = count > 1 ? word(at + 4) : 0;
            const uint32_t v2 = count > 1 ? word(at + 8) : 0, v3 = count > 1 ? word(at + 12) : 0;
#define HALF(i, place) \\
    s0 = __smlad((int16x2_t)(v0 >> (place) & @Mu), (int16x2_t)x[i], s0); \\
    if (count > 1) { \\
        s1 = __smlad((int16x2_t)(v1 >> (place) & @Mu), (int16x2_t)x[i], s1); \\
        s2 = __smlad((int16x2_t)(v2 >> (place) & @Mu), (int16x2_t)x[i], s2); \\
        s3 = __smlad((int16x2_t)(v3 >> (place) & @Mu), (int16x2_t)x[i], s3); \\
    }
            @PLACES
#undef HALF
        }
    sums[o] = s0;
    if (count > 1) {
        sums[o + 1] = s1;
        sums[o + 2] = s2;
        sums[o + 3] = s3;
    }
    for (; q > 0; q--, at += 4 * outputs) {
        for (k = 0; k < @Q; k++, x += 2)
            for (s1 = 0; s1 < count; s1++) {
                const uint32_t v = word(at + 4 * s1);
                const Quad@B w4 = quad@B(v >> @B * k, v >> (8 + @B * k), values);
                sums[o + s1] = __smlad(w4.odd, (int16x2_t)x[1], __smlad(w4.even, (int16x2_t)x[0], sums[o + s1]));
            }
    }
    at -= 4 * o;
    for (q = quads / @Q * @Q; q < quads; q++, at += (outputs * @B + 1) / 2, x += 2)
        for (s1 = 0; s1 < count; s1++) {
            const uint32_t some = word@B(at, o + s1), v = some | some << (16 - 2 * @B);
            const Quad@B w4 = quad@B(v, v >> @B, values);
            sums[o + s1] = __smlad(w4.odd, (int16x2_t)x[1], __smlad(w4.even, (int16x2_t)x[0], sums[o + s1]));
        }
}

"""


def _places(bits: int) -> list[int]:
    """The bits of a word of indices at which the pairs lie that meet one word of a patch after another."""
    return [bits * k + 8 * odd for k in range(8 // bits) for odd in (0, 1)]


def _halves(bits: int) -> str:
    """The assembly that goes through the halves of a word of indices."""
    places = _places(bits)
    turns = [(after - before) % 32 for before, after in pairwise(places)]
    return " ".join([*(f'HALF("ror %[v], %[v], #{turn}\\n ")' for turn in turns), 'HALF("")'])


def of_indices(bits: int) -> str:
    """The C of sums of indices of so many bits."""
    places = "\n            ".join(f"HALF({i}, {place})" for i, place in enumerate(_places(bits)))
    text = packed.words(bits) + "\n" + OF_INDICES
    parts = {
        "@PLACES": places,
        "@HALVES": _halves(bits),
        "@M": f"0x{((1 << bits) - 1) * 0x10001:08X}",
        "@Q": str(8 // bits),
        "@B": str(bits),
    }
    for name, value in parts.items():
        text = text.replace(name, value)
    return text

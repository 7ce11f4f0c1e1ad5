"""Sums of products on processors with the DSP extension of Arm (Cortex-M4, M7, M33)."""

from __future__ import annotations

MULTIPLY = """\
/* sums[p * BLOCK + o] = sum of x[p * stride + r * pitch + k] w[r][k][o] over r < rows and k < 4 * quads, for `pixels` p (up
 * to 4) and up to BLOCK outputs o. w: a block of weights, [rows * quads][outputs][4]. */
static inline void multiply(const uint8_t *x, int32_t stride, int32_t pixels, int32_t rows, int32_t pitch, int32_t quads,
                            const int8_t *w, int32_t outputs, uint32_t *sums)
{
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
}
"""

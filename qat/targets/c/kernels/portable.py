"""Sums of products and their codes in plain C, for processors without a form of their own."""

from __future__ import annotations

FINISH = """\
/* y[o] = the code of sums[o] + bias[first + o], for up to BLOCK outputs. sums: BLOCK of them. */
static inline void finish(const uint32_t *sums, const Scaling *scaling, int32_t first, int32_t outputs, uint8_t *y)
{
    int32_t o;
    for (o = 0; o < outputs; o++) {
        const int32_t i = first + o;
        const int32_t bias = scaling->bias_bytes == 1   ? ((const int8_t *)scaling->bias)[i]
                             : scaling->bias_bytes == 2 ? ((const int16_t *)scaling->bias)[i]
                                                        : ((const int32_t *)scaling->bias)[i];
        y[o] = code_of_sum(scaling, (int32_t)(sums[o] + (uint32_t)bias), i);
    }
}
"""

MULTIPLY = """\
/* sums[p * BLOCK + o] = sum of x[p * stride + r * pitch + k] w[r][k][o] over r < rows and k < 4 * quads, for `pixels` p (up
 * to 4) and up to BLOCK outputs o. w: a block of weights, [rows * quads][outputs][4]. */
static inline void multiply(const uint8_t *x, int32_t stride, int32_t pixels, int32_t rows, int32_t pitch, int32_t quads,
                            const int8_t *w, int32_t outputs, uint32_t *sums)
{
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
}
"""

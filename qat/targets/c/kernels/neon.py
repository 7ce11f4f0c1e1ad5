"""Sums of products and their codes on Arm processors of 64 bits, with the dot products of Armv8.2 where they are."""

from __future__ import annotations

FINISH = """\
/* The next up to four numbers as int32. */
static inline int32x4_t load_bias(const Scaling *scaling, int32_t first, int32_t count)
{
    int32_t numbers[4] = {0, 0, 0, 0}, i;
    for (i = 0; i < count; i++)
        numbers[i] = scaling->bias_bytes == 1   ? ((const int8_t *)scaling->bias)[first + i]
                     : scaling->bias_bytes == 2 ? ((const int16_t *)scaling->bias)[first + i]
                                                : ((const int32_t *)scaling->bias)[first + i];
    return vld1q_s32(numbers);
}

#ifdef FLOAT_ARITHMETIC
/* Up to four sums, as rounded has them. What is beyond int32 is the int32 next to it. */
static inline int32x4_t scaled(const Scaling *scaling, int32_t first, int32_t count, int32x4_t x)
{
    int32x4_t multiplier = vdupq_n_s32(scaling->multiplier[0]);
    if (scaling->each_multiplier) {
        int32_t numbers[4] = {0, 0, 0, 0};
        memcpy(numbers, scaling->multiplier + first, 4 * (size_t)count);
        multiplier = vld1q_s32(numbers);
    }
    return vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(x), vreinterpretq_f32_s32(multiplier)));
}
#else
static inline int32x4_t load_shifts(const uint8_t *shift, int32_t each, int32_t first, int32_t count)
{
    int32_t numbers[4] = {0, 0, 0, 0}, i;
    if (!each)
        return vdupq_n_s32(shift[0]);
    for (i = 0; i < count; i++)
        numbers[i] = shift[first + i];
    return vld1q_s32(numbers);
}

/* Up to four sums, as requantize has them. The shift rounds ties up, so that what is negative is first made less by 1. */
static inline int32x4_t scaled(const Scaling *scaling, int32_t first, int32_t count, int32x4_t x)
{
    const int32x4_t shift = vnegq_s32(load_shifts(scaling->right, scaling->each_shift, first, count));
    int32x4_t multiplier = vdupq_n_s32(scaling->multiplier[0]);
    if (scaling->each_multiplier) {
        int32_t numbers[4] = {0, 0, 0, 0};
        memcpy(numbers, scaling->multiplier + first, 4 * (size_t)count);
        multiplier = vld1q_s32(numbers);
    }
    if (scaling->left)
        x = vshlq_s32(x, load_shifts(scaling->left, scaling->each_shift, first, count));
    x = vqrdmulhq_s32(x, multiplier);
    return vrshlq_s32(vaddq_s32(x, vshrq_n_s32(vandq_s32(x, shift), 31)), shift);
}
#endif

/* y[o] = the code of sums[o] + bias[first + o], for up to BLOCK outputs. sums: BLOCK of them. */
static inline void finish(const uint32_t *sums, const Scaling *scaling, int32_t first, int32_t outputs, uint8_t *y)
{
#ifdef FLOAT_ARITHMETIC
    const int32_t low = scaling->low + scaling->zero, high = scaling->high + scaling->zero;
#else
    const int32_t low = scaling->low, high = scaling->high;
#endif
    int32_t o;
    for (o = 0; o < outputs; o += 4) {
        const int32_t count = outputs - o < 4 ? outputs - o : 4;
        const int32x4_t bias = load_bias(scaling, first + o, count);
        int32x4_t x = vaddq_s32(vreinterpretq_s32_u32(vld1q_u32(sums + o)), bias);
        uint16x8_t narrow;
        uint32_t four;
        x = vqaddq_s32(scaled(scaling, first + o, count, x), vdupq_n_s32(scaling->zero));
        x = vminq_s32(vmaxq_s32(x, vdupq_n_s32(low)), vdupq_n_s32(high));
        narrow = vcombine_u16(vmovn_u32(vreinterpretq_u32_s32(x)), vdup_n_u16(0));
        four = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(narrow)), 0);
        if (count == 4)
            memcpy(y + o, &four, 4);
        else
            memcpy(y + o, &four, (size_t)count);
    }
    (void)code_of_sum;
}
"""

MULTIPLY = """\
/* Four products for each of four outputs, of a word of the input for all. Without the instructions for a signed and an unsigned
 * byte, codes are made less by 128, and 128 times the sum of the weights is added in the end. Without
 * those for dot products each output has two sums, of two products each: two outputs in sums[0], two in sums[1]. */
typedef struct {
    int32x4_t sums[2];
} Four;

static inline Four add_four(Four to, int8x16_t w, int8x16_t x)
{
#if defined(__ARM_FEATURE_MATMUL_INT8)
    to.sums[0] = vusdotq_s32(to.sums[0], vreinterpretq_u8_s8(x), w);
#elif defined(__ARM_FEATURE_DOTPROD)
    to.sums[0] = vdotq_s32(to.sums[0], w, x);
#else
    to.sums[0] = vpadalq_s16(to.sums[0], vmull_s8(vget_low_s8(w), vget_low_s8(x)));
    to.sums[1] = vpadalq_s16(to.sums[1], vmull_s8(vget_high_s8(w), vget_high_s8(x)));
#endif
    return to;
}

static inline int32x4_t sums_of(Four x)
{
#if defined(__ARM_FEATURE_MATMUL_INT8) || defined(__ARM_FEATURE_DOTPROD)
    return x.sums[0];
#else
    return vpaddq_s32(x.sums[0], x.sums[1]);
#endif
}

/* What multiply computes, for four outputs, or `left` of them, or for eight. */
static inline void multiply_fours(const uint8_t *x, int32_t stride, const int32_t pixels, int32_t rows, int32_t pitch,
                                  int32_t quads, const int8_t *w, int32_t outputs, int32_t left, const int32_t fours,
                                  uint32_t *sums)
{
    const Four none = {{vdupq_n_s32(0), vdupq_n_s32(0)}};
    const int8x16_t ones = vdupq_n_s8(1), flip = vreinterpretq_s8_u8(vdupq_n_u8(128));
    Four s[2][4], of_weights[2] = {none, none};
    int32_t p, r, q, f;
    for (f = 0; f < fours; f++)
        for (p = 0; p < pixels; p++)
            s[f][p] = none;
    for (r = 0; r < rows; r++) {
        const uint8_t *from = x + r * pitch;
        for (q = 0; q < quads; q++, from += 4, w += 4 * outputs) {
            int8x16_t weights[2];
            if (left < 4) {
                int8_t some[16] = {0};
                memcpy(some, w, 4 * (size_t)left);
                weights[0] = vld1q_s8(some);
            } else {
                for (f = 0; f < fours; f++)
                    weights[f] = vld1q_s8(w + 16 * f);
            }
#if !defined(__ARM_FEATURE_MATMUL_INT8)
            for (f = 0; f < fours; f++)
                of_weights[f] = add_four(of_weights[f], weights[f], ones);
#endif
            for (p = 0; p < pixels; p++) {
                int8x16_t input = vreinterpretq_s8_u32(vdupq_n_u32(word(from + p * stride)));
#if !defined(__ARM_FEATURE_MATMUL_INT8)
                input = veorq_s8(input, flip);
#endif
                for (f = 0; f < fours; f++)
                    s[f][p] = add_four(s[f][p], weights[f], input);
            }
        }
    }
    for (f = 0; f < fours; f++)
        for (p = 0; p < pixels; p++) {
            const int32x4_t added = vshlq_n_s32(sums_of(of_weights[f]), 7);
            vst1q_u32(sums + p * BLOCK + 4 * f, vreinterpretq_u32_s32(vaddq_s32(sums_of(s[f][p]), added)));
        }
    (void)ones;
    (void)flip;
}

/* sums[p * BLOCK + o] = sum of x[p * stride + r * pitch + k] w[r][k][o] over r < rows and k < 4 * quads, for `pixels` p (up
 * to 4) and up to BLOCK outputs o. w: a block of weights, [rows * quads][outputs][4]. */
static inline void multiply(const uint8_t *x, int32_t stride, int32_t pixels, int32_t rows, int32_t pitch, int32_t quads,
                            const int8_t *w, int32_t outputs, uint32_t *sums)
{
    int32_t o, p;
    for (o = 0; o < outputs;) {
        const int32_t left = outputs - o;
        if (pixels == 4 && left >= 8)
            multiply_fours(x, stride, 4, rows, pitch, quads, w + 4 * o, outputs, left, 2, sums + o);
        else if (pixels == 4)
            multiply_fours(x, stride, 4, rows, pitch, quads, w + 4 * o, outputs, left, 1, sums + o);
        else
            for (p = 0; p < pixels; p++) {
                uint32_t *const to = sums + p * BLOCK + o;
                if (left >= 8)
                    multiply_fours(x + p * stride, 0, 1, rows, pitch, quads, w + 4 * o, outputs, left, 2, to);
                else
                    multiply_fours(x + p * stride, 0, 1, rows, pitch, quads, w + 4 * o, outputs, left, 1, to);
            }
        o += left >= 8 ? 8 : 4;
    }
}
"""

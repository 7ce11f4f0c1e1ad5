"""Codes of sums on processors with Helium, four at a time, in either arithmetic."""

from __future__ import annotations

FINISH = """\
#ifdef FLOAT_ARITHMETIC
/* rounded of four numbers. Helium rounds to the nearest, ties to the even one, whatever the processor is told to do else. */
static inline int32x4_t rounded4(int32x4_t x, int32x4_t multiplier)
{
#ifdef USE_HELIUM_FLOATS
    return vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(x), vreinterpretq_f32_s32(multiplier)));
#else
    int32_t i, sums[4], bits[4];
    vst1q_s32(sums, x);
    vst1q_s32(bits, multiplier);
    for (i = 0; i < 4; i++)
        sums[i] = rounded(sums[i], bits[i]);
    return vld1q_s32(sums);
#endif
}
#endif

/* y[p * pitch + o] = the code of sums[p * BLOCK + o] + bias[first + o], for up to BLOCK outputs of `pixels` p.
 *
 * VQRDMULH is the first rounding, (2 x multiplier + 2^31) / 2^32 rounded down; it saturates where both are -2^31 only. VRSHL is
 * the second, of x + half rounded down, which has ties go up: so a negative x is made one less, which changes ties only. Where
 * no code is below that of 0, a negative x has the lowest code in either way. */
static inline void finish_pixels(const uint32_t *sums, int32_t pixels, const Scaling *scaling, int32_t first, int32_t outputs,
                                 uint8_t *y, int32_t pitch)
{
    const int32x4_t zero = vdupq_n_s32(scaling->zero), low = vdupq_n_s32(scaling->low), high = vdupq_n_s32(scaling->high);
    const int32_t *const multipliers = scaling->each_multiplier ? scaling->multiplier + first : 0;
    const int32_t bytes = scaling->bias_bytes;
    const int8_t *biases = (const int8_t *)scaling->bias + first * bytes;
    int32x4_t multiplier = vdupq_n_s32(scaling->multiplier[0]);
    int32_t o = 0, p;
#ifndef FLOAT_ARITHMETIC
    const uint8_t *const shifts = scaling->each_shift ? scaling->right + first : 0, *const left = scaling->left;
    const int32_t relu = scaling->low >= scaling->zero, loops = !left;
    int32x4_t right = vdupq_n_s32(-(int32_t)scaling->right[0]);
#define TIES "vand q1, q0, %q[right]\\n\\tvshr.s32 q1, q1, #31\\n\\tvadd.i32 q0, q0, q1\\n\\t"
#define SCALE(TIES) \\
    "vqrdmulh.s32 q0, q0, %q[multiplier]\\n\\t" TIES "vrshl.s32 q0, q0, %q[right]\\n\\t" \\
    "vadd.i32 q0, q0, %q[zero]\\n\\tvmax.s32 q0, q0, %q[low]\\n\\tvmin.s32 q0, q0, %q[high]\\n\\t"
#else
#ifdef USE_HELIUM_FLOATS
    const int32_t loops = 1;
#else
    const int32_t loops = 0;
#endif
    const int32x4_t right = zero; /* there are no shifts */
#define SCALE \\
    "vcvt.f32.s32 q0, q0\\n\\tvmul.f32 q0, q0, %q[multiplier]\\n\\tvcvtn.s32.f32 q0, q0\\n\\t" \\
    "vmax.s32 q0, q0, %q[low]\\n\\tvmin.s32 q0, q0, %q[high]\\n\\tvadd.i32 q0, q0, %q[zero]\\n\\t"
#endif
#define CODES(SCALE) \\
    __asm__ volatile("dls lr, %[pixels]\\n" \\
                     "0:\\n\\t" \\
                     "vldrw.s32 q0, [%[from]], #64\\n\\t" \\
                     "vadd.i32 q0, q0, %q[bias]\\n\\t" SCALE "vstrb.32 q0, [%[to]]\\n\\t" \\
                     "add %[to], %[to], %[pitch]\\n\\t" \\
                     "le lr, 0b" \\
                     : [from] "+&r"(from), [to] "+&l"(to) \\
                     : [pixels] "r"(pixels), [pitch] "r"(pitch), [bias] "w"(bias), [multiplier] "w"(multiplier), \\
                       [right] "w"(right), [zero] "w"(zero), [low] "w"(low), [high] "w"(high) \\
                     : "q0", "q1", "lr", "memory")
    for (; loops && o + 4 <= outputs; o += 4) {
        const uint32_t *from = sums + o;
        uint8_t *to = y + o;
        const int32x4_t bias = bytes == 1   ? vldrbq_s32(biases)
                               : bytes == 2 ? vldrhq_s32((const int16_t *)(const void *)biases)
                                            : vldrwq_s32((const int32_t *)(const void *)biases);
        biases += 4 * bytes;
        if (multipliers)
            multiplier = vldrwq_s32(multipliers + o);
#if !defined(FLOAT_ARITHMETIC)
        if (shifts)
            right = vnegq_s32(vreinterpretq_s32_u32(vldrbq_u32(shifts + o)));
        if (relu)
            CODES(SCALE(""));
        else /* `right` is negative, or 0 where there are no ties */
            CODES(SCALE(TIES));
#elif defined(USE_HELIUM_FLOATS)
        CODES(SCALE);
#else
        (void)right;
        (void)from;
        (void)to;
        (void)bias;
#endif
    }
#undef TIES
#undef SCALE
#undef CODES
    for (; o < outputs; o += 4) {
        const mve_pred16_t lanes = vctp32q((uint32_t)(outputs - o));
        const int32x4_t bias = bytes == 1   ? vldrbq_z_s32(biases, lanes)
                               : bytes == 2 ? vldrhq_z_s32((const int16_t *)(const void *)biases, lanes)
                                            : vldrwq_z_s32((const int32_t *)(const void *)biases, lanes);
#ifndef FLOAT_ARITHMETIC
        int32x4_t up = vdupq_n_s32(left ? left[0] : 0);
        if (shifts)
            right = vnegq_s32(vreinterpretq_s32_u32(vldrbq_z_u32(shifts + o, lanes)));
        if (shifts && left)
            up = vreinterpretq_s32_u32(vldrbq_z_u32(left + first + o, lanes));
#endif
        biases += 4 * bytes;
        if (multipliers)
            multiplier = vldrwq_z_s32(multipliers + o, lanes);
        for (p = 0; p < pixels; p++) {
            int32x4_t x = vaddq_s32(vldrwq_s32((const int32_t *)(const void *)(sums + p * BLOCK + o)), bias);
#ifdef FLOAT_ARITHMETIC
            x = vaddq_s32(vminq_s32(vmaxq_s32(rounded4(x, multiplier), low), high), zero);
#else
            x = vqrdmulhq_s32(vshlq_s32(x, up), multiplier);
            x = vrshlq_s32(vaddq_s32(x, vshrq_n_s32(vandq_s32(x, right), 31)), right);
            x = vminq_s32(vmaxq_s32(vaddq_s32(x, zero), low), high);
#endif
            vstrbq_p_s32((int8_t *)y + p * pitch + o, x, lanes);
        }
    }
    (void)code_of_sum;
}
"""

"""Layers on processors with Helium, the vectors of Armv8.1-M (Cortex-M55, M85).

The only instruction that multiplies bytes and adds them up (VMLADAVA) wants both signed or both unsigned, and codes are
unsigned where weights are signed. So the windows of three outputs are copied with their highest bits flipped, c ^ 128 being
c - 128 as a signed byte, once for all outputs; the biases of a file compiled for Helium hold the 128 times the sum of the
weights that is missing.

Sixteen weights of one output are four words of a block, which VLDRW gathers: on a Cortex-M55 in four cycles where a load of
neighbours takes two. Two outputs meet three windows at a time: 12 cycles of products, 6 of loads and 8 of gathers, of which
those of the one kind run beside those of the other.
"""

from __future__ import annotations

VECTORS = """\
/* to[i] = from[i] ^ flips. In assembly, as all loops below that are short: GCC 12 makes no tail-predicated loop, whose end
 * (LETP) counts what is left and switches off the lanes behind it. */
static inline void flip(void *to, const void *from, int32_t flips, int32_t count)
{
    __asm__ volatile("vdup.8 q1, %[flips]\\n\\t"
                     "wlstp.8 lr, %[count], 1f\\n"
                     "0:\\n\\t"
                     "vldrb.8 q0, [%[from]], #16\\n\\t"
                     "veor q0, q0, q1\\n\\t"
                     "vstrb.8 q0, [%[to]], #16\\n\\t"
                     "letp lr, 0b\\n"
                     "1:"
                     : [to] "+r"(to), [from] "+r"(from)
                     : [flips] "r"(flips), [count] "r"(count)
                     : "q0", "q1", "lr", "memory");
}

/* to[i] = code */
static inline void set(void *to, int32_t code, int32_t count)
{
    __asm__ volatile("vdup.8 q0, %[code]\\n\\t"
                     "wlstp.8 lr, %[count], 1f\\n"
                     "0:\\n\\t"
                     "vstrb.8 q0, [%[to]], #16\\n\\t"
                     "letp lr, 0b\\n"
                     "1:"
                     : [to] "+r"(to)
                     : [code] "r"(code), [count] "r"(count)
                     : "q0", "lr", "memory");
}

"""

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
#else
/* requantize of four numbers: right of 0 or less. VQRDMULH is the first rounding, (2 x multiplier + 2^31) / 2^32 rounded down;
 * it saturates where both are -2^31 only. VRSHL rounds x + half down, so that with negative x and ties, the only x where x - 1
 * has another result, the result is to be one less. */
static inline int32x4_t requantize4(int32x4_t x, int32x4_t multiplier, int32x4_t right)
{
    x = vqrdmulhq_s32(x, multiplier);
    x = vaddq_s32(x, vshrq_n_s32(vandq_s32(x, right), 31));
    return vrshlq_s32(x, right);
}
#endif

/* y[p * pitch + o] = the code of sums[p * BLOCK + o] + bias[first + o], for up to BLOCK outputs of `pixels` p. */
static inline void finish_pixels(const uint32_t *sums, int32_t pixels, const Scaling *scaling, int32_t first, int32_t outputs,
                                 uint8_t *y, int32_t pitch)
{
    const int32x4_t zero = vdupq_n_s32(scaling->zero), low = vdupq_n_s32(scaling->low), high = vdupq_n_s32(scaling->high);
    int32x4_t multiplier = vdupq_n_s32(scaling->multiplier[0]);
#ifndef FLOAT_ARITHMETIC
    int32x4_t right = vdupq_n_s32(-(int32_t)scaling->right[0]);
#endif
    int32_t o, p;
    for (o = 0; o < outputs; o += 4) {
        const mve_pred16_t lanes = vctp32q((uint32_t)(outputs - o));
        const void *const from = (const int8_t *)scaling->bias + (first + o) * scaling->bias_bytes;
        const int32x4_t bias = scaling->bias_bytes == 1   ? vldrbq_z_s32((const int8_t *)from, lanes)
                               : scaling->bias_bytes == 2 ? vldrhq_z_s32((const int16_t *)from, lanes)
                                                          : vldrwq_z_s32((const int32_t *)from, lanes);
        if (scaling->each_multiplier)
            multiplier = vldrwq_z_s32(scaling->multiplier + first + o, lanes);
#ifndef FLOAT_ARITHMETIC
        if (scaling->each_shift)
            right = vnegq_s32(vreinterpretq_s32_u32(vldrbq_z_u32(scaling->right + first + o, lanes)));
#endif
        for (p = 0; p < pixels; p++) {
            int32x4_t x = vaddq_s32(vldrwq_s32((const int32_t *)(const void *)(sums + p * BLOCK + o)), bias);
#ifdef FLOAT_ARITHMETIC
            x = vaddq_s32(vminq_s32(vmaxq_s32(rounded4(x, multiplier), low), high), zero);
            vstrbq_p_s32((int8_t *)y + p * pitch + o, x, lanes);
#else
            if (scaling->left)
                x = vshlq_s32(x, scaling->each_shift
                                     ? vreinterpretq_s32_u32(vldrbq_z_u32(scaling->left + first + o, lanes))
                                     : vdupq_n_s32(scaling->left[0]));
            x = vaddq_s32(requantize4(x, multiplier, right), zero);
            vstrbq_p_s32((int8_t *)y + p * pitch + o, vminq_s32(vmaxq_s32(x, low), high), lanes);
#endif
        }
    }
    (void)code_of_sum;
}

/* The same of one pixel. */
static inline void finish(const uint32_t *sums, const Scaling *scaling, int32_t first, int32_t outputs, uint8_t *y)
{
    finish_pixels(sums, 1, scaling, first, outputs, y, 0);
}
"""

CONVOLVE = """\
/* The window of one output, flipped; rows of `line` bytes. */
static inline void fill_flipped(const Layer *layer, const uint8_t *x, int32_t own, int32_t group, int32_t row, int32_t column,
                                int32_t line, int8_t *to)
{
    const int32_t y0 = row * layer->stride_y - layer->top, x0 = column * layer->stride_x - layer->left;
    const int32_t zero = layer->zero ^ 128, taps = layer->kernel_width;
    int32_t i, j;
    for (i = 0; i < layer->kernel_height; i++, to += line) {
        const int32_t yi = y0 + i * layer->dilation_y;
        const uint8_t *from = x + (yi * layer->width + x0) * layer->channels + group * own;
        if (yi < 0 || yi >= layer->height) {
            set(to, zero, taps * own);
        } else if (layer->groups == 1 && layer->dilation_x == 1) {
            const int32_t j0 = x0 < 0 ? -x0 : 0, j1 = x0 + taps > layer->width ? layer->width - x0 : taps;
            if (j0 > 0)
                set(to, zero, (j0 < taps ? j0 : taps) * own);
            flip(to + j0 * own, from + j0 * own, 128, (j1 - j0) * own);
            if (j1 < taps)
                set(to + (j1 > 0 ? j1 : 0) * own, zero, (taps - (j1 > 0 ? j1 : 0)) * own);
        } else {
            for (j = 0; j < taps; j++) {
                const int32_t xj = x0 + j * layer->dilation_x;
                if (xj >= 0 && xj < layer->width)
                    flip(to + j * own, from + j * layer->dilation_x * layer->channels, 128, own);
                else
                    set(to + j * own, zero, own);
            }
        }
    }
}

/* Sums of a block of outputs, of three windows that lie `count` bytes apart. */
static inline void multiply_three(const int8_t *x, int32_t count, const int8_t *w, int32_t outputs, uint32_t *sums)
{
    const int32_t step = 16 * outputs;
    const uint32x4_t words = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)(4 * outputs));
    int32_t o;
    for (o = 0; o < outputs; o += 2) {
        const uint32_t at = (uint32_t)(uintptr_t)(w + 4 * o - step);
        uint32x4_t even = vaddq_n_u32(words, at), odd = vaddq_n_u32(words, o + 1 < outputs ? at + 4 : at);
        const int8_t *x0 = x, *x1 = x + count, *x2 = x1 + count;
        int32_t e0 = 0, e1 = 0, e2 = 0, d0 = 0, d1 = 0, d2 = 0;
#define SUMS(NEXT) \\
    "wlstp.8 lr, %[count], 1f\\n" \\
    "0:\\n\\t" NEXT "vldrb.8 q0, [%[x0]], #16\\n\\t" \\
    "vmladava.s8 %[e0], q0, q1\\n\\t" \\
    "vmladava.s8 %[d0], q0, q2\\n\\t" \\
    "vldrb.8 q0, [%[x1]], #16\\n\\t" \\
    "vmladava.s8 %[e1], q0, q1\\n\\t" \\
    "vmladava.s8 %[d1], q0, q2\\n\\t" \\
    "vldrb.8 q0, [%[x2]], #16\\n\\t" \\
    "vmladava.s8 %[e2], q0, q1\\n\\t" \\
    "vmladava.s8 %[d2], q0, q2\\n\\t" \\
    "letp lr, 0b\\n" \\
    "1:"
#define OPERANDS \\
    [e0] "+Te"(e0), [e1] "+Te"(e1), [e2] "+Te"(e2), [d0] "+Te"(d0), [d1] "+Te"(d1), [d2] "+Te"(d2), [x0] "+r"(x0), \\
        [x1] "+r"(x1), [x2] "+r"(x2), [even] "+w"(even), [odd] "+w"(odd)
        if (outputs == BLOCK)
            __asm__ volatile(SUMS("vldrw.u32 q1, [%q[even], #256]!\\n\\tvldrw.u32 q2, [%q[odd], #256]!\\n\\t")
                             : OPERANDS
                             : [count] "r"(count)
                             : "q0", "q1", "q2", "lr", "memory");
        else
            __asm__ volatile(SUMS("vadd.i32 %q[even], %q[even], %[step]\\n\\tvadd.i32 %q[odd], %q[odd], %[step]\\n\\t"
                                  "vldrw.u32 q1, [%q[even]]\\n\\tvldrw.u32 q2, [%q[odd]]\\n\\t")
                             : OPERANDS
                             : [count] "r"(count), [step] "r"(step)
                             : "q0", "q1", "q2", "lr", "memory");
#undef SUMS
#undef OPERANDS
        sums[o] = (uint32_t)e0;
        sums[o + 1] = (uint32_t)d0;
        sums[BLOCK + o] = (uint32_t)e1;
        sums[BLOCK + o + 1] = (uint32_t)d1;
        sums[2 * BLOCK + o] = (uint32_t)e2;
        sums[2 * BLOCK + o + 1] = (uint32_t)d2;
    }
}

/* Sums of a block of outputs of one window, whose codes ^ flips are signed. */
static inline void multiply_one(const int8_t *x, int32_t flips, int32_t count, const int8_t *w, int32_t outputs, uint32_t *sums)
{
    const int32_t step = 16 * outputs;
    const uint32x4_t words = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)(4 * outputs));
    const int8x16_t flipped = vdupq_n_s8((int8_t)flips);
    int32_t o;
    for (o = 0; o < outputs; o += 4) { /* the last four may be some again; there may be fewer */
        const int32_t begin = o + 4 <= outputs ? o : outputs < 4 ? 0 : outputs - 4;
        const int8_t *from = x;
        uint32x4_t at = vaddq_n_u32(words, (uint32_t)(uintptr_t)(w + 4 * begin));
        int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        if (outputs < 4) {
            for (; o < outputs; o++) {
                at = vaddq_n_u32(words, (uint32_t)(uintptr_t)(w + 4 * o));
                from = x;
                s0 = 0;
                __asm__ volatile("wlstp.8 lr, %[count], 1f\\n"
                                 "0:\\n\\t"
                                 "vldrb.8 q0, [%[x]], #16\\n\\t"
                                 "vldrw.u32 q1, [%q[at]]\\n\\t"
                                 "veor q0, q0, %q[flipped]\\n\\t"
                                 "vadd.i32 %q[at], %q[at], %[step]\\n\\t"
                                 "vmladava.s8 %[s0], q0, q1\\n\\t"
                                 "letp lr, 0b\\n"
                                 "1:"
                                 : [s0] "+Te"(s0), [x] "+r"(from), [at] "+w"(at)
                                 : [count] "r"(count), [step] "r"(step), [flipped] "w"(flipped)
                                 : "q0", "q1", "lr", "memory");
                sums[o] = (uint32_t)s0;
            }
            return;
        }
        __asm__ volatile("wlstp.8 lr, %[count], 1f\\n"
                         "0:\\n\\t"
                         "vldrb.8 q0, [%[x]], #16\\n\\t"
                         "vldrw.u32 q1, [%q[at]]\\n\\t"
                         "veor q0, q0, %q[flipped]\\n\\t"
                         "vldrw.u32 q2, [%q[at], #4]\\n\\t"
                         "vmladava.s8 %[s0], q0, q1\\n\\t"
                         "vldrw.u32 q1, [%q[at], #8]\\n\\t"
                         "vmladava.s8 %[s1], q0, q2\\n\\t"
                         "vldrw.u32 q2, [%q[at], #12]\\n\\t"
                         "vmladava.s8 %[s2], q0, q1\\n\\t"
                         "vadd.i32 %q[at], %q[at], %[step]\\n\\t"
                         "vmladava.s8 %[s3], q0, q2\\n\\t"
                         "letp lr, 0b\\n"
                         "1:"
                         : [s0] "+Te"(s0), [s1] "+Te"(s1), [s2] "+Te"(s2), [s3] "+Te"(s3), [x] "+r"(from), [at] "+w"(at)
                         : [count] "r"(count), [step] "r"(step), [flipped] "w"(flipped)
                         : "q0", "q1", "q2", "lr", "memory");
        sums[begin] = (uint32_t)s0;
        sums[begin + 1] = (uint32_t)s1;
        sums[begin + 2] = (uint32_t)s2;
        sums[begin + 3] = (uint32_t)s3;
    }
}

/* What `correct` adds, where codes ^ flips are signed. */
static inline void correct_flipped(const int8_t *x, int32_t flips, int32_t rows, int32_t line, int32_t inputs,
                                   const int16_t *by, int32_t outputs, uint32_t *sums)
{
    int32_t r, k, o;
    uint32_t total = 0;
    for (r = 0; r < rows; r++)
        for (k = 0; k < inputs; k++)
            total += (uint32_t)(int8_t)(x[r * line + k] ^ flips);
    for (o = 0; o < outputs; o++)
        sums[o] += (uint32_t)by[o] * total;
}

/* Up to three outputs at a time, of which the last ones overlap those before them. */
static void convolve(const Layer *layer, const uint8_t *x, uint8_t *y, uint8_t *scratch)
{
    const int32_t per_group = layer->outputs / layer->groups, own = layer->channels / layer->groups;
    const int32_t windows = layer->reads == WINDOWS, rows = windows ? 1 : layer->kernel_height;
    const int32_t run = own * layer->kernel_width * (windows ? layer->kernel_height : 1);
    const int32_t quads = rows * ((run + 3) / 4), count = 4 * quads;
    const int32_t line = windows ? own * layer->kernel_width : (run + 3) / 4 * 4;
    const int32_t all = layer->out_height * layer->out_width, together = all < 3 ? 1 : 3;
    const int32_t in_place = all == 1 && layer->kernel_height == 1 && layer->reads == IN_PLACE;
    const int32_t points = layer->reads == IN_PLACE && layer->kernel_height == 1 && layer->out_height == 1 &&
                           layer->stride_x * layer->channels == line;
    const int8_t *const from = in_place ? (const int8_t *)x : (const int8_t *)scratch;
    const int32_t flips = in_place ? 128 : 0;
    uint32_t sums[3 * BLOCK];
    int32_t group, pixel, first, p;
@PACKED    if (layer->filled)
        memset(scratch, 0, (size_t)(together * count)); /* what no code is copied to */
    for (group = 0; group < layer->groups; group++)
        for (pixel = 0; pixel < all; pixel += together) {
            const int32_t begin = pixel < all - together ? pixel : all - together;
            const int8_t *w = (const int8_t *)layer->weight + group * layer->group_bytes;
            if (points)
                flip(scratch, x + begin * own, 128, together * own);
            else if (!in_place)
                for (p = 0; p < together; p++)
                    fill_flipped(layer, x, own, group, (begin + p) / layer->out_width, (begin + p) % layer->out_width, line,
                                 (int8_t *)scratch + p * count);
            for (first = 0; first < per_group; first += BLOCK) {
                const int32_t outputs = per_group - first < BLOCK ? per_group - first : BLOCK;
                const int32_t output = group * per_group + first;
                if (together == 3)
                    multiply_three(from, count, w, outputs, sums);
                else
                    multiply_one(from, flips, count, w, outputs, sums);
                if (layer->excess)
                    for (p = 0; p < together; p++)
                        correct_flipped(from + p * count, flips, rows, line, run, layer->excess + output, outputs,
                                        sums + p * BLOCK);
                finish_pixels(sums, together, &layer->scaling, output, outputs, y + begin * layer->outputs + output,
                              layer->outputs);
                w += 4 * quads * outputs;
            }
        }
}
"""

ADD_TAPS = """\
/* sums[c] = sum of code w[tap][c] over the taps of one output; w: 0 where all are 1. Eight channels at a time, whose products
 * are of 16 bits and their sums of 32: those of even channels, and those of odd ones. */
static inline void add_taps(const Layer *layer, const uint8_t *x, int32_t row, int32_t column, int32_t channels,
                            const int8_t *w, uint32_t *sums)
{
    const int32_t y0 = row * layer->stride_y - layer->top, x0 = column * layer->stride_x - layer->left;
    const int32_t step = layer->dilation_x * layer->channels, line = layer->dilation_y * layer->width * layer->channels;
    const int32_t last_y = y0 + (layer->kernel_height - 1) * layer->dilation_y;
    const int32_t last_x = x0 + (layer->kernel_width - 1) * layer->dilation_x;
    const int32_t inside = y0 >= 0 && x0 >= 0 && last_y < layer->height && last_x < layer->width;
    const uint16x8_t outside = vdupq_n_u16(layer->zero);
    const int32_t taps = w ? channels : 0;
    int32_t c, i, j;
    x += (y0 * layer->width + x0) * layer->channels;
    for (c = 0; c < channels; c += 8) {
        const mve_pred16_t lanes = vctp16q((uint32_t)(channels - c));
        const int8_t *at = w ? w + c : w;
        int32x4x2_t s;
        s.val[0] = s.val[1] = vdupq_n_s32(0);
#define ADD(codes, weights) \\
    do { \\
        const int16x8_t code = vreinterpretq_s16_u16(codes), weight = weights; \\
        s.val[0] = vaddq_s32(s.val[0], vmullbq_int_s16(code, weight)); \\
        s.val[1] = vaddq_s32(s.val[1], vmulltq_int_s16(code, weight)); \\
    } while (0)
        for (i = 0; i < layer->kernel_height; i++) {
            const int32_t yi = y0 + i * layer->dilation_y;
            const uint8_t *from = x + i * line + c;
            if (inside && w && channels - c >= 8) {
                for (j = 0; j < layer->kernel_width; j++, from += step, at += taps)
                    ADD(vldrbq_u16(from), vldrbq_s16(at));
                continue;
            }
            for (j = 0; j < layer->kernel_width; j++, from += step, at += taps) {
                const int32_t xj = x0 + j * layer->dilation_x;
                const int32_t in = yi >= 0 && yi < layer->height && xj >= 0 && xj < layer->width;
                ADD(in ? vldrbq_z_u16(from, lanes) : outside, w ? vldrbq_z_s16(at, lanes) : vdupq_n_s16(1));
            }
        }
#undef ADD
        vst2q_s32((int32_t *)(void *)(sums + c), s);
    }
}
"""


def convolve(packed: bool) -> str:
    """The C of convolutions and dense layers. packed: where some have weights of fewer bits than a byte."""
    other = """\
    if (layer->bits < 8) {
        convolve_packed(layer, x, y, scratch);
        return;
    }
"""
    return CONVOLVE.replace("@PACKED", other if packed else "")

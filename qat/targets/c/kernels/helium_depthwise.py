"""Depthwise convolutions on processors with Helium: channels lie across the lanes of vectors."""

from __future__ import annotations

#: After ``finish_pixels`` (helium_finish.py).
DEPTHWISE = """\
#define PIXELS 8 /* whose codes are made together */

/* The taps of one output that lie in the input: rows of `taps`, `step` apart; behind a row, so much more to the next. What is
 * needed once a row is read from here, since GCC has few registers to spare at -O0. */
typedef struct {
    int32_t rows, taps, step, more, more_weights;
} Taps;

/* sums[c] = sum of code w[tap][c] for 16 channels. Products are of 16 bits, their sums of 32: of even channels, and of odd. */
static inline void add_taps16(const uint8_t *x, const Taps *of, const int8_t *w, uint32_t *sums)
{
    int32_t rows = of->rows;
    __asm__ volatile("vmov.i32 q4, #0\\n\\t"
                     "vmov.i32 q5, #0\\n\\t"
                     "vmov.i32 q6, #0\\n\\t"
                     "vmov.i32 q7, #0\\n"
                     "0:\\n\\t"
                     "ldr lr, [%[of], #4]\\n\\t"
                     "dls lr, lr\\n"
                     "1:\\n\\t"
                     "vldrb.u16 q0, [%[x]]\\n\\t"
                     "vldrb.s16 q1, [%[w]], #8\\n\\t"
                     "vmullb.s16 q2, q0, q1\\n\\t"
                     "vmullt.s16 q3, q0, q1\\n\\t"
                     "vldrb.u16 q0, [%[x], #8]\\n\\t"
                     "vadd.i32 q4, q4, q2\\n\\t"
                     "vldrb.s16 q1, [%[w]], #8\\n\\t"
                     "vadd.i32 q5, q5, q3\\n\\t"
                     "add %[x], %[x], %[step]\\n\\t"
                     "vmullb.s16 q2, q0, q1\\n\\t"
                     "vadd.i32 q6, q6, q2\\n\\t"
                     "vmullt.s16 q3, q0, q1\\n\\t"
                     "vadd.i32 q7, q7, q3\\n\\t"
                     "le lr, 1b\\n\\t"
                     "ldr lr, [%[of], #12]\\n\\t"
                     "add %[x], %[x], lr\\n\\t"
                     "ldr lr, [%[of], #16]\\n\\t"
                     "add %[w], %[w], lr\\n\\t"
                     "subs %[rows], %[rows], #1\\n\\t"
                     "bne 0b\\n\\t"
                     "vst20.32 {q4, q5}, [%[sums]]\\n\\t"
                     "vst21.32 {q4, q5}, [%[sums]]!\\n\\t"
                     "vst20.32 {q6, q7}, [%[sums]]\\n\\t"
                     "vst21.32 {q6, q7}, [%[sums]]"
                     : [x] "+&l"(x), [w] "+&l"(w), [sums] "+&r"(sums), [rows] "+&r"(rows)
                     : [of] "r"(of), [step] "r"(of->step)
                     : "q0", "q1", "q2", "q3", "q4", "q5", "q6", "q7", "lr", "cc", "memory");
}

/* The same for 8 channels of a block of `channels`. */
static inline void add_taps8(const uint8_t *x, const Taps *of, const int8_t *w, int32_t channels, uint32_t *sums)
{
    int32_t rows = of->rows;
    __asm__ volatile("vmov.i32 q4, #0\\n\\t"
                     "vmov.i32 q5, #0\\n"
                     "0:\\n\\t"
                     "ldr lr, [%[of], #4]\\n\\t"
                     "dls lr, lr\\n"
                     "1:\\n\\t"
                     "vldrb.u16 q0, [%[x]]\\n\\t"
                     "vldrb.s16 q1, [%[w]]\\n\\t"
                     "add %[x], %[x], %[step]\\n\\t"
                     "vmullb.s16 q2, q0, q1\\n\\t"
                     "vadd.i32 q4, q4, q2\\n\\t"
                     "vmullt.s16 q3, q0, q1\\n\\t"
                     "add %[w], %[w], %[channels]\\n\\t"
                     "vadd.i32 q5, q5, q3\\n\\t"
                     "le lr, 1b\\n\\t"
                     "ldr lr, [%[of], #12]\\n\\t"
                     "add %[x], %[x], lr\\n\\t"
                     "ldr lr, [%[of], #16]\\n\\t"
                     "add %[w], %[w], lr\\n\\t"
                     "subs %[rows], %[rows], #1\\n\\t"
                     "bne 0b\\n\\t"
                     "vst20.32 {q4, q5}, [%[sums]]\\n\\t"
                     "vst21.32 {q4, q5}, [%[sums]]"
                     : [x] "+&l"(x), [w] "+&l"(w), [rows] "+&r"(rows)
                     : [of] "r"(of), [step] "r"(of->step), [channels] "r"(channels), [sums] "r"(sums)
                     : "q0", "q1", "q2", "q3", "q4", "q5", "lr", "cc", "memory");
}

/* The same for up to 8 channels. w: 0 where all are 1. */
static inline void add_taps_of(const uint8_t *x, const Taps *of, const int8_t *w, int32_t channels, int32_t count,
                               uint32_t *sums)
{
    const mve_pred16_t lanes = vctp16q((uint32_t)count);
    int32x4x2_t s;
    int32_t rows, taps;
    s.val[0] = s.val[1] = vdupq_n_s32(0);
    for (rows = of->rows; rows > 0; rows--, x += of->more, w = w ? w + of->more_weights : w)
        for (taps = of->taps; taps > 0; taps--, x += of->step, w = w ? w + channels : w) {
            const int16x8_t code = vreinterpretq_s16_u16(vldrbq_z_u16(x, lanes));
            const int16x8_t weight = w ? vldrbq_z_s16(w, lanes) : vdupq_n_s16(1);
            s.val[0] = vaddq_s32(s.val[0], vmullbq_int_s16(code, weight));
            s.val[1] = vaddq_s32(s.val[1], vmulltq_int_s16(code, weight));
        }
    vst2q_s32((int32_t *)(void *)sums, s);
}

/* For a block of channels. */
static inline void add_taps(const uint8_t *x, const Taps *of, const int8_t *w, int32_t channels, uint32_t *sums)
{
    int32_t c;
    if (w && of->rows && channels == BLOCK)
        add_taps16(x, of, w, sums);
    else
        for (c = 0; c < channels; c += 8) {
            if (w && of->rows && channels - c >= 8)
                add_taps8(x + c, of, w + c, channels, sums + c);
            else
                add_taps_of(x + c, of, w ? w + c : w, channels, channels - c, sums + c);
        }
}

/* sums[c] += zero w[tap][c] over the taps that lie in the padding, all but rows i0 to i1 of taps j0 to j1. */
static void add_padding(const Layer *layer, int32_t i0, int32_t i1, int32_t j0, int32_t j1, int32_t channels, const int8_t *w,
                        uint32_t *sums)
{
    int32_t i, j, c;
    for (i = 0; i < layer->kernel_height; i++)
        for (j = 0; j < layer->kernel_width; j++, w = w ? w + channels : w)
            if (i < i0 || i >= i1 || j < j0 || j >= j1)
                for (c = 0; c < channels; c++)
                    sums[c] += (uint32_t)(layer->zero * (w ? w[c] : 1));
}

/* The first of `taps` that begin at `at`, `step` apart, which is not below 0; and the first that is not below `size`. */
static inline int32_t first_tap(int32_t at, int32_t step, int32_t taps)
{
    const int32_t tap = at < 0 ? (step - 1 - at) / step : 0;
    return tap < taps ? tap : taps;
}

static inline int32_t last_tap(int32_t at, int32_t step, int32_t taps, int32_t size)
{
    if (at + (taps - 1) * step < size)
        return taps;
    return at < size ? (size - at + step - 1) / step : 0;
}

/* Channel by channel, in blocks, whose weights lie tap by tap. A tap in the padding meets the code of 0, so that every output
 * has the same bias. */
static void depthwise(const Layer *layer, const uint8_t *x, uint8_t *y, uint8_t *scratch)
{
    const int32_t height = layer->kernel_height, width = layer->kernel_width, taps = height * width;
    const int32_t dy = layer->dilation_y, dx = layer->dilation_x, next = dy * layer->width * layer->channels;
    int32_t first, row, column, x0, c, n;
    Taps of;
    (void)scratch;
    of.step = dx * layer->channels;
    for (first = 0; first < layer->channels; first += BLOCK) {
        const int32_t channels = layer->channels - first < BLOCK ? layer->channels - first : BLOCK;
        const int8_t *w = layer->weight ? (const int8_t *)layer->weight + first * taps : 0;
        uint32_t sums[PIXELS * BLOCK + 8], codes[BLOCK + 8]; /* stored by eight */
        uint8_t *to = y + first;
#ifdef MOST_TAPS
        int8_t unpacked[MOST_TAPS * BLOCK];
        if (w && layer->bits < 8) {
            const uint8_t *from = (const uint8_t *)layer->weight + first * taps * layer->bits / 8;
            unpack(from, layer->bits, layer->values, taps * channels, unpacked);
            w = unpacked;
        }
#endif
        for (row = n = 0; row < layer->out_height; row++) {
            const int32_t y0 = row * layer->stride_y - layer->top;
            const int32_t i0 = first_tap(y0, dy, height), i1 = last_tap(y0, dy, height, layer->height);
            for (column = 0, x0 = -layer->left; column < layer->out_width; column++, x0 += layer->stride_x) {
                uint32_t *const of_pixel = sums + n * BLOCK;
                const int32_t j0 = first_tap(x0, dx, width), j1 = last_tap(x0, dx, width, layer->width);
                const uint8_t *from = x + first;
                const int8_t *at = w;
                of.taps = j1 - j0;
                of.rows = of.taps > 0 && i1 > i0 ? i1 - i0 : 0;
                of.more = next - of.taps * of.step;
                of.more_weights = (width - of.taps) * channels;
                if (of.rows) /* else there is none */
                    from += ((y0 + i0 * dy) * layer->width + x0 + j0 * dx) * layer->channels;
                if (w) {
                    at += (i0 * width + j0) * channels;
                    add_taps(from, &of, at, channels, of_pixel);
                    if (layer->zero && of.rows * of.taps < taps)
                        add_padding(layer, i0, i1, j0, j1, channels, w, of_pixel);
                }
                if (!w || layer->excess) {
                    for (c = 0; c < channels; c += 8)
                        add_taps_of(from + c, &of, 0, 0, channels - c, codes + c);
                    if (layer->zero && of.rows * of.taps < taps)
                        add_padding(layer, i0, i1, j0, j1, channels, 0, codes);
                    for (c = 0; c < channels; c++) {
                        const int32_t more = (w ? 0 : layer->every) + (layer->excess ? layer->excess[first + c] : 0);
                        of_pixel[c] = (w ? of_pixel[c] : 0) + codes[c] * (uint32_t)more;
                    }
                }
                if (++n == PIXELS || (row == layer->out_height - 1 && column == layer->out_width - 1)) {
                    finish_pixels(sums, n, &layer->scaling, first, channels, to, layer->channels);
                    to += n * layer->channels;
                    n = 0;
                }
            }
        }
    }
}
"""

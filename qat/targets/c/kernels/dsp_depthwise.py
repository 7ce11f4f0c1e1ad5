"""Depthwise convolutions and average poolings on processors with the DSP extension of Arm (Cortex-M4, M7, M33).

The rows of four channels at a time are parted into planes of halves, so that two taps of a channel lie in one word; each row is
parted once for all outputs. Weights are pairs of halves too.
"""

from __future__ import annotations

STRIP = 64  #: most columns of outputs that are computed from one set of planes, which bounds their size

DEPTHWISE = """\
#define STRIP 64 /* outputs of a row between which planes are filled anew */

/* Up to four bytes, of which there are so many. */
static inline uint32_t some_bytes(const uint8_t *from, int32_t count)
{
    uint32_t x = from[0];
    if (count == 4)
        return word(from);
    x |= count > 1 ? (uint32_t)from[1] << 8 : 0u;
    return x | (count > 2 ? (uint32_t)from[2] << 16 : 0u);
}

/* A row of the input between its padding, from column `begin` on, of up to four channels to a plane each. */
static void part_row(const Layer *layer, const uint8_t *x, int32_t row, int32_t begin, int32_t columns, int32_t count,
                     uint32_t *to, int32_t plane)
{
    const int32_t y = row - layer->top, channels = layer->channels;
    const uint32_t zero = layer->zero * 0x01010101u;
    const int32_t inside = y >= 0 && y < layer->height;
    const uint8_t *from = x + (y * layer->width + begin - layer->left) * channels;
    int32_t j = begin - layer->left, end = j + columns;
    for (; j < end; j += 2, from += 2 * channels, to++) {
        uint32_t a = zero, b = zero, even, odd;
        if (inside && j >= 0 && j < layer->width)
            a = some_bytes(from, count);
        if (inside && j + 1 >= 0 && j + 1 < layer->width)
            b = some_bytes(from + channels, count);
        even = even_bytes(a);
        odd = odd_bytes(a);
        a = even_bytes(b);
        b = odd_bytes(b);
        to[0] = (even & 0xFFFFu) | a << 16;
        to[plane] = (odd & 0xFFFFu) | b << 16;
        to[2 * plane] = even >> 16 | (a & 0xFFFF0000u);
        to[3 * plane] = odd >> 16 | (b & 0xFFFF0000u);
    }
}

/* The weights of one channel as pairs, row by row: (w0, w1), (w2, w3), ..., a single last one with that before it. */
static inline void pair_weights(const Layer *layer, const int8_t *w, int32_t step, int32_t excess, uint32_t *pairs)
{
    const int32_t width = layer->kernel_width;
    int32_t i, j;
    for (i = 0; i < layer->kernel_height; i++, w += width * step)
        for (j = 0; j < width; j += 2, pairs++) {
            const int32_t other = j + 1 < width ? w[(j + 1) * step] : j ? w[(j - 1) * step] : 0;
            *pairs = ((uint32_t)(w[j * step] + excess) & 0xFFFFu) | (uint32_t)(other + excess) << 16;
        }
}

/* Two words, and on to the next. */
static inline void next_columns(const uint32_t **from, uint32_t *a, uint32_t *b)
{
#if defined(USE_ASSEMBLY) /* GCC 12 loads them one by one */
    __asm__("ldrd %0, %1, [%2], #4" : "=&r"(*a), "=&r"(*b), "+r"(*from) : : "memory");
#else
    *a = (*from)[0];
    *b = (*from)[1];
    *from += 1;
#endif
}

/* What makes codes of the sums of a channel whose layer is `quick`, and its pairs of weights, of a kernel of 3 x 3. */
typedef struct {
    int32_t bias, multiplier, right, offset;
    uint32_t pairs[6];
} Channel;

/* A row of outputs of one channel, of kernels of 3 x 3: two outputs share their words where the stride is 1. */
static inline void taps3(const uint32_t *r0, const uint32_t *r1, const uint32_t *r2, const Channel *channel, int32_t stride,
                         int32_t columns, uint8_t *y, int32_t pitch)
{
    const int16x2_t u0 = (int16x2_t)channel->pairs[0], v0 = (int16x2_t)channel->pairs[1];
    const int16x2_t u1 = (int16x2_t)channel->pairs[2], v1 = (int16x2_t)channel->pairs[3];
    const int16x2_t u2 = (int16x2_t)channel->pairs[4], v2 = (int16x2_t)channel->pairs[5];
    const int32_t bias = channel->bias, multiplier = channel->multiplier, right = channel->right, offset = channel->offset;
    uint32_t a, b;
    for (;; columns -= 2, y += pitch) {
        int32_t s = bias, t = bias;
#define ROW(r, u, v) \
    next_columns(&r, &a, &b); \
    s = __smlabb((int32_t)b, (int32_t)v, __smlad((int16x2_t)a, u, s)); \
    if (stride == 1) { \
        t = __smladx((int16x2_t)b, v, __smlatb((int32_t)a, (int32_t)u, t)); \
    } else { \
        next_columns(&r, &a, &b); \
        t = __smlabb((int32_t)b, (int32_t)v, __smlad((int16x2_t)a, u, t)); \
    }
        ROW(r0, u0, v0)
        ROW(r1, u1, v1)
        ROW(r2, u2, v2)
#undef ROW
        *y = (uint8_t)quick_code_of((uint32_t)s, 0, multiplier, right, offset);
        if (columns == 1)
            return;
        y += pitch;
        *y = (uint8_t)quick_code_of((uint32_t)t, 0, multiplier, right, offset);
        if (columns == 2)
            return;
    }
}

/* One output of any kernel. plane: rows of so many words, of which `slot` is the first. */
static inline uint32_t taps_of_any(const Layer *layer, const uint32_t *plane, int32_t words, int32_t slot, int32_t column,
                                   const uint32_t *pairs)
{
    const int32_t dilation = layer->dilation_x;
    uint32_t sum = 0;
    int32_t i, j;
    for (i = 0; i < layer->kernel_height; i++, slot = slot + 1 < layer->kernel_height ? slot + 1 : 0) {
        const uint16_t *from = (const uint16_t *)(const void *)(plane + slot * words) + column * layer->stride_x;
        for (j = 0; j < layer->kernel_width; j += 2, pairs++, from += 2 * dilation) {
            if (j + 1 == layer->kernel_width)
                sum = (uint32_t)__smlabb(from[0], (int32_t)*pairs, (int32_t)sum);
            else
                sum = (uint32_t)__smlad((int16x2_t)(from[0] | (uint32_t)from[dilation] << 16), (int16x2_t)*pairs, (int32_t)sum);
        }
    }
    return sum;
}

/* Where all weights are `every`, as of an average pooling: four channels at a time, whose codes are added as halves. */
static void average(const Layer *layer, const uint8_t *x, uint8_t *y)
{
    const int32_t channels = layer->channels;
    int32_t row, column, first, i, j, n;
    for (row = 0; row < layer->out_height; row++)
        for (column = 0; column < layer->out_width; column++, y += channels)
            for (first = 0; first < channels; first += 4) {
                const int32_t count = channels - first < 4 ? channels - first : 4;
                const int32_t left = column * layer->stride_x - layer->left;
                uint32_t sums[4] = {0, 0, 0, 0}, outside = 0;
                for (i = 0; i < layer->kernel_height; i++) {
                    const int32_t yi = row * layer->stride_y - layer->top + i * layer->dilation_y;
                    const int32_t inside = yi >= 0 && yi < layer->height;
                    const uint8_t *const from = x + yi * layer->width * channels + first;
                    for (j = 0; j < layer->kernel_width;) {
                        uint32_t even = 0, odd = 0;
                        for (n = 0; n < 256 && j < layer->kernel_width; n++, j++) { /* as many as a half holds */
                            const int32_t xj = left + j * layer->dilation_x;
                            if (inside && xj >= 0 && xj < layer->width) {
                                const uint32_t codes = some_bytes(from + xj * channels, count);
                                even = (uint32_t)__uxtab16(even, codes);
                                odd = (uint32_t)__uxtab16(odd, codes >> 8);
                            } else {
                                outside += layer->zero;
                            }
                        }
                        sums[0] += even & 0xFFFFu;
                        sums[1] += odd & 0xFFFFu;
                        sums[2] += even >> 16;
                        sums[3] += odd >> 16;
                    }
                }
                for (i = 0; i < count; i++) {
                    const Output output = output_of(&layer->scaling, first + i);
                    const uint32_t sum = (sums[i] + outside) * (uint32_t)layer->every;
                    y[first + i] = code_of(sum, output, &layer->scaling);
                }
            }
}

/* Four channels at a time, strip by strip. Of rows that follow each other, those that the next outputs need again are kept, each
 * in the slot of its number. scratch: planes of four channels, then their weights. */
static void depthwise(const Layer *layer, const uint8_t *x, uint8_t *y, uint8_t *scratch)
{
    const int32_t channels = layer->channels, height = layer->kernel_height, taps = height * layer->kernel_width;
    const int32_t strip = layer->out_width < STRIP ? layer->out_width : STRIP;
    const int32_t words = ((strip - 1) * layer->stride_x + (layer->kernel_width - 1) * layer->dilation_x + 2) / 2;
    const int32_t plane = height * words, kept = layer->dilation_y == 1;
    const int32_t of_3 =
        taps == 9 && height == 3 && layer->dilation_x == 1 && layer->stride_x <= 2 && kept && layer->scaling.quick;
    uint32_t *const planes = (uint32_t *)(void *)scratch, *const pairs = planes + 4 * plane;
    const int32_t of_one = height * ((layer->kernel_width + 1) / 2); /* pairs */
    const int32_t next_row = layer->out_width * channels;
    Channel of_channels[4];
    int32_t first, begin, row, i, c, j;
    if (!layer->weight) {
        average(layer, x, y);
        return;
    }
    for (first = 0; first < channels; first += 4) {
        const int32_t block = first / BLOCK * BLOCK, in_block = channels - block < BLOCK ? channels - block : BLOCK;
        const int32_t count = channels - first < 4 ? channels - first : 4;
        const int8_t *w = (const int8_t *)layer->weight + block * taps;
#ifdef MOST_TAPS
        int8_t unpacked[MOST_TAPS * BLOCK];
        if (layer->bits < 8) {
            const uint8_t *from = (const uint8_t *)layer->weight + block * taps * layer->bits / 8;
            unpack(from, layer->bits, layer->values, taps * in_block, unpacked);
            w = unpacked;
        }
#endif
        for (c = 0; c < count; c++) {
            const Output output = output_of(&layer->scaling, first + c);
            Channel *const channel = of_channels + c;
            pair_weights(layer, w + first - block + c, in_block, layer->excess ? layer->excess[first + c] : 0,
                         of_3 ? channel->pairs : pairs + c * of_one);
            channel->bias = output.bias;
            channel->multiplier = output.multiplier;
            channel->right = output.right;
            channel->offset = (int32_t)((uint32_t)(2 * layer->scaling.zero + 1) << output.right >> 1);
        }
        for (begin = 0; begin < layer->out_width; begin += strip) {
            const int32_t columns = layer->out_width - begin < strip ? layer->out_width - begin : strip;
            int32_t known = 0;
            uint8_t *to;
            for (row = 0; row < layer->out_height; row++) {
                const int32_t top = row * layer->stride_y, slot = kept ? top % height : 0;
                for (i = 0; i < height; i++) {
                    const int32_t from = top + i * layer->dilation_y;
                    if (kept && from < known)
                        continue;
                    part_row(layer, x + first, from, begin * layer->stride_x, 2 * words, count,
                             planes + (kept ? from % height : i) * words, plane);
                    known = from + 1;
                }
                to = y + row * next_row + begin * channels + first;
                if (of_3) {
                    const uint32_t *r0 = planes + slot * words, *r1 = planes + (slot == 2 ? 0 : slot + 1) * words;
                    const uint32_t *r2 = planes + (slot == 0 ? 2 : slot - 1) * words;
                    for (c = 0; c < count; c++, r0 += plane, r1 += plane, r2 += plane)
                        if (layer->stride_x == 1)
                            taps3(r0, r1, r2, of_channels + c, 1, columns, to + c, channels);
                        else
                            taps3(r0, r1, r2, of_channels + c, 2, columns, to + c, channels);
                    continue;
                }
                for (c = 0; c < count; c++) {
                    const Output output = output_of(&layer->scaling, first + c);
                    for (j = 0; j < columns; j++)
                        to[j * channels + c] = code_of(
                            taps_of_any(layer, planes + c * plane, words, slot, j, pairs + c * of_one), output, &layer->scaling);
                }
            }
        }
    }
}
"""

"""Depthwise convolutions and average poolings on processors with the DSP extension of Arm (Cortex-M4, M7, M33).

Four channels at a time, which are a word of the input. Of each row the words lie beside one another between its padding, copied
once for all outputs.
"""

from __future__ import annotations

STRIP = 64  #: most columns of outputs that are computed from one copy of rows, which bounds its size

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

/* Words of a row of the input between its padding, from column `begin` on. */
static inline void copy_row(const Layer *layer, const uint8_t *x, int32_t row, int32_t begin, int32_t columns, int32_t count,
                            uint32_t *to)
{
    const int32_t y = row - layer->top, channels = layer->channels, width = layer->width;
    const uint32_t zero = layer->zero * 0x01010101u, *const end = to + columns;
    int32_t xj = begin - layer->left;
    if (y >= 0 && y < layer->height) {
        const uint8_t *from = x + (y * width + xj) * channels, *stop = x + (y + 1) * width * channels;
        for (; xj < 0 && to < end; xj++, from += channels)
            *to++ = zero;
        if (stop > from + (end - to) * channels)
            stop = from + (end - to) * channels;
        if (count == 4)
            for (; from < stop; from += channels)
                *to++ = word(from);
        else
            for (; from < stop; from += channels)
                *to++ = some_bytes(from, count);
    }
    while (to < end)
        *to++ = zero;
}

/* Of four channels, what makes codes of their sums. */
typedef struct {
    int32_t bias[4], multiplier[4], right[4], offset[4];
    Output output[4];
} Channels;

#if defined(USE_ASSEMBLY)
/* The weights of a kernel of 3 x 3 in pairs of taps, of each of the channels, and those of the last tap as in `two_by_two`. */
static inline void pair_taps(const uint32_t *weights, uint32_t *pairs)
{
    const uint16_t *from = (const uint16_t *)(const void *)weights; /* of channels 0, 2, 1, 3 */
    int32_t tap;
    for (tap = 0; tap < 8; tap += 2, pairs += 4, from += 8) {
        pairs[0] = from[0] | (uint32_t)from[4] << 16;
        pairs[1] = from[2] | (uint32_t)from[6] << 16;
        pairs[2] = from[1] | (uint32_t)from[5] << 16;
        pairs[3] = from[3] | (uint32_t)from[7] << 16;
    }
    pairs[0] = weights[16];
    pairs[1] = weights[17];
}

/* The sums of four channels over a window of 3 x 3: of two taps at a time the halves that the words have of a channel become a
 * word, which GCC 12 neither packs nor rotates in single instructions. */
static inline void taps3(const uint32_t *r0, const uint32_t *r1, const uint32_t *r2, const uint32_t *pairs, int32_t *sums)
{
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    uint32_t t;
#define TWO \\
    "pkhbt %[t], r2, r3, lsl #16\\n pkhtb r3, r3, r2, asr #16\\n ldrd r0, r1, [%[w]], #8\\n" \\
    "uxtb16 r2, %[t]\\n uxtb16 %[t], %[t], ror #8\\n" \\
    "smlad %[s0], r2, r0, %[s0]\\n smlad %[s1], %[t], r1, %[s1]\\n ldrd r0, r1, [%[w]], #8\\n" \\
    "uxtb16 r2, r3\\n uxtb16 r3, r3, ror #8\\n" \\
    "smlad %[s2], r2, r0, %[s2]\\n smlad %[s3], r3, r1, %[s3]\\n"
    __asm__("ldrd r2, r3, [%[r0]]\\n" TWO "ldr r2, [%[r0], #8]\\n ldr r3, [%[r1]]\\n" TWO
            "ldrd r2, r3, [%[r1], #4]\\n" TWO "ldrd r2, r3, [%[r2]]\\n" TWO
            "ldr r2, [%[r2], #8]\\n ldrd r0, r1, [%[w]]\\n uxtb16 %[t], r2\\n uxtb16 r2, r2, ror #8\\n"
            "smlabb %[s0], %[t], r0, %[s0]\\n smlatt %[s2], %[t], r0, %[s2]\\n"
            "smlabb %[s1], r2, r1, %[s1]\\n smlatt %[s3], r2, r1, %[s3]\\n"
            : [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2), [s3] "+r"(s3), [w] "+r"(pairs), [t] "=&r"(t)
            : [r0] "r"(r0), [r1] "r"(r1), [r2] "r"(r2)
            : "r0", "r1", "r2", "r3", "memory");
#undef TWO
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}
#endif

/* The same of any kernel. rows: of so many words, of which that in `slot` is the first. weights: of channels 0 and 2, 1 and 3. */
static inline void taps_of_any(const Layer *layer, const uint32_t *rows, int32_t words, int32_t slot, int32_t column,
                               const uint32_t *weights, int32_t *sums)
{
    int32_t i, j;
    for (i = 0; i < layer->kernel_height; i++, slot = slot + 1 < layer->kernel_height ? slot + 1 : 0) {
        const uint32_t *from = rows + slot * words + column;
        for (j = 0; j < layer->kernel_width; j++, from += layer->dilation_x, weights += 2) {
            const int32_t even = (int32_t)even_bytes(*from), odd = (int32_t)odd_bytes(*from);
            sums[0] = __smlabb(even, (int32_t)weights[0], sums[0]);
            sums[1] = __smlabb(odd, (int32_t)weights[1], sums[1]);
            sums[2] = __smlatt(even, (int32_t)weights[0], sums[2]);
            sums[3] = __smlatt(odd, (int32_t)weights[1], sums[3]);
        }
    }
}

/* The codes of four channels, or of so many. */
static inline void finish_channels(const int32_t *sums, const Channels *channels, const Scaling *scaling, int32_t count,
                                   uint8_t *y)
{
    uint32_t codes = 0;
    int32_t c;
    if (scaling->quick && count == 4) {
#define CODE(c) \\
    (uint32_t)quick_code_of((uint32_t)sums[c], 0, channels->multiplier[c], channels->right[c], channels->offset[c]) << (8 * c)
        codes = CODE(0) | CODE(1) | CODE(2) | CODE(3);
#undef CODE
        memcpy(y, &codes, 4);
        return;
    }
    for (c = 0; c < count; c++)
        y[c] = code_of((uint32_t)(sums[c] - channels->bias[c]), channels->output[c], scaling);
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
 * in the slot of its number. scratch: rows, then weights as halves. */
static void depthwise(const Layer *layer, const uint8_t *x, uint8_t *y, uint8_t *scratch)
{
    const int32_t channels = layer->channels, height = layer->kernel_height, taps = height * layer->kernel_width;
    const int32_t strip = layer->out_width < STRIP ? layer->out_width : STRIP, stride = layer->stride_x;
    const int32_t words = (strip - 1) * stride + (layer->kernel_width - 1) * layer->dilation_x + 1;
    const int32_t kept = layer->dilation_y == 1;
    uint32_t *const rows = (uint32_t *)(void *)scratch, *const weights = rows + height * words;
    int32_t first, begin, row, i, c, j;
#if defined(USE_ASSEMBLY)
    const int32_t of_3 = height == 3 && taps == 9 && layer->dilation_x == 1 && kept;
    uint32_t pairs[18];
#endif
    if (!layer->weight) {
        average(layer, x, y);
        return;
    }
    for (first = 0; first < channels; first += 4) {
        const int32_t block = first / BLOCK * BLOCK, in_block = channels - block < BLOCK ? channels - block : BLOCK;
        const int32_t count = channels - first < 4 ? channels - first : 4;
        const int8_t *w = (const int8_t *)layer->weight + block * taps;
        Channels of;
#ifdef MOST_TAPS
        int8_t unpacked[MOST_TAPS * BLOCK];
        if (layer->bits < 8) {
            const uint8_t *from = (const uint8_t *)layer->weight + block * taps * layer->bits / 8;
            unpack(from, layer->bits, layer->values, taps * in_block, unpacked);
            w = unpacked;
        }
#endif
        memset(&of, 0, sizeof of);
        memset(weights, 0, 8 * (size_t)taps);
        for (c = 0; c < count; c++) {
            const Output output = output_of(&layer->scaling, first + c);
            const int32_t more = layer->excess ? layer->excess[first + c] : 0, place = (c & 1) * 2 + (c >> 1);
            of.output[c] = output;
            of.bias[c] = output.bias;
            of.multiplier[c] = output.multiplier;
            of.right[c] = output.right;
            of.offset[c] = (int32_t)((uint32_t)(2 * layer->scaling.zero + 1) << output.right >> 1);
            for (i = 0; i < taps; i++) {
                const uint32_t weight = (uint32_t)(w[i * in_block + first - block + c] + more) & 0xFFFFu;
                weights[2 * i + (place >> 1)] |= weight << (16 * (place & 1));
            }
        }
#if defined(USE_ASSEMBLY)
        if (of_3)
            pair_taps(weights, pairs);
#endif
        for (begin = 0; begin < layer->out_width; begin += strip) {
            const int32_t columns = layer->out_width - begin < strip ? layer->out_width - begin : strip;
            int32_t known = 0;
            for (row = 0; row < layer->out_height; row++) {
                const int32_t top = row * layer->stride_y, slot = kept ? top % height : 0;
                uint8_t *to = y + (row * layer->out_width + begin) * channels + first;
                for (i = 0; i < height; i++) {
                    const int32_t from = top + i * layer->dilation_y;
                    if (kept && from < known)
                        continue;
                    copy_row(layer, x + first, from, begin * stride, words, count,
                             rows + (kept ? from % height : i) * words);
                    known = from + 1;
                }
#if defined(USE_ASSEMBLY)
                if (of_3) {
                    const uint32_t *r0 = rows + slot * words, *r1 = rows + (slot == 2 ? 0 : slot + 1) * words;
                    const uint32_t *r2 = rows + (slot == 0 ? 2 : slot - 1) * words;
                    for (j = 0; j < columns; j++, to += channels, r0 += stride, r1 += stride, r2 += stride) {
                        int32_t sums[4] = {of.bias[0], of.bias[1], of.bias[2], of.bias[3]};
                        taps3(r0, r1, r2, pairs, sums);
                        finish_channels(sums, &of, &layer->scaling, count, to);
                    }
                    continue;
                }
#endif
                for (j = 0; j < columns; j++, to += channels) {
                    int32_t sums[4] = {of.bias[0], of.bias[1], of.bias[2], of.bias[3]};
                    taps_of_any(layer, rows, words, slot, j * stride, weights, sums);
                    finish_channels(sums, &of, &layer->scaling, count, to);
                }
            }
        }
    }
}
"""

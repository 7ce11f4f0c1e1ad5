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

/* Of four channels. */
typedef struct {
    int32_t bias[4];
    uint32_t pairs[3][18]; /* the weights of a kernel of 3 x 3, in pairs of taps, by the slot that has the first row */
    struct {
        int32_t multiplier, right, offset;
    } quick[4];
} Channels;

#if defined(USE_ASSEMBLY)
/* Of each pair of taps the weights of channels 0 to 3; of the last tap those of channels 0 and 2, 1 and 3. */
static void pair_taps(const uint32_t *weights, int32_t slot, uint32_t *pairs)
{
    const uint32_t *const end = weights + 18, *a = weights + (slot ? 18 - 6 * slot : 0), *b;
    int32_t pair;
    for (pair = 0; pair < 4; pair++, pairs += 4) {
        b = a + 2 < end ? a + 2 : weights;
        pairs[0] = (a[0] & 0xFFFFu) | b[0] << 16;
        pairs[1] = (a[1] & 0xFFFFu) | b[1] << 16;
        pairs[2] = a[0] >> 16 | (b[0] & 0xFFFF0000u);
        pairs[3] = a[1] >> 16 | (b[1] & 0xFFFF0000u);
        a = b + 2 < end ? b + 2 : weights;
    }
    pairs[0] = a[0];
    pairs[1] = a[1];
}

/* Four channels over a window of 3 x 3. The halves that two words have of a channel become a word; GCC 12 neither packs nor
 * rotates in single instructions, and has too few registers left for what makes codes of the sums. */
#define TWO \\
    "pkhbt %[t], r2, r3, lsl #16\\n pkhtb r3, r3, r2, asr #16\\n ldrd r0, r1, [%[w]], #8\\n" \\
    "uxtb16 r2, %[t]\\n uxtb16 %[t], %[t], ror #8\\n smlad r4, r2, r0, r4\\n smlad r5, %[t], r1, r5\\n" \\
    "ldrd r0, r1, [%[w]], #8\\n" \\
    "uxtb16 r2, r3\\n uxtb16 r3, r3, ror #8\\n smlad r6, r2, r0, r6\\n smlad r8, r3, r1, r8\\n"
#define WINDOW \\
    "ldm %[bias], {r4, r5, r6, r8}\\n" \\
    "ldrd r2, r3, [%[x]]\\n" TWO "ldr r2, [%[x], #8]\\n add %[x], %[x], %[row]\\n ldr r3, [%[x]]\\n" TWO \\
    "ldrd r2, r3, [%[x], #4]\\n add %[x], %[x], %[row]\\n" TWO "ldrd r2, r3, [%[x]]\\n" TWO \\
    "ldr r2, [%[x], #8]\\n ldrd r0, r1, [%[w]]\\n uxtb16 %[t], r2\\n uxtb16 r2, r2, ror #8\\n" \\
    "smlabb r4, %[t], r0, r4\\n smlatt r6, %[t], r0, r6\\n smlabb r5, r2, r1, r5\\n smlatt r8, r2, r1, r8\\n"
#if ANY_TIES
#define TIES(s) "add " s ", " s ", " s ", asr #31\\n"
#else
#define TIES(s)
#endif
#define CODE(s) \\
    "ldm %[bias]!, {r0, r1, r2}\\n smmulr " s ", " s ", r0\\n" TIES(s) \\
    "add " s ", " s ", r2\\n asr " s ", " s ", r1\\n usat " s ", #8, " s "\\n"
/* sums: before, the doubled biases. */
static inline void sums3(const uint32_t *x, int32_t words, const uint32_t *pairs, int32_t *sums)
{
    uint32_t t;
    __asm__ volatile(WINDOW "stm %[bias], {r4, r5, r6, r8}\\n"
                     : [x] "+r"(x), [w] "+r"(pairs), [t] "=&r"(t)
                     : [row] "r"(4 * words), [bias] "r"(sums)
                     : "r0", "r1", "r2", "r3", "r4", "r5", "r6", "r8", "memory");
}

/* Their codes, of `quick` ones. */
static inline uint32_t codes3(const uint32_t *x, int32_t words, const Channels *channels, const uint32_t *pairs)
{
    const void *bias = channels->bias;
    uint32_t t;
    __asm__(WINDOW "add %[bias], %[bias], %[quick]\\n" CODE("r4") CODE("r5") CODE("r6") CODE("r8")
            "orr r4, r4, r5, lsl #8\\n orr r4, r4, r6, lsl #16\\n orr %[t], r4, r8, lsl #24\\n"
            : [x] "+r"(x), [w] "+r"(pairs), [t] "=&r"(t), [bias] "+r"(bias)
            : [row] "r"(4 * words), [quick] "i"(offsetof(Channels, quick))
            : "r0", "r1", "r2", "r3", "r4", "r5", "r6", "r8", "memory");
    return t;
}
#undef CODE
#undef TIES
#undef WINDOW
#undef TWO
#endif

/* The same of any kernel. rows: of so many words, of which that in `slot` is the first. weights: of channels 0 and 2, 1 and
 * 3. */
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

/* The codes of so many channels. sums: doubled. */
static inline void finish_channels(const int32_t *sums, const Channels *channels, const Scaling *scaling, int32_t first,
                                   int32_t count, uint8_t *y)
{
    int32_t c;
    for (c = 0; c < count; c++)
        y[c] = !ANY_SLOW || scaling->quick
                   ? (uint8_t)quick_code_of(sums[c], channels->quick[c].multiplier, channels->quick[c].right,
                                            channels->quick[c].offset, ANY_TIES)
                   : code_of_sum(scaling, sums[c] >> DOUBLED, first + c);
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
                    const uint32_t sum = ((sums[i] + outside) * (uint32_t)layer->every) << DOUBLED;
                    y[first + i] = code_of((int32_t)sum, first + i, &layer->scaling);
                }
            }
}

/* Four channels at a time, strip by strip. Of rows that follow each other, those that the next outputs need again are kept,
 * each in the slot of its number. scratch: rows, then weights as halves. */
static void depthwise(const Layer *layer, const uint8_t *x, uint8_t *y, uint8_t *scratch)
{
    const int32_t channels = layer->channels, height = layer->kernel_height, taps = height * layer->kernel_width;
    const int32_t strip = layer->out_width < STRIP ? layer->out_width : STRIP, stride = layer->stride_x;
    const int32_t words = (strip - 1) * stride + (layer->kernel_width - 1) * layer->dilation_x + 1;
    const int32_t kept = layer->dilation_y == 1;
    uint32_t *const rows = (uint32_t *)(void *)scratch, *const weights = rows + height * words;
    int32_t first, begin, row, i, c, j;
#if defined(USE_ASSEMBLY)
    const int32_t of_3 = !ANY_KERNEL || (height == 3 && taps == 9 && layer->dilation_x == 1 && kept);
#endif
    if (ANY_AVERAGE && !layer->weight) {
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
        for (c = 0; c < 4; c++) {
            const Scaling *const scaling = &layer->scaling;
            const int32_t channel = first + (c < count ? c : 0), right = scaling->right[scaling->each_shift ? channel : 0];
            of.bias[c] = (int32_t)((uint32_t)bias_of(scaling, channel) << DOUBLED);
            of.quick[c].multiplier = scaling->multiplier[scaling->each_multiplier ? channel : 0];
            of.quick[c].right = right;
            of.quick[c].offset = (int32_t)((uint32_t)(2 * scaling->zero + 1) << right >> 1);
        }
        for (i = 0, w += first - block; i < taps; i++, w += in_block) {
            const uint32_t some = some_bytes((const uint8_t *)w, count);
            weights[2 * i] = (uint32_t)__sxtb16(some);
            weights[2 * i + 1] = (uint32_t)__sxtb16(some >> 8);
        }
        for (c = 0; c < count && layer->excess; c++) {
            const uint32_t mask = c < 2 ? 0xFFFFu : 0xFFFF0000u, more = (uint32_t)layer->excess[first + c] << (c < 2 ? 0 : 16);
            for (i = c & 1; i < 2 * taps; i += 2)
                weights[i] = (weights[i] & ~mask) | (((weights[i] & mask) + more) & mask);
        }
        for (i = 0; i < 2 * taps && DOUBLED; i++)
            weights[i] = (uint32_t)__sadd16((int16x2_t)weights[i], (int16x2_t)weights[i]);
#if defined(USE_ASSEMBLY)
        for (i = 0; i < 3 && of_3; i++)
            pair_taps(weights, i, of.pairs[i]);
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
                    const uint32_t *from = rows, *const pairs = of.pairs[slot], *const end = rows + columns * stride;
                    if (count == 4 && (!ANY_SLOW || layer->scaling.quick)) {
                        for (; from < end; from += stride, to += channels) {
                            const uint32_t codes = codes3(from, words, &of, pairs);
                            memcpy(to, &codes, 4);
                        }
                        continue;
                    }
                    for (; from < end; from += stride, to += channels) {
                        int32_t sums[4] = {of.bias[0], of.bias[1], of.bias[2], of.bias[3]};
                        sums3(from, words, pairs, sums);
                        finish_channels(sums, &of, &layer->scaling, first, count, to);
                    }
                    continue;
                }
#endif
                for (j = 0; j < columns; j++, to += channels) {
                    int32_t sums[4] = {of.bias[0], of.bias[1], of.bias[2], of.bias[3]};
                    taps_of_any(layer, rows, words, slot, j * stride, weights, sums);
                    finish_channels(sums, &of, &layer->scaling, first, count, to);
                }
            }
        }
    }
}
"""

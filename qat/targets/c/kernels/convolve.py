"""Layers in C that any processor runs: how a convolution walks over its input. What multiplies is of the processor."""

from __future__ import annotations

#: After the kernels of the processor, and ``products``.
CONVOLVE = """\
/* The rows below the windows of one row of outputs, padding around. */
static inline void fill_band(const Layer *layer, const uint8_t *x, int32_t row, uint8_t *band)
{
    const int32_t channels = layer->channels, pitch = layer->padded_width * channels;
    const int32_t before = layer->left * channels, inside = layer->width * channels;
    int32_t i;
    for (i = 0; i < layer->kernel_height; i++, band += pitch) {
        const int32_t yi = row * layer->stride_y - layer->top + i * layer->dilation_y;
        if (yi < 0 || yi >= layer->height) {
            memset(band, layer->zero, (size_t)pitch);
            continue;
        }
        memset(band, layer->zero, (size_t)before);
        memcpy(band + before, x + yi * inside, (size_t)inside);
        memset(band + before + inside, layer->zero, (size_t)(pitch - before - inside));
    }
}

/* The window of one output, of the channels of a group. */
static inline void fill_window(const Layer *layer, const uint8_t *x, int32_t group, int32_t row, int32_t column, uint8_t *to)
{
    const int32_t own = layer->channels / layer->groups;
    int32_t i, j;
    for (i = 0; i < layer->kernel_height; i++) {
        const int32_t yi = row * layer->stride_y - layer->top + i * layer->dilation_y;
        for (j = 0; j < layer->kernel_width; j++, to += own) {
            const int32_t xj = column * layer->stride_x - layer->left + j * layer->dilation_x;
            if (yi >= 0 && yi < layer->height && xj >= 0 && xj < layer->width)
                memcpy(to, x + (yi * layer->width + xj) * layer->channels + group * own, (size_t)own);
            else
                memset(to, layer->zero, (size_t)own);
        }
    }
}

/* Up to four neighbouring outputs at a time, of which the last ones overlap those before them. */
static void convolve(const Layer *layer, const uint8_t *x, uint8_t *y, uint8_t *scratch)
{
    const int32_t per_group = layer->outputs / layer->groups, own = layer->channels / layer->groups;
    const int32_t windows = layer->reads == WINDOWS, rows = windows ? 1 : layer->kernel_height;
    const int32_t run = own * layer->kernel_width * (windows ? layer->kernel_height : 1), quads = (run + 3) / 4;
    const int32_t stride = windows ? 4 * quads : layer->stride_x * layer->channels;
    const int32_t line = layer->channels * (layer->reads == BANDS ? layer->padded_width : layer->dilation_y * layer->width);
    const int32_t pitch = windows ? 0 : line;
    const int32_t together = layer->out_width < 4 ? layer->out_width : 4;
    const int32_t block_bytes = rows * quads * BLOCK / 2 * layer->bits;
    uint32_t sums[4 * BLOCK];
    int32_t group, row, column, first, p;
#if defined(USE_VNNI)
    if (convolve_rows(layer, x, y))
        return;
#endif
    if (layer->filled && scratch)
        memset(scratch, 0, (size_t)(together * stride));
    for (group = 0; group < layer->groups; group++) {
        const uint8_t *const weights = (const uint8_t *)layer->weight + group * layer->group_bytes;
        for (row = 0; row < layer->out_height; row++) {
            if (layer->reads == BANDS)
                fill_band(layer, x, row, scratch);
            for (column = 0; column < layer->out_width; column += together) {
                const int32_t begin = column < layer->out_width - together ? column : layer->out_width - together;
                const uint8_t *from = scratch;
                if (windows)
                    for (p = 0; p < together; p++)
                        fill_window(layer, x, group, row, begin + p, scratch + p * stride);
                else if (layer->reads == BANDS)
                    from = scratch + begin * stride;
                else
                    from = x + row * layer->stride_y * layer->width * layer->channels + begin * stride;
                for (first = 0; first < per_group; first += BLOCK) {
                    const int32_t outputs = per_group - first < BLOCK ? per_group - first : BLOCK;
                    const int32_t output = group * per_group + first;
                    const uint8_t *w = weights + first / BLOCK * block_bytes;
                    products(layer, from, stride, together, rows, pitch, quads, w, outputs, sums);
                    for (p = 0; p < together; p++) {
                        if (layer->excess)
                            correct(from + p * stride, rows, pitch, run, layer->excess + output, outputs, sums + p * BLOCK);
                        finish(sums + p * BLOCK, &layer->scaling, output, outputs,
                               y + (row * layer->out_width + begin + p) * layer->outputs + output);
                    }
                }
            }
        }
    }
}
"""

ADD_TAPS = """\
/* sums[c] += code w[tap][c] over the taps of one output; w: 0 where all are 1. */
static inline void add_taps(const Layer *layer, const uint8_t *x, int32_t row, int32_t column, int32_t channels,
                            const int8_t *w, uint32_t *sums)
{
    int32_t i, j, c;
    for (i = 0; i < layer->kernel_height; i++) {
        const int32_t yi = row * layer->stride_y - layer->top + i * layer->dilation_y;
        for (j = 0; j < layer->kernel_width; j++, w = w ? w + channels : 0) {
            const int32_t xj = column * layer->stride_x - layer->left + j * layer->dilation_x;
            const int32_t inside = yi >= 0 && yi < layer->height && xj >= 0 && xj < layer->width;
            const uint8_t *from = x + (yi * layer->width + xj) * layer->channels;
            if (inside && w)
                for (c = 0; c < channels; c++)
                    sums[c] += (uint32_t)(from[c] * w[c]);
            else if (inside)
                for (c = 0; c < channels; c++)
                    sums[c] += from[c];
            else if (layer->zero)
                for (c = 0; c < channels; c++)
                    sums[c] += (uint32_t)(layer->zero * (w ? w[c] : 1));
        }
    }
}
"""

#: After ADD_TAPS, of the processor. Where MOST_TAPS is the largest kernel of those whose weights are packed.
DEPTHWISE = """\
/* Channel by channel, in blocks, whose weights lie tap by tap. A tap in the padding meets the code of 0, so that every output
 * has the same bias. Products are of an unsigned and a signed byte: of centred codes GCC 12 makes a wrong sum with VNNI. */
static void depthwise(const Layer *layer, const uint8_t *x, uint8_t *y)
{
    const int32_t taps = layer->kernel_height * layer->kernel_width;
    int32_t first, row, column, c;
#if defined(USE_VNNI)
    if (depthwise_rows(layer, x, y))
        return;
#endif
    for (first = 0; first < layer->channels; first += BLOCK) {
        const int32_t channels = layer->channels - first < BLOCK ? layer->channels - first : BLOCK;
        const int8_t *w = layer->weight ? (const int8_t *)layer->weight + first * taps : 0;
#ifdef MOST_TAPS
        int8_t unpacked[MOST_TAPS * BLOCK];
        if (w && layer->bits < 8) {
            const uint8_t *from = (const uint8_t *)layer->weight + first * taps * layer->bits / 8;
            unpack(from, layer->bits, layer->values, taps * channels, unpacked);
            w = unpacked;
        }
#endif
        for (row = 0; row < layer->out_height; row++)
            for (column = 0; column < layer->out_width; column++) {
                uint32_t sums[BLOCK] = {0}, codes[BLOCK] = {0};
                if (w)
                    add_taps(layer, x + first, row, column, channels, w, sums);
                if (!w || layer->excess)
                    add_taps(layer, x + first, row, column, channels, 0, codes);
                for (c = 0; c < channels && (!w || layer->excess); c++)
                    sums[c] += codes[c] * (uint32_t)((w ? 0 : layer->every) + (layer->excess ? layer->excess[first + c] : 0));
                finish(sums, &layer->scaling, first, channels,
                       y + (row * layer->out_width + column) * layer->channels + first);
            }
    }
}
"""


def products(bits: list[int]) -> str:
    """The C that chooses the ``multiply`` of a layer's weights, among those of so many bits that a file has."""
    arguments = "x, stride, pixels, rows, pitch, quads"
    calls = {b: f"multiply{b}({arguments}, w, layer->values, outputs, sums)" for b in bits}
    calls |= {8: f"multiply({arguments}, (const int8_t *)w, outputs, sums)"} if 8 in bits else {}
    lines = [f"    if (layer->bits == {b}) {{\n        {calls[b]};\n        return;\n    }}" for b in bits[:-1]]
    lines.append(f"    {calls[bits[-1]]};")
    unused = "" if len(bits) > 1 or bits[0] < 8 else "    (void)layer;\n"
    return f"""\
/* The sums of a block of outputs for up to four pixels, as multiply has them. */
static inline void products(const Layer *layer, const uint8_t *x, int32_t stride, int32_t pixels, int32_t rows, int32_t pitch,
                            int32_t quads, const uint8_t *w, int32_t outputs, uint32_t *sums)
{{
{unused}{chr(10).join(lines)}
}}
"""

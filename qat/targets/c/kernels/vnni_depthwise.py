"""Depthwise convolutions on x86 with AVX-512 VNNI: four rows of the input in words, which meet words of four taps."""

from __future__ import annotations

#: After FINISH of vnni.py. Where MOST_TAPS is the largest kernel of those whose weights are packed.
DEPTHWISE = """\
enum { MOST_COLUMNS = 40, MOST_WORDS = 6144 }; /* of taps, four in a column; words of four rows */

/* to[i] = the bytes i of four rows. move: ~0, or 0 of a row that is the same everywhere. */
static inline void interleave(const uint8_t *const *rows, const int32_t *move, int32_t count, uint32_t *to)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    int32_t i;
    for (i = 0; i < count; i += 64, to += 64) {
        const __mmask64 mask = count - i < 64 ? ((__mmask64)1 << (count - i)) - 1 : ~(__mmask64)0;
#define ROW(r) _mm512_permutexvar_epi32(order, _mm512_maskz_loadu_epi8(mask, rows[r] + (i & move[r])))
        const __m512i a = ROW(0), b = ROW(1), c = ROW(2), d = ROW(3);
#undef ROW
        const __m512i ab = _mm512_unpacklo_epi8(a, b), more_ab = _mm512_unpackhi_epi8(a, b);
        const __m512i cd = _mm512_unpacklo_epi8(c, d), more_cd = _mm512_unpackhi_epi8(c, d);
        _mm512_storeu_si512(to, _mm512_unpacklo_epi16(ab, cd));
        _mm512_storeu_si512(to + 16, _mm512_unpackhi_epi16(ab, cd));
        _mm512_storeu_si512(to + 32, _mm512_unpacklo_epi16(more_ab, more_cd));
        _mm512_storeu_si512(to + 48, _mm512_unpackhi_epi16(more_ab, more_cd));
    }
}

/* The weights of a block of channels, in words as those of the input: taps of four rows, then of the next four. */
static void interleave_weights(const Layer *layer, int32_t first, int32_t channels, __m512i *to)
{
    const int32_t height = layer->kernel_height, width = layer->kernel_width, taps = height * width;
    const int8_t *w = layer->weight ? (const int8_t *)layer->weight + first * taps : 0;
    uint8_t same[BLOCK];
    int32_t i, j, r;
#ifdef MOST_TAPS
    int8_t unpacked[MOST_TAPS * BLOCK];
    if (layer->weight && layer->bits < 8) {
        unpack((const uint8_t *)layer->weight + first * taps * layer->bits / 8, layer->bits, layer->values, taps * channels,
               unpacked);
        w = unpacked;
    }
#endif
    memset(same, (uint8_t)layer->every, sizeof same);
    for (i = 0; i < height; i += 4)
        for (j = 0; j < width; j++) {
            uint32_t words[64];
            uint8_t zeros[BLOCK] = {0};
            const uint8_t *rows[4];
            const int32_t move[4] = {0, 0, 0, 0};
            for (r = 0; r < 4; r++) {
                rows[r] = zeros;
                if (i + r < height)
                    rows[r] = layer->weight ? (const uint8_t *)w + ((i + r) * width + j) * channels : same;
            }
            interleave(rows, move, channels, words);
            *to++ = _mm512_loadu_si512(words);
        }
}

/* Outputs of one row, for 16 channels; places: of the columns of taps, from the first word of an output on. */
ALWAYS_INLINE void depthwise_row(const uint32_t *x, int32_t step, const int32_t columns, const int32_t *places,
                                 const __m512i *weights, const Codes *c, int32_t channels, int32_t pixels, int32_t y_step,
                                 uint8_t *y)
{
    int32_t p, i, k;
    for (p = 0; p < pixels; p += 4, y += 4 * y_step) {
        __m512i s[4] = {c->bias, c->bias, c->bias, c->bias};
        const int32_t left = pixels - p;
        UNROLL
        for (k = 0; k < 4; k++) {
            const uint32_t *from = x + (p + (k < left ? k : 0)) * step;
            for (i = 0; i < columns; i++)
                s[k] = _mm512_dpbusd_epi32(s[k], _mm512_loadu_si512(from + places[i]), weights[i]);
        }
        store_codes(codes_of_four(c, 0, s[0], s[1], s[2], s[3]), channels, left, y_step, y);
    }
}

/* The same of four blocks, of one pixel after another. */
ALWAYS_INLINE void depthwise_row_of_64(const uint32_t *x, int32_t step, const int32_t columns, const int32_t *places,
                                       const __m512i *weights, const Codes *c, int32_t pixels, int32_t y_step, uint8_t *y)
{
    int32_t p, i, b;
    for (p = 0; p < pixels; p++, x += step, y += y_step) {
        __m512i s[4] = {c[0].bias, c[1].bias, c[2].bias, c[3].bias};
        for (i = 0; i < columns; i++)
            UNROLL
            for (b = 0; b < 4; b++)
                s[b] = _mm512_dpbusd_epi32(s[b], _mm512_loadu_si512(x + places[i] + b * BLOCK), weights[b * columns + i]);
        _mm512_storeu_si512(y, codes_of_four(c, 1, s[0], s[1], s[2], s[3]));
    }
}

/* True where a layer was computed. Four rows of the input are laid beside one another in words, some columns and up to 64
 * channels at a time. Fewer than 16 channels of neighbouring pixels lie in one vector, where they fill it. */
static int32_t depthwise_rows(const Layer *layer, const uint8_t *x, uint8_t *y)
{
    const int32_t quads = (layer->kernel_height + 3) / 4, columns = quads * layer->kernel_width;
    const int32_t all = layer->channels, most = all < 64 ? all : 64, span = (layer->kernel_width - 1) * layer->dilation_x + 1;
    const int32_t fitting = MOST_WORDS / quads / most; /* columns of the input */
    const int32_t several = all < BLOCK && BLOCK % all == 0 && layer->stride_x == 1;
    __m512i weights[4 * MOST_COLUMNS];
    Codes codes[4];
    uint32_t words[MOST_WORDS + 64];
    uint8_t zeros[64];
    int32_t places[MOST_COLUMNS];
    int32_t first, begin, count, row, i, r, b;
    if (columns > MOST_COLUMNS || fitting < span || layer->excess || layer->every < -128 || layer->every > 127)
        return 0;
    memset(zeros, layer->zero, sizeof zeros);
    for (first = 0; first < all; first += most) {
        const int32_t channels = all - first < most ? all - first : most;
        for (b = 0; b < channels; b += BLOCK) {
            const int32_t own = channels - b < BLOCK ? channels - b : BLOCK;
            interleave_weights(layer, first + b, own, weights + b / BLOCK * columns);
            codes[b / BLOCK] = codes_of(&layer->scaling, first + b, own);
        }
        if (several) {
            int32_t lanes[16];
            for (i = 0; i < 16; i++)
                lanes[i] = i % all;
            rearrange(codes, _mm512_loadu_si512(lanes));
            for (i = 0; i < columns; i++)
                weights[i] = _mm512_permutexvar_epi32(_mm512_loadu_si512(lanes), weights[i]);
        }
        for (begin = 0; begin < layer->out_width; begin += count) {
            const int32_t from = begin * layer->stride_x - layer->left; /* the first column of the input */
            int32_t wide, before, inside, size;
            count = (fitting - span) / layer->stride_x + 1;
            count = count < layer->out_width - begin ? count : layer->out_width - begin;
            wide = (count - 1) * layer->stride_x + span;
            before = from >= 0 ? 0 : -from < wide ? -from : wide;
            inside = (from + wide < layer->width ? from + wide : layer->width) - (from + before);
            inside = inside < 0 ? 0 : inside;
            size = wide * channels;
            for (i = 0; i < columns; i++)
                places[i] = i / layer->kernel_width * size + i % layer->kernel_width * layer->dilation_x * channels;
            for (row = 0; row < layer->out_height; row++) {
                uint8_t *const to = y + (row * layer->out_width + begin) * all + first;
                for (i = 0; i < quads; i++) {
                    uint32_t *word_of = words + i * size;
                    const uint8_t *rows[4];
                    int32_t move[4];
                    for (r = 0; r < 4; r++) {
                        const int32_t yi = row * layer->stride_y - layer->top + (4 * i + r) * layer->dilation_y;
                        move[r] = 4 * i + r < layer->kernel_height && yi >= 0 && yi < layer->height ? -1 : 0;
                        rows[r] = move[r] ? x + (yi * layer->width + from + before) * all + first : zeros;
                    }
                    memset(word_of, layer->zero, (size_t)(4 * before * channels));
                    word_of += before * channels;
                    if (channels == all) {
                        interleave(rows, move, inside * all, word_of);
                        word_of += inside * all;
                    } else {
                        for (b = 0; b < inside; b++, word_of += channels) {
                            interleave(rows, move, channels, word_of);
                            for (r = 0; r < 4; r++)
                                rows[r] += move[r] & all;
                        }
                    }
                    memset(word_of, layer->zero, (size_t)(4 * (wide - before - inside) * channels));
                }
                if (several) {
                    const int32_t vectors = count * all / BLOCK, rest = count * all % BLOCK;
                    depthwise_row(words, BLOCK, columns, places, weights, codes, BLOCK, vectors, BLOCK, to);
                    if (rest)
                        depthwise_row(words + vectors * BLOCK, BLOCK, columns, places, weights, codes, rest, 1, BLOCK,
                                      to + vectors * BLOCK);
                    continue;
                }
                if (channels == 64 && columns == 3)
                    depthwise_row_of_64(words, layer->stride_x * 64, 3, places, weights, codes, count, all, to);
                else if (channels == 64)
                    depthwise_row_of_64(words, layer->stride_x * 64, columns, places, weights, codes, count, all, to);
                for (b = 0; b < channels && channels < 64; b += BLOCK) {
                    const int32_t own = channels - b < BLOCK ? channels - b : BLOCK, step = layer->stride_x * channels;
                    const __m512i *const w = weights + b / BLOCK * columns;
                    if (columns == 3)
                        depthwise_row(words + b, step, 3, places, w, codes + b / BLOCK, own, count, all, to + b);
                    else
                        depthwise_row(words + b, step, columns, places, w, codes + b / BLOCK, own, count, all, to + b);
                }
            }
        }
    }
    return 1;
}
"""

"""Layers on x86 with AVX-512 VNNI: many sums at a time in registers, whose constants are loaded once for a block of outputs.

A vector has 16 sums, of which one instruction adds four products to each: of four codes of one pixel and the weights that 16
outputs have for them; or, of a depthwise convolution, of the codes that 16 channels have in four rows.
"""

from __future__ import annotations

#: How sums become codes, for all kernels of this processor.
FINISH = """\
#if defined(__GNUC__)
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#else
#define ALWAYS_INLINE static inline
#endif
#if defined(__GNUC__) && !defined(__clang__)
#define UNROLL _Pragma("GCC unroll 8") /* -O2 keeps sums in memory otherwise */
#else
#define UNROLL
#endif

#define NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC) /* whatever the processor is told to do else */

/* What makes codes of the sums of up to 16 outputs, one to a lane. */
typedef struct {
    __m512i bias, multiplier, zero, low, high;
#ifdef FLOAT_ARITHMETIC
    __m512 most; /* that is rounded, since there are no integers beyond int32 */
#else
    __m512i odd, even_half, odd_half, sign, right, left;
    int32_t rare; /* a multiplier above 1, or below 2^-31 */
#endif
} Codes;

#ifdef FLOAT_ARITHMETIC
static inline void load_shifts(const Scaling *scaling, int32_t first, __mmask16 mask, Codes *c)
{
    c->most = _mm512_set1_ps((float)scaling->high);
    c->low = _mm512_set1_epi8((char)(scaling->low + scaling->zero));
    c->high = _mm512_set1_epi8((char)(scaling->high + scaling->zero));
    (void)first;
    (void)mask;
}

/* The same where lanes stand for other outputs. */
static inline void rearrange(Codes *c, __m512i lanes)
{
    c->bias = _mm512_permutexvar_epi32(lanes, c->bias);
    c->multiplier = _mm512_permutexvar_epi32(lanes, c->multiplier);
}

/* A product of two float32, rounded to an integer. What is below int32 becomes its least. */
static inline __m512i scaled(const Codes *c, __m512i x)
{
    __m512 product = _mm512_cvt_roundepi32_ps(x, NEAREST);
    product = _mm512_mul_round_ps(product, _mm512_castsi512_ps(c->multiplier), NEAREST);
    return _mm512_cvt_roundps_epi32(_mm512_min_ps(product, c->most), NEAREST);
}
#else
/* What follows from multiplier and right. */
static inline void complete(Codes *c)
{
    const __m512i top = _mm512_set1_epi64((long long)((uint64_t)0xFFFFFFFF << 32));
    const __m512i round = _mm512_set1_epi64((long long)1 << 31);
    const __m512i half = _mm512_srli_epi32(_mm512_sllv_epi32(_mm512_set1_epi32(1), c->right), 1);
    c->odd = _mm512_srli_epi64(c->multiplier, 32);
    c->even_half = _mm512_or_si512(_mm512_slli_epi64(half, 32), round);
    c->odd_half = _mm512_or_si512(_mm512_and_si512(half, top), round);
    c->sign = _mm512_mask_blend_epi32(_mm512_test_epi32_mask(c->right, c->right), _mm512_set1_epi32(32),
                                      _mm512_set1_epi32(31));
}

static inline void load_shifts(const Scaling *scaling, int32_t first, __mmask16 mask, Codes *c)
{
    c->right = scaling->each_shift ? _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, scaling->right + first))
                                   : _mm512_set1_epi32(scaling->right[0]);
    c->left = _mm512_setzero_si512();
    if (scaling->left)
        c->left = scaling->each_shift ? _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, scaling->left + first))
                                      : _mm512_set1_epi32(scaling->left[0]);
    c->rare = scaling->left || _mm512_cmpgt_epi32_mask(c->right, _mm512_set1_epi32(30)) ||
              _mm512_testn_epi32_mask(c->multiplier, c->multiplier);
    if (!c->rare)
        c->multiplier = _mm512_slli_epi32(c->multiplier, 1);
    c->low = _mm512_set1_epi8((char)scaling->low);
    c->high = _mm512_set1_epi8((char)scaling->high);
    complete(c);
}

/* The same where lanes stand for other outputs. */
static inline void rearrange(Codes *c, __m512i lanes)
{
    c->bias = _mm512_permutexvar_epi32(lanes, c->bias);
    c->multiplier = _mm512_permutexvar_epi32(lanes, c->multiplier);
    c->right = _mm512_permutexvar_epi32(lanes, c->right);
    c->left = _mm512_permutexvar_epi32(lanes, c->left);
    complete(c);
}

/* What requantize computes of any number. */
static __m512i scaled_rarely(const Codes *c, __m512i x)
{
    const __m512i one = _mm512_set1_epi32(1), half = _mm512_set1_epi64((long long)1 << 30);
    const __m512i bits = _mm512_sub_epi32(_mm512_sllv_epi32(one, c->right), one);
    __m512i even, odd, threshold;
    __mmask16 up;
    x = _mm512_sllv_epi32(x, c->left);
    even = _mm512_add_epi64(_mm512_mul_epi32(x, c->multiplier), half);
    odd = _mm512_mul_epi32(_mm512_srli_epi64(x, 32), c->odd);
    odd = _mm512_slli_epi64(_mm512_add_epi64(odd, half), 1);
    x = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 31), odd);
    threshold = _mm512_add_epi32(_mm512_srli_epi32(bits, 1), _mm512_srli_epi32(x, 31));
    up = _mm512_cmpgt_epi32_mask(_mm512_and_si512(x, bits), threshold);
    x = _mm512_srav_epi32(x, c->right);
    return _mm512_mask_add_epi32(x, up, x, one);
}

/* requantize of sums. The multiplier is 2 m - 2^32 as an int32, so that the high half of its product with x, and x, are that of
 * 2 m x; added to the product are 1/2 of this half and 1/2 of what is shifted out of it. Ties go away from 0: what is negative
 * is first made less by 1 (of x < 0 only the high half of -1 is not negative, and becomes 0 in any case). */
static inline __m512i scaled(const Codes *c, __m512i x)
{
    __m512i even, odd;
    if (c->rare)
        return scaled_rarely(c, x);
    even = _mm512_add_epi64(_mm512_mul_epi32(x, c->multiplier), c->even_half);
    odd = _mm512_add_epi64(_mm512_mul_epi32(_mm512_shuffle_epi32(x, _MM_PERM_DDBB), c->odd), c->odd_half);
    even = _mm512_add_epi32(_mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB), x);
    return _mm512_srav_epi32(_mm512_sub_epi32(even, _mm512_srlv_epi32(x, c->sign)), c->right);
}
#endif

static Codes codes_of(const Scaling *scaling, int32_t first, int32_t outputs)
{
    const __mmask16 mask = (__mmask16)((1u << outputs) - 1u);
    const void *const from = (const int8_t *)scaling->bias + first * scaling->bias_bytes;
    Codes c;
    c.bias = scaling->bias_bytes == 1   ? _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, from))
             : scaling->bias_bytes == 2 ? _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(mask, from))
                                        : _mm512_maskz_loadu_epi32(mask, from);
    c.multiplier = scaling->each_multiplier
                       ? _mm512_mask_loadu_epi32(_mm512_set1_epi32(1), mask, scaling->multiplier + first)
                       : _mm512_set1_epi32(scaling->multiplier[0]);
    c.zero = _mm512_set1_epi16((short)scaling->zero);
    load_shifts(scaling, first, mask, &c);
    return c;
}

/* The codes of four vectors of sums, the bias in them, one vector after another. next: 1 where each has Codes of its own. */
ALWAYS_INLINE __m512i codes_of_four(const Codes *c, const int32_t next, __m512i s0, __m512i s1, __m512i s2, __m512i s3)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i low = _mm512_adds_epi16(_mm512_packs_epi32(scaled(c, s0), scaled(c + next, s1)), c->zero);
    const __m512i more = _mm512_packs_epi32(scaled(c + 2 * next, s2), scaled(c + 3 * next, s3));
    const __m512i high = _mm512_adds_epi16(more, c->zero);
    const __m512i codes = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high));
    return _mm512_min_epu8(_mm512_max_epu8(codes, c->low), c->high);
}

/* Up to four runs of up to 16 codes. */
static inline void store_codes(__m512i codes, int32_t outputs, int32_t count, int32_t step, uint8_t *y)
{
    const __m128i c0 = _mm512_castsi512_si128(codes), c1 = _mm512_extracti32x4_epi32(codes, 1);
    const __m128i c2 = _mm512_extracti32x4_epi32(codes, 2), c3 = _mm512_extracti32x4_epi32(codes, 3);
    const __mmask16 mask = (__mmask16)((1u << outputs) - 1u);
    if (outputs == 16 && count >= 4) {
        _mm_storeu_si128((__m128i *)(void *)y, c0);
        _mm_storeu_si128((__m128i *)(void *)(y + step), c1);
        _mm_storeu_si128((__m128i *)(void *)(y + 2 * step), c2);
        _mm_storeu_si128((__m128i *)(void *)(y + 3 * step), c3);
        return;
    }
    _mm_mask_storeu_epi8(y, mask, c0);
    if (count > 1)
        _mm_mask_storeu_epi8(y + step, mask, c1);
    if (count > 2)
        _mm_mask_storeu_epi8(y + 2 * step, mask, c2);
    if (count > 3)
        _mm_mask_storeu_epi8(y + 3 * step, mask, c3);
}

/* The codes of up to BLOCK sums without their bias. */
static inline void finish(const uint32_t *sums, const Scaling *scaling, int32_t first, int32_t outputs, uint8_t *y)
{
    const Codes c = codes_of(scaling, first, outputs);
    const __m512i s = _mm512_add_epi32(_mm512_loadu_si512(sums), c.bias);
    store_codes(codes_of_four(&c, 0, s, s, s, s), outputs, 1, 0, y);
    (void)code_of_sum;
}
"""

#: After FINISH.
CONVOLVE = """\
enum { TOGETHER = 8, TILE_BYTES = 32768 }; /* pixels that share loaded weights; of the input that is read again and again */

/* What the sums of some pixels are made of. weight: of two blocks, or one. */
typedef struct {
    const uint8_t *x;
    const int8_t *weight;
    int32_t offset[TOGETHER]; /* of the pixels, from x on */
    int32_t rows, pitch, quads, outputs;
} Products;

/* sums[b * TOGETHER + p] of `pixels` p and of `blocks` whole blocks b, or of one that is not `whole`. */
ALWAYS_INLINE void add_products(const Products *of, const int32_t pixels, const int32_t blocks, const int32_t whole,
                                const Codes *codes, __m512i *sums)
{
    const __mmask16 mask = (__mmask16)((1u << of->outputs) - 1u);
    const int32_t step = whole ? 64 : 4 * of->outputs, quads = of->quads, block = 64 * of->rows * quads;
    const int8_t *w = of->weight;
    __m512i s[TOGETHER], t[TOGETHER];
    int32_t p, q, r;
    UNROLL
    for (p = 0; p < pixels; p++) {
        s[p] = codes[0].bias;
        t[p] = codes[blocks - 1].bias;
    }
    for (r = 0; r < of->rows; r++) {
        const uint8_t *from[TOGETHER];
        UNROLL
        for (p = 0; p < pixels; p++)
            from[p] = of->x + r * of->pitch + of->offset[p];
        for (q = 0; q < quads; q++, w += step) {
            const __m512i w0 = whole ? _mm512_loadu_si512(w) : _mm512_maskz_loadu_epi32(mask, w);
            const __m512i w1 = blocks == 2 ? _mm512_loadu_si512(w + block) : w0;
            UNROLL
            for (p = 0; p < pixels; p++) {
                const __m512i codes_of_pixel = _mm512_set1_epi32((int)word(from[p] + 4 * q));
                s[p] = _mm512_dpbusd_epi32(s[p], codes_of_pixel, w0);
                if (blocks == 2)
                    t[p] = _mm512_dpbusd_epi32(t[p], codes_of_pixel, w1);
            }
        }
    }
    UNROLL
    for (p = 0; p < pixels; p++) {
        sums[p] = s[p];
        if (blocks == 2)
            sums[TOGETHER + p] = t[p];
    }
}

/* The same of one pixel, with four sums in turn, since one would wait for itself. */
ALWAYS_INLINE void add_products_of_one(const Products *of, const int32_t blocks, const int32_t whole, const Codes *codes,
                                       __m512i *sums)
{
    const __mmask16 mask = (__mmask16)((1u << of->outputs) - 1u);
    const int32_t step = whole ? 64 : 4 * of->outputs, quads = of->quads, block = 64 * of->rows * quads;
    const int8_t *w = of->weight;
    const __m512i zero = _mm512_setzero_si512();
    __m512i s[4] = {codes[0].bias, zero, zero, zero}, t[4] = {codes[blocks - 1].bias, zero, zero, zero};
    int32_t i, q, r;
#define ADD(i) \\
    do { \\
        const __m512i input = _mm512_set1_epi32((int)word(from + 4 * (q + (i)))); \\
        const __m512i w0 = whole ? _mm512_loadu_si512(w + (i) * step) : _mm512_maskz_loadu_epi32(mask, w + (i) * step); \\
        s[i] = _mm512_dpbusd_epi32(s[i], input, w0); \\
        if (blocks == 2) \\
            t[i] = _mm512_dpbusd_epi32(t[i], input, _mm512_loadu_si512(w + block + (i) * step)); \\
    } while (0)
    for (r = 0; r < of->rows; r++) {
        const uint8_t *from = of->x + r * of->pitch + of->offset[0];
        for (q = 0; q + 4 <= quads; q += 4, w += 4 * step) {
            ADD(0);
            ADD(1);
            ADD(2);
            ADD(3);
        }
        for (; q < quads; q++, w += step)
            ADD(0);
    }
#undef ADD
    for (i = 1; i < 4; i++) {
        s[0] = _mm512_add_epi32(s[0], s[i]);
        t[0] = _mm512_add_epi32(t[0], t[i]);
    }
    sums[0] = s[0];
    if (blocks == 2)
        sums[TOGETHER] = t[0];
}

ALWAYS_INLINE void products_of(const Products *of, int32_t pixels, const int32_t blocks, const int32_t whole,
                               const Codes *codes, __m512i *sums)
{
    switch (pixels) {
    case 1:
        add_products_of_one(of, blocks, whole, codes, sums);
        break;
    case 2:
        add_products(of, 2, blocks, whole, codes, sums);
        break;
    case 3:
        add_products(of, 3, blocks, whole, codes, sums);
        break;
    case 4:
        add_products(of, 4, blocks, whole, codes, sums);
        break;
    case 5:
        add_products(of, 5, blocks, whole, codes, sums);
        break;
    case 6:
        add_products(of, 6, blocks, whole, codes, sums);
        break;
    case 7:
        add_products(of, 7, blocks, whole, codes, sums);
        break;
    default:
        add_products(of, 8, blocks, whole, codes, sums);
    }
}

/* The codes of pixels of up to 8 outputs, two pixels in a vector. more: bytes of y from there on. */
static inline void finish_narrow(const Codes *c, const __m512i *sums, int32_t pixels, int32_t outputs, int32_t more,
                                 uint8_t *y)
{
    uint8_t codes[8 * TOGETHER];
    int32_t p;
#define PAIR(p) _mm512_inserti64x4(sums[p], _mm512_castsi512_si256(sums[(p) + 1]), 1)
    const __m512i found = codes_of_four(c, 0, PAIR(0), PAIR(2), PAIR(4), PAIR(6));
#undef PAIR
    if (outputs == 8) {
        _mm512_mask_storeu_epi64(y, (__mmask8)((1u << pixels) - 1u), found);
        return;
    }
    _mm512_storeu_si512(codes, found);
    for (p = 0; p < pixels && p < TOGETHER; p++, y += outputs, more -= outputs)
        if (more >= 8) /* the pixels behind it come later */
            memcpy(y, codes + 8 * p, 8);
        else
            memcpy(y, codes + 8 * p, (size_t)outputs);
}

/* Pixels, counted row by row, of which the first one has its window at x; line: bytes from row to row of the input. Weights are
 * read again for each few pixels, and the input for each two blocks of outputs. */
static void convolve_pixels(const Layer *layer, const uint8_t *x, int32_t line, int32_t pixels, uint8_t *y)
{
    const int32_t outputs = layer->outputs, columns = layer->out_width, step = layer->stride_x * layer->channels;
    const __m512i twice = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7);
    __m512i sums[2 * TOGETHER];
    Codes codes[2];
    Products of;
    int32_t first, blocks, begin, count, row, column, p, b;
    for (p = 0; p < 2 * TOGETHER; p++)
        sums[p] = _mm512_setzero_si512();
    of.x = x;
    of.rows = layer->kernel_height;
    of.pitch = layer->dilation_y * line;
    of.quads = (layer->channels * layer->kernel_width + 3) / 4;
    for (first = 0; first < outputs; first += blocks * BLOCK) {
        const int32_t left = outputs - first;
        blocks = left >= 2 * BLOCK ? 2 : 1;
        of.outputs = left < BLOCK ? left : BLOCK;
        of.weight = (const int8_t *)layer->weight + first * of.rows * of.quads * 4;
        codes[0] = codes_of(&layer->scaling, first, of.outputs);
        if (outputs <= 8)
            rearrange(codes, twice);
        if (blocks == 2)
            codes[1] = codes_of(&layer->scaling, first + BLOCK, BLOCK);
        for (begin = row = column = 0; begin < pixels; begin += count) {
            const int32_t groups = (pixels - begin + TOGETHER - 1) / TOGETHER;
            count = (pixels - begin + groups - 1) / groups;
            for (p = 0; p < TOGETHER && column + TOGETHER <= columns; p++)
                of.offset[p] = row * layer->stride_y * line + (column + p) * step;
            for (column += p ? count : 0; p < count; p++) {
                of.offset[p] = row * layer->stride_y * line + column * step;
                if (++column == columns) {
                    column = 0;
                    row++;
                }
            }
            if (column == columns) {
                column = 0;
                row++;
            }
            if (blocks == 2)
                products_of(&of, count, 2, 1, codes, sums);
            else if (of.outputs == BLOCK)
                products_of(&of, count, 1, 1, codes, sums);
            else
                products_of(&of, count, 1, 0, codes, sums);
            if (outputs <= 8) {
                finish_narrow(codes, sums, count, outputs, (pixels - begin) * outputs, y + begin * outputs);
                continue;
            }
            for (b = 0; b < blocks; b++)
                for (p = 0; p < count; p += 4) {
                    const __m512i *s = sums + b * TOGETHER + p;
                    store_codes(codes_of_four(codes + b, 0, s[0], s[1], s[2], s[3]), of.outputs, count - p, outputs,
                                y + (begin + p) * outputs + first + b * BLOCK);
                }
        }
    }
}

/* True where a layer was computed: one of bytes, whose windows lie row by row. Padding is put around as many rows as fit. */
static int32_t convolve_rows(const Layer *layer, const uint8_t *x, uint8_t *y)
{
    const int32_t span = (layer->kernel_height - 1) * layer->dilation_y + 1, inside = layer->width * layer->channels;
    const int32_t bands = layer->reads == BANDS, line = bands ? layer->padded_width * layer->channels : inside;
    const int32_t before = layer->left * layer->channels, row_bytes = layer->out_width * layer->outputs;
    uint8_t padded[TILE_BYTES + 4];
    int32_t row, count, i;
    if (layer->bits < 8 || layer->excess || layer->reads == WINDOWS || (bands && line * span > TILE_BYTES))
        return 0;
    if (!bands && layer->out_height == 1) {
        const int32_t step = layer->stride_x * layer->channels;
        int32_t pixels = TILE_BYTES / step;
        pixels = pixels < TOGETHER ? TOGETHER : pixels / TOGETHER * TOGETHER;
        for (i = 0; i < layer->out_width; i += pixels)
            convolve_pixels(layer, x + i * step, line, layer->out_width - i < pixels ? layer->out_width - i : pixels,
                            y + i * layer->outputs);
        return 1;
    }
    for (row = 0; row < layer->out_height; row += count) {
        const int32_t top = row * layer->stride_y - layer->top;
        count = line * span > TILE_BYTES ? 1 : (TILE_BYTES / line - span) / layer->stride_y + 1;
        count = count < layer->out_height - row ? count : layer->out_height - row;
        for (i = 0; bands && i < (count - 1) * layer->stride_y + span; i++) {
            uint8_t *const to = padded + i * line;
            if (top + i < 0 || top + i >= layer->height) {
                memset(to, layer->zero, (size_t)line);
                continue;
            }
            memset(to, layer->zero, (size_t)before);
            memcpy(to + before, x + (top + i) * inside, (size_t)inside);
            memset(to + before + inside, layer->zero, (size_t)(line - before - inside));
        }
        convolve_pixels(layer, bands ? padded : x + top * line, line, count * layer->out_width, y + row * row_bytes);
    }
    return 1;
}
"""

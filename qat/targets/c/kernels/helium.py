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

CONVOLVE = """\
/* to[i] = from[i] ^ flips. In assembly, as all loops below that are short: GCC 12 makes no tail-predicated loop, whose end
 * (LETP) counts what is left and switches off the lanes behind it. */
static inline void flip(void *to, const void *from, uint8x16_t flips, int32_t count)
{
    __asm__ volatile("wlstp.8 lr, %[count], 1f\\n"
                     "0:\\n\\t"
                     "vldrb.8 q0, [%[from]], #16\\n\\t"
                     "veor q0, q0, %q[flips]\\n\\t"
                     "vstrb.8 q0, [%[to]], #16\\n\\t"
                     "letp lr, 0b\\n"
                     "1:"
                     : [to] "+&r"(to), [from] "+&r"(from)
                     : [flips] "w"(flips), [count] "r"(count)
                     : "q0", "lr", "memory");
}

/* to[i] = codes[i] */
static inline void set(void *to, uint8x16_t codes, int32_t count)
{
    __asm__ volatile("wlstp.8 lr, %[count], 1f\\n"
                     "0:\\n\\t"
                     "vstrb.8 %q[codes], [%[to]], #16\\n\\t"
                     "letp lr, 0b\\n"
                     "1:"
                     : [to] "+&r"(to)
                     : [codes] "w"(codes), [count] "r"(count)
                     : "lr", "memory");
}

/* Rows of `bytes` bytes, flipped. */
static inline void fill_rows(uint8_t *to, int32_t line, const uint8_t *from, int32_t next, uint8x16_t flips, int32_t rows,
                             int32_t bytes)
{
    const uint8_t *source;
    uint8_t *target;
    __asm__ volatile("0:\\n\\t"
                     "mov %[source], %[from]\\n\\t"
                     "mov %[target], %[to]\\n\\t"
                     "wlstp.8 lr, %[bytes], 2f\\n"
                     "1:\\n\\t"
                     "vldrb.8 q0, [%[source]], #16\\n\\t"
                     "veor q0, q0, %q[flips]\\n\\t"
                     "vstrb.8 q0, [%[target]], #16\\n\\t"
                     "letp lr, 1b\\n"
                     "2:\\n\\t"
                     "add %[from], %[from], %[next]\\n\\t"
                     "add %[to], %[to], %[line]\\n\\t"
                     "subs %[rows], %[rows], #1\\n\\t"
                     "bne 0b"
                     : [to] "+&r"(to), [from] "+&r"(from), [rows] "+&r"(rows), [source] "=&r"(source), [target] "=&r"(target)
                     : [flips] "w"(flips), [bytes] "r"(bytes), [line] "r"(line), [next] "r"(next)
                     : "q0", "lr", "cc", "memory");
}

/* The window of one output, flipped; rows of `line` bytes. */
static inline void fill_flipped(const Layer *layer, const uint8_t *x, int32_t own, int32_t group, int32_t row, int32_t column,
                                int32_t line, uint8_t *to)
{
    const uint8x16_t flips = vdupq_n_u8(128), zero = vdupq_n_u8(layer->zero ^ 128);
    const int32_t y0 = row * layer->stride_y - layer->top, x0 = column * layer->stride_x - layer->left;
    const int32_t taps = layer->kernel_width, whole = layer->groups == 1 && layer->dilation_x == 1;
    const int32_t j0 = x0 < 0 ? -x0 : 0, j1 = x0 + taps > layer->width ? layer->width - x0 : taps;
    const int32_t next = layer->dilation_y * layer->width * layer->channels;
    const uint8_t *from = x + (y0 * layer->width + x0) * layer->channels + group * own;
    int32_t yi = y0, i, j;
    if (whole && y0 >= 0 && y0 + (layer->kernel_height - 1) * layer->dilation_y < layer->height && j1 - j0 == taps) {
        fill_rows(to, line, from, next, flips, layer->kernel_height, taps * own);
        return;
    }
    for (i = layer->kernel_height; i > 0; i--, to += line, from += next, yi += layer->dilation_y) {
        const int32_t inside = yi >= 0 && yi < layer->height;
        if (whole && inside && j1 - j0 == taps) {
            flip(to, from, flips, taps * own);
        } else if (!inside || (whole && j0 >= j1)) {
            set(to, zero, taps * own);
        } else if (whole) {
            set(to, zero, j0 * own);
            flip(to + j0 * own, from + j0 * own, flips, (j1 - j0) * own);
            set(to + j1 * own, zero, (taps - j1) * own);
        } else {
            for (j = 0; j < taps; j++) {
                const int32_t xj = x0 + j * layer->dilation_x;
                if (xj >= 0 && xj < layer->width)
                    flip(to + j * own, from + j * layer->dilation_x * layer->channels, flips, own);
                else
                    set(to + j * own, zero, own);
            }
        }
    }
}

/* Sums of a block of outputs, of three windows that lie `count` bytes apart. Words of the weights lie as far apart as sums. */
static inline void multiply_three(const int8_t *x, int32_t count, const int8_t *w, int32_t outputs, uint32_t *sums)
{
    const int32_t step = 16 * outputs;
    const uint32_t away = (uint32_t)(uintptr_t)w - (uint32_t)(uintptr_t)sums - (uint32_t)step;
    const uint32x4_t words = vaddq_n_u32(vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)(4 * outputs)), away);
    const uint32x4_t next = vdupq_n_u32((uint32_t)step);
    uint32_t *const end = sums + outputs;
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
    [e0] "+&Te"(e0), [e1] "+&Te"(e1), [e2] "+&Te"(e2), [d0] "+&Te"(d0), [d1] "+&Te"(d1), [d2] "+&Te"(d2), [x0] "+&r"(x0), \\
        [x1] "+&r"(x1), [x2] "+&r"(x2), [at] "+&w"(at)
    for (; sums < end; sums += 2) {
        uint32x4_t at = vaddq_n_u32(words, (uint32_t)(uintptr_t)sums);
        const int8_t *x0 = x, *x1 = x0 + count, *x2 = x1 + count;
        int32_t e0 = 0, e1 = 0, e2 = 0, d0 = 0, d1 = 0, d2 = 0;
        if (outputs == BLOCK) {
            __asm__ volatile(SUMS("vldrw.u32 q1, [%q[at], #256]!\\n\\tvldrw.u32 q2, [%q[at], #4]\\n\\t")
                             : OPERANDS
                             : [count] "r"(count)
                             : "q0", "q1", "q2", "lr", "memory");
        } else {
            uint32x4_t odd = vaddq_n_u32(at, sums + 1 < end ? 4 : 0);
            __asm__ volatile(SUMS("vadd.i32 %q[at], %q[at], %q[next]\\n\\tvadd.i32 %q[odd], %q[odd], %q[next]\\n\\t"
                                  "vldrw.u32 q1, [%q[at]]\\n\\tvldrw.u32 q2, [%q[odd]]\\n\\t")
                             : OPERANDS, [odd] "+&w"(odd)
                             : [count] "r"(count), [next] "w"(next)
                             : "q0", "q1", "q2", "lr", "memory");
        }
        sums[0] = (uint32_t)e0;
        sums[1] = (uint32_t)d0;
        sums[BLOCK] = (uint32_t)e1;
        sums[BLOCK + 1] = (uint32_t)d1;
        sums[2 * BLOCK] = (uint32_t)e2;
        sums[2 * BLOCK + 1] = (uint32_t)d2;
    }
#undef SUMS
#undef OPERANDS
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
                                 : [s0] "+&Te"(s0), [x] "+&r"(from), [at] "+&w"(at)
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
                         : [s0] "+&Te"(s0), [s1] "+&Te"(s1), [s2] "+&Te"(s2), [s3] "+&Te"(s3), [x] "+&r"(from), [at] "+&w"(at)
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

@MULTIPLY_PACKED/* Up to three outputs at a time, of which the last ones overlap those before them. */
static void convolve(const Layer *layer, const uint8_t *x, uint8_t *y, uint8_t *scratch)
{
    const int32_t groups = ANY_WINDOWS ? layer->groups : 1, per_group = layer->outputs / groups;
    const int32_t own = layer->channels / groups, windows = ANY_WINDOWS && layer->reads == WINDOWS;
    const int32_t rows = windows ? 1 : layer->kernel_height;
    const int32_t run = own * layer->kernel_width * (windows ? layer->kernel_height : 1);
    const int32_t quads = rows * ((run + 3) / 4), count = 4 * quads;
    const int32_t line = windows ? own * layer->kernel_width : (run + 3) / 4 * 4;
    const int32_t all = layer->out_height * layer->out_width, together = all < 3 ? 1 : 3;
    const int32_t in_place = all == 1 && layer->kernel_height == 1 && layer->reads == IN_PLACE;
    const int32_t points = layer->reads == IN_PLACE && layer->kernel_height == 1 && layer->out_height == 1 &&
                           layer->stride_x * layer->channels == line;
    const int8_t *const from = in_place ? (const int8_t *)x : (const int8_t *)scratch;
    const int32_t flips = in_place ? 128 : 0;
    const int32_t blocks = @PACKEDper_group; /* outputs of which the weights are there at once */
    uint32_t sums[3 * BLOCK];
    int32_t group, pixel, block, first, p;
    if (ANY_WINDOWS && layer->filled)
        memset(scratch, 0, (size_t)(together * count)); /* what no code is copied to */
    for (group = 0; group < groups; group++)
        for (block = 0; block < per_group; block += blocks) {
            const int32_t end = block + blocks < per_group ? block + blocks : per_group;
            const int8_t *const weights = (const int8_t *)layer->weight + group * layer->group_bytes;
@UNPACK            for (pixel = 0; pixel < all; pixel += together) {
                const int32_t begin = pixel < all - together ? pixel : all - together;
                const int8_t *w = weights;
                if (points)
                    flip(scratch, x + begin * line, vdupq_n_u8(128), together * line);
                else if (!in_place)
                    for (p = 0; p < together; p++)
                        fill_flipped(layer, x, own, group, (begin + p) / layer->out_width, (begin + p) % layer->out_width,
                                     line, scratch + p * count);
                for (first = block; first < end; first += BLOCK) {
                    const int32_t outputs = end - first < BLOCK ? end - first : BLOCK;
                    const int32_t output = group * per_group + first;
                    if (together == 3)
                        multiply_three(from, count, w, outputs, sums);
                    else
                        @MULTIPLY_ONE
                    if (ANY_INCOMPLETE && layer->excess)
                        for (p = 0; p < together; p++)
                            correct_flipped(from + p * count, flips, rows, line, run, layer->excess + output, outputs,
                                            sums + p * BLOCK);
                    finish_pixels(sums, together, &layer->scaling, output, outputs, y + begin * layer->outputs + output,
                                  layer->outputs);
                    w += count * outputs;
                }
            }
        }
}
"""

MULTIPLY_PACKED = """\
/* Weights of a block: of `quads` words of inputs. */
static inline void unpack_block(const Layer *layer, const uint8_t *from, int32_t quads, int32_t outputs, int8_t *to)
{
    const int32_t bits = layer->bits, size = 4 * outputs, step = (outputs * bits + 1) / 2; /* bytes of a word of all */
    const uint8x16_t mask = vdupq_n_u8((uint8_t)((1 << bits) - 1));
    int32_t shift, i;
    for (; quads >= 8 / bits; quads -= 8 / bits, from += size)
        for (shift = 0; shift < 8; shift += bits, to += size)
            for (i = 0; i < size; i += 16) {
                const mve_pred16_t lanes = vctp8q((uint32_t)(size - i));
                const uint8x16_t x = vshlq_u8(vldrbq_z_u8(from + i, lanes), vdupq_n_s8((int8_t)-shift));
                vstrbq_p_s8(to + i, vldrbq_gather_offset_z_s8(layer->values, vandq_u8(x, mask), lanes), lanes);
            }
    for (; quads > 0; quads--, from += step, to += size)
        unpack(from, bits, layer->values, size, to);
}

/* Sums of a block of outputs of one window, of weights that are base + step index. The indices of four words of an output meet
 * the inputs of each place in a byte; there are `whole` words of each output. */
static inline void multiply_indices(const Layer *layer, const int8_t *x, int32_t flips, int32_t whole, const uint8_t *w,
                                    int32_t outputs, uint32_t *sums)
{
    const int32_t bits = layer->bits, inputs = 32 / bits; /* of a word */
    const int8x16_t down = vdupq_n_s8((int8_t)-bits);
    const uint8x16_t mask = vdupq_n_u8((uint8_t)((1 << bits) - 1)), flipped = vdupq_n_u8((uint8_t)flips);
    const uint8x16_t lane = vidupq_n_u8(0, 1), in_word = vandq_u8(lane, vdupq_n_u8(3));
    const uint8x16_t places = vaddq_u8(vmulq_n_u8(vshrq_n_u8(lane, 2), (uint8_t)inputs), in_word);
    const uint32x4_t words = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)(4 * outputs));
    int32_t total = 0, o, i;
    for (i = 0; i < whole * inputs; i += 16) {
        const mve_pred16_t lanes = vctp8q((uint32_t)(whole * inputs - i));
        const uint8x16_t codes = veorq_u8(vldrbq_z_u8((const uint8_t *)x + i, lanes), flipped);
        total = vaddvaq_p_s8(total, vreinterpretq_s8_u8(codes), lanes);
    }
    for (o = 0; o < outputs; o += 4) { /* the last four may be some again; there may be fewer */
        const int32_t begin = o + 4 <= outputs ? o : outputs < 4 ? 0 : outputs - 4, last = outputs - begin - 1;
        const uint8_t *at = w + 4 * begin, *from = (const uint8_t *)x;
        int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0, shift;
        for (i = whole; i > 0; i -= 4, at += 16 * outputs, from += 4 * inputs) {
            const mve_pred16_t lanes = vctp32q((uint32_t)i), bytes = vctp8q((uint32_t)(4 * i));
#define WORDS(k) \\
    vreinterpretq_u8_u32( \\
        vldrwq_gather_offset_z_u32((const uint32_t *)(const void *)(at + 4 * (k < last ? k : last)), words, lanes))
#define ADD(s, indices) \\
    s = vmladavaq_s8(s, codes, vreinterpretq_s8_u8(vandq_u8(indices, mask))), indices = vshlq_u8(indices, down)
            uint8x16_t i0 = WORDS(0), i1 = WORDS(1), i2 = WORDS(2), i3 = WORDS(3);
            for (shift = 0; shift < inputs; shift += 4) { /* lanes without an index have one of 0 */
                const int8x16_t codes =
                    vreinterpretq_s8_u8(veorq_u8(vldrbq_gather_offset_z_u8(from + shift, places, bytes), flipped));
                ADD(s0, i0);
                ADD(s1, i1);
                ADD(s2, i2);
                ADD(s3, i3);
            }
#undef WORDS
#undef ADD
        }
        sums[begin] = (uint32_t)(layer->step * s0 + layer->base * total);
        if (last > 0)
            sums[begin + 1] = (uint32_t)(layer->step * s1 + layer->base * total);
        if (last > 1)
            sums[begin + 2] = (uint32_t)(layer->step * s2 + layer->base * total);
        if (last > 2)
            sums[begin + 3] = (uint32_t)(layer->step * s3 + layer->base * total);
    }
}

/* multiply_one of packed weights. Those that are no progression, and what fills no words, are unpacked a part at a time. */
static inline void multiply_one_packed(const Layer *layer, const int8_t *x, int32_t flips, int32_t count, const uint8_t *w,
                                       int32_t outputs, uint32_t *sums)
{
    const int32_t inputs = 32 / layer->bits, aligned = ((uintptr_t)w & 3) == 0; /* words are gathered */
    const int32_t whole = layer->step && aligned ? count / inputs : 0;
    int8_t unpacked[64 * BLOCK];
    uint32_t part[BLOCK];
    int32_t k, o;
    memset(sums, 0, BLOCK * sizeof *sums);
    if (whole) {
        multiply_indices(layer, x, flips, whole, w, outputs, sums);
        x += whole * inputs;
        w += whole * 4 * outputs;
        count -= whole * inputs;
    }
    for (k = 0; k < count; k += 64) {
        const int32_t few = count - k < 64 ? count - k : 64;
        unpack_block(layer, w + k / 64 * (8 * layer->bits) * outputs, few / 4, outputs, unpacked);
        multiply_one(x + k, flips, few, unpacked, outputs, part);
        for (o = 0; o < outputs; o++)
            sums[o] += part[o];
    }
}
"""

UNPACK = """\
            const uint8_t *const packed =
                (const uint8_t *)weights + block / BLOCK * quads * (BLOCK / 2 * layer->bits);
            if (layer->bits < 8 && together == 3) {
                weights = (int8_t *)scratch + 3 * count;
                unpack_block(layer, packed, quads, end - block, (int8_t *)weights);
            }
"""
MULTIPLY_ONE = "multiply_one(from, flips, count, w, outputs, sums);"


def convolve(packed: bool) -> str:
    """The C of convolutions and dense layers. packed: where some have weights of fewer bits than a byte."""
    text = CONVOLVE.replace("@MULTIPLY_PACKED", MULTIPLY_PACKED if packed else "")
    text = text.replace("@UNPACK", UNPACK if packed else "")
    text = text.replace("@PACKED", "layer->bits < 8 ? BLOCK : " if packed else "")
    if not packed:
        return text.replace("@MULTIPLY_ONE", MULTIPLY_ONE)
    text = text.replace("const int8_t *const weights =", "const int8_t *weights =")
    return text.replace(
        "@MULTIPLY_ONE",
        """if (layer->bits < 8)
                        multiply_one_packed(layer, from, flips, count, packed, outputs, sums);
                    else
                        """
        + MULTIPLY_ONE,
    )

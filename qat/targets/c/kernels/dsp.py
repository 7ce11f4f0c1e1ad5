"""Convolutions and dense layers on processors with the DSP extension of Arm (Cortex-M4, M7, M33).

Inputs are widened to halves once for all outputs, in the order in which SXTB16 widens the weights: of four bytes the first and
the third, then the second and the fourth. What the windows of four outputs read lies in a patch, [quads][first and third of
each output, second and fourth of each]; or that of one output, [quads][both].
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from qat.targets.c.kernels.dsp_packed import of_indices

CONVOLVE = """\
/* The inputs that a patch has of these bytes. */
static inline uint32_t even_inputs(uint32_t x)
{
    return DOUBLED ? x << 1 & 0x01FE01FEu : even_bytes(x);
}

static inline uint32_t odd_inputs(uint32_t x)
{
    return DOUBLED ? x >> 7 & 0x01FE01FEu : odd_bytes(x);
}

/* From bytes to a patch, of which `step` words are between the two of a quad. Unused bytes of the last word are 0. */
static inline void widen(const uint8_t *from, int32_t bytes, uint32_t *to, int32_t step)
{
    for (; bytes >= 4; bytes -= 4, from += 4, to += 2 * step) {
        const uint32_t x = word(from);
        to[0] = even_inputs(x);
        to[step] = odd_inputs(x);
    }
    if (bytes > 0) { /* not a byte more is read */
        to[0] = (from[0] | (bytes == 3 ? (uint32_t)from[2] << 16 : 0u)) << DOUBLED;
        to[step] = (bytes >= 2 ? from[1] : 0u) << DOUBLED;
    }
}

/* Words of rows of the input, `line` bytes from row to row, where they lie. */
static inline void widen_rows(const uint8_t *row, int32_t line, int32_t rows, int32_t quads, uint32_t *to, const int32_t step)
{
    int32_t q;
    for (; rows > 0; rows--, row += line) {
        const uint8_t *from = row;
        for (q = quads; q > 0; q--, from += 4, to += 2 * step) {
            const uint32_t words = word(from);
            to[0] = even_inputs(words);
            to[step] = odd_inputs(words);
        }
    }
}

/* The window of one output whose first pixel is (yi, xj), padding around. bytes: room for one of its rows, or for all of them
 * where windows are gathered. */
static void fill_patch(const Layer *layer, const uint8_t *x, int32_t group, int32_t yi, int32_t xj, uint8_t *bytes,
                       uint32_t *to, int32_t step)
{
    const int32_t channels = layer->channels, width = layer->width, columns = layer->kernel_width;
    const int32_t run = channels * columns, line = layer->dilation_y * width * channels;
    const uint8_t *const begin = x + (yi * width + xj) * channels;
    int32_t i;
    if (ANY_WINDOWS && layer->reads == WINDOWS) {
        fill_window(layer, x, group, yi, xj, bytes);
        widen(bytes, channels / layer->groups * layer->kernel_height * columns, to, step);
        return;
    }
    for (i = 0; i < layer->kernel_height; i++, to += (run + 3) / 4 * 2 * step) {
        const int32_t y = yi + i * layer->dilation_y;
        const uint8_t *from = begin + i * line;
        if (y < 0 || y >= layer->height || xj < 0 || xj + columns > width) {
            const int32_t before = xj < 0 ? -xj : 0, after = xj + columns > width ? xj + columns - width : 0;
            memset(bytes, layer->zero, (size_t)run);
            if (y >= 0 && y < layer->height && before + after < columns)
                memcpy(bytes + before * channels, from + before * channels, (size_t)((columns - before - after) * channels));
            from = bytes;
        }
        widen(from, run, to, step);
    }
}

/* Sums of the four windows of a patch. */
typedef struct {
    int32_t s0, s1, s2, s3;
} Four;

static inline Four four(int32_t x)
{
    const Four all = {x, x, x, x};
    return all;
}

/* start + weights of one output, `step` bytes from word to word, times those of a patch of four. */
static inline Four multiply_four(const uint8_t *w, int32_t step, const uint32_t *patch, int32_t quads, Four start)
{
    int32_t s0 = start.s0, s1 = start.s1, s2 = start.s2, s3 = start.s3;
    Four sums;
#ifdef USE_ASSEMBLY
    /* GCC 12 does not load several words at once. */
    uint32_t even, odd, left = (uint32_t)(quads - 1) << 16 | (uint32_t)step;
#define HALF(w) \\
    "ldm %[x]!, {r0, r1, r2, r3}\\n smlad %[s0], " w ", r0, %[s0]\\n smlad %[s1], " w ", r1, %[s1]\\n" \\
    "smlad %[s2], " w ", r2, %[s2]\\n smlad %[s3], " w ", r3, %[s3]\\n"
#define QUAD \\
    "ldr %[odd], [%[w]], #64\\n sxtb16 %[even], %[odd]\\n sxtb16 %[odd], %[odd], ror #8\\n" HALF("%[even]") HALF("%[odd]")
    if (step == 4 * BLOCK)
        __asm__("tst %[n], #1\\n beq 1f\\n" QUAD "1:\\n tst %[n], #2\\n beq 2f\\n" QUAD QUAD
                "2:\\n lsrs %[n], %[n], #2\\n beq 4f\\n"
                "3:\\n" QUAD QUAD QUAD QUAD "subs %[n], %[n], #1\\n bne 3b\\n"
                "4:\\n"
                : [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2), [s3] "+r"(s3), [w] "+r"(w), [x] "+r"(patch), [n] "+r"(quads),
                  [even] "=&r"(even), [odd] "=&r"(odd)
                :
                : "r0", "r1", "r2", "r3", "cc", "memory");
    else /* there is no register left: the low half of `left` is the step, the high half counts */
        __asm__("1:\\n ldr %[odd], [%[w]]\\n uxtah %[w], %[w], %[left]\\n"
                "sxtb16 %[even], %[odd]\\n sxtb16 %[odd], %[odd], ror #8\\n" HALF("%[even]") HALF("%[odd]")
                "subs %[left], %[left], #65536\\n bcs 1b\\n"
                : [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2), [s3] "+r"(s3), [w] "+r"(w), [x] "+r"(patch),
                  [left] "+r"(left), [even] "=&r"(even), [odd] "=&r"(odd)
                :
                : "r0", "r1", "r2", "r3", "cc", "memory");
#undef QUAD
#undef HALF
#else
    for (; quads > 0; quads--, w += step, patch += 8) {
        const uint32_t weights = word(w);
        const int16x2_t even = __sxtb16(weights), odd = __sxtb16(weights >> 8);
        s0 = __smlad(odd, (int16x2_t)patch[4], __smlad(even, (int16x2_t)patch[0], s0));
        s1 = __smlad(odd, (int16x2_t)patch[5], __smlad(even, (int16x2_t)patch[1], s1));
        s2 = __smlad(odd, (int16x2_t)patch[6], __smlad(even, (int16x2_t)patch[2], s2));
        s3 = __smlad(odd, (int16x2_t)patch[7], __smlad(even, (int16x2_t)patch[3], s3));
    }
#endif
    sums.s0 = s0;
    sums.s1 = s1;
    sums.s2 = s2;
    sums.s3 = s3;
    return sums;
}

/* sums[o] = the weights of four neighbouring outputs times a patch of one. */
static inline void multiply_one(const uint8_t *w, int32_t step, const uint32_t *patch, int32_t quads, int32_t *sums)
{
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#ifdef USE_ASSEMBLY
    uint32_t v;
#define PAIR(s, t) \\
    "sxtb16 %[v], r0\\n sxtb16 r0, r0, ror #8\\n smlad %[" s "], %[v], r2, %[" s "]\\n smlad %[" s "], r0, r3, %[" s "]\\n" \\
    "sxtb16 %[v], r1\\n sxtb16 r1, r1, ror #8\\n smlad %[" t "], %[v], r2, %[" t "]\\n smlad %[" t "], r1, r3, %[" t "]\\n"
    __asm__("1:\\n ldrd r2, r3, [%[x]], #8\\n"
            "ldrd r0, r1, [%[w]]\\n" PAIR("s0", "s1")
            "ldrd r0, r1, [%[w], #8]\\n add %[w], %[w], %[step]\\n" PAIR("s2", "s3")
            "subs %[n], %[n], #1\\n bne 1b\\n"
            : [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2), [s3] "+r"(s3), [w] "+r"(w), [x] "+r"(patch), [n] "+r"(quads),
              [v] "=&r"(v)
            : [step] "r"(step)
            : "r0", "r1", "r2", "r3", "cc", "memory");
#undef PAIR
#else
    for (; quads > 0; quads--, w += step, patch += 2) {
        const int16x2_t even = (int16x2_t)patch[0], odd = (int16x2_t)patch[1];
        const uint32_t w0 = word(w), w1 = word(w + 4), w2 = word(w + 8), w3 = word(w + 12);
        s0 = __smlad(__sxtb16(w0 >> 8), odd, __smlad(__sxtb16(w0), even, s0));
        s1 = __smlad(__sxtb16(w1 >> 8), odd, __smlad(__sxtb16(w1), even, s1));
        s2 = __smlad(__sxtb16(w2 >> 8), odd, __smlad(__sxtb16(w2), even, s2));
        s3 = __smlad(__sxtb16(w3 >> 8), odd, __smlad(__sxtb16(w3), even, s3));
    }
#endif
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}

/* The same of a single output. */
static inline int32_t multiply_single(const uint8_t *w, int32_t step, const uint32_t *patch, int32_t quads)
{
    int32_t sum = 0;
    for (; quads > 0; quads--, w += step, patch += 2) {
        const uint32_t weights = word(w);
        sum = __smlad(__sxtb16(weights), (int16x2_t)patch[0], sum);
        sum = __smlad(__sxtb16(weights >> 8), (int16x2_t)patch[1], sum);
    }
    return sum;
}

@SUMS
/* A sum, as sums_of_output and sums_of_one have it, completed. totals: of the inputs of the window. */
static inline int32_t completed(const Layer *layer, int32_t sum, uint32_t total, int32_t output)
{
    const uint32_t step = (uint32_t)(layer->step ? layer->step : 1), base = (uint32_t)(layer->step == 1 ? 0 : layer->base);
    const uint32_t more = base + (uint32_t)(layer->excess ? layer->excess[output] : 0);
    return (int32_t)((uint32_t)sum * step + more * total);
}

/* Multipliers and shifts of a block's outputs, also where they are one for all. */
typedef struct {
    int32_t multiplier[BLOCK];
    uint8_t right[BLOCK];
} Shared;

/* Codes of a block of outputs of four windows. incomplete: totals are missing in the sums. */
static void block_of_four(const Layer *layer, const uint8_t *w, const uint32_t *patch, int32_t quads, int32_t first,
                          int32_t outputs, int32_t incomplete, const uint32_t *totals, Four start, const Shared *shared,
                          uint8_t *y)
{
    const Scaling *const scaling = &layer->scaling;
    const int32_t bytes = scaling->bias_bytes;
    const int32_t simple = (!ANY_SLOW || scaling->quick) && !(ANY_INCOMPLETE && incomplete);
    const int32_t twice = ANY_TIES ? 2 * scaling->zero + 1 : 1, pitch = layer->outputs;
    const int8_t *const biases = (const int8_t *)scaling->bias + first * bytes;
    const int32_t *const multipliers = scaling->each_multiplier ? scaling->multiplier + first : shared->multiplier;
    const uint8_t *const rights = scaling->each_shift ? scaling->right + first : shared->right;
    int32_t o;
    for (o = 0; o < outputs; o++) {
        int32_t bias = 0;
        Four s;
        __asm__("" : "+r"(o)); /* a single counter: GCC 12 would keep a dozen pointers on the stack */
        if (simple)
            bias = (int32_t)((uint32_t)(bytes == 1   ? biases[o]
                                        : bytes == 2 ? ((const int16_t *)(const void *)biases)[o]
                                                     : ((const int32_t *)(const void *)biases)[o])
                             << DOUBLED);
        s = sums_of_output(layer, w, o, outputs, patch, quads, start, bias);
        if (simple) {
            const int32_t multiplier = multipliers[o], right = rights[o];
            const int32_t offset = (int32_t)((uint32_t)twice << right >> 1);
            uint8_t *to = y + o;
            *to = (uint8_t)quick_code_of(s.s0, multiplier, right, offset, ANY_TIES);
            to += pitch;
            *to = (uint8_t)quick_code_of(s.s1, multiplier, right, offset, ANY_TIES);
            to += pitch;
            *to = (uint8_t)quick_code_of(s.s2, multiplier, right, offset, ANY_TIES);
            to += pitch;
            *to = (uint8_t)quick_code_of(s.s3, multiplier, right, offset, ANY_TIES);
        } else {
            const int32_t i = first + o;
            if (ANY_INCOMPLETE && incomplete) {
                s.s0 = completed(layer, s.s0, totals[0], i);
                s.s1 = completed(layer, s.s1, totals[1], i);
                s.s2 = completed(layer, s.s2, totals[2], i);
                s.s3 = completed(layer, s.s3, totals[3], i);
            }
            y[o] = code_of(s.s0, i, scaling);
            y[o + pitch] = code_of(s.s1, i, scaling);
            y[o + 2 * pitch] = code_of(s.s2, i, scaling);
            y[o + 3 * pitch] = code_of(s.s3, i, scaling);
        }
    }
}

/* The same of one window. */
static void block_of_one(const Layer *layer, const uint8_t *w, const uint32_t *patch, int32_t quads, int32_t first,
                         int32_t outputs, int32_t incomplete, const uint32_t *totals, Four start, const Shared *shared,
                         uint8_t *y)
{
    const Scaling *const scaling = &layer->scaling;
    const int32_t bytes = scaling->bias_bytes, twice = 2 * scaling->zero + 1;
    const int32_t simple = (!ANY_SLOW || scaling->quick) && !(ANY_INCOMPLETE && incomplete);
    const int8_t *const biases = (const int8_t *)scaling->bias + first * bytes;
    const int32_t *const multipliers = scaling->each_multiplier ? scaling->multiplier + first : shared->multiplier;
    const uint8_t *const rights = scaling->each_shift ? scaling->right + first : shared->right;
    int32_t sums[BLOCK], o;
    sums_of_one(layer, w, outputs, patch, quads, start.s0, sums);
    for (o = 0; o < outputs; o++) {
        const int32_t i = first + o;
        if (simple) {
            const int32_t bias = bytes == 2   ? ((const int16_t *)(const void *)biases)[o]
                                 : bytes == 1 ? biases[o]
                                              : ((const int32_t *)(const void *)biases)[o];
            const int32_t offset = (int32_t)((uint32_t)twice << rights[o] >> 1);
            const int32_t sum = (int32_t)((uint32_t)sums[o] + ((uint32_t)bias << DOUBLED));
            y[o] = (uint8_t)quick_code_of(sum, multipliers[o], rights[o], offset, 1);
        } else {
            const int32_t sum = ANY_INCOMPLETE && incomplete ? completed(layer, sums[o], totals[0], i) : sums[o];
            y[o] = code_of(sum, i, scaling);
        }
    }
}

/* Four outputs at a time, in the order of rows, of which the last ones overlap those before them; few that are left, one by
 * one. scratch: a patch, then the bytes of a row of a window or of a window. */
static void convolve(const Layer *layer, const uint8_t *x, uint8_t *y, uint8_t *scratch)
{
    const int32_t per_group = layer->outputs / layer->groups, own = layer->channels / layer->groups;
    const int32_t windows = ANY_WINDOWS && layer->reads == WINDOWS, rows = windows ? 1 : layer->kernel_height;
    const int32_t run = own * layer->kernel_width * (windows ? layer->kernel_height : 1), quads = (run + 3) / 4;
    const int32_t all = layer->out_height * layer->out_width, block_bytes = rows * quads * BLOCK / 2 * layer->bits;
    const int32_t last = (layer->out_width - 1) * layer->stride_x - layer->left, below = rows - 1;
    /* The last byte of the input, and the last column, at which a window may begin whose words are read where they lie: what
     * meets no weights may be anything. */
    const int32_t line = layer->dilation_y * layer->width * layer->channels, right = layer->width - layer->kernel_width;
    const int32_t inside =
        windows || (ANY_INCOMPLETE && layer->excess)
            ? -1
            : layer->height * layer->width * layer->channels - below * line - 4 * quads;
    static const uint32_t ones = 0x01010101;
    uint32_t *const patch = (uint32_t *)(void *)scratch;
    uint8_t *const bytes = scratch + (all < 4 ? 8 : 32) * rows * quads;
    const int32_t incomplete = ANY_INCOMPLETE && (layer->step > 1 || layer->excess), base = layer->step == 1 ? layer->base : 0;
    uint32_t totals[4] = {0, 0, 0, 0};
    Four start = four(0);
    Shared shared;
    int32_t group, begin, first, p, together, yi, xj;
    for (p = 0; p < BLOCK; p++) {
        shared.multiplier[p] = layer->scaling.multiplier[0];
        shared.right[p] = layer->scaling.right[0];
    }
    for (group = 0; group < layer->groups; group++) {
        const uint8_t *const weights = (const uint8_t *)layer->weight + group * layer->group_bytes;
        for (begin = 0; begin < all; begin += together) {
            together = 1;
            if (all >= 4 && all - begin >= 3) {
                together = 4;
                begin = begin < all - 4 ? begin : all - 4;
            }
            yi = begin / layer->out_width;
            xj = (begin - yi * layer->out_width) * layer->stride_x - layer->left;
            yi = yi * layer->stride_y - layer->top;
            for (p = 0; p < together; p++) {
                const int32_t from = (yi * layer->width + xj) * layer->channels;
                if (yi < 0 || xj < 0 || xj > right || from > inside)
                    fill_patch(layer, x, group, yi, xj, bytes, patch + p, together);
                else if (together == 4)
                    widen_rows(x + from, line, rows, quads, patch + p, 4);
                else
                    widen_rows(x + from, line, rows, quads, patch, 1);
                xj += layer->stride_x;
                if (xj > last) {
                    xj = -layer->left;
                    yi += layer->stride_y;
                }
            }
            if (incomplete || base) {
                Four total = four(0);
                if (together == 4)
                    total = multiply_four((const uint8_t *)&ones, 0, patch, rows * quads, total);
                else
                    total.s0 = multiply_single((const uint8_t *)&ones, 0, patch, rows * quads);
                totals[0] = (uint32_t)total.s0;
                totals[1] = (uint32_t)total.s1;
                totals[2] = (uint32_t)total.s2;
                totals[3] = (uint32_t)total.s3;
                start.s0 = total.s0 * base;
                start.s1 = total.s1 * base;
                start.s2 = total.s2 * base;
                start.s3 = total.s3 * base;
            }
            for (first = 0; first < per_group; first += BLOCK) {
                const int32_t outputs = per_group - first < BLOCK ? per_group - first : BLOCK;
                const int32_t output = group * per_group + first;
                (together == 4 ? block_of_four : block_of_one)(layer, weights + first / BLOCK * block_bytes, patch,
                                                              rows * quads, output, outputs, incomplete, totals, start, &shared,
                                                              y + begin * layer->outputs + output);
            }
        }
    }
}
"""

#: The sums of one output of a block for a patch of four windows, and of all of them for one of a single window.
SUMS = """\
static inline Four sums_of_output(const Layer *layer, const uint8_t *w, int32_t o, int32_t outputs,
                                  const uint32_t *patch, int32_t quads, Four start, int32_t bias)
{
@FOUR}

static inline void sums_of_one(const Layer *layer, const uint8_t *w, int32_t outputs, const uint32_t *patch, int32_t quads,
                               int32_t start, int32_t *sums)
{
    int32_t o = 0;
@ONE}

"""

ONE_OF_BYTES = """\
    for (; o + 4 <= outputs; o += 4)
        multiply_one(w + 4 * o, 4 * outputs, patch, quads, sums + o);
    for (; o < outputs; o++)
        sums[o] = multiply_single(w + 4 * o, 4 * outputs, patch, quads);
"""


def _sums(bits: Sequence[int]) -> str:
    """What multiplies a block of weights of so many bits with a patch."""
    text, four, one = "", "", ""
    for b in bits:
        if b < 8:
            text += of_indices(b)
        of_four = "multiply_four(w + 4 * o, 4 * outputs, patch, quads, four(bias))"
        of_one = ONE_OF_BYTES
        if b < 8:
            values = "layer->step ? 0 : layer->values"
            of_four = f"four_of_indices{b}(w + 4 * o, {values}, o, outputs, patch, quads, plus{b}(start, bias))"
            of_one = (
                "    for (; o + 4 <= outputs; o += 4)\n"
                f"        one_of_indices{b}(w, {values}, o, 4, outputs, patch, quads, start, sums);\n"
                "    for (; o < outputs; o++)\n"
                f"        one_of_indices{b}(w, {values}, o, 1, outputs, patch, quads, start, sums);\n"
            )
        last = b == bits[-1]
        four += f"    return {of_four};\n" if last else f"    if (layer->bits == {b})\n        return {of_four};\n"
        if not last:
            of_one = f"    if (layer->bits == {b}) {{\n{textwrap.indent(of_one, '    ')}        return;\n    }}\n"
        one += of_one
    if 8 not in bits:
        one = f"    (void)multiply_one;\n{one}"
    if list(bits) == [8]:
        four = f"    (void)layer;\n    (void)start;\n{four}"
        one = f"    (void)layer;\n    (void)start;\n{one}"
    return text + SUMS.replace("@FOUR", four).replace("@ONE", one)


def convolve(bits: Sequence[int]) -> str:
    """The C of layers whose weights have so many bits."""
    return CONVOLVE.replace("@SUMS\n", _sums(bits))

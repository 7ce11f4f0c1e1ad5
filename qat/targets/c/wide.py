"""The layers of a C file whose weights, inputs or outputs have more than 8 bits: plain loops over 16-bit codes.

Sums are formed modulo 2^32 where the layer's bound fits into int32, else in int64. Padding is left out: the input's zero point
is multiplied by the sum of the weights that met an input. Products of centred codes some compilers add up wrongly (linear.py).
"""

from __future__ import annotations

import numpy as np

from qat.integer import INT32_MAX, IntegerConv2d, IntegerLinear
from qat.targets.c.linear import LinearWriter, float_bits, shared, small_type
from qat.targets.c.text import stored_type
from qat.vocabulary.listing import dimensions
from qat.vocabulary.ops import Array

REQUANTIZE_LONG = """\
/* x m of sums beyond int32, m = multiplier 2^-shift, rounded half up. */
static inline int32_t requantize_long(int64_t x, int32_t multiplier, int32_t shift)
{
    return (int32_t)((x * multiplier + ((int64_t)1 << (shift - 1))) >> shift);
}
"""

REQUANTIZE_SUM = """\
/* As requantize, of the sums of two wide codes, which may just pass int32. */
static inline int32_t requantize_sum(int64_t x, int32_t multiplier, int32_t right)
{
    const int64_t high = (x * multiplier + ((int64_t)1 << 30)) >> 31;
    const int64_t mask = ((int64_t)1 << right) - 1;
    return (int32_t)((high >> right) + ((high & mask) > (mask >> 1) + (high < 0)));
}
"""

CLIP_WIDE = """\
/* The wide code next to x in [low, high]. */
static inline uint16_t clip_wide(int32_t x, int32_t low, int32_t high)
{
    return (uint16_t)(x < low ? low : x > high ? high : x);
}
"""


def add_wide(writer: LinearWriter, node: IntegerLinear) -> None:
    """Append the function of a layer of wide codes."""
    name, (x,), y = writer.function(node), node.inputs, node.output
    weight = writer.ordered(node)
    outputs = len(weight)
    long = node.accumulator_bound > INT32_MAX
    total = "int64_t" if long else "uint32_t"
    kinds = {part: small_type(values) for part, values in (("weight", weight), ("bias", node.bias))}
    constants = [
        writer.array(kinds["weight"], f"{name}_weight", weight, weights=True),
        writer.array(kinds["bias"], f"{name}_bias", node.bias),
    ]
    centre = x.grid.zero_point - x.grid.qmin
    begin = [f"{total} sum = ({total}){name}_bias[o];"] + [f"{'int64_t' if long else 'int32_t'} met = 0;"] * (
        centre != 0
    )
    loop = [
        f"for (k = 0; k < {weight.shape[-1]}; k++){' {' if centre else ''}",
        f"    sum += ({total})from[k] * ({total})w[k];",
        *(["    met += w[k];", "}"] if centre else []),
    ]
    end = f"sum - {centre} * ({total})met" if centre else "sum"
    end = end if long else f"(int32_t)({end})"

    def of_output(what: str, kind: str, values: Array) -> str:
        """A constant for each output, and the C expression of that of output o."""
        values = shared(np.broadcast_to(values, outputs).astype(np.int64))
        constants.append(writer.array(kind, f"{name}_{what}", values))
        return f"{name}_{what}[{'o' if values.size > 1 else 0}]"

    if writer.arithmetic == "float":
        scaled = writer.rounded(end, of_output("multiplier", "int32_t", float_bits(node.requantize)), long=long)
    else:
        writer.used.add("REQUANTIZE_LONG")
        multiplier, shift = node.fixed
        multipliers = of_output("multiplier", "int16_t", multiplier), of_output("shift", "int8_t", shift)
        scaled = f"requantize_long({end}, {', '.join(multipliers)})"
    result = writer.code(node, node.requantize, scaled)
    if not isinstance(node, IntegerConv2d):
        inputs = weight.shape[1]
        begins, adding = ("\n".join(" " * 8 + line for line in part) for part in (begin, loop))
        body = f"""\
    const {kinds["weight"]} *w = {name}_weight;
    int32_t o, k;
    for (o = 0; o < {outputs}; o++, w += {inputs}) {{
        const {stored_type(x)} *from = x;
{begins}
{adding}
        y[o] = {result};
    }}"""
        writer.define(node, f"dense, {inputs} to {outputs}, wide codes", constants, body)
        return
    channels, height, width = x.shape
    _, rows, columns = y.shape
    kh, kw, own = weight.shape[1:]
    (sh, sw), (dh, dw), (top, _, left, _) = node.stride, node.dilation, node.padding
    begins = "\n".join(" " * 16 + line for line in begin)
    adding = "\n".join(" " * 24 + line for line in loop)
    group = f" + o / {outputs // node.group} * {own}" if node.group > 1 else ""
    body = f"""\
    int32_t row, column, o, i, j, k;
    for (row = 0; row < {rows}; row++)
        for (column = 0; column < {columns}; column++) {{
            const {kinds["weight"]} *w = {name}_weight;
            for (o = 0; o < {outputs}; o++) {{
{begins}
                for (i = 0; i < {kh}; i++)
                    for (j = 0; j < {kw}; j++, w += {own}) {{
                        const int32_t yi = row * {sh} - {top} + i * {dh}, xj = column * {sw} - {left} + j * {dw};
                        const {stored_type(x)} *from;
                        if (yi < 0 || yi >= {height} || xj < 0 || xj >= {width})
                            continue;
                        from = x + (yi * {width} + xj) * {channels}{group};
{adding}
                    }}
                *y++ = {result};
            }}
        }}"""
    what = f"{dimensions(x.shape)} to {dimensions(y.shape)}, convolution {kh} x {kw}, wide codes"
    writer.define(node, what, constants, body)

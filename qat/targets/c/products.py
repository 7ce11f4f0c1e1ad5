"""The functions of a C file that multiply matrices of codes, and that normalise over channels."""

from __future__ import annotations

from math import prod

import numpy as np

from qat.integer import INT32_MAX, IntegerMatMul, IntegerNorm
from qat.targets.c.linear import LinearWriter
from qat.vocabulary.listing import dimensions

ROOT = """\
/* The integer next to the root of n, from 1 to 2^24. */
static inline uint32_t root(uint32_t n)
{
    uint32_t r = 0, bit;
    for (bit = (uint32_t)1 << 12; bit; bit >>= 1)
        if ((r + bit) * (r + bit) <= n)
            r += bit;
    return r + (n - r * r > r);
}
"""


def add_matmul(writer: LinearWriter, node: IntegerMatMul) -> None:
    """Sums of products of centred codes, then as the sums of a layer. Channels are stored last: of (M, K) the transpose, of
    (B, M, K) all B matrices side by side.
    """
    length, long = node.length, writer.arithmetic == "float" and node.bound > INT32_MAX
    *_, rows, columns = node.output.shape
    matrices = prod(node.output.shape[:-2])
    beside = len(node.output.shape) == 3
    centres = [x.grid.zero_point - x.grid.qmin for x in node.inputs]

    def place(row: str, column: str, size: tuple[int, int]) -> str:
        """Of a number in the stored matrix of that size."""
        return f"({row} * {size[1]} + {column}) * {matrices} + b" if beside else f"{column} * {size[0]} + {row}"

    a = place("k", "i", (length, rows)) if node.transpose[0] else place("i", "k", (rows, length))
    b = place("j", "k", (columns, length)) if node.transpose[1] else place("k", "j", (length, columns))
    total = "int64_t" if long else "int32_t"
    code = writer.code(node, node.requantize, writer.scaled(node, "sum", long=long))
    body = f"""\
    int32_t b, i, j, k;
    for (b = 0; b < {matrices}; b++)
        for (i = 0; i < {rows}; i++)
            for (j = 0; j < {columns}; j++) {{
                {total} sum = 0;
                for (k = 0; k < {length}; k++)
                    sum += ({total})(x0[{a}] - {centres[0]}) * (x1[{b}] - {centres[1]});
                y[{place("i", "j", (rows, columns))}] = {code};
            }}"""
    what = f"{dimensions(node.inputs[0].shape)} times {dimensions(node.inputs[1].shape)}, matrices"
    writer.define(node, what, [], body, inputs=2)


def float_parts(number: np.float32) -> tuple[int, int]:
    """multiplier and shift, number = multiplier 2^-shift, of 24 bits."""
    fraction, exponent = np.frexp(np.float64(number))
    return int(fraction * 2.0**24), 24 - int(exponent)


def add_norm(writer: LinearWriter, node: IntegerNorm) -> None:
    """Integers, and products that are rounded as float32 rounds them, so that no processor or compiler option can change it."""
    writer.used |= {"ROUND", "TIMES", "ROOT"}
    (x,), name, grid = node.inputs, writer.function(node), node.output.grid
    channels, length, zero, clip = x.shape[0], node.count, grid.zero_point - grid.qmin, writer.clip(node.output)
    centre = x.grid.zero_point - x.grid.qmin
    constants = [
        writer.array("int16_t", f"{name}_gain", node.gain),
        writer.array("int32_t", f"{name}_shift", node.shift),
    ]
    (step, step_shift), (unit, unit_shift) = float_parts(node.step), float_parts(node.unit)
    multiplier, shift = float_parts(node.requantize.multiplier[0])
    low, high = node.requantize.low + zero, node.requantize.high + zero
    what, outer, beside, at, channel = "channels", prod(x.shape[1:]), channels, "c", "c"
    if node.num_groups is not None:  # whose channels lie side by side, and behind them those of other groups
        what, outer, beside = "numbers", node.num_groups, channels // node.num_groups
        at, channel = f"c / {beside} * {channels} + c % {beside}", f"i * {beside} + c % {beside}"
    deviation = f"{length} * x[{at}] - total" if node.centred else f"x[{at}] - {centre}"
    mean = ["        int32_t total = 0, off = 0;"] if node.centred else []
    count = ["            off += e;"] if node.centred else []
    share, share_shift = float_parts(node.share)
    less = [f"        squares -= (uint32_t)times(off * off, {share}, {share_shift});"] if node.centred else []
    sums = [f"        for (c = 0; c < {length}; c++)", f"            total += x[{at}];"] if node.centred else []
    body = [
        "    int32_t i, c;",
        f"    for (i = 0; i < {outer}; i++, x += {beside}, y += {beside}) {{",
        *mean,
        f"        uint32_t squares = {node.extra};",
        "        uint64_t quotient;",
        "        uint32_t r;",
        "        int32_t bits;",
        *sums,
        f"        for (c = 0; c < {length}; c++) {{",
        f"            const int32_t e = times({deviation}, {step}, {step_shift});",
        "            squares += (uint32_t)(e * e);",
        *count,
        "        }",
        *less,
        "        r = root(squares);",
        "        /* Its last bit stands for the remainder, so that no tie is made up. */",
        f"        quotient = ((uint64_t){unit} << 32) / r;",
        f"        quotient |= (uint64_t)(quotient * r != (uint64_t){unit} << 32);",
        "        quotient = to_float(quotient, &bits);",
        f"        for (c = 0; c < {length}; c++) {{",
        f"            const int32_t u = times({deviation}, (uint32_t)quotient, {unit_shift + 32} - bits);",
        f"            const int32_t sum = times(u * {name}_gain[{channel}] + {name}_shift[{channel}], {multiplier}, {shift});",
        f"            y[{at}] = {clip}(sum + {zero}, {low}, {high});",
        "        }",
        "    }",
    ]
    what = f"normalisation over {length} {what}, {dimensions(x.shape)}"
    writer.define(node, what, constants, "\n".join(body))

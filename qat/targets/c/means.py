"""Average poolings of a C file whose windows count different numbers of pixels: plain loops, a multiplier for each position."""

from __future__ import annotations

import numpy as np

from qat.integer import INT32_MAX, IntegerMeans
from qat.integer.fixed_point import LongMultiplier
from qat.targets.c.linear import LinearWriter, float_bits, small_type
from qat.targets.c.text import stored_type
from qat.vocabulary.listing import dimensions


def add_means(writer: LinearWriter, node: IntegerMeans) -> None:
    """Append the function of a node."""
    name, (x,), y = writer.function(node), node.inputs, node.output
    channels, height, width = x.shape
    _, rows, columns = y.shape
    (kh, kw), (sh, sw), (top, _, left, _) = node.kernel, node.stride, node.padding
    long = node.positions.accumulator_bound > INT32_MAX
    total = "int64_t" if long else "int32_t"
    floats = writer.arithmetic == "float"
    multiplier, shift = (float_bits(node.requantize), None) if floats else (x.astype(np.int64) for x in node.fixed)
    constants = [writer.array("int32_t", f"{name}_multiplier", multiplier)]
    if shift is None:
        scaled = writer.rounded("sum", f"{name}_multiplier[at]", long=long)
    elif isinstance(node.fixed, LongMultiplier):
        scaled = f"requantize_long(sum, {name}_multiplier[at], {name}_shift[at])"
        writer.used.add("REQUANTIZE_LONG")
        constants.append(writer.array("int8_t", f"{name}_shift", shift))
    else:
        writer.used.add("REQUANTIZE")
        left_shift = ""
        if (shift > 0).any():
            left_shift = f" * ((int32_t)1 << {name}_left[at])"
            constants.append(writer.array("uint8_t", f"{name}_left", np.maximum(shift, 0)))
        constants.append(writer.array(small_type(np.maximum(-shift, 0)), f"{name}_right", np.maximum(-shift, 0)))
        scaled = f"requantize(sum{left_shift}, {name}_multiplier[at], {name}_right[at])"
    centre = x.grid.zero_point - x.grid.qmin
    code = f"x[(yi * {width} + xj) * {channels} + c]"
    body = f"""\
    int32_t row, column, c, yi, xj;
    for (row = 0; row < {rows}; row++)
        for (column = 0; column < {columns}; column++) {{
            const int32_t at = row * {columns} + column, above = row * {sh} - {top}, before = column * {sw} - {left};
            const int32_t y0 = above < 0 ? 0 : above, y1 = above + {kh} > {height} ? {height} : above + {kh};
            const int32_t x0 = before < 0 ? 0 : before, x1 = before + {kw} > {width} ? {width} : before + {kw};
            for (c = 0; c < {channels}; c++) {{
                {total} sum = -{centre} * ({total})((y1 - y0) * (x1 - x0));
                for (yi = y0; yi < y1; yi++)
                    for (xj = x0; xj < x1; xj++)
                        sum += {code};
                *y++ = {writer.code(node, node.requantize, scaled)};
            }}
        }}"""
    what = f"{dimensions(x.shape)} to {dimensions(y.shape)}, means of windows of {kh} x {kw}, {stored_type(y)}"
    writer.define(node, what, constants, body)

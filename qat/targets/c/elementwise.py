"""Writes what is computed number by number from two tensors, or from one otherwise for each channel."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from qat.integer import INT32_MAX, IntegerChannelTable, IntegerMul, IntegerNode, IntegerSum
from qat.targets.c.linear import LinearWriter, float_bits
from qat.targets.c.text import dimensions, stored_type


def each(node: IntegerNode, result: Callable[[str], str]) -> str:
    """The body of a function of two tensors, of which one may have one pixel that all pixels of the other meet.

    result: the C expression of a number, from the index that x0, x1 and y have for it.
    """
    shape = node.output.shape
    if all(x.shape == shape for x in node.inputs):
        return f"    int32_t i;\n    for (i = 0; i < {prod(shape)}; i++)\n        y[i] = {result('i')};"
    channels = shape[0]
    moved = next(f"x{k}" for k, x in enumerate(node.inputs) if x.shape == shape)
    return f"""\
    int32_t i, c;
    for (i = 0; i < {prod(shape[1:])}; i++, {moved} += {channels}, y += {channels})
        for (c = 0; c < {channels}; c++)
            y[c] = {result("c")};"""


def add_mul(writer: LinearWriter, node: IntegerMul) -> None:
    """A product: of centred codes, then as the sums of a layer. That of two wide codes may pass int32, as only the float
    arithmetic has it.
    """
    largest = prod(max(-x.grid.low, x.grid.high) for x in node.inputs)
    long = writer.arithmetic == "float" and largest > INT32_MAX
    centres = [x.grid.zero_point - x.grid.qmin for x in node.inputs]

    def result(at: str) -> str:
        a, b = (f"(int32_t)(x{k}[{at}] - {centre})" for k, centre in enumerate(centres))
        total = f"(int64_t){a} * {b}" if long else f"{a} * {b}"
        return writer.code(node, node.requantize, writer.scaled(node, total, long=long))

    writer.define(node, f"product, {dimensions(node.output.shape)}", [], each(node, result), inputs=2)


def add_sum(writer: LinearWriter, node: IntegerSum) -> None:
    """A sum or a difference: both codes are shifted to the left, halved, and their sum is multiplied."""
    source, grid = node.inputs[0].grid, node.output.grid
    centre = source.zero_point - source.qmin
    if writer.arithmetic == "float":

        def rounded(at: str) -> str:
            a, b = (f"(int32_t)(x{k}[{at}] - {centre})" for k in (0, 1))
            total = f"{a} {'+' if node.sign > 0 else '-'} {b}"
            return writer.code(node, node.requantize, writer.rounded(total, int(float_bits(node.requantize)[0])))

        writer.define(node, f"{node.kind}, {dimensions(node.output.shape)}", [], each(node, rounded), inputs=2)
        return
    fixed = node.fixed
    (mx, rx), (my, ry) = ((int(x.multiplier[0]), -int(x.shift[0])) for x in (fixed.operand, fixed.result))
    scale, kind = ("requantize_sum", "int64_t") if source.wide or grid.wide else ("requantize", "int32_t")
    writer.used.add(scale.upper())

    def result(at: str) -> str:
        a, b = (f"{scale}((x{k}[{at}] - {centre}) * (({kind})1 << {fixed.left}), {mx}, {rx})" for k in (0, 1))
        total = f"{a} {'+' if node.sign > 0 else '-'} {b}"
        return writer.code(node, node.requantize, f"{scale}({total}, {my}, {ry})")

    writer.define(node, f"{node.kind}, {dimensions(node.output.shape)}", [], each(node, result), inputs=2)


def add_extreme(writer: LinearWriter, node: IntegerNode, sign: str) -> None:
    """The larger or the smaller of two codes. sign: ">" or "<"."""
    body = each(node, lambda at: f"x0[{at}] {sign} x1[{at}] ? x0[{at}] : x1[{at}]")
    writer.define(node, f"{node.kind}, {dimensions(node.output.shape)}", [], body, inputs=2)


def add_channel_table(writer: LinearWriter, node: IntegerChannelTable) -> None:
    """The tables of all channels, one behind another."""
    name, grid, (channels, codes) = writer.function(node), node.output.grid, node.table.shape
    table = writer.array(stored_type(node.output), f"{name}_table", node.table.ravel() + (grid.zero_point - grid.qmin))
    body = f"""\
    int32_t i, c;
    for (i = 0; i < {prod(node.output.shape[1:])}; i++, x += {channels}, y += {channels})
        for (c = 0; c < {channels}; c++)
            y[c] = {name}_table[c * {codes} + x[c]];"""
    writer.define(node, f"a table for each channel, {dimensions(node.output.shape)}", [table], body)

"""Writes what is computed number by number from two tensors, or from one otherwise for each channel."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from qat.integer import INT32_MAX, IntegerChannelTable, IntegerMul, IntegerNode, IntegerSum
from qat.targets.c.linear import LinearWriter, float_bits
from qat.targets.c.text import stored_type
from qat.vocabulary.listing import dimensions
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array

CODES = 256  #: of a tensor that is stored in bytes


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


def each_row(node: IntegerNode, statement: Callable[[int], str]) -> str:
    """The same where a statement computes so many numbers that lie beside one another."""
    shape = node.output.shape
    if all(x.shape == shape for x in node.inputs):
        return f"    {statement(prod(shape))}"
    moved = next(f"x{k}" for k, x in enumerate(node.inputs) if x.shape == shape)
    return f"""\
    int32_t i;
    for (i = 0; i < {prod(shape[1:])}; i++, {moved} += {shape[0]}, y += {shape[0]})
        {statement(shape[0])}"""


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
    """A sum or a difference of codes, which is multiplied. Of bytes there are so few that a microcontroller looks it up."""
    source, grid = node.inputs[0].grid, node.output.grid
    sign, off = ("+", 2 * (source.zero_point - source.qmin)) if node.sign > 0 else ("-", 0)

    def result(at: str) -> str:
        total = f"(x0[{at}] {sign} x1[{at}] - {off})"
        if writer.arithmetic == "float":
            return writer.code(node, node.requantize, writer.rounded(total, int(float_bits(node.requantize)[0])))
        # A code that is shifted to the left is even, so that its half is exact.
        (multiplier,), (shift,) = node.fixed.result
        scale, kind = ("requantize_sum", "int64_t") if source.wide or grid.wide else ("requantize", "int32_t")
        writer.used.add(scale.upper())
        total = f"{total} * (({kind})1 << {node.fixed.left - 1})"
        return writer.code(node, node.requantize, f"{scale}({total}, {multiplier}, {-shift})")

    body, constants = each(node, result), []
    if not (source.wide or grid.wide):
        writer.used.add("SUM_TABLE")
        name, flips = f"{writer.function(node)}_table", 0 if node.sign > 0 else CODES - 1
        totals = np.arange(2 * CODES - 1) - off - flips
        table = writer.array("uint8_t", name, _codes(node, totals, writer.arithmetic) + grid.zero_point - grid.qmin)
        constants = [f"#ifdef USE_SIMD32\n{table}#endif\n"]
        looked_up = each_row(node, lambda n: f"look_up_sums(x0, x1, {flips}, {n}, {name}, y);")
        body = f"#ifdef USE_SIMD32\n{looked_up}\n#else\n{body}\n#endif"
    writer.define(node, f"{node.kind}, {dimensions(node.output.shape)}", constants, body, inputs=2)


def _codes(node: IntegerSum, totals: Array, arithmetic: str) -> Array:
    """The centred codes of sums or differences, int64."""
    low, high = node.requantize.low, node.requantize.high
    if arithmetic == "fixed":
        codes: Array = np.clip(node.fixed.apply(NUMPY_OPS, node.fixed.constants(), totals), low, high)
        return codes
    multiplier = node.requantize.multiplier
    return NUMPY_OPS.requantize(totals.astype(np.float32), multiplier, float(low), float(high)).astype(np.int64)


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

"""Writes what is computed number by number from two tensors, or from one otherwise for each channel."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from qat.integer import IntegerChannelTable, IntegerMul, IntegerNode, IntegerSum
from qat.targets.c.linear import LinearWriter
from qat.targets.c.text import dimensions, stored_type

LARGEST = 255  #: code of a byte
LEAST_OF_TABLE = 2048  #: sums whose computation is worth the flash of a table


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
    """A product: of centred codes, then as the sums of a layer."""
    writer.used.add("REQUANTIZE")
    grid, shift = node.output.grid, int(node.fixed.shift[0])
    zero, clip = grid.zero_point - grid.qmin, writer.clip(node.output)
    low, high = node.requantize.low + zero, node.requantize.high + zero
    centres = [x.grid.zero_point - x.grid.qmin for x in node.inputs]
    left = f" * ((int32_t)1 << {shift})" if shift > 0 else ""

    def result(at: str) -> str:
        a, b = (f"(int32_t)(x{k}[{at}] - {centre})" for k, centre in enumerate(centres))
        scaled = f"requantize({a} * {b}{left}, {int(node.fixed.multiplier[0])}, {max(-shift, 0)})"
        return f"{clip}({scaled} + {zero}, {low}, {high})"

    writer.define(node, f"product, {dimensions(node.output.shape)}", [], each(node, result), inputs=2)


def add_sum(writer: LinearWriter, node: IntegerSum) -> None:
    """A sum or a difference, as one multiplication: halving both shifted codes before leaves no rest. Large ones are looked up in a
    table of all sums, except where the compiler has vectors.
    """
    source, grid, fixed = node.inputs[0].grid, node.output.grid, node.fixed
    if int(fixed.operand.multiplier[0]) != 1 << 30 or int(fixed.operand.shift[0]) != 0:
        raise AssertionError(f"{node.name}: the multiplier of its inputs is not one half")
    mx, my, ry = 1 << (fixed.left - 1), int(fixed.result.multiplier[0]), -int(fixed.result.shift[0])
    wide = source.wide or grid.wide
    scale, kind = ("requantize_sum", "int64_t") if wide else ("requantize", "int32_t")
    writer.used.add(scale.upper())
    clip, zero, centre = writer.clip(node.output), grid.zero_point - grid.qmin, source.zero_point - source.qmin
    low, high = node.requantize.low + zero, node.requantize.high + zero
    sign, off = ("+", 2 * centre) if node.sign > 0 else ("-", 0)

    def result(at: str) -> str:
        total = f"(x0[{at}] {sign} x1[{at}]{f' - {off}' if off else ''}) * ({kind}){mx}"
        return f"{clip}({scale}({total}, {my}, {ry}) + {zero}, {low}, {high})"

    constants, body = [], each(node, result)
    if not wide and prod(node.output.shape) >= LEAST_OF_TABLE:
        first = 0 if node.sign > 0 else -LARGEST
        sums = np.arange(first, first + 2 * LARGEST + 1) - off
        codes = np.clip(fixed.result.apply(sums * mx), node.requantize.low, node.requantize.high) + zero
        name = f"{writer.function(node)}_sums"
        table = writer.array("uint8_t", name, codes)
        shift = f" + {-first}" if first else ""
        looked_up = each(node, lambda at: f"{name}[x0[{at}] {sign} x1[{at}]{shift}]")
        constants = [f"#ifndef USE_VECTORS\n{table}#endif\n"]
        body = f"#ifdef USE_VECTORS\n{body}\n#else\n{looked_up}\n    (void){scale};\n    (void){clip};\n#endif"
    writer.define(node, f"{node.kind}, {dimensions(node.output.shape)}", constants, body, inputs=2)


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

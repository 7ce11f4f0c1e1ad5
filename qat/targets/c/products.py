"""The functions of a C file that multiply matrices of codes."""

from __future__ import annotations

from math import prod

from qat.integer import IntegerMatMul
from qat.targets.c.linear import LinearWriter
from qat.targets.c.text import dimensions


def add_matmul(writer: LinearWriter, node: IntegerMatMul) -> None:
    """Sums of products of centred codes, then as the sums of a layer. Channels are stored last: of (M, K) the transpose, of
    (B, M, K) all B matrices side by side.
    """
    writer.used.add("REQUANTIZE")
    fixed, grid, length = node.fixed, node.output.grid, node.length
    shift, zero, clip = int(fixed.shift[0]), grid.zero_point - grid.qmin, writer.clip(node.output)
    low, high = node.requantize.low + zero, node.requantize.high + zero
    *_, rows, columns = node.output.shape
    matrices = prod(node.output.shape[:-2])
    beside = len(node.output.shape) == 3
    centres = [x.grid.zero_point - x.grid.qmin for x in node.inputs]

    def place(row: str, column: str, size: tuple[int, int]) -> str:
        """Of a number in the stored matrix of that size."""
        return f"({row} * {size[1]} + {column}) * {matrices} + b" if beside else f"{column} * {size[0]} + {row}"

    a = place("k", "i", (length, rows)) if node.transpose[0] else place("i", "k", (rows, length))
    b = place("j", "k", (columns, length)) if node.transpose[1] else place("k", "j", (length, columns))
    left = f" * ((int32_t)1 << {shift})" if shift > 0 else ""
    body = f"""\
    int32_t b, i, j, k;
    for (b = 0; b < {matrices}; b++)
        for (i = 0; i < {rows}; i++)
            for (j = 0; j < {columns}; j++) {{
                int32_t sum = 0;
                for (k = 0; k < {length}; k++)
                    sum += (int32_t)(x0[{a}] - {centres[0]}) * (x1[{b}] - {centres[1]});
                sum = requantize(sum{left}, {int(fixed.multiplier[0])}, {max(-shift, 0)});
                y[{place("i", "j", (rows, columns))}] = {clip}(sum + {zero}, {low}, {high});
            }}"""
    what = f"{dimensions(node.inputs[0].shape)} times {dimensions(node.inputs[1].shape)}, matrices"
    writer.define(node, what, [], body, inputs=2)

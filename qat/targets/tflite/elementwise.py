"""Writes what is computed number by number from two tensors as operators of TensorFlow Lite.

A ``writer`` is an ``IntegerWriter``, whose module imports this one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.errors import QatError
from qat.integer import IntegerMul, IntegerNode, IntegerSum, sums_tie
from qat.targets.tflite.writer import MULTIPLIERS, Op, quantization_of, stored_shape

SMALLEST_PRODUCT = (
    2.0**-16
)  #: multipliers that XNNPACK takes; with smaller ones LiteRT's own kernel rounds in fixed point


def add_sum(writer: Any, node: IntegerSum) -> None:
    """An ADD or a SUB.

    Where the multiplier is 2^8 or more, every sum but 0 becomes a bound, as with 255.75. XNNPACK leaves such an addition to
    LiteRT's own kernel, which overflows; so it is written with an output scale of that multiplier, and a copy has the right
    scale. (Below 2^-10, which XNNPACK does not take either, LiteRT's kernel gives 0, as it must.)
    """
    _ = node.fixed  # or its QatError
    source, grid = node.inputs[0].grid, node.output.grid
    if writer.arithmetic == "float" and sums_tie(source, grid, node.sign):
        raise QatError(
            f"{node.name}: the sums of some codes lie half way between two of its own, as powers of two make them, and "
            "XNNPACK rounds such to the other side; export with --arithmetic fixed, to ONNX or MINDIR, or convert without "
            "profile 'ascend'"
        )
    inputs = [writer.of(x) for x in node.inputs]
    op, options = (Op.ADD, schema.AddOptionsT) if node.sign > 0 else (Op.SUB, schema.SubOptionsT)
    if writer.long and not (source.wide or grid.wide):
        raise QatError(
            f"{node.name}: adds codes of 8 bits in a network that has wider ones too, for which LiteRT has another "
            "addition; give its inputs or output more than 8 bits, or export to C"
        )
    if node.requantize.multiplier[0] < MULTIPLIERS[1] or writer.long:
        fused, output, clips = writer._clipped(node)
        writer.op(op, inputs, output, options(fusedActivationFunction=fused, potScaleInt16=False))
        writer._finish(node, output, clips)
        return
    _saturated(writer, node, op, options(), source.scale / np.float32(255.75))


def _saturated(writer: Any, node: IntegerSum | IntegerMul, op: int, options: Any, scale: np.float32) -> None:
    """An operator whose output has that scale in the file, with which all but 0 becomes a bound, and a copy with its own."""
    zero = writer.zero(node.output.grid)
    total = writer.tensor(stored_shape(node.output.shape), writer.dtype, quantization_of(scale, zero))
    writer.op(op, [writer.of(x) for x in node.inputs], total, options)
    bounds = [(Op.MAXIMUM, zero + node.requantize.low), (Op.MINIMUM, zero + node.requantize.high)]
    clips = [bound for bound, open_end in zip(bounds, (-128, 127), strict=True) if bound[1] != open_end]
    writer._finish(node, writer.reshaped(total, writer.codes(node.output, "" if clips else None)), clips)


def add_mul(writer: Any, node: IntegerMul) -> None:
    """A MUL. Raises QatError where XNNPACK leaves a product of the float arithmetic to another kernel."""
    multiplier = node.requantize.multiplier[0]
    if writer.arithmetic == "fixed":
        _ = node.fixed  # or its QatError
    elif multiplier < SMALLEST_PRODUCT:
        raise QatError(
            f"{node.name}: multiplies by {multiplier:g} to requantize, and XNNPACK takes {SMALLEST_PRODUCT:g} and more, so "
            "that LiteRT would round otherwise; its output's range is far too large for its inputs: train it further, or "
            "export to ONNX or C"
        )
    if node.saturates and not writer.long:
        a, b = node.inputs
        _saturated(
            writer, node, Op.MUL, schema.MulOptionsT(), a.grid.scale * b.grid.scale / node.requantize.multiplier[0]
        )
        return
    fused, output, clips = writer._clipped(node)
    writer.op(Op.MUL, [writer.of(x) for x in node.inputs], output, schema.MulOptionsT(fusedActivationFunction=fused))
    writer._finish(node, output, clips)


def add_extreme(writer: Any, node: IntegerNode, op: int) -> None:
    """A MAXIMUM or a MINIMUM of codes."""
    inputs = [writer.of(x) for x in node.inputs]
    writer._finish(node, writer.op(op, inputs, writer.codes(node.output), schema.MaximumMinimumOptionsT()))

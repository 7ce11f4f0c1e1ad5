"""Writes matrix products of codes, softmaxes and normalisations over channels, as operators of TensorFlow Lite.

A ``writer`` is an ``IntegerWriter``, whose module imports this one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.cells.base import Shape
from qat.errors import QatError
from qat.integer import IntegerMatMul, IntegerNorm, IntegerSoftmax, IntegerTensor
from qat.targets.tflite.writer import ROUNDING, Op, quantization_of, stored_shape
from qat.vocabulary.ops import EXACT_INTEGERS


def add_matmul(writer: Any, node: IntegerMatMul) -> None:
    """In the fixed arithmetic a BATCH_MATMUL of codes, whose multiplication by m rounds as in ``IntegerMatMul.fixed``. XNNPACK
    has none of codes, so that in the float arithmetic centred codes are multiplied, whose sums float32 holds.
    """
    if writer.arithmetic == "fixed":
        _fixed(writer, node)
        return
    if node.wide:
        raise QatError(
            f"{node.name}: its sums may reach {node.bound}, and LiteRT adds in float32, which holds integers up to "
            f"{EXACT_INTEGERS}; use fewer bits or shorter rows, or export with --arithmetic fixed, to ONNX or to C"
        )
    a, b = (centred(writer, x) for x in node.inputs)
    total = writer.tensor(stored_shape(node.output.shape), np.float32)
    writer.multiplied(a, b, node.transpose, total)
    writer._finish(node, writer.rounded(node.output, total, node.requantize))


def _fixed(writer: Any, node: IntegerMatMul) -> None:
    _ = node.fixed  # or its QatError
    grid = node.output.grid
    zero = writer.zero(grid)
    low, high = zero + node.requantize.low, zero + node.requantize.high
    clips = [*([(Op.MAXIMUM, low)] * (low > -128)), *([(Op.MINIMUM, high)] * (high < 127))]
    shape = stored_shape(node.output.shape)
    if not node.saturates:
        output = writer.codes(node.output, "" if clips else None)
    else:
        a, b = (x.grid.scale for x in node.inputs)
        output = writer.tensor(shape, np.int8, quantization_of(a * b / node.requantize.multiplier[0], zero))
    writer.multiplied(*(writer.of(x) for x in node.inputs), node.transpose, output)
    if node.saturates:
        output = writer.reshaped(output, writer.codes(node.output, "" if clips else None))
    writer._finish(node, output, clips)


def centred(writer: Any, x: IntegerTensor) -> int:
    """The centred codes of a tensor as float32."""
    shape = stored_shape(x.shape)
    codes = writer._step(Op.CAST, [writer.of(x)], schema.CastOptionsT(), shape)
    zero = writer.zero(x.grid)
    return int(writer._step(Op.SUB, [codes, writer._number(zero)], schema.SubOptionsT(), shape) if zero else codes)


def add_norm(writer: Any, node: IntegerNorm) -> None:
    """In float32, as ``IntegerNorm.evaluate``: nearly all of it are integers."""
    (x,), how = node.inputs, node.grouping
    whole = stored_shape(x.shape)
    shape = whole if how is None else stored_shape(how.shape)
    one = (*shape[:-1], 1)
    axis = writer.constant(np.array([len(shape) - 1], np.int32))
    number = writer._number
    made = {
        Op.ADD: schema.AddOptionsT,
        Op.SUB: schema.SubOptionsT,
        Op.MUL: schema.MulOptionsT,
        Op.DIV: schema.DivOptionsT,
        Op.MAXIMUM: schema.MaximumMinimumOptionsT,
        Op.MINIMUM: schema.MaximumMinimumOptionsT,
    }

    def step(op: int, a: int, b: int, of: Shape = shape) -> int:
        return int(writer._step(op, [a, b], made[op](), of))

    def total(of: int) -> int:
        return int(writer._step(Op.SUM, [of, axis], schema.ReducerOptionsT(keepDims=True), one))

    def nearest(of: int, at: Shape = shape) -> int:
        return step(Op.SUB, step(Op.ADD, of, number(ROUNDING), at), number(ROUNDING), at)

    def flag(of: int) -> int:
        return step(Op.MINIMUM, step(Op.MAXIMUM, of, number(0), one), number(1), one)

    d = centred(writer, x)
    d = d if how is None else writer.rearranged(d, how, writer.tensor(shape, np.float32))
    if node.centred:
        d = step(Op.SUB, step(Op.MUL, d, number(node.count)), total(d))
    e = nearest(step(Op.MUL, d, number(node.step)))
    n = step(Op.ADD, total(step(Op.MUL, e, e)), number(node.extra), one)
    if node.centred:
        t = total(e)
        off = nearest(step(Op.MUL, step(Op.MUL, t, t, one), number(node.share), one), one)
        n = step(Op.SUB, n, off, one)
    r = nearest(writer._step(Op.SQRT, [n], None, one), one)
    square = step(Op.MUL, r, r, one)
    above = flag(step(Op.SUB, step(Op.SUB, n, square, one), r, one))
    behind = step(Op.SUB, step(Op.SUB, square, r, one), n, one)
    below = flag(step(Op.ADD, behind, number(1), one))
    r = step(Op.SUB, step(Op.ADD, r, above, one), below, one)
    u = nearest(step(Op.MUL, d, step(Op.DIV, number(node.unit), r, one)))
    u = u if how is None else writer.rearranged(u, how.back, writer.tensor(whole, np.float32))
    gain, shift = (writer.constant(each.astype(np.float32)) for each in (node.gain, node.shift))
    acc = step(Op.ADD, step(Op.MUL, u, gain, whole), shift, whole)
    writer._finish(node, writer.rounded(node.output, acc, node.requantize))


def add_softmax(writer: Any, node: IntegerSoftmax) -> None:
    """Integers in int32 and float32, as ``IntegerSoftmax.evaluate``: LiteRT's own softmax is not exact."""
    (x,) = node.inputs
    shape = stored_shape(x.shape)
    one = (*shape[:-1], 1)
    axis = writer.constant(np.array([len(shape) - 1], np.int32))

    def step(op: int, inputs: list[int], options: Any = None, of: Shape = shape, dtype: Any = np.float32) -> int:
        return int(writer._step(op, inputs, options, of, dtype))

    number = writer._number
    codes = writer._integers(x)
    keep = schema.ReducerOptionsT(keepDims=True)
    largest = step(Op.REDUCE_MAX, [codes, axis], keep, one, np.int32)
    behind = step(Op.SUB, [largest, codes], schema.SubOptionsT(), dtype=np.int32)
    e = step(Op.GATHER, [writer.constant(node.table), behind], schema.GatherOptionsT())
    total = step(Op.SUM, [e, axis], keep, one)
    share = step(Op.DIV, [number(256.0), total], schema.DivOptionsT(), one)
    scaled = step(Op.MUL, [e, share], schema.MulOptionsT())
    raised = step(Op.ADD, [scaled, number(ROUNDING)], schema.AddOptionsT())
    rounded = step(Op.SUB, [raised, number(ROUNDING)], schema.SubOptionsT())
    clipped = step(Op.MINIMUM, [rounded, number(255.0)], schema.MaximumMinimumOptionsT())
    shifted = clipped if writer.long else step(Op.SUB, [clipped, number(128.0)], schema.SubOptionsT())
    writer._finish(node, writer.op(Op.CAST, [shifted], writer.codes(node.output), schema.CastOptionsT()))

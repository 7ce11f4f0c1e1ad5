"""Writes matrix products of codes as operators of TensorFlow Lite.

A ``writer`` is an ``IntegerWriter``, whose module imports this one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.errors import QatError
from qat.integer import IntegerMatMul, IntegerTensor
from qat.targets.tflite.writer import Op, quantization_of, stored_shape
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

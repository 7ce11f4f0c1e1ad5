"""Writes layers that are left in float, what enters as real numbers, and what leaves.

A ``writer`` is an ``IntegerWriter``, whose module imports this one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.integer import FloatLayer, IntegerInput, IntegerTensor
from qat.integer.ends import REAL, FileOutput
from qat.targets.float_graph import written_layer
from qat.targets.tflite.float import TfliteOps, TfliteSymbol
from qat.targets.tflite.writer import Op, stored_shape


def entering(writer: Any, node: IntegerInput, x: int) -> int:
    """The real numbers of what enters, where it does not become codes."""
    x, shape = less(writer, node, x, node.offset), stored_shape(node.output.shape)
    if node.scale != 1.0:
        x = writer._step(Op.MUL, [x, writer._number(node.scale)], schema.MulOptionsT(), shape)
    return x


def less(writer: Any, node: IntegerInput, x: int, offset: int) -> int:
    """What enters as float32, less an offset."""
    shape = stored_shape(node.output.shape)
    if writer.tensors[x].type != schema.TensorType.FLOAT32:
        x = writer._step(Op.CAST, [x], schema.CastOptionsT(), shape)
    if offset:
        x = writer._step(Op.SUB, [x, writer._number(offset)], schema.SubOptionsT(), shape)
    return x


def float_layer(writer: Any, node: FloatLayer, known: dict[str, int]) -> int:
    """The operators of a float network's file; the index of its real numbers.

    known: the real numbers of tensors of codes, to which those that are made are added: a DEQUANTIZE each.
    """
    inputs = []
    for x in node.inputs:
        index, shape = writer.of(x), stored_shape(x.shape)
        if not x.grid.real:
            if x.name not in known:
                known[x.name] = writer._step(Op.DEQUANTIZE, [index], schema.DequantizeOptionsT(), shape)
            index = known[x.name]
        inputs.append(TfliteSymbol(writer, index, shape))
    ops = TfliteOps(writer, reference=writer.arithmetic == "fixed")
    tensors = {
        local: ops.parameter(array, kind, f"{node.name}.{local}") for local, (array, kind) in node.params.items()
    }
    found: int = ops.apart(written_layer(node, ops, tensors, inputs)).index
    return found


def leave(writer: Any, x: IntegerTensor, end: FileOutput) -> int:
    """The index of an output. An input that is one too is copied, since LiteRT's may not be both.

    Real numbers are made of int16 with zero point 0: with another one, LiteRT's kernel for CPUs multiplies codes and zero
    point each by the scale, and rounds three times.
    """
    index: int = writer.of(x)
    if x.grid.real:
        return index
    if end.stored == writer.dtype.name:
        index = writer.reshaped(index, writer.codes(x, "")) if x.name in writer._entering else index
    elif end.stored == REAL:
        centred = index if writer.long else writer._as_type(index, "int16", 0)
        real = writer.tensor(writer.tensors[index].shape, np.float32)
        index = writer.op(Op.DEQUANTIZE, [centred], real, schema.DequantizeOptionsT())
    elif writer.long and end.stored == "uint8":  # LiteRT has no such step
        index = writer._as_type(writer._as_type(index, "int8", end.zero_point - 128), end.stored, end.zero_point)
    else:
        index = writer._as_type(index, end.stored, end.zero_point)
    return index

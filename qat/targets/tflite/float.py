"""Writes a float network as operators of TensorFlow Lite, by running its forward pass over symbols."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.cells.base import Shape
from qat.cells.window import output_size
from qat.targets.common import to_hwc
from qat.targets.float_graph import FloatOps, Symbol
from qat.targets.tflite.writer import Op, Writer, canonical_shape, pool_options, stored_axis, stored_shape
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array, Kind, Padding, Pair
from qat.vocabulary.rearrangement import Rearrangement, reshaping
from qat.vocabulary.transposed import Transposed, by_phases

#: Operators of two tensors, and the class of their options.
BINARY = {
    "Add": (Op.ADD, schema.AddOptionsT),
    "Sub": (Op.SUB, schema.SubOptionsT),
    "Mul": (Op.MUL, schema.MulOptionsT),
    "Div": (Op.DIV, schema.DivOptionsT),
    "Maximum": (Op.MAXIMUM, schema.MaximumMinimumOptionsT),
    "Minimum": (Op.MINIMUM, schema.MaximumMinimumOptionsT),
}


class TfliteSymbol(Symbol):
    """A float tensor of the file that is being written.

    Attributes:
        writer: where its operator stands.
        index: of the tensor.
        shape: in the file, a batch of 1 and channels last.
    """

    def __init__(self, writer: Writer, index: int, shape: Shape) -> None:
        self.writer, self.index, self.shape = writer, index, shape

    def binary(self, operation: str, left: TfliteSymbol | float, right: TfliteSymbol | float) -> TfliteSymbol:
        (a, a_shape), (b, b_shape) = (
            (x.index, x.shape)
            if isinstance(x, TfliteSymbol)
            else (self.writer.constant(np.array([x], np.float32)), (1,))
            for x in (left, right)
        )
        shape = np.broadcast_shapes(a_shape, b_shape)
        op, options = BINARY[operation]
        output = self.writer.tensor(shape, np.float32)
        return TfliteSymbol(self.writer, self.writer.op(op, [a, b], output, options()), shape)


class TfliteOps(FloatOps):
    """The vocabulary of float forward passes in TensorFlow Lite.

    Args:
        writer: of the file.
        reference: whether it is for LiteRT's reference kernels.
    """

    target = "TFLite"

    def __init__(self, writer: Writer, *, reference: bool = False) -> None:
        self.writer, self._reference = writer, reference
        self._names: dict[int, str] = {}  # id of a weight -> its name

    def parameter(self, array: Array, kind: Kind, name: str) -> Any:
        """As ``from_numpy``, with a name in the file."""
        found = self.from_numpy(array, kind)
        if isinstance(found, TfliteSymbol):
            self.writer.tensors[found.index].name = name
        else:
            self._names[id(found)] = name
        return found

    def _weight(self, w: Array, stored: Array) -> int:
        return self.writer.constant(stored, name=self._names.get(id(w), ""))

    def _op(self, op: int, inputs: list[int], shape: Shape, options: Any = None) -> TfliteSymbol:
        output = self.writer.tensor(shape, np.float32)
        return TfliteSymbol(self.writer, self.writer.op(op, inputs, output, options), shape)

    def from_numpy(self, array: Array, kind: Kind) -> Any:
        """A constant; of a weight the array itself, whose layout depends on the operator that takes it."""
        array = np.asarray(array, np.float32)
        if kind == "conv_weight":
            return self.stored_weight(array)
        if kind == "dense_weight":
            return array
        array = array.reshape(1) if kind == "scalar" else to_hwc(array) if kind == "activation" else array
        return TfliteSymbol(self.writer, self.writer.constant(array), array.shape)

    def on_channel(self, vector: TfliteSymbol, activation: TfliteSymbol) -> TfliteSymbol:
        """The vector itself: the channels are the last axis."""
        return vector

    def conv2d(
        self,
        x: TfliteSymbol,
        w: Array,
        bias: TfliteSymbol | None,
        *,
        stride: Pair,
        padding: Padding,
        dilation: Pair,
        group: int,
    ) -> TfliteSymbol:
        """A CONV_2D, or a DEPTHWISE_CONV_2D."""
        kernel = (w.shape[2], w.shape[3])
        index, mode = self.writer.window(x.index, kernel, stride, padding, dilation)
        options: dict[str, Any] = {"padding": mode, "strideH": stride[0], "strideW": stride[1]}
        options |= {"dilationHFactor": dilation[0], "dilationWFactor": dilation[1]}
        depthwise = group == x.shape[3] > 1
        weight = self._weight(w, w.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1)))
        inputs = [index, weight, self._bias(bias, len(w))]
        shape = (1, *output_size((x.shape[1], x.shape[2]), kernel, stride, dilation, padding), len(w))
        if depthwise:
            options["depthMultiplier"] = len(w) // group
            return self._op(Op.DEPTHWISE_CONV_2D, inputs, shape, schema.DepthwiseConv2DOptionsT(**options))
        return self._op(Op.CONV_2D, inputs, shape, schema.Conv2DOptionsT(**options))

    def swap_channels(self, weight: Array, group: int) -> Array:
        """A weight with its outputs first."""
        swapped = NUMPY_OPS.swap_channels(weight, group)
        self._names[id(swapped)] = self._names.get(id(weight), "")
        return swapped

    def phase_weight(self, weight: Array, rows: Sequence[int], columns: Sequence[int], stride: Pair) -> Array:
        """A weight for each phase."""
        return NUMPY_OPS.phase_weight(weight, rows, columns, stride)

    def conv_transpose2d(
        self, x: TfliteSymbol, w: Array, bias: TfliteSymbol | None, *, how: Transposed, outputs: int, group: int
    ) -> TfliteSymbol:
        """A TRANSPOSE_CONV, and a part of what it makes; a convolution by phases where it has groups or a dilation, and for
        reference kernels, whose TRANSPOSE_CONV computes one sample.
        """
        if group > 1 or how.dilation != (1, 1) or self._reference:
            return cast(TfliteSymbol, by_phases(self, x, w, bias, how, outputs, group))
        ends = zip(x.shape[1:3], how.kernel, how.stride, (how.cut[:2], how.cut[2:]), how.size, strict=True)
        made = tuple(max((n - 1) * s + k, cut[0] + size) for n, k, s, cut, size in ends)
        shape = (1, *made, outputs)
        weight = self._weight(w, w.transpose(0, 2, 3, 1))
        inputs = [self.writer.constant(np.array(shape, np.int32)), weight, x.index, self._bias(bias, outputs)]
        padding = schema.Padding.VALID
        options = schema.TransposeConvOptionsT(padding=padding, strideH=how.stride[0], strideW=how.stride[1])
        y = self._op(Op.TRANSPOSE_CONV, inputs, shape, options)
        for axis, (first, size, whole) in enumerate(zip(how.cut[::2], how.size, made, strict=True), start=1):
            if size < whole:
                y = self.pick(y, axis, range(first, first + size))
        return y

    def _bias(self, bias: TfliteSymbol | None, outputs: int) -> int:
        return self.writer.constant(np.zeros(outputs, np.float32)) if bias is None else bias.index

    def dense(self, x: TfliteSymbol, w: Array, bias: TfliteSymbol | None) -> TfliteSymbol:
        """A FULLY_CONNECTED."""
        inputs = [x.index, self._weight(w, w), self._bias(bias, len(w))]
        return self._op(Op.FULLY_CONNECTED, inputs, (1, len(w)), schema.FullyConnectedOptionsT())

    def matmul(
        self, a: TfliteSymbol, b: TfliteSymbol, *, transpose: tuple[bool, bool] = (False, False), wide: bool = False
    ) -> TfliteSymbol:
        """A BATCH_MATMUL."""
        first, second = canonical_shape(a.shape[1:]), canonical_shape(b.shape[1:])
        rows, columns = first[-1 if transpose[0] else -2], second[-2 if transpose[1] else -1]
        shape = stored_shape((*first[:-2], rows, columns))
        output = self.writer.tensor(shape, np.float32)
        return TfliteSymbol(self.writer, self.writer.multiplied(a.index, b.index, transpose, output), shape)

    def max_pool2d(self, x: TfliteSymbol, *, kernel: Pair, stride: Pair, padding: Padding) -> TfliteSymbol:
        """A MAX_POOL_2D."""
        index, mode = self.writer.window(x.index, kernel, stride, padding, lowest=True)
        shape = (1, *output_size((x.shape[1], x.shape[2]), kernel, stride, (1, 1), padding), x.shape[3])
        return self._op(Op.MAX_POOL_2D, [index], shape, pool_options(kernel, stride, mode))

    def sum_pool2d(self, x: TfliteSymbol, *, kernel: Pair, stride: Pair, padding: Padding) -> TfliteSymbol:
        """A depthwise convolution with weights of 1: TFLite's average pooling leaves padding out of its count."""
        ones = np.ones((x.shape[3], 1, *kernel), np.float32)
        return self.conv2d(x, ones, None, stride=stride, padding=padding, dilation=(1, 1), group=x.shape[3])

    def flatten(self, x: TfliteSymbol) -> TfliteSymbol:
        """A RESHAPE, of an image after a TRANSPOSE to CHW."""
        shape = canonical_shape(x.shape[1:])
        return self.rearrange(x, reshaping(shape, (math.prod(shape),)))

    def concat(self, xs: Sequence[TfliteSymbol], axis: int = 0) -> TfliteSymbol:
        """A CONCATENATION."""
        axis = stored_axis(axis, len(xs[0].shape) - 1)
        shape = (*xs[0].shape[:axis], sum(x.shape[axis] for x in xs), *xs[0].shape[axis + 1 :])
        options = schema.ConcatenationOptionsT(axis=axis)
        return self._op(Op.CONCATENATION, [x.index for x in xs], shape, options)

    def pick(self, x: TfliteSymbol, axis: int, places: Sequence[int]) -> TfliteSymbol:
        """A STRIDED_SLICE or a GATHER."""
        stored = stored_axis(axis, len(x.shape) - 1)
        shape = (*x.shape[:stored], len(places), *x.shape[stored + 1 :])
        output = self.writer.tensor(shape, np.float32)
        return TfliteSymbol(self.writer, self.writer.picked(x.index, {axis: tuple(places)}, output), shape)

    def pad(self, x: TfliteSymbol, widths: Sequence[Pair]) -> TfliteSymbol:
        """A PADV2."""
        channels, *others = widths
        shape = tuple(a + size + b for size, (a, b) in zip(x.shape, [(0, 0), *others, channels], strict=True))
        output, zero = self.writer.tensor(shape, np.float32), self.writer.constant(np.zeros(1, np.float32))
        return TfliteSymbol(self.writer, self.writer.padded(x.index, widths, zero, output), shape)

    def rearrange(self, x: TfliteSymbol, how: Rearrangement) -> TfliteSymbol:
        """RESHAPEs and TRANSPOSEs."""
        shape = stored_shape(how.shape)
        output = self.writer.tensor(shape, np.float32)
        return TfliteSymbol(self.writer, self.writer.rearranged(x.index, how, output), shape)

    def apart(self, x: TfliteSymbol) -> TfliteSymbol:
        """The tensor, or where it is an input a copy: LiteRT's inputs may not be outputs."""
        if x.index not in self.writer.inputs:
            return x
        shape = self.writer.constant(np.array([-1, *x.shape[1:]], np.int32))
        return self._op(Op.RESHAPE, [x.index, shape], x.shape, schema.ReshapeOptionsT())

    def sum_over_channels(self, x: TfliteSymbol) -> TfliteSymbol:
        """A SUM over the last axis, which stays."""
        axis = self.writer.constant(np.array([len(x.shape) - 1], np.int32))
        return self._op(Op.SUM, [x.index, axis], (*x.shape[:-1], 1), schema.ReducerOptionsT(keepDims=True))

    def sqrt(self, x: TfliteSymbol) -> TfliteSymbol:
        """A SQRT."""
        return self._op(Op.SQRT, [x.index], x.shape)

    def relu(self, x: TfliteSymbol) -> TfliteSymbol:
        """A RELU."""
        return self._op(Op.RELU, [x.index], x.shape)

    def sigmoid(self, x: TfliteSymbol) -> TfliteSymbol:
        """A LOGISTIC."""
        return self._op(Op.LOGISTIC, [x.index], x.shape)

    def tanh(self, x: TfliteSymbol) -> TfliteSymbol:
        """A TANH."""
        return self._op(Op.TANH, [x.index], x.shape)

    def exp(self, x: TfliteSymbol) -> TfliteSymbol:
        """An EXP."""
        return self._op(Op.EXP, [x.index], x.shape, schema.ExpOptionsT())

    def softplus(self, x: TfliteSymbol) -> TfliteSymbol:
        """max(x, 0) + log(1 + exp(-|x|)), for want of an operator of its own."""
        size = self._op(Op.ABS, [x.index], x.shape, schema.AbsOptionsT())
        below = self.exp(-size) + 1.0
        return self.relu(x) + self._op(Op.LOG, [below.index], x.shape)

    def maximum(self, x: TfliteSymbol, y: TfliteSymbol | float) -> TfliteSymbol:
        """A MAXIMUM."""
        return x.binary("Maximum", x, y)

    def minimum(self, x: TfliteSymbol, y: TfliteSymbol | float) -> TfliteSymbol:
        """A MINIMUM."""
        return x.binary("Minimum", x, y)

    def softmax(self, x: TfliteSymbol) -> TfliteSymbol:
        """A SOFTMAX over the channels."""
        return self._op(Op.SOFTMAX, [x.index], x.shape, schema.SoftmaxOptionsT(beta=1.0))

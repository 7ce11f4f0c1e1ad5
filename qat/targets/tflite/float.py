"""Writes a float network as operators of TensorFlow Lite, by running its forward pass over symbols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.cells.base import Shape
from qat.cells.window import output_size
from qat.errors import QatError
from qat.targets.tflite.writer import Op, Writer, pool_options
from qat.vocabulary.ops import Array, Kind, Padding, Pair


class Symbol:
    """A float tensor of the file that is being written; arithmetic on it appends operators."""

    def __init__(self, writer: Writer, index: int, shape: Shape) -> None:
        self.writer, self.index, self.shape = writer, index, shape

    def _binary(self, op: int, options: Any, left: Symbol | float, right: Symbol | float) -> Symbol:
        both = [
            x if isinstance(x, Symbol) else Symbol(self.writer, self.writer.constant(np.array([x], np.float32)), (1,))
            for x in (left, right)
        ]
        shape = np.broadcast_shapes(*(x.shape for x in both))
        output = self.writer.tensor(shape, np.float32)
        return Symbol(self.writer, self.writer.op(op, [x.index for x in both], output, options), shape)

    def __add__(self, other: Symbol | float) -> Symbol:
        return self._binary(Op.ADD, schema.AddOptionsT(), self, other)

    def __sub__(self, other: Symbol | float) -> Symbol:
        return self._binary(Op.SUB, schema.SubOptionsT(), self, other)

    def __rsub__(self, other: float) -> Symbol:
        return self._binary(Op.SUB, schema.SubOptionsT(), other, self)

    def __mul__(self, other: Symbol | float) -> Symbol:
        return self._binary(Op.MUL, schema.MulOptionsT(), self, other)

    def __truediv__(self, other: Symbol | float) -> Symbol:
        return self._binary(Op.DIV, schema.DivOptionsT(), self, other)

    def __neg__(self) -> Symbol:
        return self._binary(Op.SUB, schema.SubOptionsT(), 0.0, self)


class TfliteOps:
    """The part of the vocabulary that a float forward pass uses; running it writes the file.

    It is no subclass of ``Ops``: whatever is not here cannot be written, and says so.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self._names: dict[int, str] = {}  # id of a weight -> its name

    def parameter(self, array: Array, kind: Kind, name: str) -> Any:
        """As ``from_numpy``, with a name in the file."""
        found = self.from_numpy(array, kind)
        if isinstance(found, Symbol):
            self.writer.tensors[found.index].name = name
        else:
            self._names[id(found)] = name
        return found

    def _weight(self, w: Array, stored: Array) -> int:
        return self.writer.constant(stored, name=self._names.get(id(w), ""))

    def __getattr__(self, name: str) -> Any:
        raise QatError(
            f"the TFLite form of a float network has no operation {name!r}; export the quantized network instead"
        )

    def _op(self, op: int, inputs: list[int], shape: Shape, options: Any = None) -> Symbol:
        output = self.writer.tensor(shape, np.float32)
        return Symbol(self.writer, self.writer.op(op, inputs, output, options), shape)

    def from_numpy(self, array: Array, kind: Kind) -> Any:
        array = np.asarray(array, np.float32)
        if kind in ("conv_weight", "dense_weight"):
            return array  # its place in the file depends on how it is used
        array = array.reshape(1) if kind == "scalar" else array
        return Symbol(self.writer, self.writer.constant(array), array.shape)

    def on_channel(self, vector: Symbol, activation: Symbol) -> Symbol:
        return vector  # the channels are the last axis

    def conv2d(
        self,
        x: Symbol,
        w: Array,
        bias: Symbol | None,
        *,
        stride: Pair,
        padding: Padding,
        dilation: Pair,
        group: int,
    ) -> Symbol:
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

    def _bias(self, bias: Symbol | None, outputs: int) -> int:
        return self.writer.constant(np.zeros(outputs, np.float32)) if bias is None else bias.index

    def dense(self, x: Symbol, w: Array, bias: Symbol | None) -> Symbol:
        inputs = [x.index, self._weight(w, w), self._bias(bias, len(w))]
        return self._op(Op.FULLY_CONNECTED, inputs, (1, len(w)), schema.FullyConnectedOptionsT())

    def max_pool2d(self, x: Symbol, *, kernel: Pair, stride: Pair, padding: Padding) -> Symbol:
        index, mode = self.writer.window(x.index, kernel, stride, padding, lowest=True)
        shape = (1, *output_size((x.shape[1], x.shape[2]), kernel, stride, (1, 1), padding), x.shape[3])
        return self._op(Op.MAX_POOL_2D, [index], shape, pool_options(kernel, stride, mode))

    def sum_pool2d(self, x: Symbol, *, kernel: Pair, stride: Pair, padding: Padding) -> Symbol:
        """A depthwise convolution with weights of 1: TFLite's average pooling leaves padding out of its count."""
        ones = np.ones((x.shape[3], 1, *kernel), np.float32)
        return self.conv2d(x, ones, None, stride=stride, padding=padding, dilation=(1, 1), group=x.shape[3])

    def flatten(self, x: Symbol) -> Symbol:
        if len(x.shape) == 4:
            n, height, width, channels = x.shape
            order = self.writer.constant(np.array([0, 3, 1, 2], np.int32))
            x = self._op(Op.TRANSPOSE, [x.index, order], (n, channels, height, width), schema.TransposeOptionsT())
        features = int(np.prod(x.shape[1:]))
        row = self.writer.constant(np.array([-1, features], np.int32))
        return self._op(Op.RESHAPE, [x.index, row], (1, features), schema.ReshapeOptionsT())

    def concat(self, xs: Sequence[Symbol]) -> Symbol:
        shape = (*xs[0].shape[:-1], sum(x.shape[-1] for x in xs))
        options = schema.ConcatenationOptionsT(axis=len(shape) - 1)
        return self._op(Op.CONCATENATION, [x.index for x in xs], shape, options)

    def relu(self, x: Symbol) -> Symbol:
        return self._op(Op.RELU, [x.index], x.shape)

    def sigmoid(self, x: Symbol) -> Symbol:
        return self._op(Op.LOGISTIC, [x.index], x.shape)

    def tanh(self, x: Symbol) -> Symbol:
        return self._op(Op.TANH, [x.index], x.shape)

    def softmax(self, x: Symbol) -> Symbol:
        return self._op(Op.SOFTMAX, [x.index], x.shape, schema.SoftmaxOptionsT(beta=1.0))

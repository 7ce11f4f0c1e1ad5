"""Writes a float network as nodes of ONNX, by running its forward pass over symbols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qat.errors import QatError
from qat.targets.onnx.writer import Writer
from qat.vocabulary.ops import Array, Kind, Padding, Pair


class Symbol:
    """A tensor of the ONNX graph that is being written; arithmetic on it appends nodes."""

    def __init__(self, writer: Writer, name: str) -> None:
        self.writer, self.name = writer, name

    def _binary(self, op: str, left: Symbol | float, right: Symbol | float) -> Symbol:
        names = [x.name if isinstance(x, Symbol) else self.writer.constant(np.float32(x)) for x in (left, right)]
        return Symbol(self.writer, self.writer.node(op, names))

    def __add__(self, other: Symbol | float) -> Symbol:
        return self._binary("Add", self, other)

    def __sub__(self, other: Symbol | float) -> Symbol:
        return self._binary("Sub", self, other)

    def __rsub__(self, other: float) -> Symbol:
        return self._binary("Sub", other, self)

    def __mul__(self, other: Symbol | float) -> Symbol:
        return self._binary("Mul", self, other)

    def __truediv__(self, other: Symbol | float) -> Symbol:
        return self._binary("Div", self, other)

    def __neg__(self) -> Symbol:
        return self._binary("Sub", 0.0, self)


class OnnxOps:
    """The part of the vocabulary that a float forward pass uses; running it writes the ONNX graph.

    It is no subclass of ``Ops``: whatever is not here cannot be written, and says so.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    def __getattr__(self, name: str) -> Any:
        raise QatError(
            f"the ONNX form of a float network has no operation {name!r}; export the quantized network instead"
        )

    def _node(self, op: str, *inputs: Symbol | None, **attributes: Any) -> Symbol:
        return Symbol(self.writer, self.writer.node(op, [x.name for x in inputs if x is not None], **attributes))

    def from_numpy(self, array: Array, kind: Kind) -> Symbol:
        return Symbol(self.writer, self.writer.constant(np.asarray(array, np.float32)))

    def on_channel(self, vector: Symbol, activation: Symbol) -> Symbol:
        return vector  # in a float network only the input has a scale, and that is a scalar

    def conv2d(
        self,
        x: Symbol,
        w: Symbol,
        bias: Symbol | None,
        *,
        stride: Pair,
        padding: Padding,
        dilation: Pair,
        group: int,
    ) -> Symbol:
        top, bottom, left, right = padding
        pads = [top, left, bottom, right]
        return self._node("Conv", x, w, bias, strides=stride, pads=pads, dilations=dilation, group=group)

    def dense(self, x: Symbol, w: Symbol, bias: Symbol | None) -> Symbol:
        return self._node("Gemm", x, w, bias, transB=1)

    def max_pool2d(self, x: Symbol, *, kernel: Pair, stride: Pair, padding: Padding) -> Symbol:
        top, bottom, left, right = padding
        return self._node("MaxPool", x, kernel_shape=kernel, strides=stride, pads=[top, left, bottom, right])

    def flatten(self, x: Symbol) -> Symbol:
        return self._node("Flatten", x)

    def relu(self, x: Symbol) -> Symbol:
        return self._node("Relu", x)

    def sigmoid(self, x: Symbol) -> Symbol:
        return self._node("Sigmoid", x)

    def tanh(self, x: Symbol) -> Symbol:
        return self._node("Tanh", x)

    def softmax(self, x: Symbol) -> Symbol:
        return self._node("Softmax", x, axis=1)

    def concat(self, xs: Sequence[Symbol]) -> Symbol:
        return self._node("Concat", *xs, axis=1)

    def sum_pool2d(self, x: Symbol, *, kernel: Pair, stride: Pair, padding: Padding) -> Symbol:
        top, bottom, left, right = padding
        pads = [top, left, bottom, right]
        mean = self._node("AveragePool", x, kernel_shape=kernel, strides=stride, pads=pads, count_include_pad=1)
        return mean * float(kernel[0] * kernel[1])

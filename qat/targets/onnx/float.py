"""Writes a float network as nodes of ONNX, by running its forward pass over symbols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qat.targets.float_graph import FloatOps, Operation, Symbol
from qat.targets.onnx.writer import Writer, pads_of
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array, Kind, Padding, Pair
from qat.vocabulary.rearrangement import Rearrangement
from qat.vocabulary.transposed import Transposed


class OnnxSymbol(Symbol):
    """A tensor of the ONNX graph that is being written.

    Attributes:
        writer: where its node stands.
        name: of the tensor.
        rank: of an activation, 2 or 4; 0 of a constant.
        array: of a constant.
    """

    def __init__(self, writer: Writer, name: str, rank: int = 0, array: Array | None = None) -> None:
        self.writer, self.name, self.rank, self.array = writer, name, rank, array

    def binary(self, operation: Operation, left: OnnxSymbol | float, right: OnnxSymbol | float) -> OnnxSymbol:
        names = [x.name if isinstance(x, OnnxSymbol) else self.writer.constant(np.float32(x)) for x in (left, right)]
        rank = max(x.rank for x in (left, right) if isinstance(x, OnnxSymbol))
        return OnnxSymbol(self.writer, self.writer.node(operation, names), rank)


class OnnxOps(FloatOps):
    """The vocabulary of float forward passes in ONNX."""

    target = "ONNX"

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    def _node(self, op: str, *inputs: OnnxSymbol | None, **attributes: Any) -> OnnxSymbol:
        given = [x for x in inputs if x is not None]
        rank = 2 if op == "Flatten" else max(x.rank for x in given)
        return OnnxSymbol(self.writer, self.writer.node(op, [x.name for x in given], **attributes), rank)

    def from_numpy(self, array: Array, kind: Kind) -> OnnxSymbol:
        """An initializer."""
        array = np.asarray(array, np.float32)
        array = self.stored_weight(array) if kind == "conv_weight" else array
        return OnnxSymbol(self.writer, self.writer.constant(array), array=array)

    def on_channel(self, vector: OnnxSymbol, activation: OnnxSymbol) -> OnnxSymbol:
        """A scalar itself, a vector as an initializer of another shape."""
        if vector.array is None or vector.array.ndim == 0:
            return vector
        assert activation.rank, "constants have no channels"
        return self.from_numpy(vector.array.reshape((-1,) + (1,) * (activation.rank - 2)), "vector")

    def conv2d(
        self,
        x: OnnxSymbol,
        w: OnnxSymbol,
        bias: OnnxSymbol | None,
        *,
        stride: Pair,
        padding: Padding,
        dilation: Pair,
        group: int,
    ) -> OnnxSymbol:
        """A Conv."""
        pads = pads_of(padding)
        return self._node("Conv", x, w, bias, strides=stride, pads=pads, dilations=dilation, group=group)

    def swap_channels(self, weight: OnnxSymbol, group: int) -> OnnxSymbol:
        """A weight that ``conv_transpose2d`` brings back: an initializer is written there."""
        assert weight.array is not None
        return OnnxSymbol(self.writer, "", array=NUMPY_OPS.swap_channels(weight.array, group))

    def conv_transpose2d(
        self, x: OnnxSymbol, w: OnnxSymbol, bias: OnnxSymbol | None, *, how: Transposed, outputs: int, group: int
    ) -> OnnxSymbol:
        """A ConvTranspose."""
        assert w.array is not None
        weight = self.from_numpy(NUMPY_OPS.swap_channels(w.array, group), "conv_weight")
        geometry = {"strides": how.stride, "dilations": how.dilation, "output_padding": how.more}
        return self._node("ConvTranspose", x, weight, bias, pads=pads_of(how.cut), group=group, **geometry)

    def dense(self, x: OnnxSymbol, w: OnnxSymbol, bias: OnnxSymbol | None) -> OnnxSymbol:
        """A Gemm."""
        return self._node("Gemm", x, w, bias, transB=1)

    def matmul(
        self, a: OnnxSymbol, b: OnnxSymbol, *, transpose: tuple[bool, bool] = (False, False), wide: bool = False
    ) -> OnnxSymbol:
        """A MatMul."""
        turned = [
            self._node("Transpose", x, perm=[*range(x.rank - 2), x.rank - 1, x.rank - 2]) if wanted else x
            for x, wanted in zip((a, b), transpose, strict=True)
        ]
        return self._node("MatMul", *turned)

    def max_pool2d(self, x: OnnxSymbol, *, kernel: Pair, stride: Pair, padding: Padding) -> OnnxSymbol:
        """A MaxPool."""
        return self._node("MaxPool", x, kernel_shape=kernel, strides=stride, pads=pads_of(padding))

    def flatten(self, x: OnnxSymbol) -> OnnxSymbol:
        """A Flatten."""
        return self._node("Flatten", x)

    def relu(self, x: OnnxSymbol) -> OnnxSymbol:
        """A Relu."""
        return self._node("Relu", x)

    def sigmoid(self, x: OnnxSymbol) -> OnnxSymbol:
        """A Sigmoid."""
        return self._node("Sigmoid", x)

    def tanh(self, x: OnnxSymbol) -> OnnxSymbol:
        """A Tanh."""
        return self._node("Tanh", x)

    def exp(self, x: OnnxSymbol) -> OnnxSymbol:
        """An Exp."""
        return self._node("Exp", x)

    def erf(self, x: OnnxSymbol) -> OnnxSymbol:
        """An Erf."""
        return self._node("Erf", x)

    def softplus(self, x: OnnxSymbol) -> OnnxSymbol:
        """A Softplus."""
        return self._node("Softplus", x)

    def maximum(self, x: OnnxSymbol, y: OnnxSymbol | float) -> OnnxSymbol:
        """A Max."""
        return self._node("Max", x, y if isinstance(y, OnnxSymbol) else self.from_numpy(np.array(y), "scalar"))

    def minimum(self, x: OnnxSymbol, y: OnnxSymbol | float) -> OnnxSymbol:
        """A Min."""
        return self._node("Min", x, y if isinstance(y, OnnxSymbol) else self.from_numpy(np.array(y), "scalar"))

    def softmax(self, x: OnnxSymbol) -> OnnxSymbol:
        """A Softmax over the channels."""
        return self._node("Softmax", x, axis=1)

    def sqrt(self, x: OnnxSymbol) -> OnnxSymbol:
        """A Sqrt."""
        return self._node("Sqrt", x)

    def sum_over_channels(self, x: OnnxSymbol) -> OnnxSymbol:
        """A ReduceSum over the channels, which stay."""
        axes = OnnxSymbol(self.writer, self.writer.constant(np.array([1])))
        return self._node("ReduceSum", x, axes, keepdims=1)

    def concat(self, xs: Sequence[OnnxSymbol], axis: int = 0) -> OnnxSymbol:
        """A Concat."""
        return self._node("Concat", *xs, axis=1 + axis)

    def pick(self, x: OnnxSymbol, axis: int, places: Sequence[int]) -> OnnxSymbol:
        """A Slice or a Gather."""
        return OnnxSymbol(self.writer, self.writer.picked(x.name, {axis: tuple(places)}), x.rank)

    def pad(self, x: OnnxSymbol, widths: Sequence[Pair]) -> OnnxSymbol:
        """A Pad."""
        return OnnxSymbol(self.writer, self.writer.padded(x.name, widths, np.float32(0.0)), x.rank)

    def rearrange(self, x: OnnxSymbol, how: Rearrangement) -> OnnxSymbol:
        """Reshapes and Transposes."""
        return OnnxSymbol(self.writer, self.writer.rearranged(x.name, how), 1 + len(how.shape))

    def sum_pool2d(self, x: OnnxSymbol, *, kernel: Pair, stride: Pair, padding: Padding) -> OnnxSymbol:
        """An AveragePool that counts the padding, times the size of its window."""
        pads = pads_of(padding)
        mean = self._node("AveragePool", x, kernel_shape=kernel, strides=stride, pads=pads, count_include_pad=1)
        return mean * float(kernel[0] * kernel[1])

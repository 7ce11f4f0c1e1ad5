"""Gathers the nodes and constants of an ONNX file: what integer and float networks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qat.cells.base import Shape
from qat.integer.pick import Places
from qat.integer.widths import pack
from qat.targets.common import end_names
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.ops import Array, Padding, Pair
from qat.vocabulary.rearrangement import Rearrangement, as_slice

OPSET, IR_VERSION = 17, 8  #: old enough for every runtime of the last years; QDQ with an axis needs opset 13
#: Bits of packed weights -> opset and IR version of their types, and the types: signed, unsigned.
PACKED = {
    4: (21, 10, TensorProto.INT4, TensorProto.UINT4),
    2: (25, 13, TensorProto.INT2, TensorProto.UINT2),
}


def kind_of(dtype: str) -> int:
    """TensorProto's number of a NumPy dtype."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def pads_of(padding: Padding) -> list[int]:
    """The attribute "pads" of windows: top, left, bottom, right."""
    top, bottom, left, right = padding
    return [top, left, bottom, right]


def padding_of(pads: Sequence[int]) -> Padding:
    """The inverse of ``pads_of``."""
    top, left, bottom, right = pads
    return top, bottom, left, right


class Writer:
    """Gathers nodes and initializers; equal initializers are stored once.

    Attributes:
        nodes: in order.
        opset: the oldest that has every type in the file.
        ir_version: likewise.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.opset, self.ir_version = OPSET, IR_VERSION
        self._initializers: dict[tuple[str, Shape, bytes], onnx.TensorProto] = {}

    def node(self, op: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        """Append a node; returns the name of its output."""
        output = output or f"@{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def constant(self, array: Array | np.generic) -> str:
        """The name of an initializer that holds the array."""
        array = np.asarray(array, order="C")
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._initializers:
            self._initializers[key] = numpy_helper.from_array(array, f"#{len(self._initializers)}")
        return self._initializers[key].name

    def picked(self, x: str, places: Places, output: str | None = None) -> str:
        """A tensor's numbers at these places: a Slice where they are equally far apart, a Gather where not."""
        found = {axis: as_slice(each) for axis, each in places.items()}
        parts = {axis: part for axis, part in found.items() if part is not None}
        rest = [axis for axis in places if axis not in parts]
        if parts:
            numbers = [[part.start, part.stop, 1 + axis, part.step] for axis, part in parts.items()]
            bounds = [self.constant(np.array(each)) for each in zip(*numbers, strict=True)]
            x = self.node("Slice", [x, *bounds], None if rest else output)
        for axis in rest:
            index = self.constant(np.array(places[axis]))
            x = self.node("Gather", [x, index], output if axis == rest[-1] else None, axis=1 + axis)
        return x

    def padded(self, x: str, widths: Sequence[Pair], value: np.generic, output: str | None = None) -> str:
        """A Pad by a constant."""
        pads = np.array([0, *(before for before, _ in widths), 0, *(after for _, after in widths)])
        return self.node("Pad", [x, self.constant(pads), self.constant(value)], output)

    def rearranged(self, x: str, how: Rearrangement, output: str | None = None) -> str:
        """A Reshape, and before it Reshapes and Transposes where the order of the numbers changes."""
        for parts, axes in how.steps():
            x = self.node("Reshape", [x, self.constant(np.array([0, *parts]))])
            x = self.node("Transpose", [x], perm=[0, *(1 + axis for axis in axes)])
        return self.node("Reshape", [x, self.constant(np.array([0, *how.shape]))], output)

    def packed(self, codes: Array, bits: int) -> str:
        """The name of an initializer that holds codes of so few bits several to a byte, cast to int8 or uint8.

        A Cast is folded when the file is loaded, after which it is as one of bytes. A DequantizeLinear of INT4 itself would
        not be fused: ONNX Runtime would compute the layer in float.
        """
        opset, ir_version, signed, unsigned = PACKED[bits]
        self.opset, self.ir_version = max(self.opset, opset), max(self.ir_version, ir_version)
        kind = signed if codes.dtype == np.int8 else unsigned
        key = (f"{kind}", codes.shape, codes.tobytes())
        if key not in self._initializers:
            name = f"#{len(self._initializers)}"
            data = pack(codes, bits)
            self._initializers[key] = helper.make_tensor(name, kind, codes.shape, data, raw=True)
        to = TensorProto.INT8 if codes.dtype == np.int8 else TensorProto.UINT8
        return self.node("Cast", [self._initializers[key].name], to=to)

    def model(self, name: str, inputs: Sequence[ArraySpec], outputs: Sequence[ArraySpec]) -> onnx.ModelProto:
        """The finished model; inputs, outputs: what arrays the file takes and gives."""
        constants = list(self._initializers.values())
        return model_of(name, self.nodes, constants, inputs, outputs, self.opset, self.ir_version)


def model_of(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto],
    inputs: Sequence[ArraySpec],
    outputs: Sequence[ArraySpec],
    opset: int,
    ir_version: int,
) -> onnx.ModelProto:
    """A model; inputs, outputs: what arrays the file takes and gives."""

    def described(what: str, specs: Sequence[ArraySpec]) -> list[onnx.ValueInfoProto]:
        pairs = zip(end_names(what, len(specs)), specs, strict=True)
        return [helper.make_tensor_value_info(name, kind_of(x.dtype), ["N", *x.shape]) for name, x in pairs]

    graph = helper.make_graph(nodes, name, described("input", inputs), described("output", outputs), constants)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name="qat-engine")

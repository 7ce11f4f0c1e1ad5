"""Gathers the tensors and operators of a .tflite file, in TensorFlow's layouts: what integer and float networks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.cells.base import Shape
from qat.integer import Grid
from qat.integer.pick import Places
from qat.integer.widths import pack
from qat.targets.tflite.file import OPERATORS
from qat.vocabulary.ops import Array, Padding, Pair
from qat.vocabulary.rearrangement import Rearrangement, as_slice

Op, Type, Options = schema.BuiltinOperator, schema.TensorType, schema.BuiltinOptions
Fused, Pad = schema.ActivationFunctionType, schema.Padding
TYPES: dict[np.dtype[Any], int] = {
    np.dtype(np.int8): Type.INT8,
    np.dtype(np.int32): Type.INT32,
    np.dtype(np.float32): Type.FLOAT32,
}
TYPES |= {np.dtype(np.uint8): Type.UINT8, np.dtype(np.int16): Type.INT16, np.dtype(np.int64): Type.INT64}
TYPES |= {np.dtype(np.uint16): Type.UINT16}
PACKED = {4: Type.INT4, 2: Type.INT2}  #: bits of weights -> their type
#: What XNNPACK takes; with others LiteRT falls back to kernels of the fixed arithmetic.
MULTIPLIERS = (2.0**-32, 2.0**8)
#: The reference kernels have no ROUND; adding this leaves float32 no bit for a fraction, ties to even.
ROUNDING = 1.5 * 2.0**23
SIGNATURE = "serving_default"  #: how TensorFlow calls a model's only signature


def stored_shape(shape: Shape) -> Shape:
    """Of one sample: (C, H, W) is stored as (1, H, W, C), (C, L) as (1, L, C)."""
    return (1, *shape[1:], shape[0])


def stored_axis(axis: int, rank: int) -> int:
    """Of an axis of one sample of that rank, the one in the file."""
    return axis or rank


def canonical_shape(stored: Sequence[int]) -> Shape:
    """(C, H, W) of (H, W, C), (C, L) of (L, C)."""
    shape = tuple(int(size) for size in stored)
    return (shape[-1], *shape[:-1])


def offset_of(grid: Grid) -> int:
    """What is added to a code to make it an int8 of the file."""
    return -128 - grid.qmin


def permuted(name: str) -> str:
    """What the codes of a Flatten are called that are stored in HWC order: no node's own name has an @."""
    return f"{name}@hwc"


def coded(name: str) -> str:
    """What the codes of an input are called that the file makes: the input's own name is that of what enters."""
    return f"{name}@codes"


class Writer:
    """Gathers tensors and operators; equal constants are stored once.

    Attributes:
        inputs: the indices of the tensors that enter.
        tensors: all tensors, of the schema's class.
    """

    def __init__(self) -> None:
        self.inputs: list[int] = []
        self.tensors: list[Any] = []
        self._buffers: list[Any] = [schema.BufferT()]  # the first one is empty, by convention
        self._operators: list[Any] = []
        self._codes: dict[int, int] = {}
        self._known: dict[tuple[Any, ...], int] = {}

    def tensor(self, shape: Shape, dtype: Any, quantization: Any = None, name: str = "", buffer: int = 0) -> int:
        """Append a tensor; returns its index."""
        self.tensors.append(
            schema.TensorT(
                shape=np.array(shape, np.int32),
                type=TYPES[np.dtype(dtype)],
                buffer=buffer,
                name=name or None,
                quantization=quantization,
            )
        )
        return len(self.tensors) - 1

    def constant(
        self,
        array: Array,
        scale: Array | None = None,
        zero_point: int = 0,
        axis: int = 0,
        bits: int | None = None,
        name: str = "",
    ) -> int:
        """The index of a constant tensor; scale: (1,) or (O,), float32, along ``axis``; bits: of what is packed. name: where
        equal constants are stored once, the first one's.
        """
        array = np.asarray(array, order="C")
        scales = b"" if scale is None else scale.tobytes()
        key = (array.dtype.name, array.shape, array.tobytes(), scales, zero_point, axis, bits)
        if key not in self._known:
            data = array.tobytes() if bits is None else pack(array, bits)
            self._buffers.append(schema.BufferT(data=data))
            quantization = None if scale is None else quantization_of(scale, zero_point, axis)
            index = self.tensor(array.shape, array.dtype, quantization, name, len(self._buffers) - 1)
            if bits is not None:
                self.tensors[index].type = PACKED[bits]
            self._known[key] = index
        return self._known[key]

    def op(self, op: int, inputs: list[int], output: int, options: Any = None) -> int:
        """Append an operator; returns its output."""
        kind = 0 if options is None else getattr(Options, type(options).__name__.removesuffix("T"))
        operator = schema.OperatorT(
            opcodeIndex=self._codes.setdefault(op, len(self._codes)),
            inputs=np.array(inputs, np.int32),
            outputs=np.array([output], np.int32),
            builtinOptionsType=kind,
            builtinOptions=options,
        )
        self._operators.append(operator)
        return output

    def _transpose(self, x: int, order: Sequence[int], output: int) -> int:
        inputs = [x, self.constant(np.array(order, np.int32))]
        return self.op(Op.TRANSPOSE, inputs, output, schema.TransposeOptionsT())

    def _step(self, op: int, inputs: list[int], options: Any, shape: Shape, dtype: Any = np.float32) -> int:
        """An operator whose result is a new tensor without a name."""
        return self.op(op, inputs, self.tensor(shape, dtype), options)

    def _number(self, value: float | np.float32) -> int:
        """A constant."""
        return self.constant(np.array([value], np.float32))

    @staticmethod
    def _mode(size: Pair, kernel: Pair, stride: Pair, dilation: Pair, padding: Padding) -> int | None:
        """SAME or VALID where one of them reads what the explicit padding reads, else None."""
        top, bottom, left, right = padding
        axes = list(zip(size, kernel, stride, dilation, ((top, bottom), (left, right)), strict=True))
        valid, same = True, True
        for length, k, s, d, (before, after) in axes:
            reach = d * (k - 1) + 1
            count = (length + before + after - reach) // s + 1
            valid &= before == 0 and count == (length - reach) // s + 1
            outputs = -(-length // s)
            same &= count == outputs and before == max((outputs - 1) * s + reach - length, 0) // 2
        return Pad.VALID if valid else Pad.SAME if same else None

    def _padded(self, x: int, padding: Padding, lowest: bool) -> int:
        """Explicit padding of rows and columns: by zeros, or by the lowest number of all."""
        top, bottom, left, right = padding
        tensor = self.tensors[x]
        n, height, width, channels = tensor.shape
        shape = (n, height + top + bottom, width + left + right, channels)
        dtype = next(dtype for dtype, kind in TYPES.items() if kind == tensor.type)
        integer = dtype != np.float32
        output = self.tensor(shape, dtype, tensor.quantization)
        widths = self.constant(np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32))
        least = np.iinfo(dtype).min if integer else -np.inf
        if not lowest or (integer and tensor.quantization.zeroPoint[0] == least):
            return self.op(Op.PAD, [x, widths], output, schema.PadOptionsT())
        if integer:
            scale, zero = tensor.quantization.scale, tensor.quantization.zeroPoint[0]
            value = self.constant(np.array([least], dtype), scale, zero)
        else:
            value = self.constant(np.array([least], np.float32))
        return self.op(Op.PADV2, [x, widths, value], output, schema.PadV2OptionsT())

    def picked(self, x: int, places: Places, output: int) -> int:
        """Make ``output`` of a tensor's numbers at these places: a STRIDED_SLICE where they are equally far apart, a GATHER
        where not.
        """
        tensor = self.tensors[x]
        dtype = next(dtype for dtype, kind in TYPES.items() if kind == tensor.type)
        shape, rank = [int(size) for size in tensor.shape], len(tensor.shape) - 1
        found = {stored_axis(axis, rank): (each, as_slice(each)) for axis, each in places.items()}
        parts = {axis: part for axis, (_, part) in found.items() if part is not None}
        rest = [axis for axis in found if axis not in parts]

        def made(last: bool) -> int:
            return output if last else self.tensor(tuple(shape), dtype, tensor.quantization)

        if parts:
            bounds = [parts.get(axis, slice(0, size, 1)) for axis, size in enumerate(shape)]
            shape = [len(range(part.start, part.stop, part.step)) for part in bounds]
            numbers = zip(*((part.start, part.stop, part.step) for part in bounds), strict=True)
            inputs = [x, *(self.constant(np.array(each, np.int32)) for each in numbers)]
            options = schema.StridedSliceOptionsT(beginMask=1, endMask=1)  # of samples all, however many there are
            x = self.op(Op.STRIDED_SLICE, inputs, made(not rest), options)
        for axis in rest:
            index = found[axis][0]
            shape[axis] = len(index)
            inputs = [x, self.constant(np.array(index, np.int32))]
            x = self.op(Op.GATHER, inputs, made(axis == rest[-1]), schema.GatherOptionsT(axis=axis))
        return x

    def padded(self, x: int, widths: Sequence[Pair], value: int, output: int) -> int:
        """Make ``output`` of a tensor with a constant around it. value: index of the constant."""
        channels, *others = widths
        stored = self.constant(np.array([(0, 0), *others, channels], np.int32))
        return self.op(Op.PADV2, [x, stored, value], output, schema.PadV2OptionsT())

    def rearranged(self, x: int, how: Rearrangement, output: int) -> int:
        """Make ``output`` of a tensor's numbers: a RESHAPE, and before it RESHAPEs and TRANSPOSEs where their order changes."""
        tensor = self.tensors[x]
        dtype = next(dtype for dtype, kind in TYPES.items() if kind == tensor.type)

        def made(*sizes: int) -> int:
            return self.tensor((1, *sizes), dtype, tensor.quantization)

        for step in how.steps_channels_last():
            x = self.reshaped(x, made(*step.parts))
            x = self._transpose(x, [0, *(1 + axis for axis in step.axes)], made(*step.turned))
        return self.reshaped(x, output)

    def turned(self, x: int, *axes: int) -> int:
        """A tensor with its axes in another order."""
        tensor = self.tensors[x]
        dtype = next(dtype for dtype, kind in TYPES.items() if kind == tensor.type)
        output = self.tensor(tuple(int(tensor.shape[axis]) for axis in axes), dtype, tensor.quantization)
        return self._transpose(x, axes, output)

    def multiplied(self, a: int, b: int, transpose: tuple[bool, bool], output: int) -> int:
        """Make ``output`` the matrix products of two tensors, canonical: a BATCH_MATMUL.

        Of (M, K) the transpose is stored, (1, K, M), and so is that of the product, B' A'. Of (B, M, K), stored
        (1, M, K, B), the matrices have to come last.
        """
        tensor = self.tensors[output]
        if len(tensor.shape) == 3:
            options = schema.BatchMatMulOptionsT(adjX=transpose[1], adjY=transpose[0])
            return self.op(Op.BATCH_MATMUL, [b, a], output, options)
        dtype = next(dtype for dtype, kind in TYPES.items() if kind == tensor.type)
        product = self.tensor(tuple(int(tensor.shape[axis]) for axis in (0, 3, 1, 2)), dtype, tensor.quantization)
        options = schema.BatchMatMulOptionsT(adjX=transpose[0], adjY=transpose[1])
        self.op(Op.BATCH_MATMUL, [self.turned(x, 0, 3, 1, 2) for x in (a, b)], product, options)
        return self._transpose(product, (0, 2, 3, 1), output)

    def reshaped(self, x: int, output: int) -> int:
        """Make ``output`` of a tensor's numbers in their order."""
        shape = self.constant(np.array([-1, *self.tensors[output].shape[1:]], np.int32))
        return self.op(Op.RESHAPE, [x, shape], output, schema.ReshapeOptionsT())

    def window(
        self, x: int, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair = (1, 1), lowest: bool = False
    ) -> tuple[int, int]:
        """The tensor that a window slides over, padded explicitly where need be, and SAME or VALID."""
        _, height, width, _ = self.tensors[x].shape
        mode = self._mode((height, width), kernel, stride, dilation, padding)
        return (x, mode) if mode is not None else (self._padded(x, padding, lowest), Pad.VALID)

    def _name_the_rest(self) -> None:
        """Name what belongs to no node by the node that needs it, as "fc1@1": viewers show names, and profilers list them."""
        taken: dict[str, int] = {}
        for operator in reversed(self._operators):
            owner = self.tensors[operator.outputs[0]].name.partition("@")[0]
            for index in operator.inputs:
                if index >= 0 and not self.tensors[index].name:
                    taken[owner] = taken.get(owner, 0) + 1
                    self.tensors[index].name = f"{owner}@{taken[owner]}"

    def model(self, outputs: Sequence[tuple[str, int]], name: str) -> Any:
        """The finished model. outputs: the names of their nodes, which are those in the signature too, and their indices."""
        for output, index in outputs:
            for other, tensor in enumerate(self.tensors):
                if tensor.name == output and other not in self.inputs:  # another form of the same codes
                    tensor.name = None
            self.tensors[index].name = output
        self._name_the_rest()
        entries = {self.tensors[index].name: index for index in self.inputs}
        codes = [
            schema.OperatorCodeT(deprecatedBuiltinCode=min(op, 127), version=OPERATORS[op], builtinCode=op)
            for op in self._codes
        ]
        subgraph = schema.SubGraphT(
            tensors=self.tensors,
            inputs=np.array(self.inputs, np.int32),
            outputs=np.array([index for _, index in outputs], np.int32),
            operators=self._operators,
            name=name,
        )
        signature = schema.SignatureDefT(
            inputs=_tensor_maps(entries), outputs=_tensor_maps(dict(outputs)), signatureKey=SIGNATURE, subgraphIndex=0
        )
        return schema.ModelT(
            version=3,
            operatorCodes=codes,
            subgraphs=[subgraph],
            buffers=self._buffers,
            signatureDefs=[signature],
        )


def _tensor_maps(tensors: Mapping[str, int]) -> list[Any]:
    return [schema.TensorMapT(name=name, tensorIndex=index) for name, index in tensors.items()]


def quantization_of(scale: Array | np.generic, zero_point: int, axis: int = 0) -> Any:
    """The quantization of a tensor. scale: one, or one for each entry along the axis."""
    return schema.QuantizationParametersT(
        scale=np.asarray(scale, np.float32).reshape(-1),
        zeroPoint=np.full(np.size(scale), zero_point, np.int64),
        quantizedDimension=axis,
    )


def pool_options(kernel: Pair, stride: Pair, mode: int) -> Any:
    """The options of a pooling. mode: SAME or VALID."""
    return schema.Pool2DOptionsT(
        padding=mode, strideH=stride[0], strideW=stride[1], filterHeight=kernel[0], filterWidth=kernel[1]
    )

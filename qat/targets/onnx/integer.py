"""Writes the nodes of an integer graph in the QDQ form of ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatchmethod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from qat.integer import (
    FloatLayer,
    Grid,
    IntegerAdd,
    IntegerChannelTable,
    IntegerConcat,
    IntegerConv2d,
    IntegerDense,
    IntegerFlatten,
    IntegerInput,
    IntegerLinear,
    IntegerMatMul,
    IntegerMaximum,
    IntegerMaxPool2d,
    IntegerMeans,
    IntegerMinimum,
    IntegerMul,
    IntegerNode,
    IntegerNorm,
    IntegerPad,
    IntegerPick,
    IntegerQuantize,
    IntegerRearrange,
    IntegerSoftmax,
    IntegerSub,
    IntegerTable,
    IntegerTensor,
    products_tie,
)
from qat.integer.ends import REAL, FileInput, FileOutput
from qat.integer.widths import storage_bits
from qat.targets.common import codes_name, end_names, no_form
from qat.targets.float_graph import written_layer
from qat.targets.onnx.float import OnnxOps, OnnxSymbol
from qat.targets.onnx.writer import PACKED, Writer, kind_of, pads_of
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.ops import Array

FULL = (0, 255)  #: the bounds of uint8


def offset_of(grid: Grid) -> int:
    """What is added to a code to make it a uint8 of the file."""
    return 128 if grid.qmin < 0 else 0


class QdqWriter(Writer):
    """Writes the nodes of an integer graph.

    Args:
        unsigned: whether int8 weights are stored as uint8 with 128 added.
        packed: whether weights of few bits are stored several to a byte.
    """

    def __init__(self, unsigned: bool, packed: bool) -> None:
        super().__init__()
        self.unsigned, self.widths = unsigned, tuple(PACKED) if packed else ()
        self.end_names: dict[str, str] = {}  # tensor of codes -> its name in the file
        self._entries: dict[str, tuple[str, FileInput]] = {}  # input -> its name in the file, what the file takes there
        self._real: dict[str, str] = {}  # tensor -> its real numbers, dequantized where it is codes
        self._reductions: list[onnx.NodeProto] = []  # that lack their axes

    def enter(self, inputs: Sequence[IntegerTensor], ends: Sequence[FileInput]) -> None:
        """Name the inputs. ends: what the file takes there."""
        entries = zip(end_names("input", len(inputs)), ends, strict=True)
        self._entries |= {x.name: entry for x, entry in zip(inputs, entries, strict=True)}

    def leave(self, x: IntegerTensor, end: FileOutput, name: str) -> None:
        """Make a tensor of codes the named output: real numbers, or codes around the zero point that it has there."""
        if x.grid.real:
            self.node("Identity", [self._real[x.name]], name)
            return
        if end.stored == REAL:
            self.dequantize(x, name)
            return
        codes, shift = self.end_names[x.name], x.grid.zero_point + offset_of(x.grid) - end.zero_point
        if shift:
            codes = self.node("Cast", [codes], to=TensorProto.INT32)
            codes = self.node("Sub", [codes, self.constant(np.int32(shift))])
        self.node("Cast", [codes], name, to=kind_of(end.stored))

    def dequantize(self, x: IntegerTensor, output: str | None = None) -> str:
        """The real numbers of a tensor of codes."""
        if output is not None or x.name not in self._real:
            made = self.node("DequantizeLinear", [self.end_names[x.name], *self._grid(x.grid)], output)
            self._real.setdefault(x.name, made)
            return made
        return self._real[x.name]

    def _grid(self, grid: Grid) -> list[str]:
        return [self.constant(grid.scale), self.constant(np.uint8(grid.zero_point + offset_of(grid)))]

    def _quantize(self, real: str, node: IntegerNode, low: int | None = None, high: int | None = None) -> None:
        """Real numbers to the node's codes, clipped to the centred codes [low, high] where that is less than uint8."""
        grid = node.output.grid
        zero = grid.zero_point + offset_of(grid)
        bounds = (zero + (grid.low if low is None else low), zero + (grid.high if high is None else high))
        bounds = FULL if low is None else bounds
        codes = self.node(
            "QuantizeLinear", [real, *self._grid(grid)], codes_name(node.name) if bounds == FULL else None
        )
        self._clip(codes, node, bounds)

    def _clip(self, codes: str, node: IntegerNode, bounds: tuple[int, int]) -> None:
        """Make uint8 codes the node's, clipped where the bounds are less than uint8."""
        if bounds != FULL:
            limits = [self.constant(np.uint8(bound)) for bound in bounds]
            self.node("Clip", [codes, *limits], codes_name(node.name))
        self.end_names[node.name] = codes_name(node.name)

    @singledispatchmethod
    def add(self, node: IntegerNode) -> None:
        """Append a node of the integer graph."""
        raise no_form(node, "ONNX")

    @add.register
    def _(self, node: IntegerInput) -> None:
        x, end = self._entries[node.name]
        grid = node.output.grid
        if grid.real:
            real = x if end.stored == REAL else self.node("Cast", [x], to=TensorProto.FLOAT)
            real = self.node("Sub", [real, self.constant(np.float32(node.offset))]) if node.offset else real
            self._real[node.name] = self.node("Mul", [real, self.constant(np.float32(node.scale))])
            return
        zero = grid.zero_point + offset_of(grid)
        bounds = zero + end.low, zero + end.high
        if end.quantizes is not None:
            (multiplier, _, _), offset = end.quantizes
        elif end.stored == "uint8" and zero == end.zero_point and bounds == FULL:
            self.end_names[node.name] = x
            return
        else:
            multiplier, offset = np.ones(1, np.float32), 0
            zero -= end.zero_point
        if end.stored != REAL:
            x = self.node("Cast", [x], to=TensorProto.FLOAT)
        if offset:
            x = self.node("Sub", [x, self.constant(np.float32(offset))])
        if multiplier[0] != 1.0:
            x = self.node("Mul", [x, self.constant(multiplier[0])])
        self._rounded(x, node, zero, bounds)

    @add.register
    def _(self, node: FloatLayer) -> None:
        """The operations of a float network's file."""
        ops = OnnxOps(self)
        tensors = {local: ops.from_numpy(array, kind) for local, (array, kind) in node.params.items()}
        inputs = [OnnxSymbol(self, self.dequantize(x), len(x.shape) + 1) for x in node.inputs]
        self._real[node.name] = written_layer(node, ops, tensors, inputs).name

    @add.register
    def _(self, node: IntegerQuantize) -> None:
        """Without a QuantizeLinear: between it and a DequantizeLinear ONNX Runtime makes weights of 8 bits of the float ones of
        a convolution or dense layer.
        """
        zero = node.output.grid.zero_point + offset_of(node.output.grid)
        steps = self.node("Mul", [self._real[node.inputs[0].name], self.constant(node.requantize.multiplier[0])])
        shifted = self.node("Add", [self.node("Round", [steps]), self.constant(np.float32(zero))])
        bounds = [self.constant(np.float32(zero + bound)) for bound in (node.requantize.low, node.requantize.high)]
        name = codes_name(node.name)
        self.end_names[node.name] = self.node(
            "Cast", [self.node("Clip", [shifted, *bounds])], name, to=TensorProto.UINT8
        )

    @add.register
    def _(self, node: IntegerConv2d) -> None:
        self._linear(
            node,
            "Conv",
            kernel_shape=node.weight.shape[2:],
            strides=node.stride,
            pads=pads_of(node.padding),
            dilations=node.dilation,
            group=node.group,
        )

    @add.register
    def _(self, node: IntegerDense) -> None:
        self._linear(node, "Gemm", transB=1)

    def _linear(self, node: IntegerLinear, op: str, **attributes: Any) -> None:
        x = node.inputs[0]
        scale, weight, zero = node.weight_scale, node.weight, node.weight_zero_point
        if weight.dtype == np.int8 and self.unsigned:
            offset = 1 << (storage_bits(weight, self.widths) - 1)
            weight, zero = (weight.astype(np.int32) + offset).astype(np.uint8), zero + offset
        inputs = [self.dequantize(x), self._constant_codes(weight, scale, zero.astype(weight.dtype))]
        if node.bias.any():
            inputs.append(self._constant_codes(node.bias, x.grid.scale * scale, np.zeros(len(scale), np.int32)))
        real = self.node(op, inputs, **attributes)
        self._quantize(real, node, node.requantize.low, node.requantize.high)

    def _constant_codes(self, codes: Array, scale: Array, zero: Array) -> str:
        """The real numbers of constant codes; one scale and zero point stand for many equal ones."""
        axis: dict[str, Any] = {"axis": 0}
        if (scale == scale[0]).all() and (zero == zero[0]).all():
            scale, zero, axis = scale[0], zero[0], {}
        bits = storage_bits(codes, self.widths)
        stored = self.packed(codes, bits) if bits in PACKED and codes.dtype != np.int32 else self.constant(codes)
        names = [stored, self.constant(scale)]
        if codes.dtype != np.int32:  # a bias needs none; without a weight's ONNX Runtime does not fuse its Gemm
            names.append(self.constant(zero))
        return self.node("DequantizeLinear", names, **axis)

    @add.register
    def _(self, node: IntegerMeans) -> None:
        """Sums in float32, which holds them, times the multiplier of each position: a scale of 1 is exact."""
        if node.positions.wide:
            raise no_form(node, "ONNX")
        (x,), grid = node.inputs, node.output.grid
        one = self.constant(np.float32(1.0))
        zero = self.constant(np.uint8(x.grid.zero_point + offset_of(x.grid)))
        centred = self.node("DequantizeLinear", [self.end_names[x.name], one, zero])
        ones = self.constant(np.ones((x.shape[0], 1, *node.kernel), np.float32))
        pads, group = pads_of(node.padding), x.shape[0]
        sums = self.node("Conv", [centred, ones], kernel_shape=node.kernel, strides=node.stride, pads=pads, group=group)
        scaled = self.node("Mul", [sums, self.constant(node.on_map(node.requantize.multiplier))])
        zero_point = grid.zero_point + offset_of(grid)
        bounds = (zero_point + node.requantize.low, zero_point + node.requantize.high)
        name = codes_name(node.name) if bounds == FULL else None
        self._clip(self.node("QuantizeLinear", [scaled, one, self.constant(np.uint8(zero_point))], name), node, bounds)

    @add.register
    def _(self, node: IntegerMaxPool2d) -> None:
        real, pads = self.dequantize(node.inputs[0]), pads_of(node.padding)
        pooled = self.node("MaxPool", [real], kernel_shape=node.kernel, strides=node.stride, pads=pads)
        self._quantize(pooled, node)

    @add.register
    def _(self, node: IntegerFlatten) -> None:
        self._quantize(self.node("Flatten", [self.dequantize(node.inputs[0])]), node)

    @add.register
    def _(self, node: IntegerAdd) -> None:
        real = self.node("Add", [self.dequantize(x) for x in node.inputs])
        self._quantize(real, node, node.requantize.low, node.requantize.high)

    @add.register
    def _(self, node: IntegerSub) -> None:
        real = self.node("Sub", [self.dequantize(x) for x in node.inputs])
        self._quantize(real, node, node.requantize.low, node.requantize.high)

    @add.register
    def _(self, node: IntegerMaximum) -> None:
        self._quantize(self.node("Max", [self.dequantize(x) for x in node.inputs]), node)

    @add.register
    def _(self, node: IntegerMinimum) -> None:
        self._quantize(self.node("Min", [self.dequantize(x) for x in node.inputs]), node)

    @add.register
    def _(self, node: IntegerMul) -> None:
        """ONNX Runtime makes a QLinearMul of it, which gives the codes of all products that are away from ties. Where some are
        not, as those of powers of two, centred codes are multiplied in float32, which nothing fuses.
        """
        low, high = node.requantize.low, node.requantize.high
        if not (node.saturates or products_tie(node.inputs, node.output.grid)):
            self._quantize(self.node("Mul", [self.dequantize(x) for x in node.inputs]), node, low, high)
            return
        zero = node.output.grid.zero_point + offset_of(node.output.grid)
        product = self.node("Mul", [self._centred(x) for x in node.inputs])
        scaled = self.node("Mul", [product, self.constant(node.requantize.multiplier[0])])
        self._rounded(scaled, node, zero, (zero + low, zero + high))

    @add.register
    def _(self, node: IntegerMatMul) -> None:
        """A QLinearMatMul, whose kernel computes the formula of ``IntegerMatMul``, whatever the level of optimization."""
        inputs: list[str] = []
        for x, transposed in zip(node.inputs, node.transpose, strict=True):
            axes = [0, *range(1, len(x.shape) - 1), len(x.shape), len(x.shape) - 1]
            codes = self.end_names[x.name]
            inputs += [self.node("Transpose", [codes], perm=axes) if transposed else codes, *self._grid(x.grid)]
        grid = node.output.grid
        zero = grid.zero_point + offset_of(grid)
        bounds = (zero + node.requantize.low, zero + node.requantize.high)
        name = codes_name(node.name) if bounds == FULL else None
        self._clip(self.node("QLinearMatMul", [*inputs, *self._grid(grid)], name), node, bounds)

    def _centred(self, x: IntegerTensor) -> str:
        """The centred codes of a tensor as float32."""
        codes = self.node("Cast", [self.end_names[x.name]], to=TensorProto.FLOAT)
        zero = x.grid.zero_point + offset_of(x.grid)
        return self.node("Sub", [codes, self.constant(np.float32(zero))]) if zero else codes

    def _rounded(self, x: str, node: IntegerNode, zero: int, bounds: tuple[int, int]) -> None:
        """Numbers in steps of the node's grid to its codes: a division by 1 is exact, and the rounding is half to even, clipped
        to uint8 before it becomes an integer.
        """
        scale = [self.constant(np.float32(1.0)), self.constant(np.uint8(zero))]
        codes = self.node("QuantizeLinear", [x, *scale], codes_name(node.name) if bounds == FULL else None)
        self._clip(codes, node, bounds)

    @add.register
    def _(self, node: IntegerConcat) -> None:
        self._quantize(self.node("Concat", [self.dequantize(x) for x in node.inputs], axis=1 + node.axis), node)

    @add.register
    def _(self, node: IntegerPad) -> None:
        """Of the codes themselves, which the node does not change."""
        value = np.uint8(node.value + node.output.grid.zero_point + offset_of(node.output.grid))
        codes = self.end_names[node.inputs[0].name]
        self.end_names[node.name] = self.padded(codes, node.widths, value, codes_name(node.name))

    @add.register
    def _(self, node: IntegerRearrange) -> None:
        codes = self.end_names[node.inputs[0].name]
        self.end_names[node.name] = self.rearranged(codes, node.rearrangement, codes_name(node.name))

    @add.register
    def _(self, node: IntegerPick) -> None:
        codes = self.end_names[node.inputs[0].name]
        self.end_names[node.name] = self.picked(codes, node.places, codes_name(node.name))

    @add.register
    def _(self, node: IntegerTable) -> None:
        source, grid = node.inputs[0].grid, node.output.grid
        table = np.zeros(256, np.uint8)
        first = source.qmin + offset_of(source)
        table[first : first + len(node.table)] = node.table + grid.zero_point + offset_of(grid)
        index = self.node("Cast", [self.end_names[node.inputs[0].name]], to=TensorProto.INT32)
        self.end_names[node.name] = self.node("Gather", [self.constant(table), index], codes_name(node.name), axis=0)

    @add.register
    def _(self, node: IntegerChannelTable) -> None:
        (x,), grid = node.inputs, node.output.grid
        table = (node.table.ravel() + grid.zero_point + offset_of(grid)).astype(np.uint8)
        first = node.first - x.grid.zero_point - offset_of(x.grid)
        codes = self.node("Cast", [self.end_names[x.name]], to=TensorProto.INT32)
        index = self.node(
            "Add", [codes, self.constant(first.reshape((-1,) + (1,) * (len(x.shape) - 1)).astype(np.int32))]
        )
        self.end_names[node.name] = self.node("Gather", [self.constant(table), index], codes_name(node.name), axis=0)

    @add.register
    def _(self, node: IntegerSoftmax) -> None:
        """Integers in int32 and float32, as ``IntegerSoftmax.evaluate``: no runtime's own softmax is exact."""
        (x,) = node.inputs
        codes = self.node("Cast", [self.end_names[x.name]], to=TensorProto.INT32)
        largest = self._largest(codes)
        e = self.node("Gather", [self.constant(node.table), self.node("Sub", [largest, codes])], axis=0)
        total = self.node("ReduceSum", [e, self.constant(np.array([1]))], keepdims=1)
        share = self.node("Div", [self.constant(np.float32(256.0)), total])
        scaled = self.node("Mul", [e, share])
        one, zero = self.constant(np.float32(1.0)), self.constant(np.uint8(0))
        self.end_names[node.name] = self.node("QuantizeLinear", [scaled, one, zero], codes_name(node.name))

    @add.register
    def _(self, node: IntegerNorm) -> None:
        """In float32, as ``IntegerNorm.evaluate``: nearly all of it are integers."""
        (x,), grid = node.inputs, node.output.grid
        zero = grid.zero_point + offset_of(grid)

        def number(value: float | np.float32) -> str:
            return self.constant(np.float32(value))

        def step(op: str, *names: str) -> str:
            return self.node(op, list(names))

        def total(name: str) -> str:
            return self.node("ReduceSum", [name, self.constant(np.array([1]))], keepdims=1)

        def flag(name: str) -> str:
            return step("Min", step("Max", name, number(0)), number(1))

        d, how = self._centred(x), node.grouping
        d = d if how is None else self.rearranged(d, how)
        if node.centred:
            d = step("Sub", step("Mul", d, number(node.count)), total(d))
        e = step("Round", step("Mul", d, number(node.step)))
        n = step("Add", total(step("Mul", e, e)), number(node.extra))
        if node.centred:
            t = total(e)
            n = step("Sub", n, step("Round", step("Mul", step("Mul", t, t), number(node.share))))
        r = step("Round", step("Sqrt", n))
        square = step("Mul", r, r)
        above = flag(step("Sub", step("Sub", n, square), r))
        below = flag(step("Add", step("Sub", step("Sub", square, r), n), number(1)))
        r = step("Sub", step("Add", r, above), below)
        u = step("Round", step("Mul", d, step("Div", number(node.unit), r)))
        u = u if how is None else self.rearranged(u, how.back)
        columns = (-1, *(1,) * (len(x.shape) - 1))
        gain, shift = (self.constant(each.reshape(columns).astype(np.float32)) for each in (node.gain, node.shift))
        acc = step("Add", step("Mul", u, gain), shift)
        scaled = step("Mul", acc, number(node.requantize.multiplier[0]))
        self._rounded(scaled, node, zero, (zero + node.requantize.low, zero + node.requantize.high))

    def _largest(self, x: str) -> str:
        """Over the channels. Opset 18 made an input of the attribute; which one it is, ``model`` knows at the end."""
        output = self.node("ReduceMax", [x], keepdims=1)
        self._reductions.append(self.nodes[-1])
        return output

    def model(self, name: str, inputs: Sequence[ArraySpec], outputs: Sequence[ArraySpec]) -> onnx.ModelProto:
        """As ``Writer.model``, once the opset is known, on which the form of a reduction depends."""
        for node in self._reductions:
            if self.opset < 18:
                node.attribute.append(helper.make_attribute("axes", [1]))
            else:
                node.input.append(self.constant(np.array([1])))
        return super().model(name, inputs, outputs)

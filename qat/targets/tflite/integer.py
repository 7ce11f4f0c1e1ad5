"""Writes the nodes of an integer graph as operators of TensorFlow Lite."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatchmethod
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.cells.base import Shape
from qat.errors import QatError
from qat.integer import (
    FloatLayer,
    Grid,
    IntegerChannelTable,
    IntegerConcat,
    IntegerConv2d,
    IntegerDense,
    IntegerFlatten,
    IntegerGraph,
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
    IntegerSum,
    IntegerTable,
    IntegerTensor,
    Requantize,
)
from qat.integer.ends import REAL
from qat.integer.fixed_point import LongMultiplier
from qat.integer.widths import storage_bits
from qat.targets.common import columns_in_hwc, no_form, same_in_hwc, used_only_by
from qat.targets.tflite import elementwise, products, real_numbers
from qat.targets.tflite.ends import chosen_ends
from qat.targets.tflite.positions import mean_over_positions, means_over_positions
from qat.targets.tflite.writer import (
    MULTIPLIERS,
    PACKED,
    ROUNDING,
    Fused,
    Op,
    Pad,
    Writer,
    coded,
    offset_of,
    permuted,
    pool_options,
    quantization_of,
    stored_axis,
    stored_shape,
)
from qat.vocabulary.ops import Array
from qat.vocabulary.rearrangement import reshaping

LARGEST_WEIGHT = 127


class IntegerWriter(Writer):
    """Writes the nodes of an integer graph.

    Args:
        graph: the integers.
        arithmetic: "float" or "fixed".
        packed: whether weights of few bits are stored several to a byte.
        input_type: what the file takes (``chosen_ends``).
        output_type: what it gives.

    Attributes:
        ends: both of each input and output.
    """

    def __init__(self, graph: IntegerGraph, arithmetic: str, packed: bool, input_type: str, output_type: str) -> None:
        super().__init__()
        self.arithmetic = arithmetic
        self.packed = packed
        #: With activations of more than 8 bits all are int16, centred: LiteRT's kernels have one type for inputs and outputs.
        self.long = any(node.output.grid.wide for node in graph.nodes)
        self.dtype: np.dtype[Any] = np.dtype(np.int16 if self.long else np.int8)
        self._range = (int(np.iinfo(self.dtype).min), int(np.iinfo(self.dtype).max))
        self._index: dict[str, int] = {}  # tensor of codes -> its index in the file
        self._hwc: dict[str, Shape] = {}  # Flatten in HWC order -> (C, H, W)
        self._dequantized: dict[str, int] = {}  # tensor of codes -> the index of its real numbers
        self._points: dict[str, int] = {}  # row of features -> its index as (1, 1, 1, F)
        #: Where a dense layer's weight can follow the file's order of features.
        self._free = used_only_by(graph, IntegerDense)
        for x in (node.output for node in graph.nodes) if self.long else ():
            if x.grid.low < self._range[0] or x.grid.high > self._range[1]:
                raise QatError(
                    f"{x.name}: its codes lie {x.grid.low} to {x.grid.high} around the zero point, where TFLite's int16 holds "
                    f"{self._range[0]} to {self._range[1]}; convert it with symmetric activations or 15 bits, or export to C"
                )
        self.ends = chosen_ends(graph, input_type, output_type, self.dtype.name)
        self._entering = {x.name: end for x, end in zip(graph.inputs, self.ends.inputs, strict=True)}

    def codes(self, x: IntegerTensor, name: str | None = None, shape: Shape | None = None) -> int:
        """A new tensor for codes of that grid, and of that shape in the file."""
        quantization = quantization_of(np.array([x.grid.scale]), self.zero(x.grid))
        shape = stored_shape(x.shape) if shape is None else shape
        return self.tensor(shape, self.dtype, quantization, x.name if name is None else name)

    def offset(self, grid: Grid) -> int:
        """What is added to a code to make it a number of the file."""
        return -grid.zero_point if self.long else offset_of(grid)

    def zero(self, grid: Grid) -> int:
        """The zero point in the file."""
        return grid.zero_point + self.offset(grid)

    def of(self, x: IntegerTensor) -> int:
        """The index of the codes of a tensor."""
        if x.name not in self._index:
            self._index[x.name] = self.reshaped(self._points[x.name], self.codes(x, ""))
        return self._index[x.name]

    def _point(self, x: IntegerTensor) -> int:
        """The index of the codes of a row of features, as an image of one pixel."""
        if x.name not in self._points:
            self._points[x.name] = self.reshaped(self.of(x), self.codes(x, "", (1, 1, 1, *x.shape)))
        return self._points[x.name]

    def _as_type(self, x: int, stored: str, zero_point: int) -> int:
        """The same codes in another type, of the same scale: LiteRT multiplies them by 1, in integers."""
        tensor = self.tensors[x]
        output = self.tensor(tensor.shape, stored, quantization_of(tensor.quantization.scale, zero_point))
        return self.op(Op.QUANTIZE, [x], output, schema.QuantizeOptionsT())

    def _clipped(
        self, node: IntegerLinear | IntegerMeans | IntegerSum | IntegerMul, shape: Shape | None = None
    ) -> tuple[int, int, list[tuple[int, int]]]:
        """How a node's clip is written: its fused activation, its output tensor, and operators after it with their bounds."""
        grid = node.output.grid
        zero = self.zero(grid)
        low, high = zero + node.requantize.low, zero + node.requantize.high
        six = 6.0 / float(grid.scale)
        forms = {Fused.NONE: self._range, Fused.RELU: (zero, self._range[1])}
        if np.rint(six - 1e-3) == np.rint(six + 1e-3):  # else runtimes round it differently
            forms[Fused.RELU6] = (zero, min(self._range[1], zero + int(np.rint(six))))
        best: tuple[int, list[tuple[int, int]]] | None = None
        for fused, (lowest, highest) in forms.items():
            if lowest <= low and high <= highest:
                rest = [(Op.MAXIMUM, low)] * (lowest < low) + [(Op.MINIMUM, high)] * (high < highest)
                if best is None or len(rest) < len(best[1]):
                    best = fused, rest
        assert best is not None, "NONE holds every clip"
        return best[0], self.codes(node.output, "" if best[1] else None, shape), best[1]

    def _finish(self, node: IntegerNode, index: int, clips: Sequence[tuple[int, int]] = ()) -> None:
        """Name ``index`` as the node's codes, after the clips."""
        grid = node.output.grid
        shape = tuple(self.tensors[index].shape)
        for position, (op, bound) in enumerate(clips):
            output = self.codes(node.output, None if position == len(clips) - 1 else "", shape)
            limit = self.constant(np.array([bound], self.dtype), np.array([grid.scale]), self.zero(grid))
            index = self.op(op, [index, limit], output, schema.MaximumMinimumOptionsT())
        places = self._index if len(shape) == 1 + len(node.output.shape) else self._points
        places[node.name] = index

    @singledispatchmethod
    def add(self, node: IntegerNode) -> None:
        """Append a node of the integer graph."""
        raise no_form(node, "TFLITE")

    @add.register
    def _(self, node: IntegerInput) -> None:
        end, grid, shape = self._entering[node.name], node.output.grid, stored_shape(node.output.shape)
        as_they_are = end.quantizes is not None or grid.real
        numbers = (node.scale, node.offset) if as_they_are else (grid.scale, end.zero_point)
        quantization = None if end.stored == REAL else quantization_of(*numbers)
        entry = self.tensor(shape, end.stored, quantization, node.name)
        self.inputs.append(entry)
        if grid.real:
            entry = real_numbers.entering(self, node, entry)
        elif end.quantizes is not None:
            entry = self._quantized(node, entry, *end.quantizes)
        elif self.long and end.stored != "int16":
            wide = self._step(Op.CAST, [entry], schema.CastOptionsT(), shape, np.int32)
            by = self.constant(np.array([-end.zero_point], np.int32))
            centred = self._step(Op.ADD, [wide, by], schema.AddOptionsT(), shape, np.int32)
            entry = self.op(Op.CAST, [centred], self.codes(node.output, ""), schema.CastOptionsT())
        elif end.stored != self.dtype.name:
            entry = self._as_type(entry, self.dtype.name, self.zero(grid))
        self._index[node.name] = entry

    @add.register
    def _(self, node: FloatLayer) -> None:
        self._index[node.name] = real_numbers.float_layer(self, node, self._dequantized)

    @add.register
    def _(self, node: IntegerQuantize) -> None:
        x = self.of(node.inputs[0])
        self._finish(node, self.rounded(node.output, x, node.requantize))

    def _quantized(self, node: IntegerInput, x: int, requantize: Requantize, offset: int) -> int:
        """Codes of other numbers, as ``IntegerInput.evaluate``: LiteRT's own QUANTIZE rounds ties away from zero in some of its
        kernels and to even in others. The clip comes first, so that what overflows is clipped too.
        """
        x = real_numbers.less(self, node, x, offset)
        return self.rounded(node.output, x, requantize, coded(node.name))

    def rounded(self, output: IntegerTensor, x: int, requantize: Requantize, name: str | None = None) -> int:
        """Make codes of numbers: their product with the multiplier, clipped and rounded."""
        shape = stored_shape(output.shape)
        x = self._step(Op.MUL, [x, self._number(requantize.multiplier[0])], schema.MulOptionsT(), shape)
        bounds = ((Op.MAXIMUM, requantize.low), (Op.MINIMUM, requantize.high))
        for op, bound in bounds:
            x = self._step(op, [x, self._number(bound)], schema.MaximumMinimumOptionsT(), shape)
        x = self._step(Op.ADD, [x, self._number(ROUNDING)], schema.AddOptionsT(), shape)
        zero = self.zero(output.grid)
        x = self._step(Op.SUB, [x, self._number(ROUNDING - zero)], schema.SubOptionsT(), shape)
        return self.op(Op.CAST, [x], self.codes(output, name), schema.CastOptionsT())

    def _check_multiplier(self, node: IntegerLinear) -> None:
        """Raises QatError where LiteRT's kernels of the arithmetic refuse the multiplier."""
        if self.arithmetic == "fixed":
            _ = node.fixed  # or its QatError
            return
        multiplier = node.inputs[0].grid.scale * node.moderate_weight_scale / node.output.grid.scale
        if not (multiplier >= MULTIPLIERS[0]).all() or not (multiplier < MULTIPLIERS[1]).all():
            raise QatError(
                f"{node.name}: multiplies by {multiplier.min():g} to {multiplier.max():g} to requantize, and XNNPACK takes "
                f"{MULTIPLIERS[0]:g} to {MULTIPLIERS[1]:g}, so that LiteRT would round otherwise; its output's range does not "
                "suit its input's: train it further, or export to ONNX"
            )

    def _packed_widths(self, node: IntegerLinear) -> tuple[int, ...]:
        """The widths in which LiteRT computes a layer's packed weight as it does one of int8."""
        if not self.packed:
            return ()
        if self.arithmetic == "fixed":
            depthwise = isinstance(node, IntegerConv2d) and node.group == node.inputs[0].shape[0] > 1
            return () if self.long and depthwise else (4,)  # LiteRT reads INT4 there as if it were bytes
        if not isinstance(node, IntegerDense):
            return ()  # LiteRT's own kernel would take it, which rounds otherwise
        return tuple(
            bits for bits in PACKED if node.weight.shape[1] % (8 // bits) == 0
        )  # likewise: rows end with a byte

    def _constants(self, node: IntegerLinear, weight: Array, axis: int) -> list[int]:
        """The weight (centred codes, in the file's layout) and the bias."""
        if np.abs(weight).max() > LARGEST_WEIGHT:
            raise QatError(
                f"{node.name}: its weights have zero point {int(node.weight_zero_point[0])} and then codes of up to "
                f"{int(np.abs(weight).max())}, but TFLite stores int8 weights without a zero point; train it with "
                "symmetric=(True, ...), or export to ONNX"
            )
        scale = node.moderate_weight_scale
        weight = weight.astype(np.int8)
        bits = storage_bits(weight, self._packed_widths(node))
        packed = bits if bits in PACKED else None
        if packed != 2 and (scale == scale[0]).all():  # XNNPACK takes INT2 with one scale for each output only
            scale, axis = scale[:1], 0  # one stands for many equal ones
        constants = [self.constant(weight, scale, axis=axis, bits=packed, name=f"{node.name}.weight")]
        if self.long and not isinstance(node.fixed, LongMultiplier):
            raise QatError(
                f"{node.name}: computes codes of 8 bits from such in a network that has wider ones too, for which LiteRT has "
                "other arithmetic; give its output more than 8 bits, or export to C"
            )
        bias = node.bias.astype(np.int64) if self.long else node.bias
        return [*constants, self.constant(bias, node.inputs[0].grid.scale * scale, name=f"{node.name}.bias")]

    @add.register
    def _(self, node: IntegerConv2d) -> None:
        self._check_multiplier(node)
        mean = mean_over_positions(node) if self.arithmetic == "float" else None
        if mean is not None:
            self._over_positions(node, mean)
            return
        kernel = (node.weight.shape[2], node.weight.shape[3])
        x, mode = self.window(self.of(node.inputs[0]), kernel, node.stride, node.padding, node.dilation)
        fused, output, clips = self._clipped(node)
        options: dict[str, Any] = {
            "padding": mode,
            "strideH": node.stride[0],
            "strideW": node.stride[1],
            "dilationHFactor": node.dilation[0],
            "dilationWFactor": node.dilation[1],
            "fusedActivationFunction": fused,
        }
        channels = node.inputs[0].shape[0]
        if node.group == channels > 1:
            weight = self._constants(node, node.centred_weight.transpose(1, 2, 3, 0), 3)
            options["depthMultiplier"] = len(node.weight) // channels
            self.op(Op.DEPTHWISE_CONV_2D, [x, *weight], output, schema.DepthwiseConv2DOptionsT(**options))
        else:
            weight = self._constants(node, node.centred_weight.transpose(0, 2, 3, 1), 0)
            self.op(Op.CONV_2D, [x, *weight], output, schema.Conv2DOptionsT(**options))
        self._finish(node, output, clips)

    @add.register
    def _(self, node: IntegerMeans) -> None:
        self._check_multiplier(node.positions)
        self._over_positions(node, means_over_positions(node))

    def _over_positions(self, node: IntegerConv2d | IntegerMeans, by: IntegerConv2d) -> None:
        """As a 1x1 convolution of transposed codes."""
        (x,), y = node.inputs, node.output
        channels, (positions, pixels) = x.shape[0], by.weight.shape[:2]

        points = self.reshaped(self.of(x), self.codes(x, "", (1, pixels, channels, 1)))
        inputs = [self._transpose(points, (0, 2, 3, 1), self.codes(x, "", (1, channels, 1, pixels)))]
        inputs += self._constants(by, by.weight.transpose(0, 2, 3, 1), 0)
        fused, output, clips = self._clipped(node)
        window = schema.Conv2DOptionsT(padding=Pad.VALID, strideH=1, strideW=1, fusedActivationFunction=fused)
        index = self.op(Op.CONV_2D, inputs, self.codes(y, "", (1, channels, 1, positions)), window)
        if positions > 1:
            index = self._transpose(index, (0, 3, 2, 1), self.codes(y, "", (1, positions, 1, channels)))
        self._finish(node, self.reshaped(index, output), clips)

    @add.register
    def _(self, node: IntegerDense) -> None:
        """In the fixed arithmetic a 1x1 convolution: LiteRT's fully connected kernel rounds once, its convolutions twice, as
        those for microcontrollers do in all layers.
        """
        self._check_multiplier(node)
        weight = node.centred_weight
        if node.inputs[0].name in self._hwc:
            weight = columns_in_hwc(weight, self._hwc[node.inputs[0].name])
        if self.arithmetic == "fixed":
            fused, output, clips = self._clipped(node, (1, 1, 1, len(weight)))
            inputs = [self._point(node.inputs[0]), *self._constants(node, weight.reshape(len(weight), 1, 1, -1), 0)]
            window = schema.Conv2DOptionsT(padding=Pad.VALID, strideH=1, strideW=1, fusedActivationFunction=fused)
            self._finish(node, self.op(Op.CONV_2D, inputs, output, window), clips)
            return
        fused, output, clips = self._clipped(node)
        options = schema.FullyConnectedOptionsT(fusedActivationFunction=fused)
        inputs = [self.of(node.inputs[0]), *self._constants(node, weight, 0)]
        self._finish(node, self.op(Op.FULLY_CONNECTED, inputs, output, options), clips)

    @add.register
    def _(self, node: IntegerMaxPool2d) -> None:
        x, mode = self.window(self.of(node.inputs[0]), node.kernel, node.stride, node.padding, lowest=True)
        options = pool_options(node.kernel, node.stride, mode)
        self._finish(node, self.op(Op.MAX_POOL_2D, [x], self.codes(node.output), options))

    @add.register
    def _(self, node: IntegerFlatten) -> None:
        x, shape = self.of(node.inputs[0]), node.inputs[0].shape
        if not same_in_hwc(shape) and node.name in self._free:
            self._hwc[node.name] = shape
            self._finish(node, self.reshaped(x, self.codes(node.output, permuted(node.name))))
        else:
            self._finish(node, self.rearranged(x, reshaping(shape, node.output.shape), self.codes(node.output)))

    @add.register
    def _(self, node: IntegerSum) -> None:
        elementwise.add_sum(self, node)

    @add.register
    def _(self, node: IntegerMul) -> None:
        elementwise.add_mul(self, node)

    @add.register
    def _(self, node: IntegerMatMul) -> None:
        products.add_matmul(self, node)

    @add.register
    def _(self, node: IntegerMaximum) -> None:
        elementwise.add_extreme(self, node, Op.MAXIMUM)

    @add.register
    def _(self, node: IntegerMinimum) -> None:
        elementwise.add_extreme(self, node, Op.MINIMUM)

    @add.register
    def _(self, node: IntegerConcat) -> None:
        options = schema.ConcatenationOptionsT(axis=stored_axis(node.axis, len(node.output.shape)))
        inputs = [self.of(x) for x in node.inputs]
        self._finish(node, self.op(Op.CONCATENATION, inputs, self.codes(node.output), options))

    @add.register
    def _(self, node: IntegerPad) -> None:
        grid = node.output.grid
        code = np.array([node.value + self.zero(grid)], self.dtype)
        value = self.constant(code, np.array([grid.scale]), self.zero(grid))
        self._finish(node, self.padded(self.of(node.inputs[0]), node.widths, value, self.codes(node.output)))

    @add.register
    def _(self, node: IntegerRearrange) -> None:
        self._finish(node, self.rearranged(self.of(node.inputs[0]), node.rearrangement, self.codes(node.output)))

    @add.register
    def _(self, node: IntegerPick) -> None:
        self._finish(node, self.picked(self.of(node.inputs[0]), node.places, self.codes(node.output)))

    def _integers(self, x: IntegerTensor) -> int:
        """The codes of a tensor as int32, from -128 on; centred where they are int16."""
        return self.op(Op.CAST, [self.of(x)], self.tensor(stored_shape(x.shape), np.int32), schema.CastOptionsT())

    @add.register
    def _(self, node: IntegerTable) -> None:
        self._table(node)

    @add.register
    def _(self, node: IntegerChannelTable) -> None:
        self._table(node)

    def _table(self, node: IntegerTable | IntegerChannelTable) -> None:
        """A table of one entry for each code, indexed by code - qmin; no function of LiteRT's own is exact."""
        (x,) = node.inputs
        grid = node.output.grid
        scale, zero = np.array([grid.scale]), self.zero(grid)
        table = (node.table.ravel() + zero).astype(self.dtype)
        index = self.tensor(stored_shape(x.shape), np.int32)
        first = np.array([-(x.grid.qmin + self.offset(x.grid))], np.int32)
        if isinstance(node, IntegerChannelTable):
            first = (node.first - self.zero(x.grid)).astype(np.int32)
        self.op(Op.ADD, [self._integers(x), self.constant(first)], index, schema.AddOptionsT())
        entries = self.constant(table, scale, zero)
        self._finish(node, self.op(Op.GATHER, [entries, index], self.codes(node.output), schema.GatherOptionsT()))

    @add.register
    def _(self, node: IntegerNorm) -> None:
        products.add_norm(self, node)

    @add.register
    def _(self, node: IntegerSoftmax) -> None:
        products.add_softmax(self, node)

"""An integer graph as the operations of Ascend's int8 unit (unit.py), which both Ascend formats hold.

Ascend rounds twice where the reference rounds once (unit.py). Two roundings are not one: for a free s_y nearly every channel
has some accumulators that land beside a tie and differ. With s_y a power of two the second product is exact,
f32(acc s_x s_w) / s_y = f32(acc s_x s_w / s_y), and so is every sum of two codes of one grid: the codes are equal for every
accumulator. That is why the profile "ascend" of convert_quant_network rounds the scales of activations up to powers of two.
(Such a scale also survives hardware that keeps few of its bits.)

The first AscendQuant takes real numbers as they are, and (code - zero_point) as a real number, since that fits no int8; of
pixels and codes of 8 bits ``input_multiplier`` compares what it computes with the reference's table for each of the 256.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import singledispatchmethod
from typing import Any

import numpy as np

from qat.deploy.arithmetics import require_arithmetic
from qat.errors import QatError
from qat.integer import (
    Grid,
    IntegerAdd,
    IntegerConcat,
    IntegerConv2d,
    IntegerDense,
    IntegerFlatten,
    IntegerGraph,
    IntegerInput,
    IntegerLinear,
    IntegerMaxPool2d,
    IntegerNode,
    IntegerTable,
    IntegerTensor,
    Shape,
)
from qat.integer.widths import require_bytes
from qat.targets.ascend.unit import HIGH, LOW, quantize
from qat.targets.common import end_names, used_only_by
from qat.vocabulary.ops import Array

ADVICE = "convert the network with profile='ascend' (train_quant.py --profile ascend) and train it"
QUANT = "/quant"  #: after a node's name: its codes
REALS = ("/clip", "/relu", "/real")  #: its real numbers before they are rounded: the first of these that there is


@dataclass(frozen=True, eq=False)
class Step:
    """One operation of the file. It makes the tensor of its own name.

    Args:
        kind: "input", "cast", "subtract", "multiply", "quantize", "conv2d", "dense", "dequantize", "relu", "clip",
            "max_pool", "flatten", "add" or "concat".
        name: of the operation, and of the tensor that it makes.
        inputs: the names of the tensors that it takes.
        shape: of one sample of its tensor.
        dtype: of its tensor.
        constants: further inputs by name; 0-d, or as the functions of unit.py take them.
        attributes: by name, as the functions of unit.py take them.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    shape: Shape
    dtype: type[np.generic]
    constants: Mapping[str, Array] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


def lower(graph: IntegerGraph, file_format: str) -> tuple[Step, ...]:
    """The operations of an integer graph in order; its inputs and outputs are called as ``end_names`` says.

    Raises QatError, naming the node, what was found and what to do, where the graph does not keep to the profile.
    """
    require_bytes(graph, f"{file_format}, as Ascend's int8 unit,")
    require_arithmetic(graph, file_format, ("float",))
    lowering = _Lowering(graph, file_format)
    for node in graph.nodes:
        lowering.add(node)
    for x, name in zip(graph.outputs, end_names("output", len(graph.outputs)), strict=True):
        lowering.dequantized(x, name)
    return tuple(lowering.steps)


def tensors_of(nodes: Collection[IntegerTensor], present: Collection[str]) -> dict[str, str]:
    """Which tensor of a file holds the codes of each node, or else its real numbers, by the node's name."""
    found = {}
    for node in nodes:
        names = [node.name + suffix for suffix in (QUANT, *REALS) if node.name + suffix in present]
        if names:
            found[node.name] = names[0]
    return found


def codes_of(values: Array, grid: Grid) -> Array:
    """Codes, int32, of a node from what ``tensors_of`` found: its codes, or its real numbers before they are rounded."""
    if values.dtype == np.int8:
        return values.astype(np.int32)
    codes: Array = np.clip(np.rint(values * _inverse(grid)), grid.qmin, grid.qmax).astype(np.int32)
    return codes


def dequant_scale(node: IntegerLinear) -> Array:
    """The scales of AscendDequant, uint64: (O,) of a convolution, (1,) of a dense layer."""
    scale = (node.inputs[0].grid.scale * node.weight_scale).astype(np.float32)
    return (scale[:1] if isinstance(node, IntegerDense) else scale).view(np.uint32).astype(np.uint64)


def input_multiplier(node: IntegerTable) -> np.float32 | None:
    """The scale of the first AscendQuant, with which it gives ``node.table`` for every code; None where none does.

    s / s_y is exact, s_y being a power of two, but the product with a pixel is rounded to float32 and may come to lie on a
    tie; then a neighbouring float32 moves it off again, to the table's side.
    """
    source, grid = node.inputs[0].grid, node.output.grid
    centred = np.arange(source.low, source.high + 1).astype(np.float32)
    upper = lower = np.float32(source.scale / grid.scale)
    for _ in range(64):
        for multiplier in (upper, lower):
            if np.array_equal(quantize(centred, float(multiplier), 0.0), node.table):
                return multiplier
        upper, lower = np.nextafter(upper, np.float32(np.inf)), np.nextafter(lower, np.float32(0))
    return None


def clip_of(node: IntegerTable) -> tuple[int, int] | None:
    """The centred codes to which ``node`` clips its input, brought to the grid of its output; None where it does more.

    That is what a relu or relu6 on codes does, and a change of grid.
    """
    source, grid = node.inputs[0].grid, node.output.grid
    real = np.arange(source.low, source.high + 1).astype(np.float32) * source.scale
    codes = quantize(real, float(_inverse(grid)), 0.0)
    for low, high in ((LOW, HIGH), (0, HIGH), (int(node.table.min()), int(node.table.max()))):
        if np.array_equal(np.clip(codes, low, high), node.table):
            return low, high
    return None


def _inverse(grid: Grid) -> np.float32:
    return np.float32(1.0) / grid.scale


class _Lowering:
    """Gathers the steps of an integer graph."""

    def __init__(self, graph: IntegerGraph, file_format: str) -> None:
        self.steps: list[Step] = []
        self._format = file_format
        self._real: dict[str, str] = {}  # node -> its real numbers in the file
        self._centred: dict[str, str] = {}  # input -> its codes less their zero point
        self._coded: set[str] = set()  # inputs whose codes a table changes to those of the fake quantizer after them
        self._entries = dict(zip((x.name for x in graph.inputs), end_names("input", len(graph.inputs)), strict=True))
        #: Nodes that only poolings use: these take real numbers, before AscendQuant, since max(rint(.)) = rint(max(.)).
        self._pooled = used_only_by(graph, IntegerMaxPool2d)

    def refuse(self, node: IntegerNode | IntegerTensor, found: str, advice: str = ADVICE) -> QatError:
        return QatError(f"{node.name}: {self._format}: {found}; {advice}")

    def codes(self, x: IntegerTensor) -> str:
        """The int8 tensor of codes. Raises QatError where they are none, or their scale is no power of two."""
        grid = x.grid
        if grid.zero_point or grid.qmin < LOW or grid.qmax > HIGH:
            raise self.refuse(
                x,
                f"its codes are {grid.qmin} .. {grid.qmax} with zero point {grid.zero_point}, where Ascend's are int8 around 0",
            )
        if math.frexp(float(grid.scale))[0] != 0.5:
            raise self.refuse(
                x,
                f"its codes have the scale {float(grid.scale):g}, no power of two, so that Ascend's two roundings would give "
                "other codes than the reference's one",
            )
        return x.name + QUANT

    def step(
        self,
        kind: str,
        name: str,
        inputs: tuple[str, ...],
        shape: Shape,
        dtype: type[np.generic] = np.float32,
        constants: Mapping[str, Array] | None = None,
        **attributes: Any,
    ) -> str:
        if any(step.name == name for step in self.steps):
            raise QatError(f"{name}: {self._format}: two of the file's operations would have this name; rename a node")
        self.steps.append(Step(kind, name, inputs, shape, dtype, constants or {}, attributes))
        return name

    def dequantized(self, x: IntegerTensor, name: str | None = None) -> str:
        """The real numbers of codes: exact, whatever the scale, as long as nothing but AscendQuant follows."""
        if name is None and x.name in self._real:
            return self._real[x.name]
        codes = self.codes(x)
        name = name or f"{x.name}/dequantized"
        cast = self.step("cast", f"{name}/cast", (codes,), x.shape)
        self.step("multiply", name, (cast,), x.shape, constants={"by": np.asarray(x.grid.scale)})
        return self._real.setdefault(x.name, name)

    def finish(self, node: IntegerNode, real: str, bounds: tuple[int, int] | None = None) -> None:
        """Real numbers to the node's codes, clipped to what the node allows where that is less than int8."""
        output = node.output
        self.codes(output)
        grid = output.grid
        low, high = bounds or (LOW, HIGH)
        if (low, high) == (0, HIGH):
            real = self.step("relu", f"{node.name}/relu", (real,), output.shape)
        elif (low, high) != (LOW, HIGH):
            ends = {"low": np.asarray(np.float32(low) * grid.scale), "high": np.asarray(np.float32(high) * grid.scale)}
            real = self.step("clip", f"{node.name}/clip", (real,), output.shape, constants=ends)
        if node.name in self._pooled:
            self._real[node.name] = real
        else:
            self.quantized(node, real, _inverse(grid))

    def quantized(self, node: IntegerNode, real: str, multiplier: np.float32) -> None:
        name, shape = node.name + QUANT, node.output.shape
        self.step("quantize", name, (real,), shape, np.int8, scale=float(multiplier), offset=0.0)

    @singledispatchmethod
    def add(self, node: IntegerNode) -> None:
        """Append a node of the integer graph."""
        advice = "export to ONNX, or leave that cell out"
        raise self.refuse(node, f"{node.kind} has no form of int8 codes on Ascend", advice)

    @add.register
    def _(self, node: IntegerInput) -> None:
        real = self.step("input", self._entries[node.name], (), node.output.shape, np.dtype(node.dtype).type)
        if node.requantize is None:
            self._coded.add(node.name)
            return
        if node.dtype != "float32":
            # Their scale s_x = m s_y is exact, s_y being a power of two, and so is f32(c s_x) / s_y = f32(c m).
            scale = np.asarray(node.requantize.multiplier[0] * node.output.grid.scale)
            real = self.centred(node.output, node.offset)
            real = self.step("multiply", f"{node.name}/real", (real,), node.output.shape, constants={"by": scale})
        self.finish(node, real, node.requantize[1:])

    def centred(self, x: IntegerTensor, zero_point: int) -> str:
        """The codes of an input less their zero point."""
        if x.name not in self._centred:
            cast = self.step("cast", f"{x.name}/cast", (self._entries[x.name],), x.shape)
            zero = {"by": np.asarray(zero_point, np.float32)}
            self._centred[x.name] = self.step("subtract", f"{x.name}/centred", (cast,), x.shape, constants=zero)
        return self._centred[x.name]

    @add.register
    def _(self, node: IntegerTable) -> None:
        (source,) = node.inputs
        self.codes(node.output)
        if source.name in self._coded:
            multiplier = input_multiplier(node)
            if multiplier is not None:
                return self.quantized(node, self.centred(source, source.grid.zero_point), multiplier)
        else:
            bounds = clip_of(node)
            if bounds is not None:
                return self.finish(node, self.dequantized(source), bounds)
        raise self.refuse(
            node,
            "a table of codes, as of an activation other than relu and relu6, has no exact form on Ascend",
            "use relu or relu6 there, or export to ONNX, which has tables",
        )

    def linear(self, node: IntegerLinear, kind: str, **attributes: Any) -> None:
        (x,) = node.inputs
        codes = self.codes(x)
        if node.weight.dtype != np.int8 or node.weight_zero_point.any():
            worst = int(node.weight_zero_point[np.abs(node.weight_zero_point).argmax()])
            raise self.refuse(node, f"its weight has zero point {worst}, where Ascend's is int8 around 0")
        constants = {"weight": node.weight, "bias": node.bias}
        shape = node.output.shape
        acc = self.step(kind, f"{node.name}/acc", (codes,), shape, np.int32, constants, **attributes)
        scale = {"scale": dequant_scale(node)}
        self.finish(
            node, self.step("dequantize", node.name + "/real", (acc,), shape, constants=scale), node.requantize[1:]
        )

    @add.register
    def _(self, node: IntegerConv2d) -> None:
        geometry: dict[str, Any] = {name: getattr(node, name) for name in ("stride", "padding", "dilation", "group")}
        self.linear(node, "conv2d", **geometry)

    @add.register
    def _(self, node: IntegerDense) -> None:
        if (node.weight_scale != node.weight_scale[0]).any():
            count = len(np.unique(node.weight_scale))
            raise self.refuse(
                node,
                f"its dense weight has {count} scales, one for each channel, where Ascend's matrix product has one",
            )
        self.linear(node, "dense")

    @add.register
    def _(self, node: IntegerMaxPool2d) -> None:
        window: dict[str, Any] = {"kernel": node.kernel, "stride": node.stride, "padding": node.padding}
        real = self.dequantized(node.inputs[0])
        self.finish(node, self.step("max_pool", node.name + "/real", (real,), node.output.shape, **window))

    @add.register
    def _(self, node: IntegerFlatten) -> None:
        self.step("flatten", node.name + QUANT, (self.codes(node.inputs[0]),), node.output.shape, np.int8)

    @add.register
    def _(self, node: IntegerAdd) -> None:
        if any(x.shape != node.output.shape for x in node.inputs):
            found = "one of its inputs has a single pixel, which Ascend's addition was not shown to take"
            raise self.refuse(node, found, "make their shapes equal, or export to ONNX")
        a, b = (self.dequantized(x) for x in node.inputs)
        self.finish(node, self.step("add", node.name + "/real", (a, b), node.output.shape), node.requantize[1:])

    @add.register
    def _(self, node: IntegerConcat) -> None:
        inputs = tuple(self.codes(x) for x in node.inputs)
        self.step("concat", node.name + QUANT, inputs, node.output.shape, np.int8, axis=1 + node.axis)

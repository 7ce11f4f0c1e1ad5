"""Writes the nodes of an integer graph as operations of MindSpore."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import singledispatchmethod
from typing import Any

import numpy as np

from qat.backends.mindspore.setup import mind_ir_pb2 as proto
from qat.cells.base import Shape
from qat.errors import QatError
from qat.integer import (
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
    IntegerRearrange,
    IntegerSoftmax,
    IntegerSub,
    IntegerTable,
    Requantize,
)
from qat.targets.common import codes_name, no_form
from qat.targets.mindir.file import TYPES, Attribute, add_primitive, described, set_outputs, tensor_of, value_of
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.ops import EXACT_INTEGERS, Array
from qat.vocabulary.rearrangement import Rearrangement

VERSION = "2.6.0"  #: of MindSpore, which the file says it was written by
INT32, FLOAT32, FLOAT64 = 34, 43, 44  #: kNumberType... of mindspore/core/include/ir/dtype/type_id.h: what Cast takes


class IntegerWriter:
    """Writes the nodes of an integer graph; equal constants are stored once.

    Attributes:
        model: the file's message.
        graph: the graph in it.
        names: the name in the file of each tensor of codes.
    """

    def __init__(self, name: str) -> None:
        self.model = proto.ModelProto(
            ir_version="1.1", producer_name="qat-engine", model_version=VERSION, little_endian=True, mind_ir_version=3
        )
        self.graph = self.model.graph
        self.graph.name = name
        self.names: dict[str, str] = {}  # tensor of codes -> its name in the file
        self._constants: dict[Any, str] = {}

    def node(self, op: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Append a node; returns the name of its output."""
        name = op if not attributes else f"{op}{len(self.model.primitives)}"
        add_primitive(self.model, name, op, attributes)
        output = output or f"@{len(self.graph.node)}"
        self.graph.node.add(op_type=f"REF::{name}", name=output, input=inputs, output=[output])
        return output

    def constant(self, value: Any) -> str:
        """The name of a constant: a bool, an integer or a tuple of integers."""
        return self._constant((type(value), value), lambda: value_of("value", value))

    def number(self, value: Any, dtype: Any = np.float32) -> str:
        """The name of a constant scalar."""
        array = np.asarray(value, dtype)
        return self._constant(
            (array.dtype, array.item()),
            lambda: Attribute(name="value", type=Attribute.TENSORS, tensors=[tensor_of(array, "v")]),
        )

    def _constant(self, key: Any, make: Callable[[], proto.AttributeProto]) -> str:
        if key not in self._constants:
            name = self._constants[key] = f"#{len(self._constants)}"
            self.graph.node.add(op_type="Constant", name=name, output=[name], attribute=[make()])
        return self._constants[key]

    def parameter(self, name: str, array: Array) -> str:
        """The name of a stored array."""
        stored = tensor_of(array, name)
        stored.ref_key = name
        self.graph.parameter.append(stored)
        return name

    def cast(self, x: str, kind: int, output: str | None = None) -> str:
        """Append a Cast. kind: INT32, FLOAT32 or FLOAT64."""
        return self.node("Cast", [x, self.constant(kind)], output)

    def enter(self, name: str, spec: ArraySpec) -> None:
        """Declare an input."""
        self.graph.input.append(described(name, spec.shape, TYPES[np.dtype(spec.dtype)]))

    def leave(self, outputs: Sequence[tuple[str, Shape]]) -> None:
        """Declare the outputs."""
        set_outputs(self.model, outputs)

    def check(self) -> None:
        """Raise QatError where an input is called as what belongs to a node: as "fc.weight" is the weight of "fc"."""
        made = {x.name for x in self.graph.parameter} | {name for node in self.graph.node for name in node.output}
        for x in self.graph.input:
            if x.name in made:
                raise QatError(
                    f"{x.name}: an input of this name is what MINDIR calls a part of another node; rename it"
                )

    @singledispatchmethod
    def add(self, node: IntegerNode) -> None:
        """Append a node of the integer graph."""
        raise no_form(node, "MINDIR")

    def _finish(self, node: IntegerNode, x: str, op: str | None = None, *others: str, **attributes: Any) -> None:
        """Make ``op`` of x the node's codes, or x itself."""
        if op is not None:
            x = self.node(op, [x, *others], codes_name(node.name), **attributes)
        self.names[node.name] = x

    @add.register
    def _(self, node: IntegerInput) -> None:
        x = node.name if node.dtype == "float32" else self.cast(node.name, FLOAT32)
        if node.requantize is None:
            self._finish(node, x, "Sub", self.number(node.output.grid.zero_point))
            return
        if node.offset:
            x = self.node("Sub", [x, self.number(node.offset)])
        self._requantize(node, x, node.requantize, len(node.output.shape))

    def _requantize(self, node: IntegerNode, acc: str, requantize: Requantize, rank: int) -> None:
        multiplier = requantize.multiplier
        if (multiplier == multiplier[0]).all():
            by = self.number(multiplier[0])
        elif isinstance(node, IntegerMeans):
            by = self.parameter(f"{node.name}.multiplier", node.on_map(multiplier))
        else:
            by = self.parameter(f"{node.name}.multiplier", multiplier.reshape((1, -1) + (1,) * (rank - 1)))
        rounded = self.node("Round", [self.node("Mul", [acc, by]), self.constant(0)])
        raised = self.node("Maximum", [rounded, self.number(requantize.low)])
        self._finish(node, raised, "Minimum", self.number(requantize.high))

    @add.register
    def _(self, node: IntegerConv2d) -> None:
        self._linear(node, lambda x, w: self._convolution(x, w, node))

    def _convolution(self, x: str, w: str, node: IntegerConv2d) -> str:
        """The sums of a convolution."""
        return self.node(
            "Conv2D",
            [x, w],
            kernel_size=node.weight.shape[2:],
            mode=1,
            out_channel=len(node.weight),
            pad=node.padding,
            pad_mode="pad",
            format="NCHW",
            pad_list=node.padding,
            groups=node.group,
            group=node.group,
            stride=(1, 1, *node.stride),
            dilation=(1, 1, *node.dilation),
        )

    @add.register
    def _(self, node: IntegerMeans) -> None:
        if node.positions.wide:
            raise no_form(node, "MINDIR")
        ones = self.cast(self.parameter(f"{node.name}.weight", node.sums.weight), FLOAT32)
        sums = self._convolution(self.names[node.inputs[0].name], ones, node.sums)
        self._requantize(node, sums, node.requantize, len(node.output.shape))

    @add.register
    def _(self, node: IntegerDense) -> None:
        flags = [self.constant(False), self.constant(True)]
        self._linear(node, lambda x, w: self.node("MatMul", [x, w, *flags]))

    def _linear(self, node: IntegerLinear, product: Callable[[str, str], str]) -> None:
        x = self.names[node.inputs[0].name]
        w = self.cast(self.parameter(f"{node.name}.weight", node.weight), FLOAT32)
        if node.weight_zero_point.any():
            zero = node.weight_zero_point.astype(np.float32).reshape((-1,) + (1,) * (node.weight.ndim - 1))
            w = self.node("Sub", [w, self.parameter(f"{node.name}.weight_zero_point", zero)])
        acc = self._wide(node, x, w, product) if node.wide else product(x, w)
        if node.bias.any():
            bias = self.parameter(f"{node.name}.bias", node.bias)
            if node.wide:
                bias = self.node("Reshape", [bias, self.constant((1, -1) + (1,) * (node.weight.ndim - 2))])
                acc = self.node("Add", [acc, self.cast(bias, FLOAT64)])
            else:
                acc = self.node("BiasAdd", [acc, self.cast(bias, FLOAT32), self.constant(0)])
        if node.wide:
            acc = self.cast(acc, FLOAT32)
        self._requantize(node, acc, node.requantize, len(node.output.shape))

    def _wide(self, node: IntegerLinear, x: str, w: str, product: Callable[[str, str], str]) -> str:
        """Accumulators beyond 2^24, float64: MindSpore's convolutions add in float32, so that the weights are split.

        w = w_0 + 2^b w_1 + 4^b w_2 ... with 0 <= w_i < 2^b but for the last: the sums of each part stay exact.
        """
        bits, parts = _split(node)
        total, factor = "", 1.0
        for part in range(parts):
            digits = w
            if part < parts - 1:
                rest = self.node("Floor", [self.node("Mul", [w, self.number(2.0**-bits)])])
                digits, w = self.node("Sub", [w, self.node("Mul", [rest, self.number(2.0**bits)])]), rest
            acc = self.cast(product(x, digits), FLOAT64)
            if part:
                acc = self.node("Mul", [acc, self.number(factor, np.float64)])
            total = self.node("Add", [total, acc]) if total else acc
            factor *= 2.0**bits
        return total

    @add.register
    def _(self, node: IntegerMaxPool2d) -> None:
        x = self.names[node.inputs[0].name]
        if any(node.padding):
            top, bottom, left, right = node.padding
            x = self._pad(x, (left, right, top, bottom), node.inputs[0].grid.low)  # the least code: it never wins
        self._finish(
            node,
            x,
            "MaxPool",
            kernel_size=(1, 1, *node.kernel),
            strides=(1, 1, *node.stride),
            pad_mode="VALID",
            format="NCHW",
        )

    def _pad(self, x: str, sides: tuple[int, ...], value: float, output: str | None = None) -> str:
        """sides: before and after, of the last axis, the one before it, and so on."""
        inputs = [x, self.constant(sides), self.number(value)]
        return self.node("PadV3", inputs, output, mode="constant", paddings_contiguous=True)

    @add.register
    def _(self, node: IntegerPad) -> None:
        sides = tuple(side for width in reversed(node.widths) for side in width)
        self._finish(node, self._pad(self.names[node.inputs[0].name], sides, node.value, codes_name(node.name)))

    def _rearranged(self, x: str, how: Rearrangement, output: str | None = None) -> str:
        for parts, axes in how.steps():
            x = self.node("Reshape", [x, self.constant((-1, *parts))])
            x = self.node("Transpose", [x, self.constant((0, *(1 + axis for axis in axes)))])
        return self.node("Reshape", [x, self.constant((-1, *how.shape))], output)

    @add.register
    def _(self, node: IntegerRearrange) -> None:
        x = self.names[node.inputs[0].name]
        self._finish(node, self._rearranged(x, node.rearrangement, codes_name(node.name)))

    @add.register
    def _(self, node: IntegerFlatten) -> None:
        x = self.names[node.inputs[0].name]
        self._finish(node, x, "Reshape", self.constant((-1, *node.output.shape)))

    @add.register
    def _(self, node: IntegerAdd) -> None:
        total = self.node("Add", [self.names[x.name] for x in node.inputs])
        self._requantize(node, total, node.requantize, len(node.output.shape))

    @add.register
    def _(self, node: IntegerSub) -> None:
        difference = self.node("Sub", [self.names[x.name] for x in node.inputs])
        self._requantize(node, difference, node.requantize, len(node.output.shape))

    @add.register
    def _(self, node: IntegerMaximum) -> None:
        a, b = (self.names[x.name] for x in node.inputs)
        self._finish(node, a, "Maximum", b)

    @add.register
    def _(self, node: IntegerMinimum) -> None:
        a, b = (self.names[x.name] for x in node.inputs)
        self._finish(node, a, "Minimum", b)

    @add.register
    def _(self, node: IntegerMul) -> None:
        product = self.node("Mul", [self.names[x.name] for x in node.inputs])
        self._requantize(node, product, node.requantize, len(node.output.shape))

    @add.register
    def _(self, node: IntegerMatMul) -> None:
        if node.wide:
            raise QatError(
                f"{node.name}: its sums may reach {node.bound}, and MindSpore adds in float32, which holds integers up to "
                f"{EXACT_INTEGERS}; use fewer bits or shorter rows, or export to ONNX or C"
            )
        flags = [self.constant(flag) for flag in node.transpose]
        total = self.node("BatchMatMul", [*(self.names[x.name] for x in node.inputs), *flags])
        self._requantize(node, total, node.requantize, len(node.output.shape))

    @add.register
    def _(self, node: IntegerConcat) -> None:
        together = self.node("MakeTuple", [self.names[x.name] for x in node.inputs])
        self._finish(node, together, "Concat", self.constant(1 + node.axis))

    def _take(self, table: str, index: str, output: str | None = None) -> str:
        index, zero = self.cast(index, INT32), self.constant(0)
        return self.node("Gather", [table, index, zero, zero], output)

    @add.register
    def _(self, node: IntegerPick) -> None:
        x, zero = self.names[node.inputs[0].name], self.constant(0)
        for axis, places in node.places.items():
            index = self.parameter(f"{node.name}.places{axis}", np.array(places, np.int32))
            last = axis == list(node.places)[-1]
            x = self.node("Gather", [x, index, self.constant(1 + axis), zero], codes_name(node.name) if last else None)
        self._finish(node, x)

    @add.register
    def _(self, node: IntegerTable) -> None:
        dtype = np.int8 if node.table.min() >= -128 and node.table.max() <= 127 else np.int32
        table = self.cast(self.parameter(f"{node.name}.table", node.table.astype(dtype)), FLOAT32)
        x = self.names[node.inputs[0].name]
        index = self.node("Sub", [x, self.number(node.inputs[0].grid.low)])
        self._finish(node, self._take(table, index, codes_name(node.name)))

    @add.register
    def _(self, node: IntegerChannelTable) -> None:
        (x,) = node.inputs
        table = self.cast(self.parameter(f"{node.name}.table", node.table.ravel().astype(np.int32)), FLOAT32)
        first = node.first.astype(np.float32).reshape((1, -1) + (1,) * (len(x.shape) - 1))
        index = self.node("Add", [self.names[x.name], self.parameter(f"{node.name}.first", first)])
        self._finish(node, self._take(table, index, codes_name(node.name)))

    @add.register
    def _(self, node: IntegerSoftmax) -> None:
        """As ``IntegerSoftmax.evaluate``."""
        x, axis, keep = self.names[node.inputs[0].name], self.constant((1,)), self.constant(True)
        largest = self.node("ReduceMax", [x, axis, keep])
        e = self._take(self.parameter(f"{node.name}.table", node.table), self.node("Sub", [largest, x]))
        total = self.node("ReduceSum", [e, axis, keep, self.constant(False)])
        share = self.node("Div", [self.number(256.0), total])
        rounded = self.node("Round", [self.node("Mul", [e, share]), self.constant(0)])
        self._finish(node, rounded, "Minimum", self.number(255.0))

    @add.register
    def _(self, node: IntegerNorm) -> None:
        """As ``IntegerNorm.evaluate``."""
        (x,), axis, keep = node.inputs, self.constant((1,)), self.constant(True)

        def total(name: str) -> str:
            return self.node("ReduceSum", [name, axis, keep, self.constant(False)])

        def rounded(name: str) -> str:
            return self.node("Round", [name, self.constant(0)])

        def flag(name: str) -> str:
            return self.node("Minimum", [self.node("Maximum", [name, self.number(0)]), self.number(1)])

        d, how = self.names[x.name], node.grouping
        d = d if how is None else self._rearranged(d, how)
        if node.centred:
            d = self.node("Sub", [self.node("Mul", [d, self.number(node.count)]), total(d)])
        e = rounded(self.node("Mul", [d, self.number(node.step)]))
        n = self.node("Add", [total(self.node("Mul", [e, e])), self.number(node.extra)])
        if node.centred:
            t = total(e)
            behind = rounded(self.node("Mul", [self.node("Mul", [t, t]), self.number(node.share)]))
            n = self.node("Sub", [n, behind])
        r = rounded(self.node("Sqrt", [n]))
        square = self.node("Mul", [r, r])
        above = flag(self.node("Sub", [self.node("Sub", [n, square]), r]))
        behind = self.node("Sub", [self.node("Sub", [square, r]), n])
        below = flag(self.node("Add", [behind, self.number(1)]))
        r = self.node("Sub", [self.node("Add", [r, above]), below])
        u = rounded(self.node("Mul", [d, self.node("Div", [self.number(node.unit), r])]))
        u = u if how is None else self._rearranged(u, how.back)
        columns = (1, -1, *(1,) * (len(x.shape) - 1))
        gain, shift = (
            self.parameter(f"{node.name}.{name}", each.reshape(columns).astype(np.float32))
            for name, each in (("gain", node.gain), ("shift", node.shift))
        )
        acc = self.node("Add", [self.node("Mul", [u, gain]), shift])
        self._requantize(node, acc, node.requantize, len(node.output.shape))


def _split(node: IntegerLinear) -> tuple[int, int]:
    """How many bits a part of the weights has, and how many parts there are, so that float32 holds every sum of each."""
    grid = node.inputs[0].grid
    low, high = min(grid.low, 0), max(grid.high, 0)

    def exact(w: Array) -> bool:
        w = w.reshape(len(w), -1).astype(np.int64)
        sums = [np.maximum(sign * w * high, sign * w * low).sum(axis=1).max() for sign in (1, -1)]
        return int(max(sums)) <= EXACT_INTEGERS

    for bits in (6, 4, 3, 2, 1):
        rest, parts = node.centred_weight, 1
        while not exact(rest) and exact(rest & (2**bits - 1)) and parts < 10:
            rest, parts = rest >> bits, parts + 1
        if exact(rest):
            return bits, parts
    raise QatError(f"{node.name}: has too many inputs for MINDIR to add them exactly; use fewer channels")

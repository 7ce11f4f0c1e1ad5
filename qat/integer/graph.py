"""The integer graph: what is deployed, and its evaluation over any backend's tensors.

Every number in it was derived once, in NumPy, from the trained parameters. All targets export it, and evaluating it on
a backend runs only convolution, addition, multiplication, rint and clip, which are equal everywhere (docs/numerics.md).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from qat.errors import QatError
from qat.integer.fixed_point import (
    ADD_SHIFT,
    ARITHMETICS,
    LONG_ADD_SHIFT,
    FixedMultiplier,
    FixedSum,
    LongMultiplier,
    linear_multiplier,
    sum_multipliers,
)
from qat.vocabulary.arrays import Arrays, as_arrays, in_batches
from qat.vocabulary.numpy_ops import NUMPY_OPS, WIDE_NUMPY_OPS
from qat.vocabulary.ops import EXACT_INTEGERS, Array, Kind, Ops, Padding, Pair, Tensor

Shape = tuple[int, ...]
INT32_MAX = 2**31 - 1
INT32 = "the int32 of every runtime"
EXACT_LONG = 2**53  #: float64 holds every integer up to here
SMALLEST_MULTIPLIER = 2.0**-32  #: that XNNPACK takes
TIE_MARGIN = 2.0**-12  #: of a code: runtimes round a s + b s differently by less


def smallest_type(low: int, high: int, *, signed: bool) -> type[np.integer[Any]]:
    """The smallest NumPy integer type, of at most 32 bits, that holds low to high."""
    types = (np.int8, np.int16, np.int32) if signed else (np.uint8, np.uint16, np.uint32)
    for dtype in types:
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return dtype
    raise QatError(f"codes from {low} to {high} fit no type of 32 bits; use fewer bits")


class Grid(NamedTuple):
    """Codes and the real numbers they stand for: scale * (code - zero_point), qmin <= code <= qmax."""

    scale: np.float32
    zero_point: int
    qmin: int
    qmax: int

    @property
    def low(self) -> int:
        """The lowest centred code."""
        return self.qmin - self.zero_point

    @property
    def high(self) -> int:
        """The highest centred code."""
        return self.qmax - self.zero_point

    def dequantize(self, codes: Array) -> Array:
        """Real numbers, float32."""
        real: Array = (codes.astype(np.float32) - np.float32(self.zero_point)) * self.scale
        return real

    def codes_of(self, real: Array) -> Array:
        """The inverse of ``dequantize``, without loss: int32."""
        codes: Array = np.rint(real.astype(np.float64) / self.scale).astype(np.int32) + self.zero_point
        return codes

    @property
    def dtype(self) -> type[np.integer[Any]]:
        """The smallest NumPy type that holds the codes."""
        return smallest_type(self.qmin, self.qmax, signed=self.qmin < 0)

    @property
    def wide(self) -> bool:
        """True where the codes need more than 8 bits."""
        return np.dtype(self.dtype).itemsize > 1


class IntegerTensor(NamedTuple):
    """One tensor of codes: the name of the node that makes it, its shape (of one sample) and its grid."""

    name: str
    shape: Shape
    grid: Grid


class Requantize(NamedTuple):
    """y = clip(rint(f32(acc) * multiplier), low, high): centred codes from accumulators."""

    multiplier: Array  #: float32, (O,)
    low: int
    high: int


@dataclass(frozen=True, eq=False)
class IntegerNode(ABC):
    """One operation on codes. Tensors of centred codes go in and out."""

    name: str
    inputs: tuple[IntegerTensor, ...]
    output: IntegerTensor

    def constants(self) -> dict[str, tuple[Array, Kind]]:
        """What ``evaluate`` needs, as canonical arrays."""
        return {}

    @abstractmethod
    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        """Centred codes of the output. ``constants`` hold what ``constants`` declares, as the backend's tensors."""

    def evaluate_fixed(self, constants: Mapping[str, Tensor], *inputs: Array) -> Array:
        """As ``evaluate`` with NumPy, in the fixed arithmetic; float32 arrays. It differs only where codes are requantized."""
        codes: Array = self.evaluate(NUMPY_OPS, constants, *inputs)
        return codes

    @property
    def fixed(self) -> FixedMultiplier | LongMultiplier | FixedSum | None:
        """What requantizes in the fixed arithmetic; None: nothing does. Raises QatError where it cannot."""
        return None


@dataclass(frozen=True, eq=False)
class IntegerInput(IntegerNode):
    """Where codes enter."""

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return inputs[0] - float(self.output.grid.zero_point)


@dataclass(frozen=True, eq=False)
class IntegerLinear(IntegerNode):
    """acc = W (x_q - z_x) + b_q, then requantized.

    weight: codes, O first, in the smallest type that holds them, signed or (affine) unsigned. bias: codes, int32, (O,).
    weight_scale: float32, (O,).
    weight_zero_point: int32, (O,).
    """

    weight: Array
    bias: Array
    weight_scale: Array
    weight_zero_point: Array
    requantize: Requantize

    weight_kind: ClassVar[Kind] = "conv_weight"

    @property
    def centred_weight(self) -> Array:
        """weight - weight_zero_point, int32."""
        centred: Array = self.weight.astype(np.int32) - self.weight_zero_point.reshape(
            (-1,) + (1,) * (self.weight.ndim - 1)
        )
        return centred

    @cached_property
    def accumulator_bound(self) -> int:
        """No accumulator, nor any partial sum in any order, is larger in magnitude.

        For each output the larger of the sums of the positive and of the negative products, plus |b_q|, where a centred
        input code lies within the grid (or is 0, in the padding).
        """
        w = self.centred_weight.reshape(len(self.weight), -1).astype(np.int64)
        grid = self.inputs[0].grid
        low, high = min(grid.low, 0), max(grid.high, 0)
        positive = np.maximum(w * high, w * low).sum(axis=1)
        negative = np.maximum(-w * high, -w * low).sum(axis=1)
        return int((np.maximum(positive, negative) + np.abs(self.bias.astype(np.int64))).max())

    @property
    def wide(self) -> bool:
        """True where float32 does not hold every accumulator, so that a wider type has to accumulate."""
        return self.accumulator_bound > EXACT_INTEGERS

    @property
    def wide_codes(self) -> bool:
        """True where the codes of weight or input need more than 8 bits."""
        return self.weight.dtype.itemsize > 1 or self.inputs[0].grid.wide

    def constants(self) -> dict[str, tuple[Array, Kind]]:
        return {
            "weight": (self.centred_weight, self.weight_kind),
            "bias": (self.bias, "vector"),
            "multiplier": (self.requantize.multiplier, "vector"),
        }

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        acc = self.apply(ops, inputs[0], constants["weight"], constants["bias"])
        multiplier = ops.on_channel(constants["multiplier"], acc)
        return ops.requantize(acc, multiplier, float(self.requantize.low), float(self.requantize.high))

    @cached_property
    def moderate_weight_scale(self) -> Array:
        """weight_scale, float32, (O,), changed where its multiplier is needlessly large or small; no code changes.

        1. With bounds [low, high] and h = max(|low|, |high|), a multiplier of h + 1/2 or more takes every accumulator
           but 0 to a bound; h + 3/4 does the same.
        2. With accumulators below 2^30, a multiplier below 2^-32 takes all of them to 0; 2^-32 does the same.

        Dead outputs and dead inputs have such multipliers, since their scale is the smallest there is. Some runtimes
        refuse them, and fixed-point arithmetic could not hold the former.
        """
        one = np.float64(self.output.grid.scale) / np.float64(self.inputs[0].grid.scale)  # has the multiplier 1
        enough = max(abs(self.requantize.low), abs(self.requantize.high)) + 0.75
        scale = np.where(self.requantize.multiplier > enough, np.float32(enough * one), self.weight_scale)
        if self.accumulator_bound < 2**30:
            small = np.float32(SMALLEST_MULTIPLIER * (1.0 + 2.0**-20) * one)
            scale = np.where(self.requantize.multiplier < SMALLEST_MULTIPLIER, small, scale)
        moderate: Array = scale
        return moderate

    @cached_property
    def fixed(self) -> FixedMultiplier | LongMultiplier:
        """The multiplier and shift of each output in the fixed arithmetic, (O,); the long form where a code is wide."""
        x_scale, y_scale = self.inputs[0].grid.scale, self.output.grid.scale
        scale, bound = self.moderate_weight_scale, self.accumulator_bound
        long = self.wide_codes or self.output.grid.wide
        return linear_multiplier(self.name, x_scale, scale, y_scale, bound, long=long)

    def evaluate_fixed(self, constants: Mapping[str, Tensor], *inputs: Array) -> Array:
        ops = WIDE_NUMPY_OPS if self.wide else NUMPY_OPS
        acc = self.apply(ops, inputs[0], constants["weight"], constants["bias"])
        y = self.fixed.on_channels(acc.ndim).apply(acc)
        return np.clip(y, self.requantize.low, self.requantize.high).astype(np.float32)

    @abstractmethod
    def apply(self, ops: Ops, x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        """The accumulators."""


@dataclass(frozen=True, eq=False)
class IntegerConv2d(IntegerLinear):
    """A convolution; weight (O, I / group, kh, kw)."""

    stride: Pair = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    group: int = 1

    def apply(self, ops: Ops, x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        return ops.conv2d(
            x,
            w,
            bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            group=self.group,
            wide=self.wide,
        )


@dataclass(frozen=True, eq=False)
class IntegerDense(IntegerLinear):
    """A dense layer; weight (O, I), I in canonical (CHW) order."""

    weight_kind: ClassVar[Kind] = "dense_weight"

    def apply(self, ops: Ops, x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        return ops.dense(x, w, bias, wide=self.wide)


@dataclass(frozen=True, eq=False)
class IntegerMaxPool2d(IntegerNode):
    """The largest code of each window."""

    kernel: Pair
    stride: Pair
    padding: Padding

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return ops.max_pool2d(inputs[0], kernel=self.kernel, stride=self.stride, padding=self.padding)


@dataclass(frozen=True, eq=False)
class IntegerFlatten(IntegerNode):
    """(C, H, W) to (C H W), in that order."""

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return ops.flatten(inputs[0])


@dataclass(frozen=True, eq=False)
class IntegerAdd(IntegerNode):
    """y = clip(rint(f32(a + b) m)): the sum of two tensors of one grid, m = s / s_y."""

    requantize: Requantize

    def constants(self) -> dict[str, tuple[Array, Kind]]:
        return {"multiplier": (self.requantize.multiplier, "scalar")}

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        low, high = float(self.requantize.low), float(self.requantize.high)
        return ops.requantize(inputs[0] + inputs[1], constants["multiplier"], low, high)

    @cached_property
    def fixed(self) -> FixedSum:
        """The multipliers of the fixed arithmetic."""
        a, y = self.inputs[0].grid, self.output.grid
        return sum_multipliers(self.name, a.scale, y.scale, long=a.wide or y.wide)

    def evaluate_fixed(self, constants: Mapping[str, Tensor], *inputs: Array) -> Array:
        y = self.fixed.apply(*inputs)
        return np.clip(y, self.requantize.low, self.requantize.high).astype(np.float32)


@dataclass(frozen=True, eq=False)
class IntegerConcat(IntegerNode):
    """Tensors of one grid, one after another along the channels."""

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return ops.concat(inputs)


@dataclass(frozen=True, eq=False)
class IntegerTable(IntegerNode):
    """y = table[x_q - qmin]: any function of one number. table: centred codes, int32, one for each code of the input."""

    table: Array

    def constants(self) -> dict[str, tuple[Array, Kind]]:
        return {"table": (self.table, "vector")}

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return ops.take(constants["table"], inputs[0] - float(self.inputs[0].grid.low))


@dataclass(frozen=True, eq=False)
class IntegerSoftmax(IntegerNode):
    """y = min(rint(e_c * f32(256 / sum_k e_k)), 255), e_c = table[max_k x_k - x_c], over the channels.

    table: rint(2^t exp(-d s_x)) for d = 0, 1, ..., float32, (number of input codes,); its sums stay exact. The scale of y
    is 1/256 and its zero point 0, as TFLite's softmax has them (with -128 for int8).
    """

    table: Array

    def constants(self) -> dict[str, tuple[Array, Kind]]:
        return {"table": (self.table, "vector")}

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        (x,) = inputs
        e = ops.take(constants["table"], ops.max_over_channels(x) - x)
        share = 256.0 / ops.sum_over_channels(e)
        return ops.minimum(ops.rint(e * share), 255.0)


class Pending(ABC):
    """The output of a cell that has no codes yet: the fake quantizer that follows gives it a grid."""

    name: str

    @abstractmethod
    def requantized(self, grid: Grid) -> IntegerNode:
        """The finished node, with codes of the given grid."""

    @abstractmethod
    def clipped(self) -> IntegerNode:
        """The finished node with the codes -1, 0 and 1, by the sign of what is pending, whatever its size."""


@dataclass(frozen=True)
class Accumulator(Pending):
    """A linear node without requantization."""

    finish: Callable[[Requantize, IntegerTensor], IntegerLinear]
    name: str
    shape: Shape
    scale: Array  #: of the accumulator, f32(s_x * s_w), float32, (O,)
    relu: float | None  #: the upper bound of the ReLU that is still to be applied, as in ``Value``

    def requantized(self, grid: Grid) -> IntegerLinear:
        multiplier = (self.scale / grid.scale).astype(np.float32)
        normal = np.isfinite(multiplier) & (multiplier >= np.finfo(np.float32).tiny)
        if not normal.all():
            channel = int(np.argmin(normal))
            raise QatError(
                f"{self.name}: output channel {channel} has scale {self.scale[channel]:g} where its codes have {grid.scale:g}: "
                "their quotient is no normal float32, and runtimes would disagree; its weights or biases are far too large "
                "or too small"
            )
        return self.finish(
            Requantize(multiplier, *clip_bounds(grid, self.relu)), IntegerTensor(self.name, self.shape, grid)
        )

    def clipped(self) -> IntegerLinear:
        """clip(acc, -1, 1): the multiplier is 1, since of an accumulator that is compared with 0 the scale does not matter."""
        one = np.ones(len(self.scale), np.float32)
        grid = Grid(np.float32(1.0), zero_point=0, qmin=-1, qmax=1)
        node = self.finish(Requantize(one, *clip_bounds(grid, self.relu)), IntegerTensor(self.name, self.shape, grid))
        grid = grid._replace(scale=node.inputs[0].grid.scale)
        return replace(node, output=node.output._replace(grid=grid), weight_scale=one)


@dataclass(frozen=True)
class Sum(Pending):
    """The sum of two tensors of one grid."""

    name: str
    inputs: tuple[IntegerTensor, IntegerTensor]
    relu: float | None

    def ties(self, grid: Grid) -> bool:
        """As ``sums_tie``, where the sum has that grid."""
        return sums_tie(self.inputs[0].grid, grid)

    def requantized(self, grid: Grid) -> IntegerAdd:
        a, b = self.inputs
        if a.grid != b.grid:
            raise QatError(f"{self.name}: {a.name} and {b.name} have different grids; convert the network anew")
        multiplier = np.full(1, a.grid.scale / grid.scale, np.float32)
        output = IntegerTensor(self.name, a.shape, grid)
        return IntegerAdd(self.name, self.inputs, output, Requantize(multiplier, *clip_bounds(grid, self.relu)))

    def clipped(self) -> IntegerAdd:
        return self.requantized(Grid(self.inputs[0].grid.scale, zero_point=0, qmin=-1, qmax=1))


@dataclass(frozen=True)
class Function(Pending):
    """A function of one number, given in float64, of a tensor of codes."""

    name: str
    input: IntegerTensor
    function: Callable[[Array], Array]

    def requantized(self, grid: Grid) -> IntegerTable:
        source = self.input.grid
        real = np.arange(source.low, source.high + 1) * float(source.scale)
        table = np.clip(np.rint(self.function(real) / float(grid.scale)), grid.low, grid.high)
        output = IntegerTensor(self.name, self.input.shape, grid)
        return IntegerTable(self.name, (self.input,), output, table.astype(np.int32))

    def clipped(self) -> IntegerTable:
        signs = replace(self, function=lambda real: np.sign(self.function(real)))
        return signs.requantized(Grid(np.float32(1.0), zero_point=0, qmin=-1, qmax=1))


def by_sign(builder: IntegerBuilder, name: str, x: IntegerTensor | Pending, scale: np.float32) -> Function:
    """-scale where x is negative, else scale: a table over the codes -1, 0 and 1.

    No clip of rounded numbers alone can do that, since 0 would have to become a code that nothing is rounded to.
    """
    if isinstance(x, Function):  # of codes, a table already
        return replace(x, function=lambda real: np.where(x.function(real) < 0.0, -scale, scale))
    codes = builder.add(x.clipped()) if isinstance(x, Pending) else x
    return Function(name, codes, lambda real: np.where(real < 0.0, -scale, scale))


def sums_tie(source: Grid, grid: Grid) -> bool:
    """True where the sum of some two codes of ``source`` lands on, or very near, half a code of ``grid``.

    A runtime may compute a s + b s before it divides, and would round such a sum either way (docs/numerics.md).
    """
    codes = np.arange(2 * source.low, 2 * source.high + 1) * (float(source.scale) / float(grid.scale))
    codes = codes[(codes > grid.low - 1) & (codes < grid.high + 1)]
    return bool((np.abs(codes - np.floor(codes) - 0.5) < TIE_MARGIN).any())


def require_codes(name: str, x: IntegerTensor | Pending) -> IntegerTensor:
    """``x`` if it is codes. Raises QatError, as node ``name``, where no fake quantizer came before."""
    if not isinstance(x, IntegerTensor):
        raise QatError(
            f"{name}: its input {x.name} has no fake quantizer, so that it has no codes; keep after_fake=True on {x.name}"
        )
    return x


def clip_bounds(grid: Grid, relu: float | None) -> tuple[int, int]:
    """The lowest and highest centred code after a ReLU of that upper bound (None: no ReLU)."""
    if relu is None:
        return grid.low, grid.high
    high = grid.high if math.isinf(relu) else min(grid.high, int(np.rint(np.float32(relu) / grid.scale)))
    return max(grid.low, 0), high


@dataclass
class Adjustments:
    """What sums ask of the scales of fake quantizers, by one name for all that share a grid."""

    nudges: Counter[str] = field(default_factory=Counter)  #: how often a scale is raised by 2^-16 of itself
    floors: dict[str, np.float32] = field(default_factory=dict)  #: the smallest scale


class IntegerBuilder:
    """Collects the nodes of an integer graph in order.

    params: of the whole network, by full name. adjustments: of scales. A sum that finds its output's scale unsuitable
    adds to ``wanted``: then the graph must be built anew with these, since others may share that scale.
    """

    def __init__(self, params: Mapping[str, Array], adjustments: Adjustments) -> None:
        self.params, self.adjustments = params, adjustments
        self.nodes: list[IntegerNode] = []
        self.wanted = Adjustments()

    def quantize(self, x: Pending, grid: Grid, group: str, *, keep_scale: bool = False) -> IntegerTensor:
        """Append the finished form of ``x``; ``group``: one name for all fake quantizers that share the grid.

        keep_scale: the scale is a power of two and has to stay one, so that ties remain; where every scale is one, sums
        are exact in float32 and rint is the only rounding.
        """
        scale = np.float32(grid.scale * np.float32(1.0 + 2.0**-16 * self.adjustments.nudges[group]))
        grid = grid._replace(scale=max(scale, self.adjustments.floors.get(group, scale)))
        if isinstance(x, Sum):
            # ONNX Runtime converts a sum to int32 before it clips, and TFLite shifts one by 20 bits, or 15: a dead
            # output's scale must not make them overflow.
            wide = grid.wide or x.inputs[0].grid.wide
            smallest = np.float32(
                x.inputs[0].grid.scale * np.float32(2.0 ** (2 - (LONG_ADD_SHIFT if wide else ADD_SHIFT)))
            )
            if grid.scale < smallest:
                self.wanted.floors[group] = smallest
            elif not keep_scale and not wide and x.ties(grid):  # among so many sums some always are next to a tie
                self.wanted.nudges[group] += 1
        return self.add(x.requantized(grid))

    def add(self, node: IntegerNode) -> IntegerTensor:
        """Append a node; returns the tensor that it makes. Raises QatError where its accumulators may overflow."""
        if isinstance(node, IntegerLinear):
            limit, holder = (EXACT_LONG, "what float64 adds exactly") if node.wide_codes else (INT32_MAX, INT32)
            if node.accumulator_bound > limit:
                raise QatError(
                    f"{node.name}: its accumulator may reach {node.accumulator_bound}, beyond {holder}; use fewer bits or "
                    "fewer inputs"
                )
        self.nodes.append(node)
        return node.output


@dataclass(frozen=True, eq=False)
class IntegerGraph:
    """Nodes in order of evaluation; only such as an output needs, and the inputs. inputs, outputs: what enters and leaves."""

    nodes: tuple[IntegerNode, ...]
    inputs: tuple[IntegerTensor, ...]
    outputs: tuple[IntegerTensor, ...]
    name: str = "network"

    @property
    def input(self) -> IntegerTensor:
        """What enters a network with one input."""
        return self._only(self.inputs, "inputs")

    @property
    def output(self) -> IntegerTensor:
        """What leaves a network with one output."""
        return self._only(self.outputs, "outputs")

    def _only(self, tensors: tuple[IntegerTensor, ...], what: str) -> IntegerTensor:
        if len(tensors) != 1:
            raise QatError(f"{self.name} has {len(tensors)} {what}, not one: use its {what}")
        return tensors[0]


class Evaluator:
    """An integer graph made ready for one vocabulary: its constants are converted once."""

    def __init__(self, graph: IntegerGraph, ops: Ops) -> None:
        self.graph, self.ops = graph, ops
        self._constants = [
            {key: ops.from_numpy(array, kind) for key, (array, kind) in node.constants().items()}
            for node in graph.nodes
        ]

    def __call__(self, *codes: Tensor) -> dict[str, Tensor]:
        """Centred codes of every node by name, from raw codes of each input (float32, the backend's layout)."""
        values = {x.name: pixels for x, pixels in zip(self.graph.inputs, codes, strict=True)}
        for node, constants in zip(self.graph.nodes, self._constants, strict=True):
            inputs = [values[x.name] for x in node.inputs] or [values[node.name]]
            values[node.name] = self.compute(node, constants, inputs)
        return values

    def compute(self, node: IntegerNode, constants: Mapping[str, Tensor], inputs: list[Tensor]) -> Tensor:
        """The centred codes of one node."""
        return node.evaluate(self.ops, constants, *inputs)


class FixedEvaluator(Evaluator):
    """The same in the fixed arithmetic, in NumPy. Raises QatError for a graph that the arithmetic cannot compute."""

    def __init__(self, graph: IntegerGraph) -> None:
        super().__init__(graph, NUMPY_OPS)
        for node in graph.nodes:
            _ = node.fixed  # or its QatError

    def compute(self, node: IntegerNode, constants: Mapping[str, Tensor], inputs: list[Tensor]) -> Tensor:
        return node.evaluate_fixed(constants, *inputs)


def require_integers(graph: object) -> None:
    """Raise QatError unless this is an integer graph, as ``to_integer`` makes them."""
    if not isinstance(graph, IntegerGraph):
        raise QatError(
            f"{getattr(graph, 'name', type(graph).__name__)}: is a {type(graph).__name__}, not the integers of one; give "
            "qat.to_integer(network, params)"
        )


def evaluate(graph: IntegerGraph, codes: Arrays, *, batch_size: int = 128, arithmetic: str = "float") -> Arrays:
    """Output codes (N, ...) of input codes (N, ...), computed by NumPy integers.

    arithmetic: "float" or "fixed" (docs/numerics.md); the training backends evaluate the former.

    A graph with several inputs takes a tuple of arrays, one with several outputs returns a tuple.

    The sums are of integers held in float32 (float64 where a node is ``wide``), and no partial sum passes the type's
    range of exact integers, so that they are the sums of an integer accumulator in whatever order BLAS adds.
    """
    require_integers(graph)
    found = trace_codes(graph, codes, [x.name for x in graph.outputs], batch_size=batch_size, arithmetic=arithmetic)
    return as_arrays(tuple(found[x.name] for x in graph.outputs))


def trace_codes(
    graph: IntegerGraph, codes: Arrays, names: Collection[str], *, batch_size: int = 128, arithmetic: str = "float"
) -> dict[str, Array]:
    """As ``evaluate``, for the codes of the named nodes."""
    if arithmetic not in ARITHMETICS:
        raise QatError(f"{graph.name}: arithmetic {arithmetic!r} is unknown; use one of {', '.join(ARITHMETICS)}")
    run = FixedEvaluator(graph) if arithmetic == "fixed" else Evaluator(graph, NUMPY_OPS)
    grids = {node.name: node.output.grid for node in graph.nodes if node.name in names}

    def raw(batch: tuple[Array, ...]) -> dict[str, Array]:
        values = run(*(x.astype(np.float32) for x in batch))
        return {name: (values[name] + grid.zero_point).astype(grid.dtype) for name, grid in grids.items()}

    return in_batches(raw, codes, [x.shape for x in graph.inputs], batch_size, graph.name)

"""Bilinear upsampling by whole factors, as convolutions with weights that are whole numbers over one denominator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qat.cells.base import Cell, Scope, Shape, check_counts, image_sizes, pair
from qat.cells.phases import phase_node, phase_stages
from qat.errors import QatError
from qat.integer import (
    Accumulator,
    IntegerBuilder,
    IntegerConv2d,
    IntegerLinear,
    IntegerNode,
    IntegerPick,
    IntegerRearrange,
    IntegerTensor,
    Pending,
    Requantize,
    Staged,
    require_codes,
)
from qat.vocabulary.ops import EXACT_INTEGERS, Array, Ops, Pair, Tensor
from qat.vocabulary.rearrangement import Rearrangement, Step
from qat.vocabulary.transposed import Transposed, transposed
from qat.vocabulary.values import Value

LARGEST_CODE = 127  #: of a weight, which int8 holds
POINT: dict[str, Any] = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "group": 1}


class _Stage(ABC):
    """A linear function of pictures: whole numbers over one denominator.

    Attributes:
        share: 1 / the denominator.
    """

    share: float

    @abstractmethod
    def apply(self, ops: Ops, x: Tensor) -> Tensor:
        """The sums, not divided yet."""

    @abstractmethod
    def pending(self, builder: IntegerBuilder, name: str, x: IntegerTensor) -> Pending:
        """Its integer form."""


def _linear(
    name: str, x: IntegerTensor, shape: Shape, weight: Array, share: float, finish: Any, stages: Any
) -> Pending:
    """An accumulator of such weight codes, and the nodes that it becomes."""
    outputs = len(weight)
    scale = np.full(outputs, share, np.float32)

    def node(requantize: Requantize, output: IntegerTensor) -> IntegerLinear:
        fields = {
            "name": name,
            "inputs": (x,),
            "output": output,
            "weight": weight.astype(np.int8),
            "bias": np.zeros(outputs, np.int32),
            "weight_scale": scale,
            "weight_zero_point": np.zeros(outputs, np.int32),
            "requantize": requantize,
        }
        found: IntegerLinear = finish(fields)
        return found

    return Staged(Accumulator(node, name, shape, x.grid.scale * scale, None), stages)


class _Between(_Stage):
    """align_corners=False: a depthwise transposed convolution over the picture with its edges repeated."""

    def __init__(self, shape: Shape, factors: Pair) -> None:
        channels, height, width = shape
        self.edged = {  # by axis, its places with those at the edges twice
            axis: (0, *range(shape[axis]), shape[axis] - 1)
            for axis, factor in enumerate(factors, start=1)
            if factor > 1
        }
        kernels = [_kernel(factor) for factor in factors]
        sides = [size + 2 * (factor > 1) for size, factor in zip((height, width), factors, strict=True)]
        cuts = [f + f // 2 if f > 1 else 0 for f in factors]
        lengths = (len(kernels[0]), len(kernels[1]))
        self.how: Transposed = transposed(
            (sides[0], sides[1]), lengths, factors, (cuts[0], cuts[0], cuts[1], cuts[1]), (0, 0), (1, 1)
        )
        self.weight = np.tile(np.outer(*kernels), (channels, 1, 1, 1))
        self.share = 1.0 / float(np.prod([_denominator(factor) for factor in factors]))
        self.shape = (channels, *self.how.size)
        self.channels = channels

    def apply(self, ops: Ops, x: Tensor) -> Tensor:
        for axis, (first, *_, last) in self.edged.items():
            x = ops.concat([ops.pick(x, axis, (first,)), x, ops.pick(x, axis, (last,))], axis)
        w = ops.from_numpy(self.weight, "conv_weight")
        return ops.conv_transpose2d(x, w, None, how=self.how, outputs=self.channels, group=self.channels)

    def pending(self, builder: IntegerBuilder, name: str, x: IntegerTensor) -> Pending:
        edged = builder.add(IntegerPick.of(f"{name}@edges", x, self.edged))
        return _linear(
            name,
            edged,
            self.shape,
            self.weight,
            self.share,
            lambda fields: phase_node(fields, self.how, self.channels),
            lambda node: phase_stages(self.how, node),
        )


class _Corners(_Stage):
    """align_corners=True, along one axis: a matrix over its places, which stand for channels in the meantime."""

    def __init__(self, shape: Shape, axis: int, factor: int) -> None:
        size = shape[axis]
        made = size * factor
        steps = made - 1 if size > 1 else 1
        if steps > LARGEST_CODE:
            raise QatError(
                f"makes {made} places of {size} with align_corners, but {LARGEST_CODE + 1} are the most; use "
                "align_corners=False"
            )
        self.weight = np.zeros((made, size, 1, 1), np.int64)
        for place in range(made):
            at, beyond = divmod(place * (size - 1), steps)
            self.weight[place, at] += steps - beyond
            if beyond:
                self.weight[place, at + 1] += beyond
        self.share = 1.0 / steps
        order = (1, 0, 2) if axis == 1 else (2, 1, 0)  # exchanging two axes is its own inverse
        self.shape = (*shape[:axis], made, *shape[axis + 1 :])
        self.turn = _turned(shape, order)
        self.back = _turned((made, *self.turn.shape[1:]), order)

    def apply(self, ops: Ops, x: Tensor) -> Tensor:
        y = ops.conv2d(ops.rearrange(x, self.turn), ops.from_numpy(self.weight, "conv_weight"), None, **POINT)
        return ops.rearrange(y, self.back)

    def pending(self, builder: IntegerBuilder, name: str, x: IntegerTensor) -> Pending:
        turned = IntegerTensor(f"{name}@turned", self.turn.shape, x.grid)
        turned = builder.add(IntegerRearrange(turned.name, (x,), turned, self.turn))

        def stages(node: IntegerNode) -> tuple[IntegerNode, ...]:
            inner = IntegerTensor(f"{name}@places", self.back.source, node.output.grid)
            return (
                replace(node, name=inner.name, output=inner),
                IntegerRearrange(name, (inner,), node.output, self.back),
            )

        return _linear(
            name, turned, self.shape, self.weight, self.share, lambda fields: IntegerConv2d(**fields), stages
        )


def _turned(shape: Shape, order: Shape) -> Rearrangement:
    step = Step(shape, order)
    return Rearrangement(shape, step, step.turned)


def _kernel(factor: int) -> Array:
    """The numerators: of an even factor s 1, 3, ..., 3, 1, over 2 s; of an odd one 1, 2, ..., s, ..., 2, 1, over s."""
    rising = np.arange(1, 2 * factor, 2) if factor % 2 == 0 else np.arange(1, factor + 1)
    return np.concatenate([rising, rising[::-1] if factor % 2 == 0 else rising[-2::-1]])


def _denominator(factor: int) -> int:
    return factor * (2 - factor % 2)


@dataclass(frozen=True)
class UpsampleBilinear(Cell):
    """Bilinear interpolation to a picture that is a whole factor larger: (C, H, W) to (C, H a, W b), as F.interpolate's.

    In integers a depthwise convolution makes each place of a block, with weights that are whole numbers over one denominator,
    exactly those of the interpolation (docs/numerics.md).

    Args:
        factor: how many times as large; one number, or (vertical, horizontal).
        align_corners: False, the default: pixels are areas, as in Keras; True: the corners' centres stay the corners'.

    Raises:
        QatError: for a factor below 1, or above 64, where the weights are more than int8 holds.

    Example:
        >>> import qat
        >>> qat.UpsampleBilinear(2).output_shape((3, 4, 4))
        (3, 8, 8)
    """

    factor: int | Pair
    align_corners: bool = False

    output_numbers = "averaged"
    output_channels = "kept"
    non_negative = False
    random = False

    def __post_init__(self) -> None:
        super().__post_init__()
        vertical, horizontal = pair(self.factor)
        check_counts("UpsampleBilinear", vertical=vertical, horizontal=horizontal)
        if max(vertical, horizontal) > LARGEST_CODE // 2 + 1:
            raise QatError(f"UpsampleBilinear: factor is {self.factor}; use at most {LARGEST_CODE // 2 + 1}")

    def output_shape(self, *shapes: Shape) -> Shape:
        channels, height, width = image_sizes(shapes[0])
        vertical, horizontal = pair(self.factor)
        if self.align_corners:
            self._stages(shapes[0])  # raises where there are too many places
        return (channels, height * vertical, width * horizontal)

    def _stages(self, shape: Shape) -> list[_Stage]:
        """One, or where its weights would be too large, one for each axis; none where nothing grows."""
        vertical, horizontal = factors = pair(self.factor)
        channels, height, width = shape
        if max(factors) == 1:
            return []
        if self.align_corners:
            both = [(shape, 1, vertical), ((channels, height * vertical, width), 2, horizontal)]
            return [_Corners(*each) for each in both if each[2] > 1]
        if _kernel(vertical).max() * _kernel(horizontal).max() <= LARGEST_CODE:
            return [_Between(shape, factors)]
        return [_Between(shape, (vertical, 1)), _Between((channels, height * vertical, width), (1, horizontal))]

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        ops, x = scope.ops, inputs[0].settled(scope.ops)
        stages = self._stages(scope.input_shapes[0])
        for index, stage in enumerate(stages, start=1):
            total, scale = stage.apply(ops, x.data), x.scale
            if scale is None:
                x = Value(total * stage.share)
            elif index == len(stages):
                x = Value(total, scale * stage.share)
            elif x.codes:  # codes of the input's own grid in between, as in integers
                between = Value(total, scale * stage.share, fixed=scope.context.arithmetic == "fixed")
                x = between.requantized(ops, scale, -float(EXACT_INTEGERS), float(EXACT_INTEGERS))
            else:
                x = x.with_data(total * stage.share)
        return x

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Any:
        x = require_codes(name, inputs[0])
        stages = self._stages(x.shape)
        for stage in stages[:-1]:
            first = stage.pending(builder, f"{name}@rows", x)
            x = builder.add_finished(first, first.requantized(x.grid))
        return stages[-1].pending(builder, name, x) if stages else x

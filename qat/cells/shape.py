"""Cells that move numbers without changing them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qat.cells.base import Cell, Scope, Shape
from qat.errors import QatError
from qat.integer import (
    IntegerBuilder,
    IntegerConcat,
    IntegerFlatten,
    IntegerPad,
    IntegerTensor,
    code_of,
    require_codes,
    require_one_grid,
    with_constant,
)
from qat.vocabulary.ops import Array, Ops, Tensor
from qat.vocabulary.values import Value

LARGEST_RANK = 3  #: axes of a sample


@dataclass(frozen=True)
class Flatten(Cell):
    """(C, H, W) to (C H W), in that order."""

    output_numbers = "moved"
    output_channels = "kept"
    non_negative = False
    random = False

    def output_shape(self, *shapes: Shape) -> Shape:
        return (math.prod(shapes[0]),)

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        x = inputs[0].settled(scope.ops)
        return x.with_data(scope.ops.flatten(x.data))

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        x = require_codes(name, inputs[0])
        return builder.add(IntegerFlatten(name, (x,), IntegerTensor(name, self.output_shape(x.shape), x.grid)))


@dataclass(frozen=True)
class ConstantChannel(Cell):
    """(C, H, W) to (C + 1, H, W), or (C, L) to (C + 1, L): a further channel that is one number, of codes the code next to it.

    convert_quant_network puts it after an input whose channels are normalised differently, where a convolution pads
    (``qat.cells.input_normalization``).

    Args:
        value: the number.

    Example:
        >>> import qat
        >>> qat.ConstantChannel(1.0).output_shape((3, 8, 8))
        (4, 8, 8)
    """

    value: float

    output_numbers = "moved"
    output_channels = "fixed"
    non_negative = False
    random = False

    @property
    def keeps_sign(self) -> bool:
        """Its number does not grow with its input."""
        return False

    def output_shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if len(x) not in (2, 3):
            raise QatError(f"takes (C, H, W) or (C, L) but gets {x}; leave it out")
        return (x[0] + 1, *x[1:])

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        ops, x = scope.ops, inputs[0].settled(scope.ops)
        if not x.codes:
            return Value(with_constant(ops, x.data, self.value))
        scale: Tensor = x.scale
        return x.with_data(with_constant(ops, x.data, ops.on_channel(ops.rint(self.value / scale), x.data)))

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        x = require_codes(name, inputs[0])
        widths = ((0, 1), *((0, 0),) * (len(x.shape) - 1))
        return builder.add(IntegerPad.of(name, x, widths, code_of(name, self.value, x)))


@dataclass(frozen=True)
class Concat(Cell):
    """Any number of inputs, one after another: (C1, H, W), (C2, H, W), ... to (C1 + C2 + ..., H, W).

    Their codes have one grid: convert_quant_network lets the fake quantizers before it share.

    Args:
        axis: along which they are joined, of one sample: 0, the default, the channels; 1 rows, 2 columns.

    Raises:
        QatError: for another axis.

    Example:
        >>> import qat
        >>> qat.Concat().output_shape((3, 8, 8), (4, 8, 8), (1, 8, 8))
        (8, 8, 8)
        >>> qat.Concat(axis=2).output_shape((3, 8, 8), (3, 8, 2))
        (3, 8, 10)
    """

    axis: int = 0

    arity = None
    output_numbers = "moved"
    non_negative = False
    random = False
    one_grid = True

    @property
    def output_channels(self) -> str:  # type: ignore[override]
        """By its axis."""
        return "joined" if self.axis == 0 else "kept"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_axis("Concat", self.axis)

    def output_shape(self, *shapes: Shape) -> Shape:
        first, *others = shapes
        axis = axis_of(self.axis, first)
        for other in others:
            if _without(first, axis) != _without(other, axis):
                along = "the channels" if axis == 0 else f"axis {axis}"
                raise QatError(
                    f"joins along {along}, but gets {first} and {other}, which differ otherwise; make them equal there"
                )
        return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        return joined(scope.ops, inputs, self.axis)

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        xs = require_one_grid(name, *inputs)
        if len(xs) == 1:
            return xs[0]
        output = IntegerTensor(name, self.output_shape(*(x.shape for x in xs)), xs[0].grid)
        return builder.add(IntegerConcat(name, xs, output, self.axis))


def joined(ops: Ops, inputs: Sequence[Value], axis: int) -> Value:
    """The inputs one after another, as codes where all of them are."""
    if not all(x.codes for x in inputs):
        return Value(ops.concat([x.real(ops) for x in inputs], axis))
    # In steps of the last. Their scales differ where a Dropout has let one grow, where a grid has moved since codes were made
    # on it, and between images of a float network; else the factor is 1.
    *others, last = inputs
    return last.with_data(ops.concat([*(x.in_steps_of(ops, last.scale) for x in others), last.data], axis))


def check_axis(owner: str, axis: int) -> None:
    """Raise QatError unless it is an axis that samples may have."""
    if not 0 <= axis < LARGEST_RANK:
        raise QatError(f"{owner}: axis is {axis!r}; use 0 for the channels, 1 for rows or 2 for columns")


def axis_of(axis: int, shape: Shape) -> int:
    """The axis. Raises QatError where a sample of that shape does not have it."""
    if axis >= len(shape):
        raise QatError(f"has axis {axis}, but takes {shape}, whose axes are 0 to {len(shape) - 1}; use one of these")
    return axis


def _without(shape: Shape, axis: int) -> Shape:
    return (*shape[:axis], *shape[axis + 1 :])


@dataclass(frozen=True)
class Dropout(Cell):
    """In training, each number is 0 with probability ``rate`` and the others grow by 1 / (1 - rate) (arXiv 1207.0580).

    Args:
        rate: 0 to below 1. Default: 0.5.

    Raises:
        QatError: for a rate out of range.
    """

    rate: float = 0.5

    output_numbers = "moved"
    output_channels = "kept"
    non_negative = False
    random = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.rate < 1.0:
            raise QatError(f"Dropout: rate is {self.rate!r}; use a number from 0 to below 1")

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        x = inputs[0].settled(scope.ops)
        if not scope.context.training:
            return x
        dropped, growth = scope.ops.drop(x.data, self.rate), 1.0 / (1.0 - self.rate)
        if x.scale is None:
            return Value(dropped * growth)
        return Value(dropped, x.scale * growth, codes=True)

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        return require_codes(name, inputs[0])

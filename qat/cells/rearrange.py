"""Cells that put the numbers of a sample into another order or shape."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qat.cells.base import Cell, Scope, Shape, check_counts, image_sizes, pair
from qat.cells.shape import LARGEST_RANK, check_axis, joined
from qat.errors import QatError
from qat.integer import (
    IntegerBuilder,
    IntegerConcat,
    IntegerPick,
    IntegerRearrange,
    IntegerTensor,
    require_codes,
    require_one_grid,
)
from qat.vocabulary.ops import Array, Pair
from qat.vocabulary.rearrangement import Rearrangement, Step, reshaping
from qat.vocabulary.values import Value

ORDERS = ("crd", "dcr")


class _Rearranging(Cell, abstract=True):
    """What they share: a rearrangement that follows from the shape of the input."""

    output_numbers = "moved"
    output_channels = "fixed"
    non_negative = False
    random = False

    @abstractmethod
    def rearrangement(self, shape: Shape) -> Rearrangement:
        """Of an input of that shape. Raises QatError where it does not fit."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.rearrangement(shapes[0]).shape

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        x = inputs[0].settled(scope.ops)
        return x.with_data(scope.ops.rearrange(x.data, self.rearrangement(scope.input_shapes[0])))

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        x = require_codes(name, inputs[0])
        found = self.rearrangement(x.shape)
        return builder.add(IntegerRearrange(name, (x,), IntegerTensor(name, found.shape, x.grid), found))


class _OfBlocks(_Rearranging, abstract=True):
    """What PixelShuffle and PixelUnshuffle share: square blocks of pixels, and the order of the channels they stand for."""

    factor: int
    order: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(type(self).__name__, factor=self.factor)
        if self.order not in ORDERS:
            raise QatError(f"{type(self).__name__}: order is {self.order!r}; use one of {', '.join(ORDERS)}")


@dataclass(frozen=True)
class PixelShuffle(_OfBlocks):
    """Channels to blocks of pixels (depth to space): (C r r, H, W) to (C, H r, W r).

    Args:
        factor: r, the side of a block.
        order: of the input's channels: "crd", the default, by channel of the output first and place in the block then, as
            PyTorch's; "dcr" the other way, as TensorFlow's.

    Raises:
        QatError: for a factor below 1, or another order.

    Example:
        >>> import qat
        >>> qat.PixelShuffle(2).output_shape((12, 4, 4))
        (3, 8, 8)
    """

    factor: int
    order: str = "crd"

    def rearrangement(self, shape: Shape) -> Rearrangement:
        channels, height, width = image_sizes(shape)
        r = self.factor
        if channels % (r * r):
            raise QatError(f"makes blocks of {r} x {r} pixels of {channels} channels; use a multiple of {r * r}")
        given = (channels // (r * r), height * r, width * r)
        if self.order == "crd":
            return Rearrangement(shape, Step((given[0], r, r, height, width), (0, 3, 1, 4, 2)), given)
        return Rearrangement(shape, Step((r, r, given[0], height, width), (2, 3, 0, 4, 1)), given)


@dataclass(frozen=True)
class PixelUnshuffle(_OfBlocks):
    """Blocks of pixels to channels (space to depth), the inverse of PixelShuffle: (C, H r, W r) to (C r r, H, W).

    Args:
        factor: r, the side of a block.
        order: of the output's channels, as in PixelShuffle.

    Raises:
        QatError: for a factor below 1, or another order.

    Example:
        >>> import qat
        >>> qat.PixelUnshuffle(2).output_shape((3, 8, 8))
        (12, 4, 4)
    """

    factor: int
    order: str = "crd"

    @property
    def output_channels(self) -> str:  # type: ignore[override]
        """In the order "crd" each channel has those of its own, one after another."""
        return "kept" if self.order == "crd" else "fixed"

    def rearrangement(self, shape: Shape) -> Rearrangement:
        channels, height, width = image_sizes(shape)
        r = self.factor
        if height % r or width % r:
            raise QatError(
                f"takes blocks of {r} x {r} pixels of {height} x {width}; use sides that are multiples of {r}"
            )
        parts = (channels, height // r, r, width // r, r)
        axes = (0, 2, 4, 1, 3) if self.order == "crd" else (2, 4, 0, 1, 3)
        return Rearrangement(shape, Step(parts, axes), (channels * r * r, height // r, width // r))


@dataclass(frozen=True)
class ChannelShuffle(_Rearranging):
    """The channels of equal groups in turn, as ShuffleNet mixes them (arXiv 1707.01083): of 2 groups 0, C/2, 1, C/2 + 1, ...

    Args:
        groups: how many.

    Raises:
        QatError: for less than one group.

    Example:
        >>> import qat
        >>> qat.ChannelShuffle(2).output_shape((4, 8, 8))
        (4, 8, 8)
    """

    groups: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts("ChannelShuffle", groups=self.groups)

    def rearrangement(self, shape: Shape) -> Rearrangement:
        if shape[0] % self.groups:
            raise QatError(
                f"shuffles {self.groups} groups of {shape[0]} channels; use a number of groups that divides them"
            )
        axes = (1, 0, *range(2, len(shape) + 1))
        return Rearrangement(shape, Step((self.groups, shape[0] // self.groups, *shape[1:]), axes), shape)


@dataclass(frozen=True)
class Reshape(_Rearranging):
    """The same numbers in the same order (channels, rows, columns) in another shape; in a construct ``x.reshape(-1, 4, 16)``.

    Args:
        shape: of one sample, one to three sizes; one of them may be -1, which is what is left.

    Raises:
        QatError: for a shape of other sizes.

    Example:
        >>> import qat
        >>> qat.Reshape((4, -1)).output_shape((4, 6, 6))
        (4, 36)
    """

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        free = self.shape.count(-1)
        if not 1 <= len(self.shape) <= LARGEST_RANK or free > 1 or any(size < 1 and size != -1 for size in self.shape):
            raise QatError(f"Reshape: shape is {self.shape}; give one to {LARGEST_RANK} sizes, one of which may be -1")

    def rearrangement(self, shape: Shape) -> Rearrangement:
        numbers, known = math.prod(shape), math.prod(size for size in self.shape if size != -1)
        if numbers % known or (-1 not in self.shape and numbers != known):
            raise QatError(
                f"makes {self.shape} of {shape}, which holds {numbers} numbers; use sizes whose product that is"
            )
        return reshaping(shape, tuple(numbers // known if size == -1 else size for size in self.shape))


@dataclass(frozen=True)
class Transpose(_Rearranging):
    """The axes of a sample in another order: (1, 0) makes (L, C) of (C, L); in a construct ``x.transpose(1, 2)``.

    Args:
        axes: of one sample, 0 being the channels: which one comes first, second and third.

    Raises:
        QatError: for numbers that are no order of axes.

    Example:
        >>> import qat
        >>> qat.Transpose((1, 2, 0)).output_shape((3, 4, 5))
        (4, 5, 3)
    """

    axes: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if sorted(self.axes) != list(range(len(self.axes))) or not self.axes:
            raise QatError(
                f"Transpose: axes are {self.axes}; give each axis of a sample once, from 0, the channels, on"
            )

    @property
    def output_channels(self) -> str:  # type: ignore[override]
        """Those of its input where they stay the first axis."""
        return "kept" if self.axes[0] == 0 else "fixed"

    def rearrangement(self, shape: Shape) -> Rearrangement:
        if len(shape) != len(self.axes):
            raise QatError(
                f"puts {len(self.axes)} axes into another order but gets {shape}; use an order of {len(shape)}"
            )
        step = Step(shape, self.axes)
        return Rearrangement(shape, step, step.turned)


@dataclass(frozen=True)
class Stack(Cell):
    """Any number of inputs of one shape along a new axis: n of (C, L) to (n, C, L), (C, n, L) or (C, L, n).

    Their codes have one grid, as those of a Concat.

    Args:
        axis: of one sample of the output: 0, the default, makes each input a channel.

    Raises:
        QatError: for another axis.

    Example:
        >>> import qat
        >>> qat.Stack().output_shape((8,), (8,), (8,)), qat.Stack(1).output_shape((8,), (8,))
        ((3, 8), (8, 2))
    """

    axis: int = 0

    arity = None
    output_numbers = "moved"
    non_negative = False
    random = False
    one_grid = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_axis("Stack", self.axis)

    @property
    def output_channels(self) -> str:  # type: ignore[override]
        """Those of each input where the new axis is behind them."""
        return "kept" if self.axis else "fixed"

    def output_shape(self, *shapes: Shape) -> Shape:
        return self._unjoined(shapes).shape

    def _unjoined(self, shapes: Sequence[Shape]) -> Rearrangement:
        """What becomes of the inputs once they are joined along the axis that follows the new one, or else the last axis."""
        first, count, axis = shapes[0], len(shapes), self.axis
        if any(shape != first for shape in shapes):
            other = next(shape for shape in shapes if shape != first)
            raise QatError(f"stacks equal shapes, but gets {first} and {other}; make them equal")
        if len(first) >= LARGEST_RANK or axis > len(first):
            raise QatError(
                f"makes axis {axis} of {count} inputs {first}, but samples have at most {LARGEST_RANK} axes, none missing; "
                "use a Concat, or another axis"
            )
        shape = (*first[:axis], count, *first[axis:])
        joined_along = min(axis, len(first) - 1)
        source = (*first[:joined_along], count * first[joined_along], *first[joined_along + 1 :])
        if axis < len(first):
            return reshaping(source, shape)
        parts = (*first[:-1], count, first[-1])
        return Rearrangement(source, Step(parts, (*range(axis - 1), axis, axis - 1)), shape)

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        along = min(self.axis, len(scope.input_shapes[0]) - 1)
        x = joined(scope.ops, inputs, along)
        return x.with_data(scope.ops.rearrange(x.data, self._unjoined(scope.input_shapes)))

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        xs = require_one_grid(name, *inputs)
        how = self._unjoined([x.shape for x in xs])
        x = xs[0]
        if len(xs) > 1:
            between = f"{name}@joined"  # no node's own name has an @
            along = min(self.axis, len(x.shape) - 1)
            x = builder.add(IntegerConcat(between, xs, IntegerTensor(between, how.source, x.grid), along))
        return builder.add(IntegerRearrange(name, (x,), IntegerTensor(name, how.shape, x.grid), how))


@dataclass(frozen=True)
class Upsample(Cell):
    """Every pixel several times, its nearest neighbours: (C, H, W) to (C, H a, W b).

    Args:
        factor: how often; one number, or (vertical, horizontal).

    Raises:
        QatError: for a factor below 1.

    Example:
        >>> import qat
        >>> qat.Upsample(2).output_shape((3, 4, 4))
        (3, 8, 8)
    """

    factor: int | Pair

    output_numbers = "moved"
    output_channels = "kept"
    non_negative = False
    random = False

    def __post_init__(self) -> None:
        super().__post_init__()
        vertical, horizontal = pair(self.factor)
        check_counts("Upsample", vertical=vertical, horizontal=horizontal)

    def output_shape(self, *shapes: Shape) -> Shape:
        channels, height, width = image_sizes(shapes[0])
        vertical, horizontal = pair(self.factor)
        return (channels, height * vertical, width * horizontal)

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        """Copies as further channels, which become blocks: their gradients are added in the same order on every device."""
        ops, x, shape = scope.ops, inputs[0].settled(scope.ops), scope.input_shapes[0]
        channels, height, width = shape
        vertical, horizontal = pair(self.factor)
        copies = vertical * horizontal
        if copies == 1:
            return x
        step = Step((vertical, horizontal, channels, height, width), (2, 3, 0, 4, 1))
        blocks = Rearrangement((copies * channels, height, width), step, self.output_shape(shape))
        return x.with_data(ops.rearrange(ops.concat([x.data] * copies), blocks))

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        x = require_codes(name, inputs[0])
        factors = {axis: times for axis, times in enumerate(pair(self.factor), start=1) if times > 1}
        if not factors:
            return x
        places = {axis: [i // times for i in range(x.shape[axis] * times)] for axis, times in factors.items()}
        return builder.add(IntegerPick.of(name, x, places))

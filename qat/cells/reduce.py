"""Means and maxima over axes of a sample."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from qat.cells.base import Cell, Scope, Shape
from qat.cells.pooling import AvgPool2d, check_rank
from qat.cells.shape import LARGEST_RANK
from qat.errors import QatError
from qat.integer import (
    IntegerBuilder,
    IntegerMaxPool2d,
    IntegerNode,
    IntegerRearrange,
    IntegerTensor,
    Staged,
    require_codes,
)
from qat.vocabulary.ops import Array, Ops, Pair, Tensor
from qat.vocabulary.rearrangement import Rearrangement, Step, reshaping
from qat.vocabulary.values import Value


class Reduction(Cell, abstract=True):
    """What is kept as channels, what is reduced as one row of pixels, (K, 1, R): then it is a pooling of the whole row."""

    axes: tuple[int, ...]
    keepdims: bool

    rank: ClassVar[int] = 0  #: of the samples that it takes; 0: any
    non_negative = False
    random = False

    @property
    def output_channels(self) -> str:  # type: ignore[override]
        """Those of its input, where they are not what is reduced."""
        return "fixed" if 0 in self.axes else "kept"

    def _check(self) -> None:
        """Raise QatError unless ``axes`` are axes of samples, each once."""
        inside = all(0 <= axis < LARGEST_RANK for axis in self.axes)
        if not self.axes or not inside or len(set(self.axes)) < len(self.axes):
            raise QatError(
                f"{type(self).__name__}: axes are {self.axes}; give each once: 0 for the channels, 1 for rows, 2 for columns"
            )

    def _ways(self, shape: Shape) -> tuple[Rearrangement, Rearrangement, Pair]:
        """How the sample becomes a row, how the results become the output, and the window."""
        if self.rank:
            check_rank(shape, self.rank)
        if max(self.axes) >= len(shape):
            raise QatError(f"reduces axes {self.axes}, but takes {shape}, whose axes are 0 to {len(shape) - 1}")
        kept = tuple(axis for axis in range(len(shape)) if axis not in self.axes)
        numbers, reduced = math.prod(shape[axis] for axis in kept), math.prod(shape[axis] for axis in self.axes)
        made = tuple(1 if axis in self.axes else size for axis, size in enumerate(shape))
        made = made if self.keepdims else tuple(shape[axis] for axis in kept) or (1,)
        order = (*kept, *sorted(self.axes))
        return (
            Rearrangement(shape, Step(shape, order), (numbers, 1, reduced)),
            reshaping((numbers, 1, 1), made),
            (1, reduced),
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        return self._ways(shapes[0])[1].shape

    @abstractmethod
    def reduced(self, ops: Ops, x: Value, row: Tensor, window: Pair) -> Value:
        """What is made of a row that holds the numbers of x."""

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        ops, x = scope.ops, inputs[0].settled(scope.ops)
        there, back, window = self._ways(scope.input_shapes[0])
        y = self.reduced(ops, x, ops.rearrange(x.data, there), window)
        return y.with_data(ops.rearrange(y.data, back))

    def _row(self, builder: IntegerBuilder, name: str, x: IntegerTensor) -> IntegerTensor:
        """The codes as a row."""
        there, _, _ = self._ways(x.shape)
        row = IntegerTensor(f"{name}@row", there.shape, x.grid)
        return builder.add(IntegerRearrange(row.name, (x,), row, there))

    def _back(self, shape: Shape, node: IntegerNode) -> tuple[IntegerNode, IntegerNode]:
        """The node that makes (K, 1, 1), and what makes the output of it and has its name."""
        _, back, _ = self._ways(shape)
        inner = node.output._replace(name=f"{node.name}@picture")
        output = node.output._replace(shape=back.shape)
        return replace(node, name=inner.name, output=inner), IntegerRearrange(node.name, (inner,), output, back)


@dataclass(frozen=True)
class Mean(Reduction):
    """The mean over any axes of a sample.

    Args:
        axes: of one sample: 0 the channels, 1 rows, 2 columns. Default: (1, 2), of pictures.
        keepdims: whether they stay, with one place each. Default: False.

    Raises:
        QatError: for numbers that are no axes.

    Example:
        >>> import qat
        >>> qat.Mean().output_shape((3, 8, 8)), qat.Mean((0,), keepdims=True).output_shape((3, 8, 8))
        ((3,), (1, 8, 8))
    """

    axes: tuple[int, ...] = (1, 2)
    keepdims: bool = False

    output_numbers = "averaged"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check()

    def reduced(self, ops: Ops, x: Value, row: Tensor, window: Pair) -> Value:
        total, share = ops.sum_pool2d(row, kernel=window, stride=window, padding=(0, 0, 0, 0)), 1.0 / window[1]
        return Value(total * share) if x.scale is None else Value(total, x.scale * share)

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Staged:
        x = require_codes(name, inputs[0])
        row = self._row(builder, name, x)
        pending = AvgPool2d((1, row.shape[2])).to_integer(builder, name, params, row)
        return Staged(pending, lambda node: self._back(x.shape, node))


class MaxReduction(Reduction, abstract=True):
    """The largest number."""

    output_numbers = "moved"

    def reduced(self, ops: Ops, x: Value, row: Tensor, window: Pair) -> Value:
        return x.with_data(ops.max_pool2d(row, kernel=window, stride=window, padding=(0, 0, 0, 0)))

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        x = require_codes(name, inputs[0])
        row = self._row(builder, name, x)
        window, output = (1, row.shape[2]), IntegerTensor(name, (row.shape[0], 1, 1), x.grid)
        pool = IntegerMaxPool2d(name, (row,), output, window, window, (0, 0, 0, 0))
        return [builder.add(each) for each in self._back(x.shape, pool)][-1]


@dataclass(frozen=True)
class Max(MaxReduction):
    """The largest number over any axes of a sample.

    Args:
        axes, keepdims: as in Mean.

    Raises:
        QatError: for numbers that are no axes.

    Example:
        >>> import qat
        >>> qat.Max((1,)).output_shape((3, 8, 5))
        (3, 5)
    """

    axes: tuple[int, ...] = (1, 2)
    keepdims: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check()


@dataclass(frozen=True)
class GlobalMaxPool2d(MaxReduction):
    """The largest number of the whole image: (C, H, W) to (C, 1, 1).

    Example:
        >>> import qat
        >>> qat.GlobalMaxPool2d().output_shape((6, 14, 14))
        (6, 1, 1)
    """

    axes: ClassVar[tuple[int, ...]] = (1, 2)  # type: ignore[misc]
    keepdims: ClassVar[bool] = True  # type: ignore[misc]
    rank = 3


@dataclass(frozen=True)
class GlobalMaxPool1d(MaxReduction):
    """The largest number of the whole series: (C, L) to (C, 1).

    Example:
        >>> import qat
        >>> qat.GlobalMaxPool1d().output_shape((6, 100))
        (6, 1)
    """

    axes: ClassVar[tuple[int, ...]] = (1,)  # type: ignore[misc]
    keepdims: ClassVar[bool] = True  # type: ignore[misc]
    rank = 2

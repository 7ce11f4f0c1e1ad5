"""Cells that compute each number from two: products, differences, the larger and the smaller."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from qat.cells.base import Cell, Scope, Shape
from qat.cells.elementwise import joint_shape, step_of_sum
from qat.integer import (
    IntegerBuilder,
    IntegerMaximum,
    IntegerMinimum,
    IntegerSub,
    IntegerTensor,
    Product,
    Sum,
    require_codes,
    require_one_grid,
)
from qat.vocabulary.ops import Array, Ops, Tensor
from qat.vocabulary.values import Value


class _OfTwo(Cell, abstract=True):
    """What they share: a number of each of two inputs makes one of the output."""

    arity = 2
    output_channels = "kept"
    non_negative = False
    random = False


@dataclass(frozen=True)
class Mul(_OfTwo):
    """The product of two inputs of one shape, or of (C, H, W) and (C, 1, 1); ``a * b`` in a construct is ``Mul()(a, b)``.

    The gate of a squeeze-and-excitation block, which is (C, 1, 1), multiplies every pixel. Each input has a grid of its own.

    Example:
        >>> import qat
        >>> qat.Mul().output_shape((8, 7, 7), (8, 1, 1))
        (8, 7, 7)
    """

    output_numbers = "computed"
    one_grid = False

    def output_shape(self, *shapes: Shape) -> Shape:
        return joint_shape("multiplies", *shapes)

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        a, b = inputs
        if a.codes and b.codes:
            scale: Tensor = a.scale
            return Value(a.data * b.data, scale * b.scale)
        return Value(a.real(scope.ops) * b.real(scope.ops))

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Product:
        a, b = (require_codes(name, x) for x in inputs)
        return Product(name, (a, b), self.output_shape(a.shape, b.shape))


@dataclass(frozen=True)
class Sub(_OfTwo):
    """The difference of two inputs of one shape, or of (C, H, W) and (C, 1, 1); ``a - b`` in a construct.

    In integers both inputs have one grid, as those of an Add.

    Example:
        >>> import qat
        >>> qat.Sub().output_shape((8, 7, 7), (8, 1, 1))
        (8, 7, 7)
    """

    output_numbers = "computed"
    one_grid = True

    @property
    def keeps_scale(self) -> bool:
        return True

    def output_shape(self, *shapes: Shape) -> Shape:
        return joint_shape("subtracts", *shapes)

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        a, b = inputs
        return Value(a.real(scope.ops) - b.real(scope.ops), step=step_of_sum(a, b))

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Sum:
        a, b = require_one_grid(name, *inputs)
        return Sum(name, (a, b), None, IntegerSub)


class _Extreme(_OfTwo, abstract=True):
    """What Maximum and Minimum share: codes of one grid, of which one is chosen."""

    output_numbers = "moved"
    one_grid = True

    _word: ClassVar[str]
    _node: ClassVar[type[IntegerMaximum | IntegerMinimum]]

    def output_shape(self, *shapes: Shape) -> Shape:
        return joint_shape(f"takes the {self._word} of", *shapes)

    @abstractmethod
    def _chosen(self, ops: Ops, a: Tensor, b: Tensor) -> Tensor:
        """One of two numbers."""

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        ops, (a, b) = scope.ops, inputs
        if not (a.codes and b.codes):
            return Value(self._chosen(ops, a.real(ops), b.real(ops)))
        return b.with_data(self._chosen(ops, a.in_steps_of(ops, b.scale), b.data))  # as a Concat joins them

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        a, b = require_one_grid(name, *inputs)
        return builder.add(self._node(name, (a, b), IntegerTensor(name, self.output_shape(a.shape, b.shape), a.grid)))


@dataclass(frozen=True)
class Maximum(_Extreme):
    """The larger number of two inputs of one shape, or of (C, H, W) and (C, 1, 1). Their codes have one grid.

    Example:
        >>> import qat
        >>> qat.Maximum().output_shape((8,), (8,))
        (8,)
    """

    _word, _node = "larger", IntegerMaximum

    def _chosen(self, ops: Ops, a: Tensor, b: Tensor) -> Tensor:
        return ops.maximum(a, b)


@dataclass(frozen=True)
class Minimum(_Extreme):
    """The smaller number of two inputs of one shape, or of (C, H, W) and (C, 1, 1). Their codes have one grid.

    Example:
        >>> import qat
        >>> qat.Minimum().output_shape((8,), (8,))
        (8,)
    """

    _word, _node = "smaller", IntegerMinimum

    def _chosen(self, ops: Ops, a: Tensor, b: Tensor) -> Tensor:
        return ops.minimum(a, b)

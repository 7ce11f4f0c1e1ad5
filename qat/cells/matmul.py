"""The matrix product of two activations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qat.cells.base import Cell, Scope, Shape
from qat.errors import QatError
from qat.integer import IntegerBuilder, MatrixProduct, require_codes
from qat.vocabulary.ops import Array, Tensor
from qat.vocabulary.values import Value


@dataclass(frozen=True)
class MatMul(Cell):
    """The matrix product of two inputs, (M, K) and (K, N), or B of each; ``a @ b`` in a construct.

    Axes are canonical: of (C, H, W) every channel is a matrix of rows and columns. Each input has a grid of its own.

    Args:
        transpose_a: the first input is (..., K, M).
        transpose_b: the second input is (..., N, K).

    Example:
        >>> import qat
        >>> qat.MatMul(transpose_b=True).output_shape((4, 49, 16), (4, 49, 16))
        (4, 49, 49)
    """

    transpose_a: bool = False
    transpose_b: bool = False

    arity = 2
    output_numbers = "computed"
    output_channels = "fixed"
    non_negative = False
    random = False
    one_grid = False

    def _sizes(self, shapes: Sequence[Shape]) -> tuple[Shape, int, int, int]:
        """What comes before the matrices, and M, K and N."""
        a, b = shapes
        if len(a) != len(b) or len(a) not in (2, 3):
            raise QatError(
                f"multiplies matrices, (M, K) or (B, M, K) each, but gets {a} and {b}; reshape them before it"
            )
        (m, k), (k_too, n) = (
            x[:-3:-1] if transposed else x[-2:] for x, transposed in ((a, self.transpose_a), (b, self.transpose_b))
        )
        if k != k_too or a[:-2] != b[:-2]:
            raise QatError(
                f"multiplies {k} columns of {a} by {k_too} rows of {b}, which have to be as many, for as many matrices; "
                "transpose one of them (transpose_a, transpose_b), or reshape"
            )
        return a[:-2], m, k, n

    def output_shape(self, *shapes: Shape) -> Shape:
        before, m, _, n = self._sizes(shapes)
        return (*before, m, n)

    def products(self, inputs: Sequence[Shape], output: Shape, *, with_bias: bool) -> int:
        before, m, k, n = self._sizes(inputs)
        return math.prod(before) * m * k * n

    @property
    def transpose(self) -> tuple[bool, bool]:
        """Of both inputs."""
        return self.transpose_a, self.transpose_b

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        a, b = inputs
        if a.codes and b.codes:
            scale: Tensor = a.scale
            return Value(scope.ops.matmul(a.data, b.data, transpose=self.transpose), scale * b.scale)
        return Value(scope.ops.matmul(a.real(scope.ops), b.real(scope.ops), transpose=self.transpose))

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> MatrixProduct:
        a, b = (require_codes(name, x) for x in inputs)
        return MatrixProduct(name, (a, b), self.output_shape(a.shape, b.shape), self.transpose)

"""Codes and the real numbers that they stand for."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from qat.errors import QatError
from qat.vocabulary.ops import Array

Shape = tuple[int, ...]


def smallest_type(low: int, high: int, *, signed: bool) -> type[np.integer[Any]]:
    """The smallest NumPy integer type, of at most 32 bits, that holds low to high. Raises QatError where there is none."""
    types = (np.int8, np.int16, np.int32) if signed else (np.uint8, np.uint16, np.uint32)
    for dtype in types:
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return dtype
    raise QatError(f"codes from {low} to {high} fit no type of 32 bits; use fewer bits")


class Grid(NamedTuple):
    """Codes and the real numbers they stand for: scale * (code - zero_point), qmin <= code <= qmax.

    Attributes:
        scale: the real number that one step of a code stands for.
        zero_point: the code of the real number 0.
        qmin: the lowest code.
        qmax: the highest code.
    """

    scale: np.float32
    zero_point: int
    qmin: int
    qmax: int

    @property
    def real(self) -> bool:
        """True of ``REAL_NUMBERS``, which are no codes."""
        return False

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

    def raw(self, centred: Array) -> Array:
        """Codes, int32, of centred ones held in float32."""
        codes: Array = centred.astype(np.int32) + self.zero_point
        return codes

    @property
    def dtype(self) -> type[np.integer[Any]] | type[np.float32]:
        """The smallest NumPy type that holds the codes."""
        return smallest_type(self.qmin, self.qmax, signed=self.qmin < 0)

    @property
    def wide(self) -> bool:
        """True where the codes need more than 8 bits."""
        return np.dtype(self.dtype).itemsize > 1


class _RealNumbers(Grid):
    """What takes the place of a grid where a tensor has none."""

    __slots__ = ()

    @property
    def real(self) -> bool:
        return True

    def dequantize(self, codes: Array) -> Array:
        return codes

    def codes_of(self, real: Array) -> Array:
        return real

    def raw(self, centred: Array) -> Array:
        return centred

    @property
    def dtype(self) -> type[np.float32]:
        return np.float32

    @property
    def wide(self) -> bool:
        return False


#: Of the tensors of layers that are left in float: their numbers are real ones, float32, and stand for themselves.
REAL_NUMBERS = _RealNumbers(np.float32(1.0), zero_point=0, qmin=0, qmax=0)


class IntegerTensor(NamedTuple):
    """One tensor of codes, or of real numbers (``REAL_NUMBERS``).

    Attributes:
        name: of the node that makes it.
        shape: of one sample, (C, H, W), (C, L) or (F,).
        grid: what its codes stand for.
    """

    name: str
    shape: Shape
    grid: Grid


class Requantize(NamedTuple):
    """y = clip(rint(f32(acc) * multiplier), low, high): centred codes from accumulators.

    Attributes:
        multiplier: float32, (O,) for a linear node, (1,) for a sum.
        low: the lowest centred code.
        high: the highest centred code.
    """

    multiplier: Array
    low: int
    high: int


def clip_bounds(grid: Grid, relu: float | None) -> tuple[int, int]:
    """The lowest and highest centred code after a ReLU of that upper bound (None: no ReLU)."""
    if relu is None:
        return grid.low, grid.high
    high = grid.high if math.isinf(relu) else min(grid.high, int(np.rint(np.float32(relu) / grid.scale)))
    return max(grid.low, 0), high

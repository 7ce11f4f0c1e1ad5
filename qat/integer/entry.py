"""Where samples enter an integer graph: as codes, or as numbers that become codes there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qat.errors import QatError
from qat.integer.grid import REAL_NUMBERS, Grid, IntegerTensor, Requantize, clip_bounds
from qat.integer.node import IntegerNode, Pending
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.ops import Array, Kind, Ops, Tensor

SMALLEST_MULTIPLIER = 2.0**-126  #: below it are no normal float32
LARGEST_MULTIPLIER = (
    2.0**125
)  #: numbers below 2^-126, which some runtimes take for 0, become less than 1/2 by it: code 0


@dataclass(frozen=True, eq=False)
class IntegerInput(IntegerNode):
    """Where samples enter.

    Codes, where ``requantize`` is None: y = x - z, with the zero point z of the output's grid. Other numbers, real ones or
    codes of 16 bits: y = clip(rint(f32((x - offset) m)), low, high), one float32 product in every arithmetic. Where only layers
    that are left in float take them, they stay real numbers: y = (x - offset) scale.

    Attributes:
        dtype: of the arrays, "uint8", "int8", "uint16", "int16" or "float32".
        requantize: what makes codes of other numbers: m, (1,), is 1 / s_y for real numbers, s_x / s_y for codes of scale s_x.
        offset: the zero point of codes of 16 bits; 0 for real numbers.
        scale: the real number that one step of these stands for; 1 for real numbers. Where codes are made, nothing is computed
            with it: files name it to other tools.
        meaning: from samples to the real numbers that they stand for (``Input.real_numbers``), for what is compared with
            them; None: what codes of the output's grid stand for.
    """

    kind: ClassVar[str] = "an input"
    dtype: str = "uint8"
    requantize: Requantize | None = None
    offset: int = 0
    scale: float = 1.0
    meaning: Callable[[Array], Array] | None = None

    def real_numbers(self, samples: Array) -> Array:
        """What samples stand for, float32 (N, ...)."""
        return self.output.grid.dequantize(samples) if self.meaning is None else self.meaning(samples)

    @property
    def spec(self) -> ArraySpec:
        """Shape and dtype of the arrays that enter."""
        return ArraySpec(self.output.shape, self.dtype)

    def constants(self) -> dict[str, tuple[Array, Kind]]:
        return {} if self.requantize is None else {"multiplier": (self.requantize.multiplier, "scalar")}

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        (x,) = inputs
        if self.output.grid.real:
            return (x - float(self.offset)) * float(self.scale)
        if self.requantize is None:
            return x - float(self.output.grid.zero_point)
        low, high = float(self.requantize.low), float(self.requantize.high)
        with np.errstate(over="ignore"):  # an infinite product is clipped to a bound
            return ops.requantize(x - float(self.offset) if self.offset else x, constants["multiplier"], low, high)


@dataclass(frozen=True)
class Entering(Pending):
    """Samples that are no codes of the network yet: the fake quantizer after the input makes some of them.

    Attributes:
        name: of the input.
        spec: of the arrays that enter.
        scale: the real number that 1 stands for: that of codes of 16 bits; 1 for real numbers.
        zero_point: of codes of 16 bits; 0 for real numbers.
        meaning: as ``IntegerInput.meaning``.
    """

    name: str
    spec: ArraySpec
    scale: np.float32
    zero_point: int
    meaning: Callable[[Array], Array] | None = None

    def requantized(self, grid: Grid) -> IntegerInput:
        multiplier = np.full(1, self.scale / grid.scale, np.float32)
        if not SMALLEST_MULTIPLIER <= multiplier[0] <= LARGEST_MULTIPLIER:
            raise QatError(
                f"{self.name}: its codes have scale {grid.scale:g} where its numbers have {self.scale:g}, and runtimes would "
                "disagree about products with their quotient; its numbers are far too large or too small, scale them before"
            )
        output = IntegerTensor(self.name, self.spec.shape, grid)
        bounds = clip_bounds(grid, None)
        return IntegerInput(
            self.name,
            (),
            output,
            self.spec.dtype,
            Requantize(multiplier, *bounds),
            self.zero_point,
            float(self.scale),
            self.meaning,
        )

    def real(self) -> IntegerInput:
        """The finished node where they stay real numbers, as layers that are left in float take them."""
        output = IntegerTensor(self.name, self.spec.shape, REAL_NUMBERS)
        numbers = (self.zero_point, float(self.scale), self.meaning)
        return IntegerInput(self.name, (), output, self.spec.dtype, None, *numbers)

    def clipped(self) -> IntegerInput:
        raise QatError(
            f"{self.name}: its fake quantizer keeps the sign alone, which tiny numbers would lose in the product that makes "
            "codes of them; give the input another quantizer, as layers={'input': {'activation_quantizer': ...}} does"
        )

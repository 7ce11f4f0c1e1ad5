"""QKeras's quantizers to powers of two (https://github.com/google/qkeras, quantizers.py).

|x| becomes 2^r with r = clip(round(log2|x|), e, f). f and e follow from the bits, as QKeras counts them, and 0 has no code:
|x| below 2^e becomes 2^e. Codes are the powers in steps of the smallest one, so that a quantizer of few octaves has integers;
what QKeras allows beyond (8 bits are 128 octaves) is refused.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log2
from typing import ClassVar

from qat.errors import QatError
from qat.quantizers.base import BaseWeightQuantizer, Bounds, Quantizer, Tensors, WeightCodes
from qat.quantizers.few_bits import signs
from qat.quantizers.few_bits_activations import FixedGrid
from qat.quantizers.qkeras import EPSILON, check_slope, leaky, leaky_through
from qat.vocabulary.ops import Ops, Tensor
from qat.vocabulary.values import Value

ROUNDINGS = ("rnd", "floor")
MOST_OCTAVES = 14  #: between the smallest power and the largest: codes of up to 2^14, with their sign int16
LEAST_SLOPE = 2.0**-8


@dataclass(frozen=True)
class _QKerasPo2(Quantizer, ABC):
    """The powers that there are, and rounding to them; fields as in the public classes."""

    symmetric: bool = True
    num_bits: int = 4
    max_value: float | None = None
    log2_rounding: str = "rnd"
    quadratic_approximation: bool = False

    widths: ClassVar[tuple[int, int]] = (2, 8)
    sign_bits: ClassVar[int] = 1  #: of num_bits
    fixed: ClassVar[dict[str, bool]] = {"symmetric": True, "narrow_range": False}
    label: ClassVar[str] = "QKeras powers of two"

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        if self.max_value is not None and not 2.0**-30 <= self.max_value <= 2.0**30:
            raise QatError(f"{owner}: max_value is {self.max_value!r}; use a number from 2^-30 to 2^30, or None")
        if self.log2_rounding not in ROUNDINGS:
            raise QatError(f"{owner}: log2_rounding is {self.log2_rounding!r}; use one of {', '.join(ROUNDINGS)}")
        low, high = self.exponents
        if not 0 <= high - low <= MOST_OCTAVES:
            raise QatError(
                f"{owner}: {self.num_bits} bits with max_value {self.max_value} are powers from 2^{low} to 2^{high}, "
                f"and integers hold at most {MOST_OCTAVES} octaves, and one at least; use other bits or another max_value"
            )

    @property
    def _ends(self) -> tuple[int, int]:
        """Of r, or of r / 2. A bit is the exponent's sign unless max_value is at most 1."""
        signed = self.max_value is None or self.max_value > 1.0
        octaves: int = 2 ** (self.num_bits - self.sign_bits - signed)
        high = 2 * ((octaves - 1) // 2) if self.quadratic_approximation else octaves - 1
        if self.max_value is not None:
            exact = log2(self.max_value) / self._step
            high = min(high, floor(exact) if self.log2_rounding == "floor" else round(exact))
        return -octaves, high

    @property
    def _step(self) -> int:
        """From one exponent to the next."""
        return 2 if self.quadratic_approximation else 1

    @property
    def exponents(self) -> tuple[int, int]:
        """Of the smallest and of the largest power."""
        low, high = self._ends
        return low * self._step, high * self._step

    def _codes(self, ops: Ops, size: Tensor) -> Tensor:
        """2^(r - e) of numbers that are not negative, without gradient: by comparisons, which frameworks do alike."""
        low, high = self._ends
        lowest = low * self._step
        codes = size * 0.0 + 1.0
        for k in range(low + 1, high + 1):  # from which size on r is k steps
            at = 2.0 ** (k * self._step if self.log2_rounding == "floor" else (k - 0.5) * self._step)
            tie = self.quadratic_approximation and self.log2_rounding == "rnd" and k % 2  # goes to the even one below
            reached = size > at if tie else size >= at
            codes = ops.where(reached, codes * 0.0 + 2.0 ** (k * self._step - lowest), codes)
        if self.quadratic_approximation:  # QKeras does not double the exponent of what it takes for 0
            codes = ops.where(size < EPSILON, codes * 0.0 + 2.0 ** (low - lowest), codes)
        return codes

    @property
    def qmin(self) -> int:
        """The lowest code."""
        return -self.qmax

    @property
    def qmax(self) -> int:
        """The highest code."""
        low, high = self.exponents
        return 1 << (high - low)


@dataclass(frozen=True)
class QKerasPo2WeightQuantizer(_QKerasPo2, BaseWeightQuantizer):
    """QKeras's quantized_po2(bits, max_value) of a weight: value = sign(w) 2^r, r = clip(round(log2|w|), e, f).

    With b = ``num_bits``, e = -2^(b-2) and f = 2^(b-2) - 1; with a max_value of at most 1, e = -2^(b-1) and f = 2^(b-1) - 1.
    |w| is at most ``max_value`` before it is rounded. 0 counts as positive. The gradient of the value is 1 everywhere.

    Args:
        num_bits: of the exponent, its sign and that of w; 4 by default. The powers may span 14 octaves.
        max_value: None, the default, or the largest |w|.
        log2_rounding: "rnd", the default, to the nearest power in the logarithm, or "floor" to the one below.
        quadratic_approximation: True: powers of four, r = 2 clip(round(log2(|w|) / 2), e, f) with an even f; False by default.

    Raises:
        QatError: for powers that span more octaves, another rounding, or a max_value that is not positive.

    >>> import numpy as np, qat
    >>> from qat.vocabulary.numpy_ops import NUMPY_OPS
    >>> codes = qat.QKerasPo2WeightQuantizer(3).quantize(NUMPY_OPS, np.array([[0.5, -2.9, 0.0]], np.float32))
    >>> codes.centred.tolist(), codes.scale.tolist()
    ([[2.0, -8.0, 1.0]], [0.25])
    """

    fixed: ClassVar[dict[str, bool]] = {"symmetric": True, "narrow_range": False, "per_channel": False}

    def quantize(
        self, ops: Ops, weight: Tensor, floor: Tensor | None = None, own: Tensors | None = None
    ) -> WeightCodes:
        fixed = ops.stop_gradient(weight)
        codes = signs(ops, fixed) * self._codes(ops, ops.abs(fixed))
        scale = ops.mean(fixed) * 0.0 + 2.0 ** self.exponents[0]
        return self._raised(ops, weight, self._straight_through(ops, codes, scale, weight), scale, floor)

    def refuses_batch_norm(self, *, folded: bool) -> str | None:
        return "its powers of two are constants whatever gamma is" if folded else None


class _QKerasPo2Activations(_QKerasPo2, FixedGrid):
    """What both activation quantizers do: codes from a table, since no rounding of an accumulator gives powers."""

    uniform: ClassVar[bool] = False

    @property
    def keep_scale(self) -> bool:
        return True

    @property
    def step(self) -> float:
        return 2.0 ** self.exponents[0]


@dataclass(frozen=True)
class QKerasPo2ActivationQuantizer(_QKerasPo2Activations):
    """QKeras's quantized_po2(bits, max_value) of an activation; the formula is that of QKerasPo2WeightQuantizer.

    An ordinary 8-bit quantizer comes before it, in training as in deployment, and this one becomes a table of codes.

    Args:
        num_bits, max_value, log2_rounding, quadratic_approximation: as in QKerasPo2WeightQuantizer.

    Raises:
        QatError: as QKerasPo2WeightQuantizer does.

    >>> import qat
    >>> qat.QKerasPo2ActivationQuantizer(3).exponents
    (-2, 1)
    """

    def quantize(
        self, ops: Ops, x: Value, own: Tensors, shared: Sequence[Tensors], non_negative: bool, features: int
    ) -> Value:
        real = x.real(ops)
        fixed = ops.stop_gradient(real)
        codes = signs(ops, fixed) * self._codes(ops, ops.abs(fixed))
        scale, _ = self.grid(ops, own, shared, non_negative, features)
        return Value(codes + (real - fixed) * (1.0 / self.step), scale, codes=True)


@dataclass(frozen=True)
class QKerasReLUPo2ActivationQuantizer(_QKerasPo2Activations):
    """QKeras's quantized_relu_po2(bits, max_value, negative_slope): value = 2^r with r = clip(round(log2(max(x, 0))), e, f).

    With b = ``num_bits``, e = -2^(b-1) and f = 2^(b-1) - 1; with a max_value of at most 1, e = -2^b and f = 2^b - 1. What is
    not positive becomes 2^e, as in QKeras; with a ``negative_slope`` a, -2^r of the rounded log2(a |x|). The gradient is 1
    where 0 < x <= max_value, a where x < 0, else 0. It is the activation function, too. An ordinary 8-bit quantizer comes
    before it, in training as in deployment, and this one becomes a table of codes.

    Args:
        num_bits: of the exponent and its sign; 3 by default. The powers may span 14 octaves.
        max_value, log2_rounding, quadratic_approximation: as in QKerasPo2WeightQuantizer.
        negative_slope: a, 0, the default, or a power of two from 2^-8 to 1.

    Raises:
        QatError: as QKerasPo2WeightQuantizer does, and for another slope.

    >>> import qat
    >>> quantizer = qat.QKerasReLUPo2ActivationQuantizer(2)
    >>> quantizer.exponents, quantizer.qmin, quantizer.qmax
    ((-2, 1), 1, 8)
    """

    num_bits: int = 3
    negative_slope: float = 0.0

    sign_bits: ClassVar[int] = 0
    label: ClassVar[str] = "QKeras ReLU, powers of two"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.negative_slope:
            check_slope(self, LEAST_SLOPE)

    @property
    def qmin(self) -> int:
        """The lowest code: 1, or minus the highest one with a slope."""
        return -self.qmax if self.negative_slope else 1

    def bounds(self, ops: Ops, own: Tensors, shared: Sequence[Tensors], non_negative: bool) -> Bounds:
        return float(min(self.qmin, 0)), float(self.qmax)  # zeros around a picture have the centred code 0

    def quantize(
        self, ops: Ops, x: Value, own: Tensors, shared: Sequence[Tensors], non_negative: bool, features: int
    ) -> Value:
        real = x.real(ops)
        fixed = ops.stop_gradient(real)
        size = leaky(ops, fixed, self.negative_slope)
        codes = self._codes(ops, ops.abs(size))
        if self.negative_slope:
            codes = codes * signs(ops, fixed)
        scale, _ = self.grid(ops, own, shared, non_negative, features)
        through = leaky_through(ops, real, self.negative_slope, self.max_value) * (1.0 / self.step)
        return Value(codes + through, scale, codes=True)

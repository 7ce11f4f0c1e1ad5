"""Quantizers that compute what QKeras's quantizers of the same names compute (Coelho et al., arXiv 2006.10159).

The formulas are those of its quantizers.py as of June 2025. Two of its arguments are fields that all quantizers have
here: keep_negative is ``symmetric`` (signed codes, else codes from 0), and symmetric is ``narrow_range`` (as many
negative codes as positive ones). One scale for each output channel corresponds to its scale_axis. ``alpha`` is None (no
factor), a number (a factor), "auto" (a scale fitted to the weights) or "auto_po2" (likewise, rounded to a power of
two).

Gradients pass straight through, also where a value is clipped, and scales count as constants. Where QKeras would divide
by a scale of 0, because all weights are 0, the scale is ``SMALLEST_SCALE``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import frexp, sqrt
from typing import Any, ClassVar

from qat.errors import QatError
from qat.quantizers.base import SMALLEST_SCALE, BaseWeightQuantizer, Tensors, WeightCodes
from qat.quantizers.few_bits import SignCodes, signs
from qat.quantizers.few_bits_activations import FixedGrid
from qat.vocabulary.ops import Ops, Tensor
from qat.vocabulary.values import Value

AUTO = ("auto", "auto_po2")
EPSILON = 1e-7  #: K.epsilon()
ROUNDS = 5  #: of finding codes for a scale and then a scale for these codes
MOST_INTEGER_BITS = 32


def nearest_power_of_two(ops: Ops, x: Tensor) -> Tensor:
    """2^round(log2(x + 1e-7)): the power above where x is at least that divided by sqrt(2), else the power below."""
    x = x + EPSILON
    above = ops.power_of_two_above(x)
    return ops.where(x * sqrt(2.0) >= above, above, above * 0.5)


@dataclass(frozen=True)
class _QKerasWeightQuantizer(BaseWeightQuantizer):
    """``alpha`` and what the three weight quantizers do with it."""

    per_channel: bool = True
    alpha: float | str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha is not None and self.alpha not in AUTO and not _is_factor(self.alpha):
            allowed = ", ".join(map(repr, AUTO))
            raise QatError(
                f"{type(self).__name__}: alpha is {self.alpha!r}; use {allowed}, a number greater than 0, or None"
            )

    @property
    def is_auto(self) -> bool:
        """Whether the scale follows the weights."""
        return self.alpha in AUTO

    def _constant_scale(self, ops: Ops, weight: Tensor, step: float) -> Tensor:
        """alpha times step, shaped as a scale: (O,) if per_channel."""
        return self._mean(ops, weight) * 0.0 + step * (1.0 if self.alpha is None else float(self.alpha))

    def _largest(self, ops: Ops, x: Tensor) -> Tensor:
        return ops.output_absmax(x) if self.per_channel else ops.max(ops.output_absmax(x))

    def _rounded(self, ops: Ops, scale: Tensor) -> Tensor:
        """A power of two for "auto_po2"; in any case large enough to divide by."""
        scale = nearest_power_of_two(ops, scale) if self.alpha == "auto_po2" else scale
        return ops.maximum(scale, SMALLEST_SCALE)

    def _least_squares(self, ops: Ops, x: Tensor, codes: Tensor, own: Tensors | None) -> Tensor:
        """mean(x q) / (mean(q q) + 1e-7): with this scale s, sum (x - s q)^2 is smallest."""
        return self._rounded(ops, self._mean(ops, x * codes, own) / (self._mean(ops, codes * codes, own) + EPSILON))


@dataclass(frozen=True)
class QKerasBitsWeightQuantizer(_QKerasWeightQuantizer):
    """QKeras's quantized_bits(bits, integer, symmetric, keep_negative, alpha) of a weight.

    With b = ``num_bits``, I = ``integer`` and m = 2^(b-1) (2^b without ``symmetric``), for each ``alpha``:

    None or a number: value = alpha 2^I clip(rint(w m / 2^I), low, m - 1) / m, low = -m (-m + 1 if narrow_range; 0
    without symmetric).

    "auto": z = sign(w) min(floor(|w| / s + 1/2), Q), Q = 2^(b-1) - 1, value = s z with s = max|w| / Q.

    "auto_po2": the same, starting with s = 2^round(log2(max|w| / Q)); then five times in turn the codes z for the scale
    and s = 2^round(log2(mean(w z) / mean(z z))) for the codes. (The logarithms are of s / 2^I + 1e-7.)

    The gradient of the value is 1 everywhere.

    Args:
        integer: I, the bits before the binary point, -32 to 32; 0 by default.
        per_channel: one "auto" scale for each output channel, as in QKeras; True by default.
        alpha: None, the default; a factor greater than 0; "auto" or "auto_po2", which need symmetric and narrow_range.

    Raises:
        QatError: for another ``alpha``, an ``integer`` out of range, or fields that do not go together.

    >>> import numpy as np, qat
    >>> from qat.vocabulary.numpy_ops import NUMPY_OPS
    >>> codes = qat.QKerasBitsWeightQuantizer(4).quantize(NUMPY_OPS, np.array([[0.5, -2.0]], np.float32))
    >>> codes.centred.tolist(), codes.scale.tolist()
    ([[4.0, -8.0]], [0.125])
    """

    integer: int = 0

    label: ClassVar[str] = "QKeras bits"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_integer(self)
        if self.is_auto and not (self.symmetric and self.narrow_range):
            raise QatError(
                f"{type(self).__name__}: alpha {self.alpha!r} needs as many negative codes as positive ones; use "
                "symmetric=True and narrow_range=True"
            )

    def quantize(
        self, ops: Ops, weight: Tensor, floor: Tensor | None = None, own: Tensors | None = None
    ) -> WeightCodes:
        fixed = ops.stop_gradient(weight)
        if not self.is_auto:
            step = 2.0**self.integer / (self.qmax + 1)
            low, high = float(self.qmin), float(self.qmax)
            codes = ops.minimum(ops.maximum(ops.rint(fixed * (1.0 / step)), low), high)
            scale = self._constant_scale(ops, fixed, step)
        else:
            fixed = fixed * 2.0**-self.integer
            scale = self._rounded(ops, self._largest(ops, fixed) / float(self.qmax))
            if self.alpha == "auto_po2":
                for _ in range(ROUNDS):
                    scale = self._least_squares(ops, fixed, self._codes(ops, fixed, scale), own)
            codes = self._codes(ops, fixed, scale)
            scale = scale * 2.0**self.integer
        found = self._raised(ops, weight, self._straight_through(ops, codes, scale, weight), scale, floor)
        return found if self.symmetric else found._replace(zero_point=found.scale * 0.0)

    def _codes(self, ops: Ops, x: Tensor, scale: Tensor) -> Tensor:
        # floor(size) of rint: QKeras rounds halves away from 0, where rint rounds them to even.
        size = ops.abs(x) / ops.on_output(scale, x) + 0.5
        nearest = ops.rint(size)
        codes = ops.minimum(ops.where(nearest > size, nearest - 1.0, nearest), float(self.qmax))
        return ops.where(x < 0.0, -codes, codes)

    def refuses_batch_norm(self, *, folded: bool) -> str | None:
        if not folded and self.symmetric and not self.narrow_range:
            return "a negative gamma would take its lowest code out of the range; or use narrow_range=True"
        return None


@dataclass(frozen=True)
class _QKerasSigns(_QKerasWeightQuantizer):
    """Codes -1, 0 and 1. The gradient of the value is that of tanh(w) if alpha is None, else 1 everywhere."""

    def _coded(self, ops: Ops, weight: Tensor, codes: Tensor, scale: Tensor, floor: Tensor | None) -> WeightCodes:
        through = ops.tanh(weight) if self.alpha is None else weight
        return self._raised(ops, weight, self._straight_through(ops, codes, scale, through), scale, floor)

    def refuses_batch_norm(self, *, folded: bool) -> str | None:
        return None if self.is_auto or not folded else "its scale is a constant whatever gamma is"


@dataclass(frozen=True)
class QKerasTernaryWeightQuantizer(_QKerasSigns):
    """QKeras's ternary(alpha, threshold) of a weight: value = alpha sign(w) where |w| >= threshold, else 0.

    "auto" and "auto_po2": s starts at 2/3 max|w|; then five times in turn q = sign(w) where rint(|w| / s) > 0, else 0,
    and s = mean(w q) / mean(q q); value = s q. With "auto_po2" each s is rounded to a power of two, the nearest in the
    logarithm.

    Args:
        num_bits: always 2.
        narrow_range: always True.
        threshold: where |w| reaches it the code is not 0; of a constant alpha only. 0.33 by default.
        per_channel: one "auto" scale for each output channel, as in QKeras; True by default.
        alpha: None, the default, which counts as 1 with the gradient 1 - tanh(w)^2 of the value; a factor greater than
            0, "auto" or "auto_po2", with the gradient 1.

    Raises:
        QatError: for another ``alpha``, or a threshold that is not positive.

    >>> import numpy as np, qat
    >>> from qat.vocabulary.numpy_ops import NUMPY_OPS
    >>> weight = np.array([[0.5, -2.0, 0.25]], np.float32)
    >>> qat.QKerasTernaryWeightQuantizer().quantize(NUMPY_OPS, weight).centred.tolist()
    [[1.0, -1.0, 0.0]]
    """

    num_bits: int = 2
    narrow_range: bool = True
    threshold: float = 0.33

    widths: ClassVar[tuple[int, int]] = (2, 2)
    fixed: ClassVar[dict[str, bool]] = {"symmetric": True, "narrow_range": True}
    label: ClassVar[str] = "QKeras ternary"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _is_factor(self.threshold):
            raise QatError(f"{type(self).__name__}: threshold is {self.threshold!r}; use a number greater than 0")

    def quantize(
        self, ops: Ops, weight: Tensor, floor: Tensor | None = None, own: Tensors | None = None
    ) -> WeightCodes:
        fixed = ops.stop_gradient(weight)
        size, zeros = ops.abs(fixed), fixed * 0.0
        signs = ops.where(fixed < 0.0, zeros - 1.0, zeros + 1.0)
        if not self.is_auto:
            codes = ops.where(size >= self.threshold, signs, zeros)
            return self._coded(ops, weight, codes, self._constant_scale(ops, fixed, 1.0), floor)
        codes, scale = zeros, self._rounded(ops, self._largest(ops, fixed) * 2.0 / 3.0)
        for _ in range(ROUNDS):
            codes = ops.where(ops.rint(size / ops.on_output(scale, size)) > 0.0, signs, zeros)
            scale = self._least_squares(ops, fixed, codes, own)
        return self._coded(ops, weight, codes, scale, floor)


@dataclass(frozen=True)
class QKerasBinaryWeightQuantizer(SignCodes, _QKerasSigns):
    """QKeras's binary(use_01, alpha) of a weight: value = alpha where w >= 0, else -alpha, or 0 with ``use_01``.

    "auto": s = mean(w q) / mean(q q) of the codes q, mean|w| where these are signs; "auto_po2": the power of two nearest to
    it in the logarithm. Where every code is 0, s is the smallest scale.

    Args:
        num_bits: always 1.
        use_01: codes 0 and 1 in place of -1 and 1; False by default.
        per_channel: one "auto" scale for each output channel, as in QKeras; True by default.
        alpha: None, the default, which counts as 1 with the gradient 1 - tanh(w)^2 of the value; a factor greater than
            0, "auto" or "auto_po2", with the gradient 1.

    Raises:
        QatError: for another ``alpha``.

    >>> import numpy as np, qat
    >>> from qat.vocabulary.numpy_ops import NUMPY_OPS
    >>> qat.QKerasBinaryWeightQuantizer().quantize(NUMPY_OPS, np.array([[0.5, -2.0]], np.float32)).centred.tolist()
    [[1.0, -1.0]]
    """

    num_bits: int = 1
    use_01: bool = False

    widths: ClassVar[tuple[int, int]] = (1, 1)
    fixed: ClassVar[dict[str, bool]] = {"symmetric": True, "narrow_range": False}
    label: ClassVar[str] = "QKeras binary"

    @property
    def qmin(self) -> int:
        """The lowest code, -1, or 0 with use_01."""
        return 0 if self.use_01 else -1

    def quantize(
        self, ops: Ops, weight: Tensor, floor: Tensor | None = None, own: Tensors | None = None
    ) -> WeightCodes:
        fixed = ops.stop_gradient(weight)
        codes = (signs(ops, fixed) + 1.0) * 0.5 if self.use_01 else signs(ops, fixed)
        scale = self._least_squares(ops, fixed, codes, own) if self.is_auto else self._constant_scale(ops, fixed, 1.0)
        return self._coded(ops, weight, codes, scale, floor)


@dataclass(frozen=True)
class QKerasBitsActivationQuantizer(FixedGrid):
    """QKeras's quantized_bits(bits, integer, symmetric, keep_negative) of an activation, with its default alpha of 1.

    value = 2^I clip(rint(x m / 2^I), low, m - 1) / m, with m and low as in QKerasBitsWeightQuantizer. The gradient is 1
    everywhere, also where the value is clipped.

    Args:
        symmetric: signed codes, 2 to 16 bits, the default; False: codes from 0, 1 to 16 bits.
        integer: I, the bits before the binary point, -32 to 32; 0 by default.

    Raises:
        QatError: for an ``integer`` out of range, or ``narrow_range`` without ``symmetric``.

    >>> import qat
    >>> quantizer = qat.QKerasBitsActivationQuantizer(4, integer=1)
    >>> quantizer.step, quantizer.qmin, quantizer.qmax
    (0.25, -8, 7)
    """

    symmetric: bool = True
    integer: int = 0

    label: ClassVar[str] = "QKeras bits"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_integer(self)

    @property
    def step(self) -> float:
        return 2.0**self.integer / (self.qmax + 1)

    def quantize(
        self, ops: Ops, x: Value, own: Tensors, shared: Sequence[Tensors], non_negative: bool, features: int
    ) -> Value:
        x = x.rectified(ops)
        y = super().quantize(ops, x.with_data(ops.stop_gradient(x.data)), own, shared, non_negative, features)
        change = (x.data - ops.stop_gradient(x.data)) * (1.0 / self.step)
        return Value(y.data + change, y.scale, codes=True)


@dataclass(frozen=True)
class QKerasReLUActivationQuantizer(FixedGrid):
    """QKeras's quantized_relu(bits, integer, negative_slope).

    value = clip(rint(x 2^(b-I)), 0, 2^b - 1) 2^(I-b), with the gradient 1 where 0 < x <= (2^b - 1) 2^(I-b), else 0. The clip is
    the activation function; a ReLU before it changes nothing. b = ``num_bits``, 1 to 16.

    With a ``negative_slope`` a, b is one less, for the sign, and a negative x becomes max(rint(a x 2^(b-I)), -a 2^b) 2^(I-b),
    with the gradient a. Such codes are no rounding of an accumulator: an ordinary 8-bit quantizer comes before, in training
    as in deployment, and this one becomes a table of codes. It is the activation function, too: give the cell before none.

    Args:
        integer: I, the bits before the binary point, -32 to 32; 0 by default.
        negative_slope: a, 0, the default, or a power of two from 2^-b to 1.

    Raises:
        QatError: for an ``integer`` or a slope out of range.

    >>> import qat
    >>> qat.QKerasReLUActivationQuantizer(4, integer=1).step
    0.125
    >>> quantizer = qat.QKerasReLUActivationQuantizer(4, integer=1, negative_slope=0.25)
    >>> quantizer.step, quantizer.qmin, quantizer.qmax
    (0.25, -2, 7)
    """

    integer: int = 0
    negative_slope: float = 0.0

    fixed: ClassVar[dict[str, bool]] = {"symmetric": False, "narrow_range": False}
    label: ClassVar[str] = "QKeras ReLU"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_integer(self)
        if self.negative_slope:
            check_slope(self, 2.0**-self._magnitude_bits)
            if self.num_bits == 1:
                raise QatError(
                    f"{type(self).__name__}: 1 bit with a negative_slope is the sign alone; use 2 bits or more"
                )

    @property
    def _magnitude_bits(self) -> int:
        return self.num_bits - (self.negative_slope != 0.0)

    @property
    def uniform(self) -> bool:  # type: ignore[override]
        """Whether its codes are roundings: without a slope."""
        return self.negative_slope == 0.0

    @property
    def qmin(self) -> int:
        """The lowest code, -negative_slope 2^b."""
        return -int(self.negative_slope * 2**self._magnitude_bits)

    @property
    def qmax(self) -> int:
        """The highest code, 2^b - 1."""
        return (1 << self._magnitude_bits) - 1

    @property
    def step(self) -> float:
        return 2.0 ** (self.integer - self._magnitude_bits)

    def quantize(
        self, ops: Ops, x: Value, own: Tensors, shared: Sequence[Tensors], non_negative: bool, features: int
    ) -> Value:
        if self.uniform:
            return super().quantize(ops, x, own, shared, True, features)
        real = x.real(ops)
        codes = leaky(ops, ops.stop_gradient(real), self.negative_slope) * (1.0 / self.step)
        codes = ops.minimum(ops.maximum(ops.rint(codes), float(self.qmin)), float(self.qmax))
        through = leaky_through(ops, real, self.negative_slope, self.qmax * self.step) * (1.0 / self.step)
        scale, _ = self.grid(ops, own, shared, non_negative, features)
        return Value(codes + through, scale, codes=True)


def leaky(ops: Ops, x: Tensor, slope: float) -> Tensor:
    """x where it is positive, else slope x."""
    return ops.where(x > 0.0, x, x * slope)


def leaky_through(ops: Ops, x: Tensor, slope: float, highest: float | None) -> Tensor:
    """0, with the gradient of min(leaky(x), highest): 0 at 0 where slope is, and above highest."""
    fixed = ops.stop_gradient(x)
    passed = leaky(ops, x, slope)
    if highest is not None:
        passed = ops.where(fixed <= highest, passed, fixed * 0.0)
    return passed - ops.stop_gradient(passed)


def check_slope(owner: Any, least: float) -> None:
    """Raise QatError unless negative_slope is a power of two from ``least`` to 1."""
    slope = owner.negative_slope
    if not least <= slope <= 1.0 or frexp(slope)[0] != 0.5:
        raise QatError(
            f"{type(owner).__name__}: negative_slope is {slope!r}; use 0, or a power of two from {least:g} to 1, so that "
            "negative numbers have codes"
        )


def _check_integer(owner: Any) -> None:
    """Raise QatError unless the fields of a quantized_bits or quantized_relu fit together."""
    integer = owner.integer
    if abs(integer) > MOST_INTEGER_BITS:
        raise QatError(
            f"{type(owner).__name__}: integer is {integer!r}; use a whole number from -{MOST_INTEGER_BITS} to "
            f"{MOST_INTEGER_BITS}"
        )
    if owner.narrow_range and not owner.symmetric:
        raise QatError(
            f"{type(owner).__name__}: narrow_range applies to signed codes; leave it out or use symmetric=True"
        )


def _is_factor(x: object) -> bool:
    """True for a positive number."""
    return isinstance(x, (int, float)) and x > 0.0

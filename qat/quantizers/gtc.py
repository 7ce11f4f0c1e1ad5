"""Powers of two with a trained slope and intercept: Generalized Ternary Connect (Parajuli et al., arXiv 1811.04985).

An octave is the span from one power of two to the next; each octave has one code of either sign.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from qat.quantizers.base import BaseActivationQuantizer, BaseWeightQuantizer, Bounds, Quantizer, Tensors, WeightCodes
from qat.quantizers.learned import larger, positive
from qat.vocabulary.ops import Array, Ops, Tensor
from qat.vocabulary.param import Param, Shape, constant
from qat.vocabulary.serial import check_share
from qat.vocabulary.values import Value

EPSILON = 1e-6  #: e: numbers of smaller magnitude become 0
LEAST_SLOPE = (
    2.0**-10
)  #: the lower bound of the trained slope; with a negative one small numbers would become large ones
LIMIT = 60.0  #: exponents lie within -60 .. 60, so that the product of two scales is a normal number
LN2 = math.log(2.0)


class _Octaves(NamedTuple):
    """The octaves of the numbers of a tensor. Only ``exact`` has a gradient."""

    exact: Tensor  #: a + s log2(|x| + e)
    rounded: Tensor
    kept: Tensor  #: boolean: the code is not 0
    top: Tensor  #: the largest exponent that has a code, a scalar


@dataclass(frozen=True)
class _PowersOfTwo(Quantizer, ABC):
    """What weights and activations share: r = rint(a + s log2(|x| + e)), q(x) = sign(x) 2^r, and 0 where |x| < e.

    e = 1e-6. Slope s and intercept a are trained with a straight-through gradient over the rounding and start at 1 and
    1e-4: dq/da = q ln 2, dq/ds = q ln(|x| + e), dq/dx = q s sign(x) / (|x| + e). A slope below 2^-10 counts as 2^-10.

    Apart from 0 there are codes for 2^(num_bits - 1) - 1 octaves of either sign; what lies below these octaves becomes
    0, too. The paper has no such limit, and no integers. There the gradient to x is that of a line from 0 to the
    smallest number that has a code; without it such a weight could never return.
    """

    symmetric: bool = True
    num_bits: int = 4

    widths: ClassVar[tuple[int, int]] = (2, 5)
    fixed: ClassVar[dict[str, bool]] = {"symmetric": True, "narrow_range": False}
    label: ClassVar[str] = "GTC"

    @property
    def levels(self) -> int:
        """The number of octaves that have a code."""
        return (1 << (self.num_bits - 1)) - 1

    @property
    def qmin(self) -> int:
        return -self.qmax

    @property
    def qmax(self) -> int:
        return 1 << (self.levels - 1)

    def bits(self, ops: Ops, x: Any, own: Tensors, shared: Sequence[Tensors] = ()) -> Tensor:
        """1 + ceil(log2(max r - min r + 1)), a scalar, over the numbers whose code is not 0, plus one level where some
        are 0.

        The gradient passes straight through both roundings; numbers with the same largest (smallest) r share it
        equally.
        """
        octaves = self._octaves(ops, x, own)
        zeros = ops.max(ops.where(octaves.kept, octaves.rounded * 0.0, octaves.rounded * 0.0 + 1.0))
        return _bits(ops, octaves.exact, ops.minimum(octaves.rounded, octaves.top), octaves.kept, zeros)

    def document_bits(self, ops: Ops, x: Any, own: Tensors) -> Tensor:
        """As the paper counts: over all numbers, where a 0 has r = rint(a + s log2(e)), some twenty octaves down."""
        octaves = self._octaves(ops, x, own)
        everything = octaves.rounded <= LIMIT
        return _bits(ops, octaves.exact, octaves.rounded, everything, octaves.top * 0.0)

    @abstractmethod
    def _octaves(self, ops: Ops, x: Any, own: Tensors) -> _Octaves:
        """Where the numbers of ``x`` lie among the octaves."""

    def _located(self, ops: Ops, x: Tensor, own: Tensors, top: Tensor | None) -> _Octaves:
        """The octaves of x. top: the largest octave where it is known; None: that of x."""
        exact = _exponent(ops, x, own)
        rounded = ops.minimum(ops.maximum(ops.rint(ops.stop_gradient(exact)), -LIMIT), LIMIT)
        alive = ops.abs(ops.stop_gradient(x)) >= EPSILON
        if top is None:
            top = ops.max(ops.where(alive, rounded, rounded * 0.0 - LIMIT))
        return _Octaves(exact, rounded, alive & (rounded > top - float(self.levels)), top)

    def _codes(self, ops: Ops, x: Tensor, octaves: _Octaves, lowest: Tensor, slope: Tensor) -> Tensor:
        """sign(x) 2^(r - lowest), with the gradients of the formula."""
        exact, rounded, kept, top = octaves
        fixed, size = ops.stop_gradient(x), ops.abs(ops.stop_gradient(x))
        nothing = fixed * 0.0
        power = ops.power_of_two(ops.minimum(ops.where(kept, rounded, nothing + lowest), top) - lowest)
        codes = ops.where(kept, ops.where(fixed > 0.0, power, -power), nothing)
        inside = rounded <= top  # above the largest octave the code is constant
        change = ops.where(inside, exact, ops.stop_gradient(exact)) - ops.stop_gradient(exact)
        smallest = ops.maximum(ops.min(ops.where(kept, size, nothing + ops.max(size))), EPSILON)
        ramp = ops.where(kept, nothing, x - fixed) * (ops.stop_gradient(slope) / smallest)
        return codes + codes * (change * LN2) + ramp  # change and ramp are 0 and only carry gradients


def _exponent(ops: Ops, x: Tensor, own: Tensors) -> Tensor:
    """a + s log2(|x| + e)."""
    slope = positive(ops, own["slope"], LEAST_SLOPE)
    return own["intercept"] + slope * (ops.log(ops.abs(x) + EPSILON) * (1.0 / LN2))


def _bits(ops: Ops, exact: Tensor, rounded: Tensor, counted: Tensor, zeros: Tensor) -> Tensor:
    """1 + ceil(log2(max r - min r + 1 + zeros)) over the counted ones."""
    nothing = rounded * 0.0
    largest = ops.max(ops.where(counted, rounded, nothing - LIMIT))
    smallest = ops.min(ops.where(counted, rounded, nothing + LIMIT))

    def mean_change(chosen: Tensor) -> Tensor:
        """0, with the gradient of the mean of the chosen exponents."""
        share = ops.where(chosen, nothing + 1.0, nothing)
        # The bound is below the share of a single element; where none is chosen the result is 0.
        share = share / ops.maximum(ops.mean(share), 2.0**-40)
        return ops.mean(share * (exact - ops.stop_gradient(exact)))

    change = mean_change(counted & (rounded >= largest)) - mean_change(counted & (rounded <= smallest))
    levels = ops.maximum(ops.maximum(largest - smallest + 1.0, 0.0) + zeros, 1.0) + change
    # log2 of a power of two may come out a little above an integer, which would cost a bit.
    return ops.ceil_ste(ops.log(levels) * (1.0 / LN2) - 2.0**-12) + 1.0


@dataclass(frozen=True)
class GTCWeightQuantizer(_PowersOfTwo, BaseWeightQuantizer):
    """GTC weights: signs and powers of two with a trained slope and intercept (arXiv 1811.04985, section 3).

    r = rint(a + s log2(|w| + e)), q(w) = sign(w) 2^r, and 0 where |w| < e = 1e-6. Slope s and intercept a start at 1
    and 1e-4: dq/da = q ln 2, dq/ds = q ln(|w| + e), dq/dw = q s sign(w) / (|w| + e). The codes are sign(w) 2^(r -
    r_min) and the scale is 2^(r_min), where r_min is the smallest r in use. A weight below the octaves that have codes
    becomes 0, which is not in the paper; its gradient is that of a line from 0 to the smallest number with a code, so
    that it can return.

    Parameters: "slope" and "intercept", trained, one of each for the whole weight.

    Args:
        num_bits: 2 to 5; 4 by default. There are codes for 2^(num_bits - 1) - 1 octaves: with 4 bits they reach 64 and
            fit int8, with 5 they reach 2^14.
        symmetric: always True.

    >>> import qat
    >>> quantizer = qat.GTCWeightQuantizer(4)
    >>> quantizer.levels, quantizer.qmax
    (7, 64)
    """

    fixed: ClassVar[dict[str, bool]] = {"symmetric": True, "narrow_range": False, "per_channel": False}

    def params(self, shape: Shape) -> dict[str, Param]:
        return _trained()

    def _octaves(self, ops: Ops, x: Tensor, own: Tensors) -> _Octaves:
        return self._located(ops, x, own, None)

    def quantize(
        self, ops: Ops, weight: Tensor, floor: Tensor | None = None, own: Tensors | None = None
    ) -> WeightCodes:
        assert own is not None, "its slope and intercept are parameters"
        octaves = self._octaves(ops, weight, own)
        lowest = ops.min(ops.where(octaves.kept, octaves.rounded, octaves.rounded * 0.0 + octaves.top))
        codes = self._codes(ops, weight, octaves, lowest, own["slope"])
        return self._raised(ops, weight, codes, ops.power_of_two(lowest), floor)


@dataclass(frozen=True)
class GTCActivationQuantizer(_PowersOfTwo, BaseActivationQuantizer):
    """GTC activations: powers of two with a trained slope and intercept (arXiv 1811.04985, section 3).

    The formula is that of GTCWeightQuantizer. The largest octave is that of the largest magnitude, which follows the
    batches as an exponential moving average; larger numbers get its code and no gradient. The codes are sign(x) 2^(r -
    r_min) with r_min = r_max - 2^(num_bits - 1) + 2, and the scale is 2^(r_min).

    Multiplying and rounding an accumulator cannot give such codes. So convert_quant_network puts an ordinary 8-bit
    quantizer before this one, in training as in deployment, and this one becomes a table of codes.

    Parameters: "slope" and "intercept", trained. State: "max", -infinity as long as nothing was observed.

    Args:
        num_bits: 2 to 5; 4 by default. There are codes for 2^(num_bits - 1) - 1 octaves.
        symmetric: always True.
        ema_decay: weight of the old maximum in each step, 0 to 1; 0.99 by default.

    Raises:
        QatError: for a decay out of range.

    >>> import qat
    >>> print(qat.GTCActivationQuantizer(4))
    GTC, 4 bits, symmetric
    """

    ema_decay: float = 0.99

    uniform: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "ema_decay")

    @property
    def keep_scale(self) -> bool:
        return True

    def bounds(self, ops: Ops, own: Tensors, shared: Sequence[Tensors], non_negative: bool) -> Bounds:
        return (0.0 if non_negative else float(self.qmin)), float(self.qmax)

    def params(self, non_negative: bool) -> dict[str, Param]:
        return _trained() | {"max": Param((), "scalar", constant(-np.inf), trainable=False)}

    def observe(self, ops: Ops, x: Value, own: Tensors, non_negative: bool, *, phase: int) -> dict[str, Tensor]:
        largest = x.largest(ops) if non_negative else ops.maximum(x.largest(ops), -x.smallest(ops))
        return {"max": ops.moving_average(own["max"], largest, self.ema_decay)}

    def observe_again(
        self, ops: Ops, x: Value, before: Tensors, own: Tensors, non_negative: bool, *, phase: int
    ) -> dict[str, Tensor]:
        """As if all uses were one batch, as ``ActivationQuantizer``."""
        found = self.observe(ops, x, before, non_negative, phase=phase)
        return {"max": ops.maximum(own["max"], found["max"])}

    def unseen(self, own: Mapping[str, Array]) -> bool:
        return not np.isfinite(own["max"])

    def calibrated(self, low: float, high: float, non_negative: bool) -> dict[str, float]:
        return {"max": max(high, -low, 0.0)}

    def _top(self, ops: Ops, own: Tensors, shared: Sequence[Tensors] = ()) -> Tensor:
        """The largest exponent, of several fake quantizers the largest of all."""
        # One that has observed nothing yet has a maximum of -infinity and must not decide.
        tops = [
            ops.rint(ops.stop_gradient(_exponent(ops, ops.maximum(each["max"], 0.0), each))) for each in (own, *shared)
        ]
        top = tops[0]
        for other in tops[1:]:
            top = larger(ops, top, other)
        return ops.minimum(ops.maximum(top, float(self.levels) - LIMIT), LIMIT)

    def grid(
        self, ops: Ops, own: Tensors, shared: Sequence[Tensors], non_negative: bool, features: int = 1
    ) -> tuple[Tensor, Tensor | float]:
        return ops.power_of_two(self._top(ops, own, shared) - float(self.levels - 1)), 0.0

    def _octaves(self, ops: Ops, x: Value, own: Tensors) -> _Octaves:
        return self._located(ops, x.real(ops), own, self._top(ops, own))

    def quantize(
        self, ops: Ops, x: Value, own: Tensors, shared: Sequence[Tensors], non_negative: bool, features: int
    ) -> Value:
        real, top = x.real(ops), self._top(ops, own, shared)
        octaves = self._located(ops, real, own, top)
        lowest = top - float(self.levels - 1)
        return Value(self._codes(ops, real, octaves, lowest, own["slope"]), ops.power_of_two(lowest), codes=True)


def _trained() -> dict[str, Param]:
    """Slope and intercept, with the starting values of the paper's document."""
    return {"slope": Param((), "scalar", constant(1.0)), "intercept": Param((), "scalar", constant(1e-4))}

"""What a quantizer is: its integers, its parameters, how it observes, and its codes.

A quantizer is a frozen dataclass. It declares its parameters and state, and computes over the vocabulary, so that it
trains on every backend and NumPy derives what is deployed by the same lines. The cells know nothing of its formula:
a linear cell asks for the codes of its weight (``BaseWeightQuantizer``), a FakeQuant for the codes of its input
(``BaseActivationQuantizer``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from qat.errors import QatError
from qat.vocabulary.ops import Array, Ops, Tensor
from qat.vocabulary.param import Param, Shape
from qat.vocabulary.serial import Serializable, check_steps
from qat.vocabulary.values import Value

#: Of an all-zero channel or a dead activation. Two of them multiplied are still a normal number.
SMALLEST_SCALE = 2.0**-60

Tensors = Mapping[str, Tensor]  #: parameters and state by local name
Bounds = tuple[Tensor | float, Tensor | float]  #: the lowest and the highest code, whole numbers without gradient


class WeightCodes(NamedTuple):
    """A quantized weight. ``centred``: code - zero_point, integers in float32, shaped like the weight."""

    centred: Tensor
    scale: Tensor  #: (O,) or a scalar
    zero_point: Tensor | None  #: like scale; None where it is 0 everywhere


@dataclass(frozen=True)
class Quantizer(Serializable):
    """The integers of a quantizer.

    num_bits: 2 to 16, of activations 1 to 16. symmetric: signed codes around zero point 0, else unsigned codes 0 ..
    2^num_bits - 1 with a zero point. narrow_range: leave the lowest code out. quant_delay: in training, pass through for so
    many steps; in evaluation it always quantizes.
    """

    num_bits: int = 8
    symmetric: bool = True
    narrow_range: bool = False
    quant_delay: int = 0

    label: ClassVar[str] = ""  #: before the other words of its description
    limit: ClassVar[str] = ""  #: before the number of bits there
    widths: ClassVar[tuple[int, int]] = (2, 16)  #: the fewest and the most bits
    fixed: ClassVar[dict[str, bool]] = {}  #: fields that this quantizer's formula leaves no choice of
    #: Its ``bits`` follow from its parameter "share" alone, so that a checkpoint tells them.
    learns_bits: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        fewest, most = self.widths
        if not fewest <= self.num_bits <= most:
            allowed = f"{fewest}" if fewest == most else f"a whole number from {fewest} to {most}"
            raise QatError(f"{type(self).__name__}: num_bits is {self.num_bits!r}; use {allowed}")
        check_steps(self, "quant_delay")
        for name, value in self.fixed.items():
            if getattr(self, name) is not value:
                raise QatError(f"{type(self).__name__}: {name} is {not value}, but its formula has it {value}")

    def __str__(self) -> str:
        words = [self.label] if self.label else []
        words += [
            f"{self.limit}{self.num_bits} bit{'s' * (self.num_bits > 1)}",
            "symmetric" if self.symmetric else "affine",
        ]
        words += ["per channel"] if getattr(self, "per_channel", False) else []
        words += ["power of two"] if getattr(self, "power_of_two", False) else []
        words += ["narrow"] if self.narrow_range else []
        words += [f"from step {self.quant_delay}"] if self.quant_delay else []
        return ", ".join(words)

    @property
    def qmin(self) -> int:
        """The lowest code."""
        return (-(1 << (self.num_bits - 1)) if self.symmetric else 0) + self.narrow_range

    @property
    def qmax(self) -> int:
        """The highest code."""
        return (1 << (self.num_bits - 1 if self.symmetric else self.num_bits)) - 1

    def bits(self, ops: Ops, x: Any, own: Tensors, shared: Sequence[Tensors] = ()) -> Tensor | None:
        """The number of bits, a scalar, with its gradient, where training decides it; None: it is num_bits.

        x: a weight, or the Value of an activation. own: its parameters and state. shared: those of the fake quantizers that
        must have the same grid. A loss may ask for it (``Quantized``).
        """
        return None

    @property
    def phase_starts(self) -> tuple[int, ...]:
        """The steps at which its forward pass of training changes its form."""
        return (self.quant_delay,)

    def symmetric_scale(self, ops: Ops, largest: Tensor, bounds: Bounds | None = None) -> Tensor:
        """scale = max|x| / qmax; ``largest``: max|x|, a scalar or (O,). bounds: in place of qmin and qmax, here and below."""
        _, qmax = bounds or self._bounds
        return ops.maximum(largest / qmax, SMALLEST_SCALE)

    def affine_scale(self, ops: Ops, extent: Tensor, bounds: Bounds | None = None) -> Tensor:
        """scale = (high - low) / (qmax - qmin); ``extent``: high - low, with low <= 0 <= high."""
        qmin, qmax = bounds or self._bounds
        return ops.maximum(extent / (qmax - qmin), SMALLEST_SCALE)

    def zero_point(self, ops: Ops, low: Tensor, scale: Tensor, bounds: Bounds | None = None) -> Tensor:
        """rint(qmin - low / scale): the code of 0 when ``low`` has the lowest code. Within qmin .. qmax."""
        qmin, qmax = bounds or self._bounds
        return ops.minimum(ops.maximum(ops.rint(qmin - low / scale), qmin), qmax)

    @property
    def _bounds(self) -> Bounds:
        return float(self.qmin), float(self.qmax)


@dataclass(frozen=True)
class BaseWeightQuantizer(Quantizer, ABC):
    """Of a weight. per_channel: one scale for each output, else one for the whole weight."""

    per_channel: bool = False

    observes_once: ClassVar[bool] = False  #: of training steps only the first that quantizes looks at the weight

    def params(self, shape: Shape) -> dict[str, Param]:
        """Its parameters and state for a weight of this shape, O first, by local name."""
        return {}

    def observe(self, ops: Ops, weight: Tensor, own: Tensors) -> dict[str, Tensor]:
        """New values of state for this weight, with which ``quantize`` goes on; only a training step keeps them."""
        return {}

    @abstractmethod
    def quantize(
        self, ops: Ops, weight: Tensor, floor: Tensor | None = None, own: Tensors | None = None
    ) -> WeightCodes:
        """The codes of a weight, with gradients.

        floor: the smallest scale allowed, (O,) or a scalar, without gradient. own: what ``params`` declares; and "mask",
        shaped like the weight, where weights are pruned: there mask and weight are 0, and the code becomes 0 afterwards.
        """

    def refuses_batch_norm(self, *, folded: bool) -> str | None:
        """Why this quantizer cannot take weights that batch normalisation is folded into, or (not ``folded``) weights
        whose codes take on the signs of gamma and whose scale takes on its size; None: it can.
        """
        return None

    def _mean(self, ops: Ops, x: Tensor, own: Tensors | None = None) -> Tensor:
        """Mean of numbers beside the weights, over those that are not pruned: of each output if per_channel, else of all."""
        mean = ops.output_mean if self.per_channel else ops.mean
        mask = (own or {}).get("mask")
        return mean(x) if mask is None else mean(x * mask) / ops.maximum(mean(mask), SMALLEST_SCALE)

    def _straight_through(self, ops: Ops, codes: Tensor, scale: Tensor, through: Tensor) -> Tensor:
        """Codes, made without gradient, whose real number has the gradient of ``through``, everywhere; the scale's has none."""
        change = through - ops.stop_gradient(through)  # 0
        return codes + change * ops.on_output(ops.reciprocal(scale), through)

    def _raised(self, ops: Ops, weight: Tensor, centred: Tensor, scale: Tensor, floor: Tensor | None) -> WeightCodes:
        """Codes that were made without a look at the floor. Where the scale has to be raised to it, they shrink by as much."""
        if floor is None:
            return WeightCodes(centred, scale, None)
        raised = self._at_least(ops, scale, floor)
        return WeightCodes(ops.round_ste(centred * ops.on_output(scale / raised, weight)), raised, None)

    def _at_least(self, ops: Ops, scale: Tensor, floor: Tensor | None) -> Tensor:
        if floor is None:
            return scale
        return ops.maximum(scale, ops.stop_gradient(floor) if self.per_channel else ops.max(ops.stop_gradient(floor)))


@dataclass(frozen=True)
class BaseActivationQuantizer(Quantizer, ABC):
    """Of an activation, with one scale and zero point."""

    symmetric: bool = False

    widths: ClassVar[tuple[int, int]] = (1, 16)
    by_sign: ClassVar[bool] = False  #: its codes are -1 where a number is negative, else 1; 0 is none of them
    #: A multiplication and a rounding give its codes. Else it takes codes, of which it is a table.
    uniform: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_bits == 1 and self.symmetric and not self.by_sign:
            raise QatError(
                f"{type(self).__name__}: symmetric codes of 1 bit would be -1 and 0; use symmetric=False for 0 and 1, or a "
                "BinaryActivationQuantizer for -1 and 1"
            )
        if self.num_bits == 1 and self.narrow_range:
            raise QatError(f"{type(self).__name__}: narrow_range leaves one code alone of 1 bit; leave it out")

    def refuses(self, non_negative: bool) -> str | None:
        """Why this quantizer cannot take numbers that are (or are not) never negative; None: it can."""
        return None

    @property
    def keep_scale(self) -> bool:
        """The scale is a power of two and has to stay one."""
        return False

    def bounds(self, ops: Ops, own: Tensors, shared: Sequence[Tensors], non_negative: bool) -> Bounds:
        """The lowest and the highest code; scalar tensors where training decides them. shared: as for ``grid``."""
        return self._bounds

    @abstractmethod
    def params(self, non_negative: bool) -> dict[str, Param]:
        """Its parameters and state, by local name; non_negative: of numbers that are never negative."""

    @abstractmethod
    def observe(self, ops: Ops, x: Value, own: Tensors, non_negative: bool, *, phase: int) -> dict[str, Tensor]:
        """New values of state in a training step, also in one before quant_delay, so that the network can be evaluated in its
        integers from the first step on. phase: of the pass (``Forward.phase``): the first step that quantizes has quant_delay.
        """

    @abstractmethod
    def unseen(self, own: Mapping[str, Array]) -> bool:
        """True as long as it has observed nothing, so that it has no grid."""

    @abstractmethod
    def calibrated(self, low: float, high: float, non_negative: bool) -> dict[str, float]:
        """Parameters and state for numbers from low to high, which need not include 0."""

    @abstractmethod
    def grid(
        self, ops: Ops, own: Tensors, shared: Sequence[Tensors], non_negative: bool, features: int = 1
    ) -> tuple[Tensor, Tensor | float]:
        """Scale (a scalar tensor) and zero point.

        shared: parameters and state of the fake quantizers that must have the same ones, as far as they have any.
        features: numbers in one sample.
        """

    def quantize(
        self, ops: Ops, x: Value, own: Tensors, shared: Sequence[Tensors], non_negative: bool, features: int
    ) -> Value:
        """y = clip(rint(x m), low, high), m = s_x / s_y: centred codes, with gradients.

        ``x`` may hold codes, accumulators or real numbers, with a ReLU that is still to be applied.
        """
        scale, zero_point = self.grid(ops, own, shared, non_negative, features)
        rectified = non_negative or x.relu is not None
        qmin, qmax = self.bounds(ops, own, shared, non_negative)
        low = 0.0 if rectified else qmin - zero_point
        high = qmax - zero_point
        if x.relu is not None and not math.isinf(x.relu):
            high = ops.minimum(ops.rint(x.relu / scale), high)
        codes = ops.requantize(x.data, _multiplier(ops, x, scale), low, high, open_low=rectified)
        return Value(codes, scale, codes=True)


def unbounded(ops: Ops, x: Value, non_negative: bool) -> Value:
    """x without a bound of its activation function that would clip codes: a code clipped by it says nothing about the scale."""
    if x.relu is not None and (not math.isinf(x.relu) or not non_negative):
        return Value(x.real(ops))
    return x


def steps_of(ops: Ops, x: Value, scale: Tensor) -> Tensor:
    """x / scale, neither rounded nor clipped, without gradient."""
    return ops.stop_gradient(x.data * _multiplier(ops, x, scale))


def _multiplier(ops: Ops, x: Value, scale: Tensor) -> Tensor:
    """What makes steps of ``scale`` of the numbers that x holds."""
    return ops.on_channel(ops.reciprocal(scale) if x.scale is None else x.scale / scale, x.data)

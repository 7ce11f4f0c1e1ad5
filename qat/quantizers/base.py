"""What every quantizer offers: its codes, its parameters, how it observes ranges.

A quantizer is a frozen dataclass. It declares its parameters and state and computes over the vocabulary of operations
(``qat.vocabulary.ops``), so that the same lines train on every backend and derive the deployed codes in NumPy. Cells
know no quantizer's formula: a linear cell asks a ``BaseWeightQuantizer`` for the codes of its weight, a ``FakeQuant``
asks a ``BaseActivationQuantizer`` for the codes of its input.

A code is the integer that stands for a real number: real = scale * (code - zero_point).
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

#: The scale of an all-zero channel or a dead activation. A product of two of them is still a normal float32 number.
SMALLEST_SCALE = 2.0**-60

Tensors = Mapping[str, Tensor]  #: parameters and state by local name
Bounds = tuple[Tensor | float, Tensor | float]  #: the lowest and the highest code, integers without gradient


class WeightCodes(NamedTuple):
    """A quantized weight.

    Attributes:
        centred: code - zero_point, integers in float32, shaped like the weight.
        scale: float32, (O,) if per_channel, else a scalar.
        zero_point: shaped like ``scale``; None where it is 0 everywhere.
    """

    centred: Tensor
    scale: Tensor
    zero_point: Tensor | None


@dataclass(frozen=True)
class Quantizer(Serializable):
    """The range of integer codes that a quantizer uses, and when it starts to quantize.

    Args:
        num_bits: bits of a code, 2 to 16 for weights and 1 to 16 for activations; 8 by default.
        symmetric: True: signed codes around zero point 0, -2^(num_bits - 1) to 2^(num_bits - 1) - 1; False: codes from
            0 to 2^num_bits - 1 and a zero point.
        narrow_range: leave the lowest code out, so that symmetric codes reach equally far on both sides; False by
            default.
        quant_delay: in training, the number of steps before quantization starts; 0 by default. Evaluation always
            quantizes.

    Raises:
        QatError: where a field is out of its range, or the quantizer's formula fixes it to another value.
    """

    num_bits: int = 8
    symmetric: bool = True
    narrow_range: bool = False
    quant_delay: int = 0

    label: ClassVar[str] = ""  #: starts the quantizer's description
    limit: ClassVar[str] = ""  #: before the number of bits in the description
    widths: ClassVar[tuple[int, int]] = (2, 16)  #: the fewest and the most bits
    of_one_bit: ClassVar[str] = ""  #: what to use instead where num_bits is 1 but has to be more
    fixed: ClassVar[dict[str, bool]] = {}  #: fields whose value the formula requires
    #: Whether ``bits`` follow from a parameter "share" alone, so that a checkpoint determines them.
    learns_bits: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        fewest, most = self.widths
        if not fewest <= self.num_bits <= most:
            allowed = f"{fewest}" if fewest == most else f"a whole number from {fewest} to {most}"
            allowed += self.of_one_bit if self.num_bits == 1 else ""
            raise QatError(f"{type(self).__name__}: num_bits is {self.num_bits!r}; use {allowed}")
        check_steps(self, "quant_delay")
        for name, value in self.fixed.items():
            if getattr(self, name) is not value:
                raise QatError(f"{type(self).__name__}: {name} is {not value}, but its formula requires {value}")

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
        """The number of bits where training decides it; objectives read it, as ``BopsBudget``.

        Args:
            ops: the vocabulary.
            x: a weight, or the ``Value`` of an activation.
            own: the quantizer's parameters and state.
            shared: parameters and state of the fake quantizers that must have the same grid.

        Returns:
            A scalar with its gradient; None where the number of bits is ``num_bits``.
        """
        return None

    @property
    def phase_starts(self) -> tuple[int, ...]:
        """The training steps at which the forward pass changes its form; a compiled step is compiled once for each."""
        return (self.quant_delay,)

    def symmetric_scale(self, ops: Ops, largest: Tensor, bounds: Bounds | None = None) -> Tensor:
        """scale = max|x| / qmax.

        Args:
            ops: the vocabulary.
            largest: max|x|, a scalar or (O,).
            bounds: the lowest and highest code in place of ``qmin`` and ``qmax``.

        Returns:
            The scale, shaped like ``largest``, at least ``SMALLEST_SCALE``.
        """
        _, qmax = bounds or self._bounds
        return ops.maximum(largest / qmax, SMALLEST_SCALE)

    def affine_scale(self, ops: Ops, extent: Tensor, bounds: Bounds | None = None) -> Tensor:
        """scale = (high - low) / (qmax - qmin).

        Args:
            ops: the vocabulary.
            extent: high - low, where low <= 0 <= high; a scalar or (O,).
            bounds: the lowest and highest code in place of ``qmin`` and ``qmax``.

        Returns:
            The scale, shaped like ``extent``, at least ``SMALLEST_SCALE``.
        """
        qmin, qmax = bounds or self._bounds
        return ops.maximum(extent / (qmax - qmin), SMALLEST_SCALE)

    def zero_point(self, ops: Ops, low: Tensor, scale: Tensor, bounds: Bounds | None = None) -> Tensor:
        """rint(qmin - low / scale): the code of the real number 0 where ``low`` has the lowest code.

        Args:
            ops: the vocabulary.
            low: the lower end of the range, at most 0.
            scale: the scale of the range.
            bounds: the lowest and highest code in place of ``qmin`` and ``qmax``.

        Returns:
            An integer in float32 within qmin .. qmax, shaped like ``scale``.
        """
        qmin, qmax = bounds or self._bounds
        return ops.minimum(ops.maximum(ops.rint(qmin - low / scale), qmin), qmax)

    @property
    def _bounds(self) -> Bounds:
        return float(self.qmin), float(self.qmax)


@dataclass(frozen=True)
class BaseWeightQuantizer(Quantizer, ABC):
    """A quantizer of weights.

    Args:
        per_channel: one scale for each output channel; by default one for the whole weight.
    """

    per_channel: bool = False

    of_one_bit = (
        ", or BinaryWeightQuantizer or TernaryWeightQuantizer as weight_quantizer (--weight_quantizer binary or ternary; "
        "'qat help quantizers')"
    )
    observes_once: ClassVar[bool] = False  #: whether only the first step that quantizes observes the weight

    def params(self, shape: Shape) -> dict[str, Param]:
        """The parameters and state that the quantizer needs beside the weight.

        Args:
            shape: of the weight, output channels first.

        Returns:
            Declarations by local name.
        """
        return {}

    def observe(self, ops: Ops, weight: Tensor, own: Tensors) -> dict[str, Tensor]:
        """New values of the state for this weight, before ``quantize``.

        The pass goes on with them; only a training step keeps them.

        Args:
            ops: the vocabulary.
            weight: float32, output channels first.
            own: the quantizer's parameters and state.

        Returns:
            The values that change, by local name.
        """
        return {}

    def calibrated(self, largest: Array) -> dict[str, Array]:
        """State for a range up to ``largest``, (O,) if per_channel, else a scalar; none where the range is the weight's."""
        return {}

    @abstractmethod
    def quantize(
        self, ops: Ops, weight: Tensor, floor: Tensor | None = None, own: Tensors | None = None
    ) -> WeightCodes:
        """The codes of a weight, with gradients.

        Args:
            ops: the vocabulary.
            weight: float32, output channels first.
            floor: the smallest scale allowed, (O,) or a scalar, without gradient; None for no such bound.
            own: what ``params`` declares; where weights are pruned also "mask", shaped like the weight. Where the mask
                is 0, so is the weight, and the caller sets the code to 0 afterwards.

        Returns:
            Codes, scale and zero point.
        """

    def refuses_batch_norm(self, *, folded: bool) -> str | None:
        """Why this quantizer cannot be combined with a batch normalisation, in words.

        Args:
            folded: True: the normalisation is folded into the weights before they are quantized. False: the weights are
                quantized first; the codes then take on the signs of gamma and the scale its size.

        Returns:
            The reason, to be put into an error message; None where it can.
        """
        return None

    @property
    def refuses_freezing(self) -> str | None:
        """Why single codes cannot be frozen while training goes on, nor weights be drawn to their codes, in words; None where
        they can: a weight's value is its code times one scale, from ``qmin`` to ``qmax``, with zero point 0.
        """
        return "its codes are not all whole steps of one scale from a fixed 0"

    def rescaled(self, own: Mapping[str, Array], factor: Array) -> dict[str, Array]:
        """Of its parameters ``own``, by local name, those that change where the weight's outputs are multiplied by ``factor``,
        (O,) above 0, so that codes stay where each output has a scale; none where scales follow the weight.
        """
        return {}

    def _mean(self, ops: Ops, x: Tensor, own: Tensors | None = None) -> Tensor:
        """Mean of numbers shaped like the weight, without the pruned places: of each output if per_channel, else of all."""
        # Pruned weights are 0, so the mean over all is divided by the share that is kept.
        mean = ops.output_mean if self.per_channel else ops.mean
        mask = (own or {}).get("mask")
        return mean(x) if mask is None else mean(x * mask) / ops.maximum(mean(mask), SMALLEST_SCALE)

    def _straight_through(self, ops: Ops, codes: Tensor, scale: Tensor, through: Tensor) -> Tensor:
        """Codes without gradient whose real value gets the gradient of ``through`` everywhere; the scale gets none."""
        change = through - ops.stop_gradient(through)  # 0, with the gradient of through
        return codes + change * ops.on_output(ops.reciprocal(scale), through)

    def _raised(self, ops: Ops, weight: Tensor, centred: Tensor, scale: Tensor, floor: Tensor | None) -> WeightCodes:
        """Apply the floor after the codes are made: where the scale is raised to it, the codes shrink by the same factor."""
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
    """A quantizer of activations, with one scale and zero point for the whole tensor.

    Args:
        symmetric: as in ``Quantizer``, but False by default: unsigned codes.

    Raises:
        QatError: for symmetric codes of 1 bit, or a narrow range of 1 bit.
    """

    symmetric: bool = False

    widths: ClassVar[tuple[int, int]] = (1, 16)
    by_sign: ClassVar[bool] = False  #: whether the codes are -1 where a number is negative, else 1, without a 0
    #: Whether multiplying and rounding gives the codes. Else they are read from a table of the codes before it.
    uniform: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_bits == 1 and self.symmetric and not self.by_sign:
            raise QatError(
                f"{type(self).__name__}: symmetric codes of 1 bit would be -1 and 0; use symmetric=False for 0 and 1, or a "
                "BinaryActivationQuantizer for -1 and 1"
            )
        if self.num_bits == 1 and self.narrow_range:
            raise QatError(f"{type(self).__name__}: narrow_range would leave a single code of 1 bit; leave it out")

    def refuses(self, non_negative: bool) -> str | None:
        """Why this quantizer cannot take the activations before it, in words.

        Args:
            non_negative: whether the activations are never negative.

        Returns:
            The reason, to be put into an error message; None where it can.
        """
        return None

    @property
    def keep_scale(self) -> bool:
        """Whether the scale is a power of two and has to stay one, so that no pass may adjust it."""
        return False

    def bounds(self, ops: Ops, own: Tensors, shared: Sequence[Tensors], non_negative: bool) -> Bounds:
        """The lowest and the highest code: numbers, or scalar tensors where training decides them.

        Args:
            ops: the vocabulary.
            own: the quantizer's parameters and state.
            shared: parameters and state of the fake quantizers that must have the same grid.
            non_negative: whether the activations are never negative.

        Returns:
            (lowest, highest).
        """
        return self._bounds

    @abstractmethod
    def params(self, non_negative: bool) -> dict[str, Param]:
        """The quantizer's parameters and state.

        Args:
            non_negative: whether the activations are never negative.

        Returns:
            Declarations by local name.
        """

    @abstractmethod
    def observe(self, ops: Ops, x: Value, own: Tensors, non_negative: bool, *, phase: int) -> dict[str, Tensor]:
        """New values of the state in a training step.

        Steps before ``quant_delay`` observe too, so that the network can be evaluated in integers from the first step
        on.

        Args:
            ops: the vocabulary.
            x: the activation.
            own: the quantizer's parameters and state.
            non_negative: whether the activations are never negative.
            phase: of the pass (``Forward.phase``); in the first step that quantizes it equals ``quant_delay``.

        Returns:
            The values that change, by local name.
        """

    def observe_again(
        self, ops: Ops, x: Value, before: Tensors, own: Tensors, non_negative: bool, *, phase: int
    ) -> dict[str, Tensor]:
        """As ``observe``, of a further use in one pass, as of a recurrence. ``before``: ``own`` before the first use."""
        return self.observe(ops, x, own, non_negative, phase=phase)

    @abstractmethod
    def unseen(self, own: Mapping[str, Array]) -> bool:
        """Whether nothing was observed yet, so that there is no scale.

        Args:
            own: the quantizer's parameters and state.

        Returns:
            True as long as it has neither observed nor been calibrated.
        """

    @abstractmethod
    def calibrated(self, low: float, high: float, non_negative: bool) -> dict[str, float]:
        """Parameters and state for a given range, as calibration sets them.

        Args:
            low: the lower end; need not be at most 0.
            high: the upper end; need not be at least 0.
            non_negative: whether the activations are never negative.

        Returns:
            A number for each parameter and state, by local name.
        """

    @abstractmethod
    def grid(
        self, ops: Ops, own: Tensors, shared: Sequence[Tensors], non_negative: bool, features: int = 1
    ) -> tuple[Tensor, Tensor | float]:
        """Scale and zero point.

        Args:
            ops: the vocabulary.
            own: the quantizer's parameters and state.
            shared: parameters and state of the fake quantizers that must have the same scale and zero point, as far as
                they have any.
            non_negative: whether the activations are never negative.
            features: how many numbers one sample of the activation has.

        Returns:
            The scale, a scalar tensor, and the zero point.
        """

    def quantize(
        self, ops: Ops, x: Value, own: Tensors, shared: Sequence[Tensors], non_negative: bool, features: int
    ) -> Value:
        """y = clip(rint(x m), low, high) with m = s_x / s_y: centred codes, with gradients.

        Args:
            ops: the vocabulary.
            x: codes, accumulators or real numbers, with a ReLU that may still have to be applied: the clip applies it.
            own: the quantizer's parameters and state.
            shared: parameters and state of the fake quantizers that must have the same grid.
            non_negative: whether the activations are never negative.
            features: how many numbers one sample of the activation has.

        Returns:
            Centred codes and their scale.
        """
        scale, zero_point = self.grid(ops, own, shared, non_negative, features)
        rectified = non_negative or x.relu is not None
        qmin, qmax = self.bounds(ops, own, shared, non_negative)
        low = 0.0 if rectified else qmin - zero_point
        high = qmax - zero_point
        if x.relu is not None and not math.isinf(x.relu):
            high = ops.minimum(ops.rint(x.relu / scale), high)
        return x.requantized(ops, scale, low, high, open_low=rectified)

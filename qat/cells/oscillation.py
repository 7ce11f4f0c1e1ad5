"""Weights whose codes jump between two neighbours: counted in each training step, and frozen where they do it too often.

Straight-through training moves a weight back and forth over the bound between two codes where the best value lies between
them (Nagel et al., arXiv 2203.11086, section 2). The tracker below is state of a linear cell, as a pruner's mask is: the
forward pass of training updates it over the vocabulary, the deployed integers read the frozen codes from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qat.errors import QatError
from qat.quantizers import WeightCodes
from qat.vocabulary.ops import Kind, Ops, Tensor
from qat.vocabulary.param import Param, Shape, constant
from qat.vocabulary.serial import Serializable

FREE = float(1 << 20)  #: in place of a frozen code, and of the last code before there was one: no code is as large
#: The names of all state that a tracker may have.
STATES = ("last_code", "last_direction", "frequency", "mean_code", "frozen_code", "freeze_threshold", "dampening")
NEVER_FREEZES = 2.0  #: a threshold that no frequency exceeds


@dataclass(frozen=True)
class OscillationTracker(Serializable):
    """Counts how often each weight's code oscillates, and freezes those that exceed a threshold.

    In step t a weight oscillates, o = 1, where its code changes in the direction opposite to its change before, however
    long ago that was. The frequency follows as f_t = m o_t + (1 - m) f_(t-1), the mean code likewise (Nagel et al., arXiv
    2203.11086, section 2.3 and equation 4). Where f exceeds the threshold, the code becomes the rounded mean code and stays
    it (section 4.2, algorithm 1): in training, in the integers and in every file, however scale and weight move.

    State, shaped like the quantized weight: "last_code", "last_direction" (-1, 0 or 1), "frequency"; to freeze also
    "mean_code" and "frozen_code" (``FREE`` where a weight is not frozen), and the scalar "freeze_threshold". To dampen, the
    scalar "dampening", lambda. The training loop sets both scalars before each step (``qat.Oscillations``).

    Args:
        momentum: m, above 0 to 1; 0.01 by default.
        freezes: whether it freezes weights; False by default: it counts.
        dampens: whether the training has a penalty that reads "dampening"; False by default.

    Raises:
        QatError: for a momentum out of its range.

    >>> from qat.cells.oscillation import OscillationTracker
    >>> list(OscillationTracker().params((8, 4), "dense_weight"))
    ['last_code', 'last_direction', 'frequency']
    """

    momentum: float = 0.01
    freezes: bool = False
    dampens: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.momentum <= 1.0:
            raise QatError(f"{type(self).__name__}: momentum is {self.momentum!r}; use a number above 0 and up to 1")

    def params(self, shape: Shape, kind: Kind) -> dict[str, Param]:
        """The state.

        Args:
            shape: of the quantized weight.
            kind: of the weight.

        Returns:
            Declarations by local name.
        """
        starts = {"last_code": FREE, "last_direction": 0.0, "frequency": 0.0}
        scalars = {}
        if self.freezes:
            starts |= {"mean_code": 0.0, "frozen_code": FREE}
            scalars["freeze_threshold"] = NEVER_FREEZES
        if self.dampens:
            scalars["dampening"] = 0.0
        state = {name: Param(shape, kind, constant(start), trainable=False) for name, start in starts.items()}
        return state | {name: Param((), "scalar", constant(s), trainable=False) for name, s in scalars.items()}

    def follow(self, ops: Ops, codes: Tensor, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """New values of the state after a training step.

        Args:
            ops: the vocabulary.
            codes: of this step, shaped like the weight.
            own: the state before.

        Returns:
            The values that change, by local name.
        """
        codes, last, before = ops.stop_gradient(codes), own["last_code"], own["last_direction"]
        known = last < FREE
        direction = ops.minimum(ops.maximum(ops.where(known, codes - last, codes * 0.0), -1.0), 1.0)
        oscillates = ops.maximum(-direction * before, 0.0)
        frequency = own["frequency"] + (oscillates - own["frequency"]) * self.momentum
        found = {
            "last_code": codes,
            "last_direction": ops.where(ops.abs(direction) > 0.0, direction, before),
            "frequency": frequency,
        }
        if self.freezes:
            mean = ops.where(known, own["mean_code"] + (codes - own["mean_code"]) * self.momentum, codes)
            frozen = own["frozen_code"]
            freezes = (frequency > own["freeze_threshold"]) & (frozen >= FREE)
            found |= {"mean_code": mean, "frozen_code": ops.where(freezes, ops.rint(mean), frozen)}
        return found


def frozen_codes(ops: Ops, codes: WeightCodes, own: Mapping[str, Tensor]) -> WeightCodes:
    """The codes with those in place that are frozen, which get no gradient. ``own``: state that may hold "frozen_code"."""
    frozen = own.get("frozen_code")
    return codes if frozen is None else codes._replace(centred=ops.where(frozen < FREE, frozen, codes.centred))

"""The codes of a linear cell's weight: its quantizer's, but for what a pruner or a tracker of oscillations has settled."""

from __future__ import annotations

from collections.abc import Mapping

from qat.cells.base import Scope
from qat.cells.bias_floor import bias_floor
from qat.cells.oscillation import OscillationTracker, frozen_codes
from qat.quantizers import BaseWeightQuantizer, WeightCodes
from qat.vocabulary.ops import Ops, Tensor

OF_QUANTIZER = "weight_"  #: before the names of a weight quantizer's parameters
MASK = f"{OF_QUANTIZER}mask"  #: the state of a pruner, which quantizers may look at


def of_quantizer(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A weight quantizer's parameters among those of its cell, by the quantizer's own names; and the states of the cell's
    pruner and tracker, if it has them.
    """
    return {name[len(OF_QUANTIZER) :]: value for name, value in params.items() if name.startswith(OF_QUANTIZER)}


def weight_codes(
    ops: Ops, quantizer: BaseWeightQuantizer, weight: Tensor, floor: Tensor | None, own: Mapping[str, Tensor]
) -> WeightCodes:
    """The codes of a weight, frozen ones as they were frozen, and of pruned ones 0, whether the quantizer has that code or not.

    Args:
        ops: the vocabulary.
        quantizer: of the weight.
        weight: float32, output channels first, with whatever is folded into it.
        floor: the smallest scale allowed, (O,) or a scalar; None for no such bound.
        own: of ``of_quantizer``.
    """
    codes = frozen_codes(ops, quantizer.quantize(ops, weight, floor, own), own)
    mask = own.get(MASK[len(OF_QUANTIZER) :])
    return codes if mask is None else codes._replace(centred=codes.centred * mask)


def with_bias(
    ops: Ops,
    quantizer: BaseWeightQuantizer,
    weight: Tensor,
    bias: Tensor | None,
    x_scale: Tensor,
    own: Mapping[str, Tensor],
) -> tuple[WeightCodes, Tensor | None]:
    """Weight and bias codes, where the input's codes have scale x_scale; see ``bias_floor`` for the smallest scale."""
    if bias is None:
        return weight_codes(ops, quantizer, weight, None, own), None
    codes = weight_codes(ops, quantizer, weight, bias_floor(ops, bias, x_scale, quantizer.num_bits), own)
    return codes, ops.round_ste(bias / (x_scale * codes.scale))


def follow(scope: Scope, tracker: OscillationTracker | None, codes: WeightCodes) -> None:
    """Let a cell's tracker count: once in a training step, however often the cell is used in it."""
    known = scope.prefix + f"{OF_QUANTIZER}last_code" in scope.context.updates
    if tracker is not None and scope.context.training and not known:
        own = of_quantizer(scope.params())
        for name, value in tracker.follow(scope.ops, codes.centred, own).items():
            scope.update(f"{OF_QUANTIZER}{name}", value)

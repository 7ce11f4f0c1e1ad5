"""What to do about layers that cost accuracy: rules over what ``diagnose`` has measured (docs/diagnosis.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from qat.analysis.choosing import NEAREST
from qat.analysis.diagnosed import Advice, AllAdvice, Layer, Output, shortened_names
from qat.training.checkpoint import Checkpoint

GOOD = 40.0  #: dB of every output from which on there is nothing to do: an error of 1 % of the numbers
POOR = 20.0  #: dB of an output below which training is advised: an error of 10 % of the numbers
MATTERS = 0.05  #: blame of a layer from which on there is advice on it
FAR = 8.0  #: a channel's range over the median one, or the reverse: 3 bits are lost
MUCH = 0.5  #: share of an error that makes it the one to work on
SOME = 0.2  #: share of an error from which on it is worth to work on
BETTER = 0.7  #: of an error that another range would leave
FEW_BITS = 8  #: below these, more bits are advised
#: Advice on what was calibrated with nothing chosen.
CHOOSE = "nothing was chosen: calibrate without --method, --equalize, --rounding, --bias_correction"


class Rule(NamedTuple):
    """Of which layers something is advised."""

    what: str
    holds: Callable[[Layer], bool]
    text: str


def _by_weights(x: Layer) -> bool:
    """Its weights err more than the rounding of its activation."""
    return x.weight_share >= MUCH


def _activations_apart(x: Layer) -> bool:
    """The grid of its largest channel is too coarse for the others."""
    return x.weight_share <= 1.0 - SOME and x.worst_activation >= FAR


def _inputs_apart(x: Layer) -> bool:
    """Its weights of a large input channel are small, and lose much beside the others, on whose scale they are."""
    return x.weight_share >= SOME and x.worst_input >= FAR


#: In the order in which they are printed.
RULES = (
    Rule(
        "per_channel",
        lambda x: x.weight_share >= SOME and x.far > 0 and not x.per_channel,
        "one scale for weights whose channels are far apart: per_channel, or calibrate --equalize",
    ),
    Rule(
        "equalize",
        lambda x: _activations_apart(x) or _inputs_apart(x),
        "one grid for activations whose channels are far apart: calibrate --equalize",
    ),
    Rule(
        "range",
        lambda x: x.weight_share <= 1.0 - SOME and min(x.halved, x.doubled) <= BETTER,
        "a range too narrow or too wide for the activations: calibrate --method mse",
    ),
    Rule(
        "bias_correction",
        lambda x: x.bias_share >= MUCH,
        "errors that are mostly the same on all images: calibrate --bias_correction",
    ),
    Rule(
        "weight_bits",
        lambda x: _by_weights(x) and x.weight_bits < FEW_BITS,
        "weights of few bits: more for these layers (--quant_config)",
    ),
    Rule(
        "activation_bits",
        lambda x: not _by_weights(x) and x.activation_bits < FEW_BITS,
        "activations of few bits: more for these layers (--quant_config)",
    ),
)


def plainly_calibrated(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint was calibrated with nothing but ranges, none of it chosen by measuring, and not trained since."""
    record = (checkpoint.history[0] if checkpoint.history else {}).get("calibration")
    if not record or checkpoint.step:
        return False
    tried = record.get("decisions") or record.get("equalize") or record.get("bias_correction")
    return not tried and record.get("rounding") in (NEAREST, None)


def advice_on(layers: Sequence[Layer], outputs: Sequence[Output], *, plain: bool = False) -> AllAdvice:
    """What follows from the measurements.

    Args:
        layers: what was measured of each.
        outputs: of the network.
        plain: the network is known to be ``plainly_calibrated``.

    Returns:
        At least one thing, "nothing" among them.
    """
    worst = min(output.sqnr for output in outputs)
    if worst >= GOOD:
        return AllAdvice([Advice("nothing", (), f"nothing to gain: every output has at least {GOOD:g} dB")])
    guilty = sorted((x for x in layers if x.blame >= MATTERS), key=lambda x: -x.blame)
    found = []
    for rule in RULES:
        names = tuple(x.name for x in guilty if rule.holds(x))
        if names:
            found.append(Advice(rule.what, names, f"{shortened_names(names)}: {rule.text}"))
    if plain:
        found.append(Advice("calibrate", (), CHOOSE))
    if worst < POOR:
        text = f"an output has {worst:.1f} dB, less than {POOR:g}: train-quant, which adapts weights to their codes"
        found.append(Advice("train", (), text))
    text = "no rule applies: what is lost is lost by rounding to so many bits, everywhere"
    return AllAdvice(found or [Advice("nothing", (), text)])

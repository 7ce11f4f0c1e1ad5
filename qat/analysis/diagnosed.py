"""The result of ``diagnose``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qat.analysis.agreement import Codes
from qat.tables import counted
from qat.vocabulary.listing import Listed, Listing, Row

MOST_NAMES = 3


def decibels(value: float) -> str:
    """An SQNR as text, without its unit; "exact" where nothing differs."""
    return "exact" if value == math.inf else f"{value:.1f}"


def shortened_names(names: Sequence[str]) -> str:
    """The first names of several, and how many more there are."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Layer:
    """A fake quantizer and what it stands behind: a row of a diagnosis. All formulas stand in ``qat.analysis.diagnosis``.

    Args:
        name: of the layer; of a fake quantizer that is not the last one behind it, its own.
        weights: names of the cells whose quantized weights are between this fake quantizer and those before it.
        weight_bits: of these weights, the fewest; 0 without any.
        activation_bits: of the codes.
        per_channel: whether every output channel of the weights has a scale of its own.
        blame: the share of the outputs' error that the layer causes alone, 0 to 1.
        sqnr: of the integers, in dB.
        cosine: of the integers.
        own: SQNR of the layer quantized alone, in dB.
        weight: the same with its weights alone.
        activation: the same with its activation alone.
        inherited: SQNR of the float layer with the integers before it, in dB.
        clipped: share of the float numbers that lie beyond the grid by more than half a step.
        codes_used: share of the grid's codes that the integers have.
        far: channels of the weights whose max |w| is more than ``FAR`` = 8 times the median channel's, or less than an
            eighth of it; those below 2^-12 of the largest, which carry little but a bias, are left out.
        worst: the largest such ratio, at least 1; 1 without weights.
        worst_activation: how many times the float activation's largest channel is the median one.
        worst_input: the same of the activations that it takes, the largest; 1 where these are the network's input.
        dead: channels of the integers that have one number on all images and places, as 0.
        dead_in_float: the same of the float numbers.
        weight_share: of the squared errors of weights and activation alone, that of the weights.
        halved: of the activation's own squared error, what a range half as wide would leave: a quarter of the rounding, and
            what it clips; 1 where the quantizer's codes are not even, or it has no range.
        doubled: the same of a range twice as wide: four times the rounding, and nothing clipped.
        bias_share: of the integers' squared error, that of the mean error of each channel.
    """

    name: str
    weights: tuple[str, ...]
    weight_bits: int
    activation_bits: int
    per_channel: bool
    blame: float
    sqnr: float
    cosine: float
    own: float
    weight: float
    activation: float
    inherited: float
    clipped: float
    codes_used: float
    far: int
    worst: float
    worst_activation: float
    worst_input: float
    dead: int
    dead_in_float: int
    weight_share: float
    halved: float
    doubled: float
    bias_share: float

    def __repr__(self) -> str:
        bits = f"{self.weight_bits or '-'}/{self.activation_bits} bits"
        return f"Layer {self.name}, {bits}, blame {100 * self.blame:.1f} %, SQNR {decibels(self.sqnr)} dB"


@dataclass(frozen=True)
class Output:
    """An output of the network, its integers against float.

    Args:
        name: of the layer that gives it.
        sqnr: in dB.
        cosine: of both.
        agreement: share of the samples whose largest number is at the same place in both; None where an output is not (F,)
            with at least two numbers.
    """

    name: str
    sqnr: float
    cosine: float
    agreement: float | None


@dataclass(frozen=True)
class Advice:
    """One thing to do.

    Args:
        what: "per_channel", "equalize", "range", "bias_correction", "weight_bits", "activation_bits", "calibrate", "train" or
            "nothing".
        layers: on account of which, the most to blame first.
        text: in a line.
    """

    what: str
    layers: tuple[str, ...]
    text: str

    def __repr__(self) -> str:
        return f"Advice {self.what}: {self.text}"


class AllAdvice(Listed, tuple[Advice, ...]):
    """The advice of a diagnosis, in the order in which it is printed: a tuple that prints as a list.

    >>> from qat.analysis.diagnosed import Advice, AllAdvice
    >>> print(AllAdvice([Advice("range", ("fc",), "fc: a range too narrow: calibrate --method mse")]))
    1 piece of advice
    what   on account of
    range  fc
        fc: a range too narrow: calibrate --method mse
    """

    def __repr__(self) -> str:
        return f"{counted(len(self), 'piece')} of advice: {', '.join(x.what for x in self)}"

    @property
    def _listing(self) -> Listing:
        rows = [Row((x.what, shortened_names(x.layers)), x.text) for x in self]
        return Listing(f"{counted(len(self), 'piece')} of advice", ("what", "on account of"), tuple(rows))


@dataclass(frozen=True)
class Diagnosis(Listed):
    """What ``diagnose`` found.

    Args:
        network: its name.
        samples: on how many.
        layers: in the order of the network.
        outputs: in the order of the network's outputs.
        advice: what to do, at least one.
        codes: by the layer's name, how its float numbers and its integers lie on the grid, summed over all samples.
    """

    network: str
    samples: int
    layers: tuple[Layer, ...]
    outputs: tuple[Output, ...]
    advice: AllAdvice
    codes: Mapping[str, Codes] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        found = ", ".join(f"{x.name}: {x.sqnr:.1f} dB" for x in self.outputs)
        return f"Diagnosis of {self.network} on {self.samples:,} samples, {len(self.layers)} layers, {found}"

    @property
    def _listing(self) -> Listing:
        rows = [
            Row(
                (
                    x.name,
                    f"{x.weight_bits or '-'}/{x.activation_bits}",
                    f"{100 * x.blame:.1f}",
                    *map(decibels, (x.sqnr, x.own, x.inherited)),
                )
            )
            for x in self.by_blame
        ]
        rows += [Row(("advice", "", "", "", "", ""), x.text) for x in self.advice]
        columns = ("layer", "bits", "blame in %", "SQNR in dB", "own in dB", "before in dB")
        return Listing(repr(self), columns, tuple(rows))

    @property
    def by_blame(self) -> tuple[Layer, ...]:
        """The layers, the most to blame first."""
        return tuple(sorted(self.layers, key=lambda x: -x.blame))

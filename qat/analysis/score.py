"""The score of a LeNet-5 compression contest: a compressed network against its reference, criterion by criterion."""

from __future__ import annotations

from dataclasses import dataclass

from qat.analysis.timing import Times

FULL = 100.0  #: what the contest caps a score at
BASIC = 60.0  #: for a network that is worse in no criterion


@dataclass(frozen=True)
class Measured:
    """The measurements of one network.

    Args:
        name: of the network.
        accuracy: 0 to 1.
        times: seconds for one image, measured alternately with the other network.
        params: stored numbers, weights and biases.
        macs: multiply-accumulates for one image.
    """

    name: str
    accuracy: float
    times: Times
    params: int
    macs: int


@dataclass(frozen=True)
class Score:
    """The points of a compressed network.

    Args:
        accuracy: points for accuracy.
        time: points for time.
        params: points for parameters.
        macs: points for multiply-accumulates.
        worse: the criteria in which the network is worse than the reference, in words; with any, the score is 0.
    """

    accuracy: float
    time: float
    params: float
    macs: float
    worse: tuple[str, ...]

    @property
    def uncapped(self) -> float:
        """The points before the cap at 100."""
        return 0.0 if self.worse else BASIC + self.accuracy + self.time + self.params + self.macs

    @property
    def points(self) -> float:
        """The points of the contest, 0 to 100."""
        return min(self.uncapped, FULL)


def score(reference: Measured, model: Measured) -> Score:
    """60 + 2000 (a' - a) + 50 (i - i') / i + 2 (p - p') / p' + 2 (m - m') / m', with primes for ``model``; 0 where it
    is worse.

    i' / i is the median over neighbouring blocks of the alternating times. A time counts as worse only where the first
    quartile of these ratios is above 1 too, because smaller differences are noise of the machine.

    Args:
        reference: the network to compare with.
        model: the compressed network.

    Returns:
        The points.
    """
    ratios = model.times.over(reference.times)
    first, third = ratios.quartiles
    worse = []
    if model.accuracy < reference.accuracy:
        worse.append(f"accuracy {100 * model.accuracy:.2f} % < {100 * reference.accuracy:.2f} %")
    if first > 1.0:
        worse.append(f"time {ratios.median:.2f} times the reference's (quartiles {first:.2f} and {third:.2f})")
    for what, own, other in (("parameters", model.params, reference.params), ("MACs", model.macs, reference.macs)):
        if own > other:
            worse.append(f"{what} {own:,} > {other:,}")
    return Score(
        2000.0 * (model.accuracy - reference.accuracy),
        50.0 * (1.0 - ratios.median),
        2.0 * (reference.params - model.params) / model.params,
        2.0 * (reference.macs - model.macs) / model.macs,
        tuple(worse),
    )

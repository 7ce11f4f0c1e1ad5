"""What a calibration chooses by itself: the candidate with which the outputs err least on images that are held back from it.

SQNR = 10 log10(1 / E) in dB, with E the mean over the outputs of sum (f - q)^2 / sum f^2: f the outputs of the float network, q
those of the quantized one, sums over the held-back images and places. An output that a Softmax makes is compared before
it, as logits.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any, TypeVar

import numpy as np

from qat.analysis.agreement import Agreement, decibels
from qat.analysis.ranges import METHODS, Batches
from qat.errors import QatError, QatWarning
from qat.graph import Graph
from qat.passes.logits_graph import logits_graph
from qat.training.forward import IDLE, NodeLoop
from qat.vocabulary.arrays import Arrays, as_arrays, as_tuple
from qat.vocabulary.fields import check_fields, check_type
from qat.vocabulary.ops import Array, Ops
from qat.vocabulary.rows import Rows

FEWEST = 16  #: images with which something is chosen; of fewer, too few would be held back
SHARE = 4  #: one image of so many is held back
MOST_HELD = 64  #: images; a choice between a few candidates needs no more
CHECKED = 16  #: images on which a method that was asked for is compared with "minmax"
RUINED = 3.0  #: dB below "minmax" from which on there is a warning: twice the error
ENOUGH = 30.0  #: dB with which there is none: an error of 3 % of the numbers
CANDIDATES = ("minmax", "mse", "percentile")  #: candidates; of equal ones the first is taken
EQUAL = 0.1  #: dB by which one has to be better than those before it: less is chance, of so few images

#: How weights become codes: "learned" is ``qat.LearnedRounding``, which has settings of its own.
ROUNDINGS = NEAREST, MOMENTS, LEARNED = "nearest", "moments", "learned"

T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """What a calibration was asked for; None: it chooses.

    Args:
        method: of ranges, one of ``qat.analysis.ranges.METHODS``.
        percentile: for the method of that name.
        equalize: whether channels are equalized.
        bias_correction: whether biases are corrected.
        rounding: of weights, one of ``ROUNDINGS``.

    Raises:
        QatError: there is no such method, percentile or rounding.
    """

    method: str | None
    percentile: float
    equalize: bool | None
    bias_correction: bool | None
    rounding: str | None = None

    def __post_init__(self) -> None:
        check_percentile(self.percentile)
        check_fields(self)
        if self.rounding not in (None, *ROUNDINGS):
            raise QatError(
                f"rounding {self.rounding!r} is unknown: choose {NEAREST}, {MOMENTS}, {LEARNED} or a qat.LearnedRounding, or "
                "None to have it chosen"
            )
        if self.method not in (None, *METHODS):
            raise QatError(
                f"method {self.method!r} is unknown: choose one of {', '.join(METHODS)}, or None to have it chosen"
            )

    @property
    def undecided(self) -> bool:
        """Whether there is anything to choose."""
        return None in (self.method, self.equalize, self.bias_correction, self.rounding)

    def without_choice(self) -> Wanted:
        """The same, what is open being what is never far off: ranges from the smallest to the largest number, nothing else."""
        return replace(
            self,
            method=self.method or "minmax",
            equalize=bool(self.equalize),
            bias_correction=bool(self.bias_correction),
            rounding=self.rounding or NEAREST,
        )


def check_percentile(percentile: float) -> None:
    """Raise QatError unless a range can end at this percentile."""
    check_type("percentile", percentile, float)
    if not 50.0 < percentile <= 100.0:
        raise QatError(f"percentile is {percentile}; use a number above 50, where a range is empty, and up to 100")


def options(wanted: T | None, candidates: tuple[T, ...]) -> tuple[T, ...]:
    """The candidates, or what was asked for in their place."""
    return candidates if wanted is None else (wanted,)


@dataclass(frozen=True)
class Decision:
    """One thing that a calibration chose.

    Attributes:
        setting: of ``calibrate``, as "method".
        chosen: its value.
        sqnr: of each candidate, by its value in words, the outputs' SQNR on the held-back images in dB, to hundredths; None: no
            error at all.
    """

    setting: str
    chosen: str
    sqnr: Mapping[str, float | None]

    @classmethod
    def of(cls, setting: str, errors: Mapping[Any, float], chosen: str | bool) -> Decision:
        """A choice between values of a setting. errors: E of each."""
        found = {key: decibels(1.0, error) for key, error in errors.items()}
        return cls(
            setting, _words(chosen), {_words(key): round(x, 2) if isfinite(x) else None for key, x in found.items()}
        )


def _words(value: str | bool) -> str:
    return value if isinstance(value, str) else "yes" if value else "no"


class Judge:
    """The error of quantized outputs on some images, beside those of the float network.

    Attributes:
        name: of the network.
        images: how many there are.

    Args:
        graph: the quantized graph.
        params: its float parameters.
        batches: the images.
        ops: the vocabulary that computes.
    """

    def __init__(self, graph: Graph, params: Mapping[str, Array], batches: Batches, ops: Ops) -> None:
        self._loop = NodeLoop(logits_graph(graph), ops)
        self._batches, self._quantizing = batches, max(graph.phase_starts)
        self._float = self._outputs(params, IDLE)
        self.name, self.images = graph.name, sum(len(outputs[0]) for outputs in self._float)

    def _outputs(self, params: Mapping[str, Array], phase: int) -> list[tuple[Array, ...]]:
        """Of each batch the network's outputs."""
        loop = self._loop
        context = loop.load(params, phase)
        with np.errstate(over="ignore", invalid="ignore"):  # numbers that are not finite get an error of their own
            found = [loop.run(context, loop.pixels(batch)) for batch in self._batches]
        return [tuple(loop.ops.to_numpy(y, "activation") for y in outputs) for outputs in found]

    def error(self, params: Mapping[str, Array]) -> float:
        """E of the module's formula, with these parameters; an output that is 0 everywhere in float is left out."""
        agreements = [Agreement() for _ in self._loop.graph.outputs]
        for real, coded in zip(self._float, self._outputs(params, self._quantizing), strict=True):
            for agreement, f, q in zip(agreements, real, coded, strict=True):
                agreement.add(f, q)
        return float(np.mean([x.relative for x in agreements if x.signal] or [0.0]))


def held_back(images: Arrays) -> tuple[Arrays, Arrays]:
    """Images to calibrate on, and those that are held back, drawn at random, the same ones each time.

    Args:
        images: at least ``FEWEST``.
    """
    count = len(as_tuple(images)[0])
    held = np.zeros(count, bool)
    held[np.random.default_rng(0).permutation(count)[: min(count // SHARE, MOST_HELD)]] = True
    return _rows(images, np.flatnonzero(~held)), _rows(images, np.flatnonzero(held))


def some_of(images: Arrays) -> Arrays:
    """Up to ``CHECKED`` images, evenly spread."""
    count = len(as_tuple(images)[0])
    return _rows(images, np.unique(np.linspace(0, count - 1, CHECKED).astype(np.int64)))


def _rows(images: Arrays, which: Array) -> Arrays:
    return as_arrays(tuple(x.chosen(which) if isinstance(x, Rows) else x[which] for x in as_tuple(images)))


def best(errors: Mapping[T, float]) -> T:
    """The first candidate whose error is the smallest but for less than 0.1 dB; what is not finite is never the best."""
    found = {key: error if isfinite(error) else inf for key, error in errors.items()}
    enough = min(found.values()) * 10.0 ** (EQUAL / 10.0)
    return next(key for key, error in found.items() if error <= enough)


def warn_if_ruined(judge: Judge, method: str, params: Mapping[str, Array], minmax: Mapping[str, Array]) -> None:
    """A QatWarning where a method that was asked for makes the outputs err much, and much more than "minmax" does.

    Args:
        judge: with images.
        method: the method.
        params: with its ranges.
        minmax: with those of "minmax".
    """
    found, plain = (decibels(1.0, judge.error(each)) for each in (params, minmax))
    if found < min(plain - RUINED, ENOUGH):
        warnings.warn(
            f"{judge.name}: with ranges of the method {method} the outputs have an SQNR of {found:.1f} dB on {judge.images} "
            f"calibration images, and {plain:.1f} dB with those of minmax: it cuts off numbers that matter; use minmax, or "
            "name no method, so that the best one is chosen",
            QatWarning,
            stacklevel=4,
        )

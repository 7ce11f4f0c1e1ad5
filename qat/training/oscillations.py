"""Oscillating weights of a training: what is done about them, and what is reported (Nagel et al., arXiv 2203.11086)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from qat.cells.linear import WeightedCell
from qat.cells.oscillation import FREE, OscillationTracker
from qat.cells.weight_codes import OF_QUANTIZER
from qat.errors import QatError
from qat.graph import Graph, Params
from qat.vocabulary.fields import check_fields
from qat.vocabulary.ops import Array

OSCILLATES = 0.005  #: the frequency above which a weight counts as oscillating, as in the paper's tables


@dataclass(frozen=True)
class Oscillations:
    """Count the weights whose codes oscillate in training; freeze them, or dampen their oscillations, or both.

    Frozen: a weight whose frequency exceeds a threshold keeps the rounded running mean of its codes from then on
    (``OscillationTracker``). The threshold falls by a cosine over the quantized steps, from ``freeze_from`` to ``freeze``, so
    that the first steps, in which much still moves, freeze little (arXiv 2203.11086, section 4.2).

    Dampened: the loss gets lambda sum (v - w)^2 over the weights w inside their quantizer's range, v the value of w's code,
    which gets no gradient (section 4.1, equation 6). lambda rises by a cosine from 0 to ``dampen``.

    For weight quantizers whose codes are steps of one scale around 0: min/max, symmetric, and LSQ, with any activation
    quantizer. Without either, weights are counted alone. The state is part of the checkpoint; resuming repeats.

    Args:
        freeze: the last threshold, a frequency above 0 and up to 1, as 0.01; None, the default: nothing is frozen.
        freeze_from: the first threshold, of at least ``freeze``; None, the default: 0.1, or ``freeze`` where that is more.
        dampen: the last lambda, 0 or more, as 0.001; 0 by default.
        momentum: of frequencies and mean codes, above 0 to 1; 0.01 by default.

    Raises:
        QatError: where a field is out of its range.

    >>> import qat
    >>> qat.Oscillations(freeze=0.01).threshold(0, 100), qat.Oscillations(freeze=0.01).threshold(100, 100)
    (0.1, 0.01)
    """

    freeze: float | None = None
    freeze_from: float | None = None
    dampen: float = 0.0
    momentum: float = 0.01

    def __post_init__(self) -> None:
        check_fields(self)
        if self.freeze is not None and not 0.0 < self.freeze <= 1.0:
            raise QatError(f"freeze_oscillations is {self.freeze}; use a frequency above 0 and up to 1, as 0.01")
        if self.freeze_from is not None:
            if self.freeze is None:
                raise QatError(
                    f"freeze_from is {self.freeze_from}, but freeze says nothing; give freeze, the last threshold, too"
                )
            if not self.freeze <= self.freeze_from <= 1.0:
                raise QatError(
                    f"freeze_from is {self.freeze_from}, but the threshold falls to {self.freeze}; begin with "
                    "at least as much, and at most 1"
                )
        if not 0.0 <= self.dampen < math.inf:
            raise QatError(f"dampen is {self.dampen}; use 0 or a positive number, as 0.001")
        _ = self.tracker  # raises for a momentum out of range

    @property
    def tracker(self) -> OscillationTracker:
        """Of each weight."""
        return OscillationTracker(self.momentum, freezes=self.freeze is not None, dampens=self.dampen > 0.0)

    def threshold(self, step: int, steps: int) -> float:
        """The frequency above which a weight is frozen.

        Args:
            step: of the quantized steps, from 0.
            steps: how many there are.
        """
        assert self.freeze is not None
        first = max(0.1, self.freeze) if self.freeze_from is None else self.freeze_from
        return self.freeze + (first - self.freeze) * _falling(step, steps)

    def weight(self, step: int, steps: int) -> float:
        """lambda of the penalty; arguments as of ``threshold``."""
        return self.dampen * (1.0 - _falling(step, steps))

    def scalars(self, graph: Graph, step: int, steps: int) -> Params:
        """What the trackers of a graph are told before a step, by full name; arguments as of ``threshold``."""
        own = {}
        if self.freeze is not None:
            own["freeze_threshold"] = self.threshold(step, steps)
        if self.dampen:
            own["dampening"] = self.weight(step, steps)
        return {
            f"{name}.{OF_QUANTIZER}{local}": np.array(value, np.float32)
            for name in tracked_cells(graph)
            for local, value in own.items()
        }


def _falling(step: int, steps: int) -> float:
    """Half a cosine from 1 to 0."""
    return 0.5 * (1.0 + math.cos(math.pi * min(max(step / max(steps, 1), 0.0), 1.0)))


class Oscillating(NamedTuple):
    """The weights of one cell after a training that counted them.

    Attributes:
        name: of the cell.
        weights: how many it has.
        oscillating: the number of those whose frequency is above ``OSCILLATES`` and that are not frozen.
        frozen: the number of those that are frozen.
    """

    name: str
    weights: int
    oscillating: int
    frozen: int


def oscillating(graph: Graph, params: Mapping[str, Array]) -> list[Oscillating]:
    """How many weights oscillate, by cell.

    Args:
        graph: trained with ``qat.Oscillations``.
        params: its parameters and state, by full name.

    Returns:
        An entry for each cell that was counted, in the order of the graph; empty where none was.

    >>> from qat.networks import LeNet5
    >>> from qat.training.oscillations import oscillating
    >>> graph = LeNet5().graph()
    >>> oscillating(graph, graph.initial_params())
    []
    """
    found = []
    for name in tracked_cells(graph):
        frequency = params[f"{name}.{OF_QUANTIZER}frequency"]
        frozen = params.get(f"{name}.{OF_QUANTIZER}frozen_code", np.float32(FREE)) < FREE
        moving = (frequency > OSCILLATES) & ~frozen
        found.append(Oscillating(name, frequency.size, int(moving.sum()), int(np.sum(frozen))))
    return found


def tracked_cells(graph: Graph) -> list[str]:
    """The names of the cells that have a tracker."""
    cells = {node.cell_name: node.cell for node in graph.nodes}
    return [name for name, cell in cells.items() if isinstance(cell, WeightedCell) and cell.tracker is not None]

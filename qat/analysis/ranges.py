"""Ranges of activations from the numbers that a network gives for some images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qat.cells.base import Context
from qat.cells.fake_quant import FakeQuant
from qat.errors import QatError
from qat.graph import Node, Params
from qat.training.forward import NodeLoop
from qat.vocabulary.ops import Array, Tensor
from qat.vocabulary.values import Value

METHODS = ("minmax", "percentile", "mse", "entropy")
BINS = 8192  #: of a histogram: 32 for each code of 8 bits
ENTROPY_BINS = 2048  #: as TensorRT has them; finer ones would measure the noise of few images
CANDIDATES = 100  #: ends of a range that "mse" tries
MOST_ROUNDS = 4  #: of moving one end, then the other

Batches = Sequence[tuple[Array, ...]]  #: samples (N, ...), one array for each input
Range = tuple[float, float]  #: low and high


def find_ranges(loop: NodeLoop, context: Context, batches: Batches, method: str, percentile: float) -> Params:
    """The state of every fake quantizer, with the range that the method of ``calibrate`` finds for it.

    Two passes over the images at most: the first for the ends of all numbers, the second for their histograms.

    Args:
        loop: of the quantized graph.
        context: of a pass in which every quantizer is idle.
        batches: uint8 pixels.
        method: one of ``METHODS``.
        percentile: for the method of that name.

    Returns:
        The state by full name, float32.

    Raises:
        QatError: where a number is not finite.
    """
    cells = {node.cell_name: node.cell for node in loop.graph.nodes if isinstance(node.cell, FakeQuant)}
    ends = _ends(loop, context, batches)
    if method != "minmax":
        choose: dict[str, Callable[[FakeQuant, Histogram], Range]] = {
            "percentile": lambda _, histogram: histogram.percentile_range(percentile),
            "mse": mse_range,
            "entropy": entropy_range,
        }
        histograms = _histograms(loop, context, batches, ends)
        ends = {name: choose[method](cells[name], histogram) for name, histogram in histograms.items()}
    state: Params = {}
    for node in loop.graph.nodes:
        if node.cell_name in cells:
            cell = cells[node.cell_name]
            found = cell.quantizer.calibrated(*ends[node.cell_name], cell.non_negative)
            state |= {f"{node.cell_name}.{local}": np.array(value, np.float32) for local, value in found.items()}
    return state


def _ends(loop: NodeLoop, context: Context, batches: Batches) -> dict[str, Range]:
    """The smallest and the largest number that enters each fake quantizer, in all its uses."""
    ends: dict[str, Range] = {}
    for batch in batches:
        for node, x in _observed(loop, context, batch):
            low, high = (_scalar(loop, end) for end in (x.smallest(loop.ops), x.largest(loop.ops)))
            if not np.isfinite([low, high]).all():
                raise QatError(
                    f"{node.inputs[0]}: gives numbers that are not finite in the float network, so they have no range; "
                    "train it anew before it is calibrated"
                )
            before = ends.get(node.cell_name, (low, high))
            ends[node.cell_name] = (min(low, before[0]), max(high, before[1]))
    return ends


def _histograms(loop: NodeLoop, context: Context, batches: Batches, ends: dict[str, Range]) -> dict[str, Histogram]:
    """Of the numbers that enter each fake quantizer."""
    histograms = {name: Histogram.empty(*of) for name, of in ends.items()}
    for batch in batches:
        for node, x in _observed(loop, context, batch):
            histograms[node.cell_name].add(loop.ops.to_numpy(x.real(loop.ops), "activation"))
    return histograms


def _observed(loop: NodeLoop, context: Context, batch: tuple[Array, ...]) -> Iterator[tuple[Node, Value]]:
    """Each fake quantizer, with what enters it."""
    values = loop.begin(loop.pixels(batch))
    for step in loop.steps:
        with np.errstate(over="ignore", invalid="ignore"):  # numbers that are not finite get an error of their own
            loop.advance(step, context, values)
        if isinstance(step.node.cell, FakeQuant):
            yield step.node, values[step.node.inputs[0]]


def _scalar(loop: NodeLoop, tensor: Tensor) -> float:
    return float(loop.ops.to_numpy(tensor, "scalar"))


@dataclass
class Histogram:
    """How often numbers fell into equal bins from low to high.

    Attributes:
        low: the lower end of the first bin, at most 0.
        high: the upper end of the last bin, at least 0.
        counts: of each bin, (BINS,), int64.
        zeros: how many numbers were exactly 0 (after a ReLU, most are); they are in no bin, since every range represents
            them exactly.
    """

    low: float
    high: float
    counts: Array
    zeros: int = 0

    @classmethod
    def empty(cls, low: float, high: float, bins: int = BINS) -> Histogram:
        """For numbers from low to high; its bins reach to 0 in any case."""
        return cls(min(low, 0.0), max(high, 0.0), np.zeros(bins, np.int64))

    def add(self, numbers: Array) -> None:
        """Count numbers; what lies outside goes into the outermost bins."""
        others = numbers[numbers != 0.0]
        self.zeros += numbers.size - others.size
        if others.size:
            inside = np.clip(others.astype(np.float64), self.low, self.high)
            self.counts += np.histogram(inside, len(self.counts), (self.low, self.high))[0]

    @property
    def edges(self) -> Array:
        """Of the bins, float64, (BINS + 1,)."""
        edges: Array = np.linspace(self.low, self.high, len(self.counts) + 1)
        return edges

    @property
    def centres(self) -> Array:
        """Of the bins, float64, (BINS,)."""
        edges = self.edges
        centres: Array = (edges[:-1] + edges[1:]) / 2.0
        return centres

    def merged(self, bins: int) -> Histogram:
        """The same with fewer bins."""
        return replace(self, counts=self.counts.reshape(bins, -1).sum(axis=1))

    def percentile_range(self, percentile: float) -> Range:
        """The numbers below which 100 - percentile, and percentile, of a hundred lie; linear within a bin."""
        edges = self.edges
        below = np.concatenate([[0], np.cumsum(self.counts)])
        # The zeros are a jump of the distribution at 0, which stands there twice: before it and after it.
        at = int(np.searchsorted(edges, 0.0))
        numbers = np.insert(edges, at, [0.0, 0.0])
        share = np.insert(below.astype(np.float64), at, np.interp(0.0, edges, below))
        share = np.insert(share, at, share[at])
        share[at + 1 :] += self.zeros
        low, high = np.interp(np.array([100.0 - percentile, percentile]) / 100.0 * share[-1], share, numbers)
        return float(low), float(high)


def _clipped(ends: Range, threshold: float) -> Range:
    """A range within -threshold .. threshold."""
    return max(ends[0], -threshold), min(ends[1], threshold)


def _thresholds(ends: Range, count: int) -> Array:
    """``count`` equal steps up to the end that is farther from 0, the largest first."""
    return max(-ends[0], ends[1]) * np.arange(count, 0, -1) / count


def _codes(cell: FakeQuant, ends: Range, numbers: Array) -> tuple[Array, float]:
    """Centred codes of real numbers where the range of a fake quantizer is ``ends``, float64, and their scale."""
    alone = replace(cell, shares=())
    found = cell.quantizer.calibrated(*ends, cell.non_negative)
    grid = alone.grid("", {local: np.array(value, np.float32) for local, value in found.items()})
    return np.clip(np.rint(numbers / float(grid.scale)), grid.low, grid.high), float(grid.scale)


def mse_range(cell: FakeQuant, histogram: Histogram) -> Range:
    """The range with the smallest sum over bins of count * (centre - code * scale)^2.

    Tried are 100 equal steps of one threshold for both ends (all that a symmetric quantizer has), then, where the ends
    are free, as many of the upper and of the lower one in turn, until neither moves. That is the "MSE based" range of
    Nagel et al., arXiv 2106.08295, section 3.1, equation 20, by search.
    """
    used = histogram.counts > 0
    counts, centres = histogram.counts[used].astype(np.float64), histogram.centres[used]

    def error(ends: Range) -> float:
        codes, scale = _codes(cell, ends, centres)
        return float((counts * (codes * scale - centres) ** 2).sum())

    whole = (histogram.low, histogram.high)
    best = min((_clipped(whole, t) for t in _thresholds(whole, CANDIDATES)), key=error)
    if cell.non_negative or cell.quantizer.symmetric:
        return best
    shares = np.arange(CANDIDATES, 0, -1) / CANDIDATES
    for _ in range(MOST_ROUNDS):
        before = best
        best = min([best, *((best[0], histogram.high * share) for share in shares)], key=error)
        best = min([best, *((histogram.low * share, best[1]) for share in shares)], key=error)
        if best == before:
            break
    return best


def entropy_range(cell: FakeQuant, histogram: Histogram) -> Range:
    """The range within which the distribution of codes is closest to that of the numbers, by Kullback-Leibler divergence.

    The method of TensorRT: S. Migacz, "8-bit inference with TensorRT", GTC 2017, pages 32 to 40. A threshold clips both
    ends. P: the 2,048 bins within it, those outside added to the outermost ones. Q: of the bins within, without those
    outside, each code's count spread evenly over its bins that P has filled. The threshold with the smallest
    sum of P log(P / Q) is taken, from as many bins as there are codes upwards; one for which Q is 0 where P is not is
    none. Exact zeros are left out (NVIDIA's pytorch-quantization does so too): after a ReLU they would hide the rest.
    Other numbers that recur exactly, as those of a picture's uniform background, mislead it (docs/calibration.md).
    """
    histogram = histogram.merged(ENTROPY_BINS)
    counts, centres = histogram.counts.astype(np.float64), histogram.centres
    whole = (histogram.low, histogram.high)
    if not counts.any():
        return whole
    reach = np.abs(centres)
    levels = cell.quantizer.qmax - cell.quantizer.qmin + 1
    best, smallest = whole, np.inf
    for threshold in _thresholds(whole, ENTROPY_BINS):
        inside = np.flatnonzero(reach <= threshold)
        if len(inside) < levels:
            break
        first, last = inside[0], inside[-1] + 1
        within = counts[first:last]
        p = within.copy()
        p[0] += counts[:first].sum()
        p[-1] += counts[last:].sum()
        ends = _clipped(whole, float(threshold))
        code = _codes(cell, ends, centres[first:last])[0].astype(np.int64)
        code -= code.min()
        filled = p > 0
        total, bins = np.bincount(code, within), np.bincount(code, filled)
        q = np.divide(total, bins, out=np.zeros(len(total)), where=bins > 0)[code] * filled
        if (q[filled] == 0.0).any():
            continue
        p, q = p[filled] / p.sum(), q[filled] / q.sum()
        divergence = float((p * np.log(p / q)).sum())
        if divergence < smallest:
            best, smallest = ends, divergence
    return best

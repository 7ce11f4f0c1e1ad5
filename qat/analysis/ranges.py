"""Ranges of activations from the numbers that a network gives for some images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from qat.cells.base import Context
from qat.cells.fake_quant import FakeQuant
from qat.errors import QatError
from qat.graph import Graph, Node, Params
from qat.training.forward import IDLE, NodeLoop
from qat.vocabulary.ops import Array, Ops, Tensor
from qat.vocabulary.values import Value

METHODS = ("minmax", "percentile", "mse", "entropy")
BINS = (
    1 << 14
)  #: of a histogram on either side of 0, of which more than half are used: 32 and more for each code of 8 bits
NARROWEST = 2.0**-114  #: a bin: float32 has its reciprocal, and the products with it
ENTROPY_BINS = 2048  #: at most, as TensorRT has them; finer ones would measure the noise of few images
CANDIDATES = 100  #: ends of a range that "mse" tries
MOST_ROUNDS = 4  #: of moving one end, then the other

Batches = Sequence[tuple[Array, ...]]  #: samples (N, ...), one array for each input
Range = tuple[float, float]  #: low and high


@dataclass(eq=False)
class Observed:
    """What the activations of a float network were on some images: enough to find their ranges by any method.

    Args:
        graph: the quantized graph.
        params: its parameters; ranges need not be there.
        counting: whether histograms are kept beside the ends, which every method but "minmax" needs.
    """

    graph: Graph
    params: Params
    counting: bool
    histograms: dict[str, Histogram] = field(default_factory=dict)

    def add(self, ops: Ops, batches: Batches, watch: Callable[[Node, Value], None] = lambda node, value: None) -> None:
        """Run the float network on more images.

        Args:
            ops: the vocabulary that computes.
            batches: of what the network takes.
            watch: is given every node with what it gives, in every batch.

        Raises:
            QatError: where a number is not finite.
        """
        loop = NodeLoop(self.graph, ops)
        context = loop.load(self.params, IDLE)
        for batch in batches:
            for node, values in in_steps(loop, context, loop.begin(loop.pixels(batch))):
                watch(node, values[node.name])
                if isinstance(node.cell, FakeQuant):
                    x = values[node.name] = Value(values[node.name].real(ops))  # once for all that follows
                    histogram = self.histograms.setdefault(node.cell_name, Histogram())
                    _observe(ops, histogram, node, x, counting=self.counting)

    def with_ranges(self, method: str, percentile: float) -> Params:
        """The parameters, with the state of every fake quantizer as a method of ``calibrate`` finds it, float32.

        Args:
            method: one of ``METHODS``.
            percentile: for the method of that name.
        """
        choose: dict[str, Callable[[FakeQuant, Histogram], Range]] = {
            "minmax": lambda _, histogram: histogram.ends,
            "percentile": lambda _, histogram: histogram.percentile_range(percentile),
            "mse": mse_range,
            "entropy": entropy_range,
        }
        found = dict(self.params)
        cells = {node.cell_name: node.cell for node in self.graph.nodes if isinstance(node.cell, FakeQuant)}
        for name, cell in cells.items():
            own = cell.quantizer.calibrated(*choose[method](cell, self.histograms[name]), cell.non_negative)
            found |= {f"{name}.{local}": np.array(value, np.float32) for local, value in own.items()}
        return found


def in_steps(
    loop: NodeLoop, context: Context, values: dict[str, Value], begin: int = 0, end: int | None = None
) -> Iterator[tuple[Node, dict[str, Value]]]:
    """Every node from ``begin`` to before ``end``, when it is done, with the values that are still to be used, its own and its
    inputs'.
    """
    for step, ended in zip(loop.steps[begin:end], loop.last_uses[begin:end], strict=True):
        with np.errstate(over="ignore", invalid="ignore"):  # numbers that are not finite get an error of their own
            loop.advance(step, context, values)
        yield step.node, values
        for name in ended:
            del values[name]


def _observe(ops: Ops, histogram: Histogram, node: Node, x: Value, *, counting: bool) -> None:
    """Add what enters a fake quantizer, real numbers."""
    low, high = (float(ops.to_numpy(end, "scalar")) for end in (x.smallest(ops), x.largest(ops)))
    if not np.isfinite([low, high]).all():
        raise QatError(
            f"{node.inputs[0]}: gives numbers that are not finite in the float network, so they have no range; "
            "train it anew before it is calibrated"
        )
    histogram.reach(low, high)
    if counting:
        histogram.add(ops, x.data)


@dataclass
class Histogram:
    """How often numbers fell into equal bins, the edges of which are multiples of their width.

    The width is the smallest power of two with which ``BINS`` bins on either side of 0 hold all numbers. When larger ones come,
    bins are joined by twos. So it does not depend on the order of the numbers, nor on how many come at a time.

    Attributes:
        ends: the smallest and the largest number.
        width: of a bin.
        all_counts: of all bins, (2 BINS,), int64; the first one begins at -BINS width.
        zeros: how many numbers were exactly 0 (after a ReLU, most are); they are in no bin, since every range represents
            them exactly.
    """

    ends: Range = (math.inf, -math.inf)
    width: float = NARROWEST
    all_counts: Array = field(default_factory=lambda: np.zeros(2 * BINS, np.int64))
    zeros: int = 0

    def reach(self, low: float, high: float) -> None:
        """Have bins for numbers from low to high."""
        self.ends = (min(low, self.ends[0]), max(high, self.ends[1]))
        width = max(NARROWEST, math.ldexp(1.0 / BINS, math.frexp(max(-low, high, 0.0))[1]))
        while self.width < width and self.all_counts.any():
            middle = self.all_counts.reshape(BINS, 2).sum(axis=1)
            self.all_counts = np.pad(middle, BINS // 2)
            self.width *= 2.0
        self.width = max(self.width, width)

    def add(self, ops: Ops, numbers: Tensor) -> None:
        """Count the numbers of an activation, for which there are bins."""
        counts, zeros = ops.counts(numbers, 1.0 / self.width, BINS)
        self.all_counts += counts
        self.zeros += zeros

    @property
    def low(self) -> float:
        """The lower end, at most 0."""
        return min(self.ends[0], 0.0)

    @property
    def high(self) -> float:
        """The upper end, at least 0."""
        return max(self.ends[1], 0.0)

    @property
    def _first(self) -> int:
        """The first bin that is used, counted from 0."""
        return math.floor(self.low / self.width)

    @property
    def counts(self) -> Array:
        """Of the bins from ``low`` to ``high``, int64, (B,)."""
        counts: Array = self.all_counts[BINS + self._first : BINS + math.floor(self.high / self.width) + 1]
        return counts

    @property
    def edges(self) -> Array:
        """Of these bins, float64, (B + 1,); the outermost ones end with the numbers."""
        edges = (self._first + np.arange(len(self.counts) + 1)) * self.width
        edges[0], edges[-1] = self.low, self.high
        return edges

    @property
    def centres(self) -> Array:
        """Of these bins, float64, (B,)."""
        edges = self.edges
        centres: Array = (edges[:-1] + edges[1:]) / 2.0
        return centres

    def merged(self, bins: int) -> tuple[Array, Array, float]:
        """The counts and centres of at most so many wider bins on either side of 0, and their width, a multiple of this."""
        number = self._first + np.arange(len(self.counts))  # of each bin
        times = -(-max(-number[0], number[-1] + 1) // bins)
        first, last = number[0] // times, number[-1] // times
        counts = np.bincount(number // times - first, self.counts, minlength=last - first + 1)
        return counts, (np.arange(first, last + 1) + 0.5) * times * self.width, times * self.width

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
    """Centred codes of real numbers where the range of a fake quantizer is ``ends``, float64, and their scale.

    cell: without others that share its grid.
    """
    found = cell.quantizer.calibrated(*ends, cell.non_negative)
    grid = cell.grid("", {local: np.array(value, np.float32) for local, value in found.items()})
    codes = numbers * (1.0 / float(grid.scale))
    np.rint(codes, out=codes)
    return np.clip(codes, grid.low, grid.high, out=codes), float(grid.scale)


def mse_range(cell: FakeQuant, histogram: Histogram) -> Range:
    """The range with the smallest sum over bins of count * (centre - code * scale)^2.

    Tried are 100 equal steps of one threshold for both ends (all that a symmetric quantizer has), then, where the ends
    are free, as many of the upper and of the lower one in turn, until neither moves. That is the "MSE based" range of
    Nagel et al., arXiv 2106.08295, section 3.1, equation 20, by search.
    """
    used = histogram.counts > 0
    counts, centres = histogram.counts[used].astype(np.float64), histogram.centres[used]
    alone = replace(cell, shares=())

    @cache  # rounds try the same ends again
    def error(ends: Range) -> float:
        off, scale = _codes(alone, ends, centres)
        off *= scale
        off -= centres
        off *= off
        return float(counts @ off)

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
    counts, centres, width = histogram.merged(ENTROPY_BINS)
    whole = (histogram.low, histogram.high)
    if not counts.any():
        return whole
    reach, alone = np.abs(centres), replace(cell, shares=())
    levels = cell.quantizer.qmax - cell.quantizer.qmin + 1
    best, smallest = whole, np.inf
    for threshold in width * np.arange(math.ceil(max(-whole[0], whole[1]) / width), 0, -1):
        inside = np.flatnonzero(reach <= threshold)
        if len(inside) < levels:
            break
        first, last = inside[0], inside[-1] + 1
        within = counts[first:last]
        p = within.copy()
        p[0] += counts[:first].sum()
        p[-1] += counts[last:].sum()
        ends = _clipped(whole, float(threshold))
        code = _codes(alone, ends, centres[first:last])[0].astype(np.int64)
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

"""Post-training quantization: ranges of activations from a few images, without training.

The result is the network that convert_quant_network makes, in the state in which training would leave it, so that every
target, verify, eval-quant and train-quant go on from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qat.cells.base import Context, Scope
from qat.cells.fake_quant import FakeQuant
from qat.cells.linear import LinearCell
from qat.errors import QatError
from qat.graph import Graph, Network, Node, Params, as_graph
from qat.passes.convert_quant_network import convert_quant_network
from qat.passes.equalize_channels import equalize_channels
from qat.training.checkpoint import Checkpoint
from qat.vocabulary.activations import TABLES
from qat.vocabulary.arrays import Arrays, batches_of
from qat.vocabulary.fields import check_type
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array, Ops, Tensor
from qat.vocabulary.values import Value

METHODS = ("minmax", "percentile", "mse", "entropy")
BINS = 8192  #: of a histogram: 32 for each code of 8 bits
ENTROPY_BINS = 2048  #: as TensorRT has them; finer ones would measure the noise of few images
CANDIDATES = 100  #: ends of a range that "mse" tries
MOST_ROUNDS = 4  #: of moving one end, then the other
BATCH_SIZE = 100
FLOAT = -1  #: a phase before every quantizer's quant_delay: fake quantizers pass through, weights are real numbers

Batches = list[tuple[Array, ...]]  #: uint8 pixels (N, C, H, W), one array for each input
Range = tuple[float, float]  #: low and high


def calibrate(
    network: Network | Graph,
    params: Mapping[str, Array],
    images: Arrays,
    *,
    method: str = "minmax",
    percentile: float = 99.99,
    bias_correction: bool = False,
    equalize: bool = False,
    batch_size: int = BATCH_SIZE,
    ops: Ops | None = None,
    **settings: Any,
) -> Checkpoint:
    """Quantize a trained float network with the ranges that its activations have on some images.

    network, params: the float network. images: uint8 (N, C, H, W), a tuple of such for several inputs; take training
    images, a thousand are plenty. settings: those of convert_quant_network. Each activation's range is, by method:

    "minmax": from the smallest to the largest number.
    "percentile": from the (100 - percentile)-th to the percentile-th, interpolated in a histogram of 8,192 bins.
    "mse": that whose codes have the smallest mean squared error, of 100 candidates for each end in turn.
    "entropy": that whose codes lose the least information (``entropy_range``).

    The numbers are those of the float network. What ranges mean stays FakeQuant's affair: after a ReLU only the upper
    end is kept, and fake quantizers that share a grid take the union of their ranges.

    equalize: first equalize the channels of weights (``equalize_channels``).
    bias_correction: then take the mean error that quantization causes in each output channel of each convolution and
    dense cell out of its bias (``correct_biases``). A cell without bias gets one; one with batch normalisation keeps it,
    and its beta takes the correction.
    batch_size: images at a time. ops: the vocabulary that computes, NumPy's where None; as
    ``qat.backend("torch").TorchOps()``. Ranges depend on it in the last bits, as float sums do.

    Returns a checkpoint of step 0, without history. Raises QatError for images that the network does not take, for
    an unknown method, and where the float network is quantized already or gives numbers that are not finite.
    """
    if method not in METHODS:
        raise QatError(f"method {method!r} is unknown: choose one of {', '.join(METHODS)}")
    check_percentile(percentile)
    graph = as_graph(network)
    batches = batches_of(images, graph.input_shapes, batch_size, graph.name)
    graph.check_params(params)
    own = dict(params)
    if bias_correction and not graph.is_quantized:
        graph, own = _with_biases(graph, own)
    quantized = convert_quant_network(graph, **settings)
    if equalize:
        own = equalize_channels(graph, own)
    runner = _Runner(quantized, ops or NUMPY_OPS)
    own = quantized.initial_params() | own
    own |= _ranges(runner, own, batches, method, percentile)
    if bias_correction:
        own = correct_biases(quantized, own, batches, runner.ops)
    return Checkpoint(quantized, own)


def check_percentile(percentile: float) -> None:
    """Raise QatError unless a range can end at this percentile."""
    check_type("percentile", percentile, float)
    if not 50.0 < percentile <= 100.0:
        raise QatError(f"percentile is {percentile}; use a number above 50, where a range is empty, and up to 100")


class _Runner:
    """A quantized graph made ready to be looked into, over one vocabulary."""

    def __init__(self, graph: Graph, ops: Ops) -> None:
        self.graph, self.ops = graph, ops
        self.scopes = {
            node.name: (f"{node.cell_name}.", tuple(node.cell.params()), tuple(graph.shapes[x] for x in node.inputs))
            for node in graph.nodes
        }

    def context(self, params: Mapping[str, Array], phase: int) -> Context:
        tensors = {name: self.ops.from_numpy(params[name], p.kind) for name, p in self.graph.params.items()}
        return Context(self.ops, tensors, training=False, phase=phase, updates={})

    def output(self, node: Node, context: Context, arguments: list[Value]) -> Value:
        with np.errstate(over="ignore", invalid="ignore"):  # numbers that are not finite get an error of their own
            return node.cell.forward(Scope(context, *self.scopes[node.name]), *arguments)

    def pixels(self, batch: tuple[Array, ...]) -> dict[str, Value]:
        return {
            node.name: Value(self.ops.from_numpy(x.astype(np.float32), "activation"))
            for node, x in zip(self.graph.inputs, batch, strict=True)
        }

    def values(self, context: Context, batch: tuple[Array, ...]) -> Iterator[tuple[Node, list[Value], Value]]:
        """Each node in order, with its inputs and its output."""
        values = self.pixels(batch)
        for node in self.graph.nodes:
            arguments = [values[name] for name in node.inputs] or [values[node.name]]
            values[node.name] = self.output(node, context, arguments)
            yield node, arguments, values[node.name]

    def observed(self, context: Context, batch: tuple[Array, ...]) -> Iterator[tuple[Node, Value]]:
        """Each fake quantizer, with what enters it."""
        for node, arguments, _ in self.values(context, batch):
            if isinstance(node.cell, FakeQuant):
                yield node, arguments[0]

    def scalar(self, tensor: Tensor) -> float:
        return float(self.ops.to_numpy(tensor, "scalar"))


# -- ranges -----------------------------------------------------------------------------------------------------------


def _ranges(runner: _Runner, params: Params, batches: Batches, method: str, percentile: float) -> Params:
    """The state of every fake quantizer. Two passes over the images at most: their ends, then their histograms."""
    context = runner.context(params, FLOAT)
    ends: dict[str, Range] = {}
    for batch in batches:
        for node, x in runner.observed(context, batch):
            low, high = runner.scalar(x.smallest(runner.ops)), runner.scalar(x.largest(runner.ops))
            if not np.isfinite([low, high]).all():
                raise QatError(
                    f"{node.inputs[0]}: gives numbers that are not finite in the float network, so they have no range; "
                    "train it anew before it is calibrated"
                )
            before = ends.get(node.name, (low, high))
            ends[node.name] = (min(low, before[0]), max(high, before[1]))
    if method != "minmax":
        histograms = {name: Histogram.empty(*of) for name, of in ends.items()}
        for batch in batches:
            for node, x in runner.observed(context, batch):
                histograms[node.name].add(runner.ops.to_numpy(x.real(runner.ops), "activation"))
        cells: dict[str, Any] = {node.name: node.cell for node in runner.graph.nodes if node.name in histograms}
        for name, histogram in histograms.items():
            if method == "percentile":
                ends[name] = histogram.percentile_range(percentile)
            elif method == "mse":
                ends[name] = mse_range(cells[name], histogram)
            else:
                ends[name] = entropy_range(cells[name], histogram)
    state: Params = {}
    for node in runner.graph.nodes:
        if isinstance(node.cell, FakeQuant):
            found = node.cell.quantizer.calibrated(*ends[node.name], node.cell.non_negative)
            state |= {f"{node.cell_name}.{local}": np.array(value, np.float32) for local, value in found.items()}
    return state


@dataclass
class Histogram:
    """How often numbers fell into equal bins from low to high.

    counts: (BINS,), int64. zeros: how many were exactly 0 (after a ReLU, most are); they are in no bin, since every
    range represents them exactly.
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


# -- biases -----------------------------------------------------------------------------------------------------------


def _with_biases(graph: Graph, params: Params) -> tuple[Graph, Params]:
    """Give a bias of 0 to every linear cell that has none and whose batch normalisation has none either."""
    nodes, own = [], dict(params)
    for node in graph.nodes:
        cell: Any = node.cell
        if isinstance(cell, LinearCell) and not (cell.has_bias or cell.has_bn):
            node = replace(node, cell=replace(cell, has_bias=True))  # type: ignore[type-var]
            own[f"{node.cell_name}.bias"] = np.zeros(cell.out_channels, np.float32)
        nodes.append(node)
    return Graph(tuple(nodes), graph.outputs, graph.name), own


def correct_biases(graph: Graph, params: Mapping[str, Array], batches: Batches, ops: Ops = NUMPY_OPS) -> Params:
    """Parameters of a quantized graph whose linear cells give, in the mean, what they give in the float network.

    Nagel et al., arXiv 1906.04721, section 4.2 (empirically, as in appendix D): b += E[W x] - E[W_q x_q] for each output
    channel, cell by cell in order, so that each sees its input with all corrections before it; the means are over the
    images and places, before the activation. Beta takes the correction where there is batch normalisation, which keeps
    the graph as it is. Left alone: a cell without either, one that is used more than once (its uses would need
    different corrections), and one whose activation is computed inside it.

    batches: uint8 pixels. Holds the activations of all images that are still to be used, of one layer as a rule.
    """
    runner, own = _Runner(graph, ops), dict(params)
    targets = _correctable(graph)
    expected = {name: _Mean() for name in targets}
    context = runner.context(own, FLOAT)
    for batch in batches:
        for node, _, y in runner.values(context, batch):
            if node.name in targets:
                expected[node.name].add(ops, y)
    phase = max(graph.phase_starts)
    last_use = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
    context = runner.context(own, phase)
    alive: dict[str, list[Value]] = {node.name: [] for node in graph.inputs}
    for batch in batches:
        for name, value in runner.pixels(batch).items():
            alive[name].append(value)

    def outputs(node: Node) -> list[Value]:
        sources = [alive[name] for name in node.inputs or (node.name,)]
        return [runner.output(node, context, list(arguments)) for arguments in zip(*sources, strict=True)]

    for index, node in enumerate(graph.nodes):
        found = outputs(node)
        if node.name in targets:
            mean = _Mean()
            for y in found:
                mean.add(ops, y)
            name = targets[node.name]
            own[name] = (own[name] + (expected[node.name].value - mean.value)).astype(np.float32)
            context = runner.context(own, phase)
            found = outputs(node)
        alive[node.name] = found
        for name in {*node.inputs, node.name}:
            if last_use.get(name, index) <= index:
                del alive[name]
    return own


def _correctable(graph: Graph) -> dict[str, str]:
    """Node -> the parameter that takes its correction."""
    uses = [node.cell_name for node in graph.nodes]
    targets = {}
    for node in graph.nodes:
        cell = node.cell
        if isinstance(cell, LinearCell) and uses.count(node.cell_name) == 1 and cell.activation not in TABLES:
            if cell.has_bn:
                targets[node.name] = f"{node.cell_name}.beta"
            elif cell.has_bias:
                targets[node.name] = f"{node.cell_name}.bias"
    return targets


class _Mean:
    """The mean of each channel over several batches, before the ReLU."""

    def __init__(self) -> None:
        self.total: Array | float = 0.0
        self.samples = 0

    def add(self, ops: Ops, y: Value) -> None:
        real = replace(y, relu=None).real(ops)
        samples = len(real)
        self.total = self.total + samples * ops.to_numpy(ops.channel_mean(real), "vector").astype(np.float64)
        self.samples += samples

    @property
    def value(self) -> Array | float:
        return self.total / self.samples

"""Equalization by what the channels of activations are on some images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from qat.analysis.choosing import MOST_HELD, SHARE
from qat.analysis.ranges import Batches, in_steps
from qat.cells.fake_quant import FakeQuant
from qat.errors import QatError
from qat.graph import Graph, Params
from qat.passes.apply_masks import apply_masks
from qat.passes.channel_noise import ChannelRanges
from qat.passes.equalize_channels import Equalized, equalize_activations, equalize_weights
from qat.training.forward import IDLE, NodeLoop
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array, Ops
from qat.vocabulary.values import Value

MARGIN = 2.0  #: how many times as far as measured a channel of a ReLU6 may reach on other images
ENOUGH = 0.95  #: of the error of a candidate before it has to be left for the next one to be taken
SMALLEST = 2.0**-100  #: the sum of squares that is divided by


def equalized(graph: Graph, params: Mapping[str, Array], batches: Batches, ops: Ops = NUMPY_OPS) -> Params:
    """Parameters of the same float function whose channels are equalized as is best for these images.

    Compared are the parameters as they are, those of ``equalize_channels``, and those of ``equalize_activations`` with the
    ranges of all images but those held back, without a margin and with one, in this order. Compared is the squared error of
    the integers' outputs, with these ranges, relative to the float outputs, summed over the outputs, on the images held back; a
    candidate is taken where it leaves less than 95 % of that of the best before it. Held back are, of
    the last quarter of the batches, at most 64 images and a batch, or all images where there are fewer than four batches.

    Args:
        graph: the quantized graph, which says what is rounded.
        params: of the float network, for this graph (``Graph.params_from``).
        batches: of what the network takes.
        ops: the vocabulary that computes.

    Raises:
        QatError: where a number of the float network is not finite.
    """
    params = apply_masks(graph, params)
    count = min(len(batches) // SHARE, -(-MOST_HELD // len(batches[0][0])))
    first = len(batches) - count
    ranges = channel_ranges(graph, params, (batches[i] for i in range(first)), ops)
    held = [batches[i] for i in range(first if count else 0, len(batches))]
    loop = NodeLoop(graph, ops)
    expected = [_outputs(loop, params, batch, IDLE) for batch in held]
    tried = [Equalized(dict(params), {}), equalize_weights(graph, params), equalize_activations(graph, params, ranges)]
    if any(np.isfinite(node.cell.bound) for node in graph.nodes):
        tried.append(equalize_activations(graph, params, ranges, MARGIN))

    def error(candidate: Equalized) -> float:
        own = candidate.params | _state(graph, ranges, candidate.factors)
        total = 0.0
        for batch, outputs in zip(held, expected, strict=True):
            found = _outputs(loop, own, batch, max(graph.phase_starts))
            for y, f in zip(found, outputs, strict=True):
                total += float(((y - f) ** 2).sum()) / max(float((f**2).sum()), SMALLEST)
        return total

    best, smallest = tried[0], error(tried[0])
    for candidate in tried[1:]:
        found = error(candidate)
        if found < ENOUGH * smallest:
            best, smallest = candidate, found
    return best.params


def _outputs(loop: NodeLoop, params: Mapping[str, Array], batch: tuple[Array, ...], phase: int) -> list[Array]:
    """Real outputs of one batch, float64."""
    outputs = loop.run(loop.load(params, phase), loop.pixels(batch))
    return [loop.ops.to_numpy(output, "activation").astype(np.float64) for output in outputs]


def _state(graph: Graph, ranges: Mapping[str, ChannelRanges], factors: Mapping[str, Array]) -> Params:
    """Of every fake quantizer, with the range of its channels times their factors."""
    state: Params = {}
    ends: dict[str, tuple[float, float]] = {}
    for node in graph.nodes:
        if isinstance(node.cell, FakeQuant):
            own, factor = ranges[node.name], factors.get(node.name, 1.0)
            low, high = ends.get(node.cell_name, (np.inf, -np.inf))
            low, high = min(low, float((own.low * factor).min())), max(high, float((own.high * factor).max()))
            ends[node.cell_name] = low, high
            found = node.cell.quantizer.calibrated(low, high, node.cell.non_negative)
            state |= {f"{node.cell_name}.{local}": np.array(value, np.float32) for local, value in found.items()}
    return state


def channel_ranges(
    graph: Graph, params: Mapping[str, Array], batches: Iterable[tuple[Array, ...]], ops: Ops = NUMPY_OPS
) -> dict[str, ChannelRanges]:
    """The ranges of the float numbers of every node, by channel; arguments as of ``equalized``."""
    loop, found = NodeLoop(graph, ops), dict[str, ChannelRanges]()
    context = loop.load(params, IDLE)
    samples = 0
    for batch in batches:
        count = len(batch[0])
        for node, values in in_steps(loop, context, loop.begin(loop.pixels(batch))):
            if isinstance(node.cell, FakeQuant):
                continue
            x = values[node.name] = Value(values[node.name].real(ops))  # once for all that follows
            with np.errstate(over="ignore"):
                measured = (ops.channel_min(x.data), ops.channel_max(x.data), ops.channel_mean(x.data * x.data))
            low, high, square = (ops.to_numpy(each, "vector").astype(np.float64) for each in measured)
            square = np.where(np.isinf(square), np.maximum(low**2, high**2), square)  # beyond float32, at most that
            if not np.isfinite(square).all():
                raise QatError(
                    f"{node.name}: gives numbers that are not finite in the float network, so they have no range; "
                    "train it anew before it is calibrated"
                )
            if node.name in found:
                before = found[node.name]
                low, high = np.minimum(low, before.low), np.maximum(high, before.high)
                square = (before.mean_square * samples + square * count) / (samples + count)
            found[node.name] = ChannelRanges(low, high, square)
        samples += count
    for node in graph.nodes:  # which are idle
        if isinstance(node.cell, FakeQuant):
            found[node.name] = found[node.inputs[0]]
    return found

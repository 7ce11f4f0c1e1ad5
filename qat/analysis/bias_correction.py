"""Bias correction: the mean error that quantization causes in each channel, taken out of its bias."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qat.analysis.paused_pass import PausedPass, code_ends
from qat.cells.base import Cell
from qat.cells.linear import LinearCell
from qat.graph import Graph, Node, Params
from qat.training.forward import NodeLoop
from qat.vocabulary.activations import TABLES
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array, Ops
from qat.vocabulary.rows import watched
from qat.vocabulary.values import Value

LEAST_SLOPE = 0.02  #: of a channel that a ReLU cuts off nearly everywhere, so that its bias does not grow without bound
GROUPS = 16  #: of samples, whose means say how sure the mean of all is


def with_biases(graph: Graph, params: Params) -> tuple[Graph, Params]:
    """Give a bias of 0 to every linear cell that has none and whose batch normalisation has none either."""
    nodes, own = [], dict(params)
    for node in graph.nodes:
        cell: Any = node.cell
        if _lacks_bias(cell):
            node = replace(node, cell=replace(cell, has_bias=True))
            own[f"{node.cell_name}.bias"] = np.zeros(cell.out_channels, np.float32)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes)), own


def _lacks_bias(cell: Cell) -> bool:
    return isinstance(cell, LinearCell) and not (cell.has_bias or cell.has_bn)


def correct_biases(
    graph: Graph,
    params: Mapping[str, Array],
    batches: Iterable[tuple[Array, ...]],
    expected: Mapping[str, ChannelMean],
    ops: Ops = NUMPY_OPS,
) -> Params:
    """Parameters of a quantized graph whose linear cells give, in the mean, what they give in the float network.

    Nagel et al., arXiv 1906.04721, section 4.2 (empirically, as in appendix D), cell by cell in order, so that each sees its
    input with all corrections before it. There b += E[W x] - E[W_q x_q] for each output channel, the means over the images and
    places. What enters the next cell is behind the ReLU f, where errors of what it cuts off do not count, so here the mean of f
    is kept, by a step of Newton's method: b += (E[f(y)] - E[f(y_q)]) / E[f'(y_q)], the same without a ReLU. Of the difference
    that is taken which stands out of the noise of few images (``shrunk_mean``).

    Beta takes the correction where there is batch normalisation, which keeps the graph as it is. Left alone are the cells that
    are not ``correctable``. Between two such cells the images wait as the codes that are still to be used, in one byte each as
    a rule.

    Args:
        graph: the quantized graph.
        params: its parameters, with ranges.
        batches: of what the network takes, read once.
        expected: the mean output of each correctable node in the float network, on the same images in the same order.
        ops: the vocabulary that computes.

    Returns:
        All parameters, the corrected ones among them.
    """
    loop, own, targets = NodeLoop(graph, ops), dict(params), correctable(graph)
    places = [index for index, step in enumerate(loop.steps) if step.node.name in targets]
    context = loop.load(own, max(graph.phase_starts))  # every quantizer quantizes
    tensors = dict(context.params)
    paused = PausedPass(loop, replace(context, params=tensors), batches, code_ends(graph, own))
    count = max((mean.samples for mean in expected.values()), default=0)
    for place in watched(places, len(places) * count, lambda _: count, f"{graph.name}, biases"):
        step, found, slope = loop.steps[place], ChannelMean(), np.zeros(1)
        for values in paused.until(place):
            loop.advance(step, paused.context, values)
            y = values[step.node.name]
            slope = slope + len(y.data) * _slope(ops, y)
            found.add(ops, y)
        off = shrunk_mean(expected[step.node.name].groups - found.groups)
        key = targets[step.node.name]
        own[key] = (own[key] + off / np.maximum(slope / found.samples, LEAST_SLOPE)).astype(np.float32)
        tensors[key] = ops.from_numpy(own[key], graph.params[key].kind)
    return own


def _slope(ops: Ops, y: Value) -> Array:
    """The share of each channel's numbers that a ReLU does not cut off, float64, (C,)."""
    if y.relu is None:
        return np.ones(1)
    x = replace(y, relu=None).real(ops)
    inside = ops.where((x > 0.0) & (x < y.relu), x * 0.0 + 1.0, x * 0.0)
    return ops.to_numpy(ops.channel_mean(inside), "vector").astype(np.float64)


def float_means(graph: Graph) -> dict[str, ChannelMean]:
    """An empty mean for each node that is corrected, to be filled by a pass over the float network."""
    return {name: ChannelMean() for name in correctable(graph)}


def correctable(graph: Graph) -> dict[str, str]:
    """Node -> the parameter that takes its correction.

    Left out is a cell without bias and batch normalisation, one that is used more than once (its uses would need different
    corrections), and one whose activation is computed inside it.
    """
    targets = {}
    for node in graph.nodes:
        cell = node.cell
        if isinstance(cell, LinearCell) and node.cell_name not in graph.shared_cells and cell.activation not in TABLES:
            if cell.has_bn:
                targets[node.name] = f"{node.cell_name}.beta"
            elif cell.has_bias:
                targets[node.name] = f"{node.cell_name}.bias"
    return targets


def watching(ops: Ops, means: Mapping[str, ChannelMean]) -> Callable[[Node, Value], None]:
    """What ``Observed.add`` calls for each node, to fill the means of those that have one."""

    def watch(node: Node, value: Value) -> None:
        if node.name in means:
            means[node.name].add(ops, value)

    return watch


class ChannelMean:
    """The mean of each channel over several batches, apart for each of up to ``GROUPS`` groups of samples.

    Sample i is in group i modulo their number.

    Attributes:
        samples: how many there were.
    """

    def __init__(self) -> None:
        self.samples = 0
        self._sums: list[Array] = []
        self._counts: list[int] = []

    def add(self, ops: Ops, y: Value) -> None:
        """Count the outputs of one batch."""
        real = y.real(ops)
        for row in range(len(real)):
            mean = ops.to_numpy(ops.channel_mean(real[row : row + 1]), "vector").astype(np.float64)
            group = self.samples % GROUPS
            self.samples += 1
            if group == len(self._sums):
                self._sums.append(mean)
                self._counts.append(1)
            else:
                self._sums[group] += mean
                self._counts[group] += 1

    @property
    def groups(self) -> Array:
        """The mean of each group, float64, (G, C)."""
        return np.stack([total / count for total, count in zip(self._sums, self._counts, strict=True)])


def shrunk_mean(errors: Array) -> Array:
    """The mean error of each channel, as far as it stands out of the noise of few images.

    m max(0, 1 - s^2 / m^2), with m the mean over G groups and s its standard error: the positive-part estimator of James and
    Stein (1961), which for a mean that cannot be told from 0 corrects nothing, and one of many images wholly.

    Args:
        errors: (G, C), of each group of images and channel.

    Returns:
        (C,), float64; of a single group its error.
    """
    mean: Array = errors.mean(axis=0)
    if len(errors) == 1:
        return mean
    noise = errors.var(axis=0, ddof=1) / len(errors)
    share = np.divide(noise, mean**2, out=np.ones_like(mean), where=mean != 0.0)
    shrunk: Array = mean * np.maximum(0.0, 1.0 - share)
    return shrunk

"""Bias correction: the mean error that quantization causes in each channel, taken out of its bias."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qat.analysis.ranges import Batches
from qat.cells.base import Context
from qat.cells.linear import LinearCell
from qat.graph import Graph, Params
from qat.training.forward import IDLE, NodeLoop, NodeStep
from qat.vocabulary.activations import TABLES
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array, Ops
from qat.vocabulary.values import Value


def with_biases(graph: Graph, params: Params) -> tuple[Graph, Params]:
    """Give a bias of 0 to every linear cell that has none and whose batch normalisation has none either."""
    nodes, own = [], dict(params)
    for node in graph.nodes:
        cell: Any = node.cell
        if isinstance(cell, LinearCell) and not (cell.has_bias or cell.has_bn):
            node = replace(node, cell=replace(cell, has_bias=True))  # type: ignore[type-var]
            own[f"{node.cell_name}.bias"] = np.zeros(cell.out_channels, np.float32)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes)), own


def correct_biases(graph: Graph, params: Mapping[str, Array], batches: Batches, ops: Ops = NUMPY_OPS) -> Params:
    """Parameters of a quantized graph whose linear cells give, in the mean, what they give in the float network.

    Nagel et al., arXiv 1906.04721, section 4.2 (empirically, as in appendix D): b += E[W x] - E[W_q x_q] for each output
    channel, cell by cell in order, so that each sees its input with all corrections before it; the means are over the
    images and places, before the activation. Beta takes the correction where there is batch normalisation, which keeps
    the graph as it is. Left alone: a cell without either, one that is used more than once (its uses would need
    different corrections), and one whose activation is computed inside it.

    Holds the activations of all images that are still to be used, of one layer as a rule.

    Args:
        graph: the quantized graph.
        params: its parameters, with ranges.
        batches: of what the network takes.
        ops: the vocabulary that computes.

    Returns:
        All parameters, the corrected ones among them.
    """
    loop, own = NodeLoop(graph, ops), dict(params)
    targets = _correctable(graph)
    expected = _float_means(loop, loop.load(own, IDLE), batches, targets)
    phase = max(graph.phase_starts)  # every quantizer quantizes
    context = loop.load(own, phase)
    last_use = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
    alive = [loop.begin(loop.pixels(batch)) for batch in batches]
    for index, step in enumerate(loop.steps):
        node = step.node
        _advance(loop, step, context, alive)
        if node.name in targets:
            mean = ChannelMean()
            for values in alive:
                mean.add(ops, values[node.name])
            name = targets[node.name]
            own[name] = (own[name] + (expected[node.name].value - mean.value)).astype(np.float32)
            context = loop.load(own, phase)
            _advance(loop, step, context, alive)
        for name in {*node.inputs, node.name}:
            if last_use.get(name, index) <= index:
                for values in alive:
                    del values[name]
    return own


def _float_means(loop: NodeLoop, context: Context, batches: Batches, names: Collection[str]) -> dict[str, ChannelMean]:
    """The mean output of the named nodes in the pass of ``context``."""
    means = {name: ChannelMean() for name in names}
    for batch in batches:
        values = loop.begin(loop.pixels(batch))
        for step in loop.steps:
            _advance(loop, step, context, [values])
            if step.node.name in means:
                means[step.node.name].add(loop.ops, values[step.node.name])
    return means


def _advance(loop: NodeLoop, step: NodeStep, context: Context, batches: Iterable[dict[str, Value]]) -> None:
    """Take one step in every batch."""
    with np.errstate(over="ignore", invalid="ignore"):  # numbers that are not finite get an error of their own
        for values in batches:
            loop.advance(step, context, values)


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


class ChannelMean:
    """The mean of each channel over several batches, before the ReLU."""

    def __init__(self) -> None:
        self.total: Array | float = 0.0
        self.samples = 0

    def add(self, ops: Ops, y: Value) -> None:
        """Count the outputs of one batch."""
        real = replace(y, relu=None).real(ops)
        samples = len(real)
        self.total = self.total + samples * ops.to_numpy(ops.channel_mean(real), "vector").astype(np.float64)
        self.samples += samples

    @property
    def value(self) -> Array | float:
        """The mean, float64, (C,)."""
        return self.total / self.samples

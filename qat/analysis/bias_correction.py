"""Bias correction: the mean error that quantization causes in each channel, taken out of its bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from qat.analysis.ranges import Batches, in_steps
from qat.cells.fake_quant import FakeQuant
from qat.cells.linear import LinearCell
from qat.graph import Graph, Params
from qat.training.forward import NodeLoop
from qat.vocabulary.activations import TABLES
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array, Ops, Tensor
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


def correct_biases(
    graph: Graph,
    params: Mapping[str, Array],
    batches: Batches,
    expected: Mapping[str, ChannelMean],
    ops: Ops = NUMPY_OPS,
) -> Params:
    """Parameters of a quantized graph whose linear cells give, in the mean, what they give in the float network.

    Nagel et al., arXiv 1906.04721, section 4.2 (empirically, as in appendix D): b += E[W x] - E[W_q x_q] for each output
    channel, cell by cell in order, so that each sees its input with all corrections before it; the means are over the
    images and places, before the activation. Since a linear cell's mean output is its output for the mean input, only that is
    computed. Beta takes the correction where there is batch normalisation, which keeps the graph as it is. Left alone are the
    cells that are not ``correctable``.

    Between two such cells the images wait as the codes that are still to be used, in one byte each as a rule.

    Args:
        graph: the quantized graph.
        params: its parameters, with ranges.
        batches: of what the network takes.
        expected: the mean output of each correctable node in the float network.
        ops: the vocabulary that computes.

    Returns:
        All parameters, the corrected ones among them.
    """
    loop, own, targets = NodeLoop(graph, ops), dict(params), correctable(graph)
    places = [index for index, step in enumerate(loop.steps) if step.node.name in targets]
    whole = {node.name for node in graph.nodes if isinstance(node.cell, FakeQuant)}
    context = loop.load(own, max(graph.phase_starts))  # every quantizer quantizes
    tensors = dict(context.params)
    context = replace(context, params=tensors)
    waiting: Sequence[Any] = batches
    for begin, end in zip([0, *places], places, strict=False):
        step, samples, following = loop.steps[end], 0, []
        total: Any = 0.0
        for part in waiting:
            values = (
                loop.begin(loop.pixels(part)) if begin == 0 else {name: kept.value(ops) for name, kept in part.items()}
            )
            for _ in in_steps(loop, context, values, begin, end):
                pass
            (name,) = step.node.inputs
            x = values[name].settled(ops)  # the cell is linear in it
            count = len(x.data)
            total = total + ops.to_numpy(reduce(add, (x.data[i : i + 1] for i in range(count))), "activation").astype(
                np.float64
            )
            samples += count
            values[name] = x
            following.append({key: Kept.of(ops, value, whole=key in whole) for key, value in values.items()})
        waiting = following
        values = {name: x.with_data(ops.from_numpy((total / samples).astype(np.float32), "activation"))}
        loop.advance(step, context, values)
        mean = ChannelMean()
        mean.add(ops, values[step.node.name])
        key = targets[step.node.name]
        own[key] = (own[key] + (expected[step.node.name].value - mean.value)).astype(np.float32)
        tensors[key] = ops.from_numpy(own[key], graph.params[key].kind)
    return own


@dataclass(frozen=True, eq=False)
class Kept:
    """A value while it waits, its codes in the smallest type that holds them.

    Attributes:
        data: the value's, less ``low`` where that is of fewer bits.
        rest: the value without its data.
        low: the smallest code; None: ``data`` are as they were.
    """

    data: Tensor
    rest: Value
    low: float | None

    @classmethod
    def of(cls, ops: Ops, value: Value, *, whole: bool) -> Kept:
        """The value, to be kept. whole: if they are codes, they are known to be whole numbers."""
        data, rest = value.data, replace(value, data=None)
        if not value.codes:
            return cls(data, rest, None)
        low, high = (float(ops.to_numpy(end(data), "scalar")) for end in (ops.min, ops.max))
        whole = whole or float(ops.to_numpy(ops.max(ops.abs(ops.rint(data) - data)), "scalar")) == 0.0
        if high - low > 255.0 or not whole:
            return cls(data, rest, None)
        return cls(ops.cast(data - low, "uint8"), rest, low)

    def value(self, ops: Ops) -> Value:
        """As it was."""
        return replace(self.rest, data=self.data if self.low is None else ops.cast(self.data, "float32") + self.low)


def float_means(graph: Graph) -> dict[str, ChannelMean]:
    """An empty mean for each node that is corrected, to be filled by a pass over the float network."""
    return {name: ChannelMean() for name in correctable(graph)}


def correctable(graph: Graph) -> dict[str, str]:
    """Node -> the parameter that takes its correction.

    Left out is a cell without bias and batch normalisation, one that is used more than once (its uses would need different
    corrections), and one whose activation is computed inside it.
    """
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

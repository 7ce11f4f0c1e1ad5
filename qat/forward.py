"""The forward pass of a graph over any vocabulary: the loop that every backend runs."""

from __future__ import annotations

import math
from collections.abc import Mapping

from qat.cells.base import Context, Scope
from qat.graph import Graph
from qat.ops import Ops, Tensor
from qat.passes.pool_before_quantize import pool_before_quantize
from qat.values import Value

ALWAYS = math.inf  #: a step by which every quantizer has set in


class Forward:
    """A graph made ready to be trained over one vocabulary."""

    def __init__(self, graph: Graph, ops: Ops) -> None:
        self.ops = ops
        self._delays = graph.quant_delays
        graph = pool_before_quantize(graph)
        self._steps = [
            (node, f"{node.cell_name}.", tuple(graph.shapes[name] for name in node.inputs)) for node in graph.nodes
        ]
        self._inputs = [node.name for node in graph.inputs]
        self._outputs = graph.outputs

    def phase(self, step: int) -> int:
        """The step at which the quantizers that work at ``step`` were the same for the first time.

        A forward pass depends on the step through this number alone, so that a compiled one is compiled once a phase.
        """
        return max(delay for delay in self._delays if delay <= step)

    def __call__(
        self, params: Mapping[str, Tensor], inputs: tuple[Tensor, ...], *, training: bool, phase: float
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Real outputs, and the new values of state by full name (empty unless training).

        inputs: raw pixels, float32.
        """
        context = Context(self.ops, params, training, phase, updates={})
        values = {name: Value(data) for name, data in zip(self._inputs, inputs, strict=True)}
        for node, prefix, shapes in self._steps:
            arguments = [values[name] for name in node.inputs] or [values[node.name]]
            values[node.name] = node.cell.forward(Scope(context, prefix, shapes), *arguments)
        return tuple(values[name].real(self.ops) for name in self._outputs), context.updates

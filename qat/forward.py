"""The forward pass of a graph over any vocabulary: the loop that every backend runs."""

from __future__ import annotations

from collections.abc import Mapping

from qat.cells.base import Context, Scope
from qat.graph import Graph
from qat.ops import Ops, Tensor
from qat.passes.pool_before_quantize import pool_before_quantize
from qat.values import Value


class Forward:
    """A graph made ready to be trained over one vocabulary."""

    def __init__(self, graph: Graph, ops: Ops) -> None:
        self.ops = ops
        self._starts = graph.phase_starts
        graph = pool_before_quantize(graph)
        self._steps = [
            (node, (f"{node.cell_name}.", tuple(node.cell.params()), tuple(graph.shapes[name] for name in node.inputs)))
            for node in graph.nodes
        ]
        self._inputs = [node.name for node in graph.inputs]
        self._outputs = graph.outputs

    def phase(self, step: int) -> int:
        """The first step whose forward pass has the form that it has at ``step``.

        A forward pass depends on the step through this number alone, so that a compiled one is compiled once a phase.
        """
        return max(start for start in self._starts if start <= step)

    def __call__(
        self, params: Mapping[str, Tensor], inputs: tuple[Tensor, ...], *, training: bool, phase: int
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Real outputs, and the new values of state by full name (empty unless training).

        inputs: raw pixels, float32.
        """
        context = Context(self.ops, params, training, phase, updates={})
        values = {name: Value(data) for name, data in zip(self._inputs, inputs, strict=True)}
        for node, scope in self._steps:
            arguments = [values[name] for name in node.inputs] or [values[node.name]]
            values[node.name] = node.cell.forward(Scope(context, *scope), *arguments)
        return tuple(values[name].real(self.ops) for name in self._outputs), context.updates

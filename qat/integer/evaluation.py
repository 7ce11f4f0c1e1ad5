"""The evaluation of an integer graph over any backend's tensors, and by NumPy in either arithmetic."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from qat.errors import QatError
from qat.integer.fixed_point import ARITHMETICS
from qat.integer.graph import IntegerGraph, require_integers
from qat.integer.node import IntegerNode
from qat.vocabulary.arrays import Arrays, as_arrays, in_batches
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array, Ops, Tensor


class Evaluator:
    """An integer graph made ready for one vocabulary: its constants are converted once."""

    def __init__(self, graph: IntegerGraph, ops: Ops) -> None:
        self.graph, self.ops = graph, ops
        self._constants = [
            {key: ops.from_numpy(array, kind) for key, (array, kind) in node.constants().items()}
            for node in graph.nodes
        ]

    def __call__(self, *codes: Tensor) -> dict[str, Tensor]:
        """Centred codes of every node by name, from raw codes of each input (float32, the backend's layout)."""
        values = {x.name: pixels for x, pixels in zip(self.graph.inputs, codes, strict=True)}
        for node, constants in zip(self.graph.nodes, self._constants, strict=True):
            inputs = [values[x.name] for x in node.inputs] or [values[node.name]]
            values[node.name] = self.compute(node, constants, inputs)
        return values

    def compute(self, node: IntegerNode, constants: Mapping[str, Tensor], inputs: list[Tensor]) -> Tensor:
        """The centred codes of one node."""
        return node.evaluate(self.ops, constants, *inputs)


class FixedEvaluator(Evaluator):
    """The same in the fixed arithmetic, in NumPy. Raises QatError for a graph that the arithmetic cannot compute."""

    def __init__(self, graph: IntegerGraph) -> None:
        super().__init__(graph, NUMPY_OPS)
        for node in graph.nodes:
            _ = node.fixed  # or its QatError

    def compute(self, node: IntegerNode, constants: Mapping[str, Tensor], inputs: list[Tensor]) -> Tensor:
        return node.evaluate_fixed(constants, *inputs)


def evaluate(graph: IntegerGraph, codes: Arrays, *, batch_size: int = 128, arithmetic: str = "float") -> Arrays:
    """Output codes (N, ...) of input codes (N, ...), computed by NumPy integers.

    arithmetic: "float" or "fixed" (docs/numerics.md); the training backends evaluate the former.

    A graph with several inputs takes a tuple of arrays, one with several outputs returns a tuple.

    The sums are of integers held in float32 (float64 where a node is ``wide``), and no partial sum passes the type's
    range of exact integers, so that they are the sums of an integer accumulator in whatever order BLAS adds.
    """
    require_integers(graph)
    found = trace_codes(graph, codes, [x.name for x in graph.outputs], batch_size=batch_size, arithmetic=arithmetic)
    return as_arrays(tuple(found[x.name] for x in graph.outputs))


def trace_codes(
    graph: IntegerGraph, codes: Arrays, names: Collection[str], *, batch_size: int = 128, arithmetic: str = "float"
) -> dict[str, Array]:
    """As ``evaluate``, for the codes of the named nodes."""
    if arithmetic not in ARITHMETICS:
        raise QatError(f"{graph.name}: arithmetic {arithmetic!r} is unknown; use one of {', '.join(ARITHMETICS)}")
    run = FixedEvaluator(graph) if arithmetic == "fixed" else Evaluator(graph, NUMPY_OPS)
    grids = {node.name: node.output.grid for node in graph.nodes if node.name in names}

    def raw(batch: tuple[Array, ...]) -> dict[str, Array]:
        values = run(*(x.astype(np.float32) for x in batch))
        return {name: (values[name] + grid.zero_point).astype(grid.dtype) for name, grid in grids.items()}

    return in_batches(raw, codes, [x.shape for x in graph.inputs], batch_size, graph.name)

"""The evaluation of an integer graph over any backend's tensors, in either arithmetic."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from qat.integer.fixed_point import check_arithmetic
from qat.integer.graph import IntegerGraph, require_integers
from qat.vocabulary.arrays import Arrays, ArraySpec, as_arrays, as_tuple, in_batches
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array, Ops, Tensor


class Evaluator:
    """An integer graph made ready for one vocabulary: its constants are converted once.

    Args:
        graph: the integers.
        ops: the vocabulary.
        arithmetic: "float" or "fixed"; by default the graph's.

    Raises:
        QatError: the fixed arithmetic cannot compute the graph, or there is no such arithmetic.
    """

    def __init__(self, graph: IntegerGraph, ops: Ops, arithmetic: str | None = None) -> None:
        arithmetic = arithmetic or graph.arithmetic
        check_arithmetic(arithmetic, graph.name)
        self.graph, self.ops, self._fixed = graph, ops, arithmetic == "fixed"
        self._constants = [
            {key: ops.from_numpy(array, kind) for key, (array, kind) in node.constants().items()}
            for node in graph.nodes
        ]
        self._integers = [
            {key: ops.from_numpy(array, kind, "int64") for key, (array, kind) in node.fixed_constants().items()}
            for node in (graph.nodes if self._fixed else ())
        ]

    def __call__(self, *codes: Tensor, given: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Centred codes of every node by name, from raw codes of each input (float32, the backend's layout).

        given: centred codes by name with which those behind them are computed, in place of the node's own.
        """
        values = {x.name: pixels for x, pixels in zip(self.graph.inputs, codes, strict=True)}
        taken = dict(given or {})
        for index, (node, constants) in enumerate(zip(self.graph.nodes, self._constants, strict=True)):
            inputs = [taken.get(x.name, values[x.name]) for x in node.inputs] or [values[node.name]]
            values[node.name] = (
                node.evaluate_fixed(self.ops, constants, self._integers[index], *inputs)
                if self._fixed
                else node.evaluate(self.ops, constants, *inputs)
            )
        return values


def evaluate(graph: IntegerGraph, codes: Arrays, *, batch_size: int = 128, arithmetic: str | None = None) -> Arrays:
    """Compute an integer graph in NumPy: the reference that every backend and target is compared with.

    The sums are of integers held in float32 (float64 where a node is ``wide``), and no partial sum passes the type's
    range of exact integers, so that they are the sums of an integer accumulator in whatever order BLAS adds.

    Args:
        graph: the integers of a network, from ``qat.to_integer``.
        codes: what enters (``IntegerGraph.input_specs``), (N, ...); a tuple of arrays for several inputs.
        batch_size: samples at a time.
        arithmetic: "float" or "fixed" (docs/numerics.md); by default the graph's, in which training backends evaluate it.

    Returns:
        Output codes (N, ...), in the type of the output's grid; a tuple of arrays for several outputs.

    Raises:
        QatError: for anything but an integer graph, for pixels that it does not take, for an unknown arithmetic, and for
            a graph that the fixed arithmetic cannot compute.

    >>> import numpy as np
    >>> import qat
    >>> class Small(qat.Network):
    ...     inputs = qat.Input((1, 4, 4))
    ...     def __init__(self):
    ...         self.conv = qat.Conv2dBnAct(1, 2, 3, activation="relu")
    ...     def construct(self, x):
    ...         return self.conv(x)
    >>> graph = qat.convert_quant_network(Small())
    >>> integers = qat.to_integer(graph, graph.observed_params())
    >>> codes = qat.evaluate(integers, np.zeros((5, 1, 4, 4), np.uint8))
    >>> codes.shape, codes.dtype
    ((5, 2, 4, 4), dtype('uint8'))
    """
    require_integers(graph)
    found = trace_codes(graph, codes, [x.name for x in graph.outputs], batch_size=batch_size, arithmetic=arithmetic)
    return as_arrays(tuple(found[x.name] for x in graph.outputs))


def trace_codes(
    graph: IntegerGraph,
    codes: Arrays,
    names: Collection[str],
    *,
    batch_size: int = 128,
    arithmetic: str | None = None,
    given: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """As ``evaluate``, for the codes of the named nodes: raw codes (N, ...) by name, real numbers of what is left in float.

    given: raw codes (N, ...) by name with which those behind them are computed, in place of the node's own.
    """
    run = Evaluator(graph, NUMPY_OPS, arithmetic)
    grids = {node.name: node.output.grid for node in graph.nodes}
    entering, others = len(graph.inputs), dict(given or {})
    specs = [*graph.input_specs, *(ArraySpec(x.shape[1:], x.dtype.name) for x in others.values())]

    def raw(batch: tuple[Array, ...]) -> dict[str, Array]:
        taken = {
            name: (x - np.float32(grids[name].zero_point)).astype(np.float32)
            for name, x in zip(others, batch[entering:], strict=True)
        }
        values = run(*(x.astype(np.float32) for x in batch[:entering]), given=taken)
        wanted = ((name, grid) for name, grid in grids.items() if name in names)
        return {name: (values[name] + grid.zero_point).astype(grid.dtype) for name, grid in wanted}

    samples = as_arrays((*as_tuple(codes), *others.values())) if others else codes
    return in_batches(raw, samples, specs, batch_size, graph.name)

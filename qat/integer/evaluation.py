"""The evaluation of an integer graph over any backend's tensors, in either arithmetic."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from qat.integer.fixed_point import check_arithmetic
from qat.integer.graph import IntegerGraph, require_integers
from qat.vocabulary.arrays import Arrays, ArraySpec, as_arrays, as_tuple, in_batches, samples_that_fit
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array, DType, Ops, Tensor

MOST = 128  #: samples at a time, however small they are


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
            {key: ops.from_numpy(array, kind, _name(array)) for key, (array, kind) in node.fixed_constants().items()}
            for node in (graph.nodes if self._fixed else ())
        ]
        self._last = last_uses([tuple(x.name for x in node.inputs) or (node.name,) for node in graph.nodes])

    def __call__(
        self, *codes: Tensor, given: Mapping[str, Tensor] | None = None, names: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Centred codes of nodes by name, from raw codes of each input (float32, the backend's layout).

        given: centred codes by name with which those behind them are computed, in place of the node's own. names: the nodes
        that are wanted, by default all; others are kept no longer than they are used.
        """
        values = {x.name: pixels for x, pixels in zip(self.graph.inputs, codes, strict=True)}
        taken, wanted = dict(given or {}), {node.name for node in self.graph.nodes} if names is None else {*names}
        for index, (node, constants) in enumerate(zip(self.graph.nodes, self._constants, strict=True)):
            inputs = [taken.get(x.name, values[x.name]) for x in node.inputs] or [values[node.name]]
            values[node.name] = (
                node.evaluate_fixed(self.ops, constants, self._integers[index], *inputs)
                if self._fixed
                else node.evaluate(self.ops, constants, *inputs)
            )
            for name in self._last[index]:
                if name not in wanted:
                    del values[name]
        return {node.name: values[node.name] for node in self.graph.nodes if node.name in wanted}


def last_uses(reads: Sequence[Collection[str]]) -> list[list[str]]:
    """The names that each step of a list reads as the last one; reads: all names that each of them reads."""
    last = {name: index for index, names in enumerate(reads) for name in names}
    found: list[list[str]] = [[] for _ in reads]
    for name, index in last.items():
        found[index].append(name)
    return found


def _name(array: Array) -> DType:
    """Of the type of a constant of the fixed arithmetic."""
    return "int64" if array.dtype == np.int64 else "float64"


def evaluate(
    graph: IntegerGraph, codes: Arrays, *, batch_size: int | None = None, arithmetic: str | None = None
) -> Arrays:
    """Compute an integer graph in NumPy: the reference that every backend and target is compared with.

    The sums are of integers held in float32 (float64 where a node is ``wide``), and no partial sum passes the type's
    range of exact integers, so that they are the sums of an integer accumulator in whatever order BLAS adds.

    Args:
        graph: the integers of a network, from ``qat.to_integer``.
        codes: what enters (``IntegerGraph.input_specs``), (N, ...); a tuple of arrays for several inputs.
        batch_size: samples at a time, on which no code depends; None: as many as fit (``samples_that_fit``).
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
    batch_size: int | None = None,
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
        wanted = {name: grid for name, grid in grids.items() if name in names}
        values = run(*(x.astype(np.float32) for x in batch[:entering]), given=taken, names=wanted)
        return {name: (values[name] + grid.zero_point).astype(grid.dtype) for name, grid in wanted.items()}

    size = samples_that_fit((node.output.shape for node in graph.nodes), MOST) if batch_size is None else batch_size
    samples = as_arrays((*as_tuple(codes), *others.values())) if others else codes
    return in_batches(raw, samples, specs, size, graph.name)

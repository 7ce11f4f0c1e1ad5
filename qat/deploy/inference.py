"""Evaluation of a lowered network, the same on every backend: outputs, codes, the codes of every node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from qat.errors import QatError
from qat.graph import Graph, Params
from qat.integer import Evaluator, IntegerGraph, IntegerTensor
from qat.passes.to_integer import derived_integers, require_finite
from qat.vocabulary.arrays import Arrays, Key, as_arrays, batches_of, in_batches, samples_that_fit
from qat.vocabulary.ops import Array, Ops, Tensor

MOST = 256  #: samples at a time, however small they are


class LoweredNetwork(Protocol):
    """A framework's own model of a network, as ``lower`` makes it: what it has beside the framework's methods.

    Attributes:
        graph: The graph that it was made of.
        working_bytes: That the largest tensor of a batch may take where nobody says how many samples it has.
    """

    graph: Graph
    working_bytes: int

    def integers(self) -> IntegerGraph:
        """The integers of deployment, of the parameters as they are now."""

    def infer(self, pixels: tuple[Array, ...]) -> tuple[Array, ...]:
        """Real outputs in evaluation mode, float32 (N, ...), of what the network takes, one array an input."""

    def infer_codes(self, pixels: tuple[Array, ...], names: Collection[str] | None = None) -> dict[str, Array]:
        """Centred codes of nodes of ``integers()``, float32, canonical: of the named ones, by default of all."""

    def unchanged(self) -> AbstractContextManager[Any]:
        """Within it nothing changes a parameter, so that integers need not be compared with them for each batch."""


def params_to_lower(graph: Graph, params: Mapping[str, Array] | None) -> Mapping[str, Array]:
    """The parameters that a backend's ``lower`` uses: those that it was given, or fresh ones.

    Raises:
        QatError: some are missing, of another shape or type, or not finite.
    """
    if params is None:
        return graph.initial_params()
    graph.check_params(params)
    require_finite(graph, params)
    return params


def params_to_write(graph: Graph, params: Mapping[str, Array]) -> Params:
    """The parameters that a backend's ``write`` uses: those that it was given, as float32.

    Raises:
        QatError: one is none of the graph's, is no array of numbers, or is of another shape.
    """
    arrays = {}
    for name, value in params.items():
        if name not in graph.params:
            raise QatError(f"write: {graph.name} has no parameter {name!r}; give arrays by the names of read(model)")
        shape = graph.params[name].shape
        try:
            arrays[name] = np.array(value, np.float32)
        except (TypeError, ValueError):
            raise QatError(
                f"write: {name!r} is a {type(value).__name__}, not numbers; give a NumPy array of {shape}"
            ) from None
        if arrays[name].shape != shape:
            raise QatError(
                f"write: {name!r} has shape {arrays[name].shape} but {graph.name} needs {shape}; nothing was written"
            )
    return arrays


def predict(model: LoweredNetwork, pixels: Arrays, *, batch_size: int | None = None) -> Arrays:
    """Real outputs in evaluation mode: of a quantized network, those of its deployed integers.

    Args:
        model: What a backend's ``lower`` returned.
        pixels: What the network takes (``Graph.input_specs``); for a network with several inputs a tuple of arrays.
        batch_size: Images at a time, on which no code depends; by default as many as fit (``samples_that_fit``).

    Returns:
        float32 (N, ...); of a network with several outputs a tuple of arrays.

    Raises:
        QatError: the arrays have another dtype or shape than the network takes, or are not finite.
    """
    found = _in_batches(model, lambda x: dict(enumerate(model.infer(x))), pixels, batch_size)
    return as_arrays(tuple(found.values()))


def predict_codes(model: LoweredNetwork, pixels: Arrays, *, batch_size: int | None = None) -> Arrays:
    """Output codes of a quantized network, int32 (N, ...); arguments and errors as of ``predict``."""
    outputs = model.integers().outputs
    found = trace(model, pixels, outputs, batch_size=batch_size)
    return as_arrays(tuple(found[output.name] for output in outputs))


def trace(
    model: LoweredNetwork, pixels: Arrays, tensors: Collection[IntegerTensor], *, batch_size: int | None = None
) -> dict[str, Array]:
    """Codes inside a quantized network, as the evaluation pass computes them.

    Args:
        model: What a backend's ``lower`` returned.
        pixels: What the network takes, an array or a tuple of arrays.
        tensors: Some of those of ``model.integers()``: ``[node.output for node in model.integers().nodes]`` for all.
        batch_size: As of ``predict``.

    Returns:
        int32 (N, ...) by the names of the tensors.
    """

    def codes(x: tuple[Array, ...]) -> dict[str, Array]:
        values = model.infer_codes(x, [tensor.name for tensor in tensors])
        return {tensor.name: tensor.grid.raw(values[tensor.name]) for tensor in tensors}

    return _in_batches(model, codes, pixels, batch_size)


def _in_batches(
    model: LoweredNetwork,
    function: Callable[[tuple[Array, ...]], Mapping[Key, Array]],
    pixels: Arrays,
    batch_size: int | None,
) -> dict[Key, Array]:
    size = (
        samples_that_fit(model.graph.shapes.values(), MOST, model.working_bytes) if batch_size is None else batch_size
    )
    batches_of(pixels, model.graph.input_specs, size, model.graph.name)  # what is wrong with them comes first
    with model.unchanged():
        return in_batches(function, pixels, model.graph.input_specs, size, model.graph.name)


class Deployment:
    """A quantized network's integers over one vocabulary; derived again only where the parameters have changed, since that
    takes longer than to evaluate a batch.
    """

    def __init__(self, graph: Graph, ops: Ops) -> None:
        self._graph, self.ops = graph, ops
        self._known: tuple[Params, Evaluator] | None = None  # of one piece, for threads

    def evaluator(self, params: Params) -> Evaluator:
        """For these parameters, canonical arrays that the caller does not change afterwards."""
        known = self._known
        if known is None or any(not np.array_equal(params[n], known[0][n]) for n in params):
            self._known = known = (params, Evaluator(derived_integers(self._graph, params), self.ops))
        return known[1]


def real_outputs(graph: IntegerGraph, codes: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """The real numbers of a graph's outputs, from the centred codes of its nodes."""
    return tuple(codes[x.name] * float(x.grid.scale) for x in graph.outputs)

"""What is asked of a lowered network, the same for every backend."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import numpy as np

from qat.errors import QatError
from qat.graph import Graph, Params
from qat.integer import Evaluator, IntegerGraph, IntegerTensor
from qat.passes.to_integer import require_finite, to_integer
from qat.vocabulary.arrays import Arrays, as_arrays, in_batches
from qat.vocabulary.ops import Array, Ops, Tensor


class LoweredNetwork(Protocol):
    """What a backend's native model offers beside its framework's own methods."""

    graph: Graph

    def integers(self) -> IntegerGraph:
        """The integers of deployment, of the parameters as they are now."""

    def infer(self, pixels: tuple[Array, ...]) -> tuple[Array, ...]:
        """Real outputs in evaluation mode, float32 (N, ...), of raw pixels, uint8 (N, C, H, W), one array an input."""

    def infer_codes(self, pixels: tuple[Array, ...]) -> dict[str, Array]:
        """Centred codes of every node of ``integers()``, float32, canonical."""


def params_to_lower(graph: Graph, params: Mapping[str, Array] | None) -> Mapping[str, Array]:
    """What ``lower`` was given, or fresh ones. Raises QatError unless they are all that the graph needs, and finite."""
    if params is None:
        return graph.initial_params()
    graph.check_params(params)
    require_finite(graph, params)
    return params


def params_to_write(graph: Graph, params: Mapping[str, Array]) -> Params:
    """What ``write`` was given, as float32. Raises QatError unless they are some of the graph's, in the right shapes."""
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


def predict(model: LoweredNetwork, pixels: Arrays, *, batch_size: int = 256) -> Arrays:
    """Real outputs (N, ...), float32, of raw pixels (N, C, H, W), in evaluation mode.

    A network with several inputs takes a tuple of arrays, one with several outputs returns a tuple.
    """
    found = in_batches(
        lambda x: dict(enumerate(model.infer(x))), pixels, model.graph.input_shapes, batch_size, model.graph.name
    )
    return as_arrays(tuple(found.values()))


def predict_codes(model: LoweredNetwork, pixels: Arrays, *, batch_size: int = 256) -> Arrays:
    """As ``predict``, for the output codes of a quantized network, int32."""
    outputs = model.integers().outputs
    found = trace(model, pixels, outputs, batch_size=batch_size)
    return as_arrays(tuple(found[output.name] for output in outputs))


def trace(
    model: LoweredNetwork, pixels: Arrays, tensors: Collection[IntegerTensor], *, batch_size: int = 256
) -> dict[str, Array]:
    """Codes of the given tensors by name, int32 (N, ...), as the evaluation pass computes them."""

    def codes(x: tuple[Array, ...]) -> dict[str, Array]:
        values = model.infer_codes(x)
        return {tensor.name: values[tensor.name].astype(np.int32) + tensor.grid.zero_point for tensor in tensors}

    return in_batches(codes, pixels, model.graph.input_shapes, batch_size, model.graph.name)


class Deployment:
    """A quantized network's integers over one vocabulary, derived anew where the parameters have changed."""

    def __init__(self, graph: Graph, ops: Ops) -> None:
        self._graph, self._ops = graph, ops
        self._params: Params | None = None
        self._evaluator: Evaluator | None = None

    def evaluator(self, params: Params) -> Evaluator:
        """For these parameters, canonical arrays that the caller does not change afterwards."""
        known = self._params
        if self._evaluator is None or known is None or any(not np.array_equal(params[n], known[n]) for n in params):
            self._evaluator = Evaluator(to_integer(self._graph, params), self._ops)
            self._params = params
        return self._evaluator


def real_outputs(graph: IntegerGraph, codes: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """The real numbers of a graph's outputs, from the centred codes of its nodes."""
    return tuple(codes[x.name] * float(x.grid.scale) for x in graph.outputs)

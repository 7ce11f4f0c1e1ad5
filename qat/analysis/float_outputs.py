"""What a quantized network gives in float, and the parameters that it had there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qat.analysis.diagnosis import completed
from qat.graph import Graph, Params
from qat.passes.rescale_channels import rescaled_like
from qat.registry import evaluation_ops
from qat.training.checkpoint import Checkpoint
from qat.training.forward import IDLE, NodeLoop
from qat.vocabulary.arrays import Arrays, as_arrays, in_batches, samples_that_fit
from qat.vocabulary.ops import Array, Ops

MOST = 64  #: samples at a time, however small they are


def float_outputs(graph: Graph, params: Mapping[str, Array], images: Arrays, *, ops: Ops | None = None) -> Arrays:
    """The outputs of a quantized network with every quantizer idle: those of the float network of its own parameters.

    Args:
        graph: of the quantized network.
        params: its parameters.
        images: what it takes, (N, ...); a tuple of arrays for several inputs.
        ops: the vocabulary that computes; None, the default: of the first backend that is installed.

    Returns:
        float32 (N, ...); a tuple of arrays for several outputs.
    """
    loop = NodeLoop(graph, evaluation_ops() if ops is None else ops)
    context = loop.load(params, IDLE)

    def outputs(batch: tuple[Array, ...]) -> dict[int, Array]:
        found = loop.run(context, loop.pixels(batch))
        return {index: loop.ops.to_numpy(x, "activation") for index, x in enumerate(found)}

    size = samples_that_fit(graph.shapes.values(), MOST)
    return as_arrays(tuple(in_batches(outputs, images, graph.input_specs, size, graph.name).values()))


def float_params(given: Checkpoint, quantized: Checkpoint) -> Params:
    """A float checkpoint's parameters for the graph of the quantized one, with its factors, so that the numbers of each layer
    can be compared. Raises QatError where it is another network's.
    """
    params = completed(quantized.graph, given.params)
    if True not in calibrated_with(quantized, "equalize"):
        return params
    return rescaled_like(quantized.graph, params, quantized.params)


def calibrated_with(quantized: Checkpoint, setting: str) -> set[Any]:
    """The values that a setting had in the calibrations of a checkpoint's history."""
    return {(record.get("calibration") or {}).get(setting) for record in quantized.history}

"""Calibrations of one network with other bits for its weights: what does not depend on these is computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from qat.analysis.bias_correction import ChannelMean, correct_biases, float_means, watching, with_biases
from qat.analysis.metrics import total_macs
from qat.analysis.ranges import Batches, in_steps
from qat.cells.fake_quant import FakeQuant
from qat.graph import Graph, Params
from qat.passes.convert_quant_network import convert_quant_network
from qat.passes.rescale_channels import rescaled_like
from qat.training.checkpoint import Checkpoint
from qat.training.forward import IDLE, NodeLoop
from qat.vocabulary.arrays import WORKING_BYTES, Arrays, as_arrays, as_tuple, batches_of, samples_that_fit
from qat.vocabulary.ops import Ops

MOST = 100  #: images at a time, however small they are
WORK = (
    2e10  #: multiply-accumulates that a correction of biases may take, about: of large networks it is by fewer images
)
FEWEST = 32

Quantize = Callable[..., Checkpoint]  #: from settings of convert_quant_network, by keyword, to a calibrated checkpoint


class Recalibration:
    """Quantizes as ``quantize`` does; where only weights get other codes than at the first time, ranges and equalized channels
    are taken from then, since they are those of the float network, and biases are corrected by some of the images.

    Args:
        quantize: what does it at the first time, and wherever activations get other codes.
        checkpoint: the float network.
        images: that calibrate.
        settings: from the first result to those of ``calibrate`` that made it, ``equalize`` and ``bias_correction`` among them;
            None where they are not known, so that everything is computed anew.
        ops: the vocabulary that computes.
    """

    def __init__(
        self,
        quantize: Quantize,
        checkpoint: Checkpoint,
        images: Arrays,
        settings: Callable[[Checkpoint], Mapping[str, Any] | None],
        ops: Ops,
    ) -> None:
        self._quantize, self._float, self._images, self._ops = quantize, checkpoint, images, ops
        self._settings = settings
        self._first: Checkpoint | None = None
        self._told: Mapping[str, Any] | None = None

    def __call__(self, **settings: Any) -> Checkpoint:
        if self._first is None:
            self._first = self._quantize(**settings)
            self._told = self._settings(self._first)
            return self._first
        if self._told is None:
            return self._quantize(**settings)
        first, (graph, params) = self._first, self._prepared
        quantized = convert_quant_network(graph, **settings)
        if _fake_quants(quantized) != _fake_quants(first.graph):
            return self._quantize(**settings)
        own = quantized.params_from(params)
        own |= {name: first.params[name] for name in own if _owner(name) in _fake_quants(quantized)}
        if self._told.get("bias_correction"):
            own = correct_biases(quantized, own, self._batches, self._means, self._ops)
        return first.derived(quantized, own)

    @cached_property
    def _prepared(self) -> tuple[Graph, Params]:
        """The float network with a bias wherever one is corrected, its channels equalized as they were."""
        assert self._told is not None
        graph, own = self._float.graph, dict(self._float.params)
        if self._told.get("bias_correction"):
            graph, own = with_biases(graph, own)
        if self._told.get("equalize"):
            assert self._first is not None
            own = rescaled_like(graph, own, self._first.params)
        return graph, own

    @cached_property
    def _batches(self) -> Batches:
        graph = self._float.graph
        most = max(FEWEST, int(WORK // max(total_macs(graph), 1)))
        images = as_arrays(tuple(x[:most] for x in as_tuple(self._images)))
        size = samples_that_fit(graph.shapes.values(), MOST, 2 * WORKING_BYTES)
        return batches_of(images, graph.input_specs, size, graph.name)

    @cached_property
    def _means(self) -> dict[str, ChannelMean]:
        """Of the float network, on the images that correct."""
        assert self._first is not None
        quantized, (_, params) = self._first.graph, self._prepared
        loop, means = NodeLoop(quantized, self._ops), float_means(quantized)
        context, watch = loop.load(quantized.params_from(params), IDLE), watching(self._ops, means)
        for batch in self._batches:
            for node, values in in_steps(loop, context, loop.begin(loop.pixels(batch))):
                watch(node, values[node.name])
        return means


def _fake_quants(graph: Graph) -> dict[str, FakeQuant]:
    return {node.cell_name: node.cell for node in graph.nodes if isinstance(node.cell, FakeQuant)}


def _owner(name: str) -> str:
    return name.rpartition(".")[0]

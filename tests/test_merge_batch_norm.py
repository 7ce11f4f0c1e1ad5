"""Batch normalisations by themselves, merged into the linear cells beside them."""

from __future__ import annotations

import math

import numpy as np
import pytest

import qat
from qat.analysis.merge_batch_norm import merge_batch_norm
from qat.cells.batch_norm import BatchNorm
from qat.cells.linear import WeightedCell
from qat.networks import SvhnCnn
from qat.training.forward import Forward
from qat.training.optimizer import Optimizer
from qat.vocabulary.numpy_ops import NUMPY_OPS

FLOAT_SUMS = 2e-5  #: relative to the largest output: float32 sums in another order


def outputs(graph, params, images, *, training=False):
    run = Forward(graph, NUMPY_OPS)
    tensors = {name: NUMPY_OPS.from_numpy(params[name], param.kind) for name, param in graph.params.items()}
    return run(tensors, (images.astype(np.float32),), training=training, phase=0)


def trained_like(graph, seed=0):
    """Parameters as training leaves them: every batch normalisation with numbers of its own."""
    generator = np.random.default_rng(seed)
    params = graph.initial_params(seed)
    for name, array in params.items():
        if name.endswith(("gamma", "moving_variance")):
            params[name] = generator.uniform(0.5, 2.0, array.shape).astype(np.float32)
        elif name.endswith(("beta", "moving_mean", "bias")):
            params[name] = generator.normal(0, 0.3, array.shape).astype(np.float32)
    return params


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (24, 3, 32, 32), np.uint8)


def test_the_network_has_the_weights_and_products_of_its_document(images):
    graph = SvhnCnn().graph()
    linear = [node for node in graph.nodes if isinstance(node.cell, WeightedCell)]
    sizes = [math.prod(node.cell.weight_shape) for node in linear]
    assert (sum(sizes), max(sizes)) == (13_552, 4_032)
    places = [math.prod(graph.shapes[node.name][1:]) for node in linear]
    assert sum(size * place for size, place in zip(sizes, places, strict=True)) == 840_832


def test_the_function_stays_and_no_batch_norm_stands_by_itself(images):
    graph = SvhnCnn().graph()
    params = trained_like(graph)
    merged, own = merge_batch_norm(graph, params, images)
    merged.check_params(own)
    assert not [node.name for node in merged.nodes if isinstance(node.cell, BatchNorm)]
    before, after = (outputs(*network, images)[0][0] for network in ((graph, params), (merged, own)))
    np.testing.assert_allclose(after, before, rtol=0, atol=FLOAT_SUMS * np.abs(before).max())
    quantized = qat.convert_quant_network(merged)
    assert sum("fake_quant" in node.name for node in quantized.nodes) == 6  # three blocks, two dense layers, the logits


def test_training_goes_on_by_the_statistics_of_what_is_normalised_now(images):
    """A step's own statistics of the batch are those that the merged cells hold."""
    graph = SvhnCnn(filters=(8,), dense=()).graph()
    merged, own = merge_batch_norm(graph, trained_like(graph), images)
    _, updates = outputs(merged, own, images, training=True)
    for name in ("moving_mean", "moving_variance"):
        full = f"blocks.0.conv.{name}"
        np.testing.assert_allclose(updates[full], own[full], rtol=1e-4, atol=1e-5)


def test_a_channel_with_a_negative_gamma_stays_behind_the_pooling(images):
    graph = SvhnCnn().graph()
    params = trained_like(graph)
    params["blocks.1.bn.gamma"][3] *= -1.0
    merged, own = merge_batch_norm(graph, params, images)
    assert [node.name for node in merged.nodes if isinstance(node.cell, BatchNorm)] == ["blocks.1.bn"]
    before, after = (outputs(*network, images)[0][0] for network in ((graph, params), (merged, own)))
    np.testing.assert_allclose(after, before, rtol=0, atol=FLOAT_SUMS * np.abs(before).max())


class Padded(qat.Network):
    """Padding after a batch normalisation, and one whose output two cells take: both stay."""

    def __init__(self):
        self.inputs = qat.Input((3, 8, 8))
        self.bn = qat.BatchNorm(3)
        self.conv = qat.Conv2dBnAct(3, 4, 3, has_bn=True)
        self.after = qat.BatchNorm(4, activation="relu")
        self.other = qat.Conv2dBnAct(4, 4, 1)
        self.add = qat.Add()

    def construct(self, x):
        x = self.conv(self.bn(x))
        return self.add(self.after(x), self.other(x))


def test_what_cannot_be_merged_is_left_alone():
    graph = Padded().graph()
    params = trained_like(graph)
    merged, own = merge_batch_norm(graph, params, np.zeros((4, 3, 8, 8), np.uint8))
    assert merged == graph
    assert own.keys() == params.keys()


@pytest.mark.parametrize("merge", [False, True])
def test_converted_and_trained_it_deploys_the_codes_of_its_training(images, merge, tmp_path):
    """In the document's form there are fake quantizers on both sides of every batch normalisation; merged, one."""
    graph = SvhnCnn().graph()
    params = trained_like(graph)
    if merge:
        graph, params = merge_batch_norm(graph, params, images)
    backend, onnx = qat.backend("torch"), qat.target("ONNX")
    quantized = qat.convert_quant_network(graph, bn_fold=False)
    step = backend.make_step(backend.lower(quantized, quantized.params_from(params)), Optimizer("adam"))
    for _ in range(3):
        assert np.isfinite(step(images, np.arange(24) % 10, 0.003))
    integers = qat.to_integer(quantized, backend.read(step.model))
    onnx.export(integers, tmp_path / "net.onnx")
    codes = qat.evaluate(integers, images)
    np.testing.assert_array_equal(backend.predict_codes(step.model, images), codes)
    (tensor,) = integers.outputs
    np.testing.assert_array_equal(onnx.trace(tmp_path / "net.onnx", images, [tensor])[tensor.name], codes)

"""Attention and a small vision transformer: what attention computes, and every code of a trained one."""

from pathlib import Path

import numpy as np
import pytest
from frameworks import FILES_HERE, HERE, but_long

import qat
from qat.deploy.arithmetics import default_arithmetic
from qat.integer import trace_codes
from qat.networks import Attention, VisionTransformer
from qat.registry import TARGETS
from qat.training.checkpoint import Checkpoint
from qat.training.loop import train
from qat.training.recipe import Recipe


class Alone(qat.Network):
    def __init__(self, channels=6, heads=3, shape=(6, 2, 5)):
        self.inputs = qat.Input(shape, dtype="float32")
        self.norm, self.attention = qat.LayerNorm(channels), Attention(channels, heads)

    def construct(self, x):
        return self.attention(self.norm(x))


@pytest.mark.parametrize("backend", but_long(HERE, lambda name: name == "mindspore"))
def test_attention_in_float_is_that_of_its_paper(backend):
    """softmax(q k' / sqrt(d)) v of each head, in float64."""
    graph, module = Alone().graph(), qat.backend(backend)
    params = graph.initial_params(1)
    x = np.random.default_rng(0).normal(size=(2, 6, 2, 5)).astype(np.float32)

    def dense(name, x):
        weight = params[f"attention.{name}.weight"][:, :, 0, 0].astype(np.float64)
        return np.einsum("oi,nil->nol", weight, x) + params[f"attention.{name}.bias"][:, None]

    tokens = x.reshape(2, 6, 10).astype(np.float64)
    tokens -= tokens.mean(1, keepdims=True)
    tokens /= np.sqrt((tokens**2).mean(1, keepdims=True) + 1e-5)
    q, k, v = (dense(name, tokens).reshape(2, 3, 2, 10) for name in ("query", "key", "value"))
    e = np.exp(np.einsum("nhdi,nhdj->nhij", q, k) / np.sqrt(2))
    mixed = np.einsum("nhij,nhdj->nhdi", e / e.sum(-1, keepdims=True), v).reshape(2, 6, 10)
    found = module.predict(module.lower(graph, params), x)
    np.testing.assert_allclose(found, dense("output", mixed).reshape(x.shape), rtol=1e-4, atol=1e-5)


def test_a_series_of_tokens_is_as_a_row_of_places():
    """(C, L) and (C, 1, L) get the same numbers."""
    graphs = [Alone(shape=shape).graph() for shape in ((6, 10), (6, 1, 10))]
    params, module = graphs[0].initial_params(1), qat.backend("torch")
    x = np.random.default_rng(0).normal(size=(2, 6, 1, 10)).astype(np.float32)
    series, row = (
        module.predict(module.lower(graph, params), x.reshape(2, *graph.shapes["input"])) for graph in graphs
    )
    assert series.shape == (2, 6, 10)
    np.testing.assert_array_equal(series, row[:, :, 0])


def test_heads_have_to_divide_the_channels():
    with pytest.raises(qat.QatError, match="Attention: 4 heads do not divide 6 channels"):
        Attention(6, 4)


@pytest.fixture(scope="module")
def trained() -> Checkpoint:
    """Some steps in float and some quantized, of a transformer with two heads."""
    data = qat.data.load("digits")
    part = qat.Split(data.train.images[:256], data.train.labels[:256])
    data = qat.data.Dataset(data.name, data.source, part, data.test)
    network = VisionTransformer(channels=16, depth=1, heads=2, input=qat.Input((1, 8, 8), mean=0.3, std=0.4))
    backend, recipe = qat.backend("torch"), Recipe(2, 32, lr=0.003, optimizer=qat.Optimizer("adam"))
    graph = network.graph()
    start = train(backend, Checkpoint(graph, graph.initial_params(0)), data, recipe)
    graph = qat.convert_quant_network(graph)
    return train(backend, Checkpoint(graph, graph.initial_params(0) | start.params), data, recipe)


@pytest.mark.parametrize(("engine", "arithmetic"), FILES_HERE)
def test_every_node_of_a_trained_transformer(engine: str, arithmetic: str, trained: Checkpoint, tmp_path: Path) -> None:
    integers = qat.to_integer(trained.graph, trained.params)
    pixels = qat.data.load("digits").test.images[:32]
    target, path = qat.target(engine), tmp_path / f"net{TARGETS[engine].suffix}"
    options = {"arithmetic": arithmetic} if engine in ("TFLITE", "C") else {}
    target.export(integers, path, **options)
    assert default_arithmetic(target, path) == arithmetic  # read whatever the file's products are of
    tensors = [node.output for node in integers.nodes]
    found = target.trace(path, pixels, tensors, **options)
    expected = trace_codes(integers, pixels, [x.name for x in tensors], arithmetic=arithmetic)
    assert "fc" in found
    assert sum("norm" in name or "softmax" in name or "mixture" in name for name in found) >= 4
    for name, codes in found.items():
        np.testing.assert_array_equal(codes, expected[name], err_msg=name)


@pytest.mark.parametrize("backend", but_long(HERE, lambda name: name == "mindspore"))
def test_every_backend_evaluates_it_alike(backend: str, trained: Checkpoint) -> None:
    module, pixels = qat.backend(backend), qat.data.load("digits").test.images[:32]
    integers = qat.to_integer(trained.graph, trained.params)
    found = module.predict_codes(module.lower(trained.graph, trained.params), pixels)
    np.testing.assert_array_equal(found, qat.integer.evaluate(integers, pixels))


@pytest.mark.parametrize("engine", ["ONNX", "TFLITE"])
def test_float_files(engine: str, tmp_path: Path) -> None:
    """The float network's file gives what the backend gives."""
    graph, module = Alone().graph(), qat.backend("torch")
    params = graph.initial_params(3)
    x = np.random.default_rng(0).normal(size=(2, 6, 2, 5)).astype(np.float32)
    target, path = qat.target(engine), tmp_path / f"net{TARGETS[engine].suffix}"
    target.export_float(graph, params, path)
    expected = module.predict(module.lower(graph, params), x)
    np.testing.assert_allclose(target.predict(path, x), expected, rtol=1e-3, atol=1e-4)

"""A softmax inside a network, along any axis and over any length, and a matrix product behind it."""

import numpy as np
import pytest
from frameworks import FILES_HERE, HERE, but_long
from graphs import Traced

import qat
from qat.integer import evaluate, trace_codes
from qat.passes.logits_graph import logits_graph
from qat.registry import TARGETS

F = np.float32


def attending(axis, channels=3):
    """Convolutions of an image whose channels are multiplied as matrices, after a softmax."""

    def construct(self, x):
        return self.softmax(self.scores(x)) @ self.values(x)

    conv = qat.Conv2dBnAct(1, channels, 1, has_bias=True)
    return Traced(construct, qat.Input((1, 6, 6)), scores=conv, values=conv, softmax=qat.Softmax(axis))


def with_ranges(network):
    graph = qat.convert_quant_network(network)
    return graph, graph.observed_params()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_shares_add_up_to_one_along_the_axis(axis):
    x = np.random.default_rng(axis).integers(0, 256, (4, 1, 6, 6), np.uint8)
    integers = qat.to_integer(*with_ranges(attending(axis)))
    found = trace_codes(integers, x, ["softmax"])["softmax"]
    assert np.abs(found.sum(axis=1 + axis, dtype=np.int64) - 256).max() <= 3, "of codes rounded one by one"
    scores = trace_codes(integers, x, ["scores"])["scores"]
    grid = next(node.output.grid for node in integers.nodes if node.name.startswith("scores"))
    real = (scores.astype(F) - grid.zero_point) * grid.scale
    e = np.exp(real - real.max(axis=1 + axis, keepdims=True))
    np.testing.assert_allclose(found / 256, e / e.sum(axis=1 + axis, keepdims=True), atol=0.51 / 256)


@pytest.mark.parametrize(("engine", "arithmetic"), FILES_HERE)
def test_every_engine_gives_the_same_codes(engine, arithmetic, tmp_path):
    for axis in (1, 2):
        x = np.random.default_rng(axis).integers(0, 256, (4, 1, 6, 6), np.uint8)
        integers = qat.to_integer(*with_ranges(attending(axis)))
        target, path = qat.target(engine), tmp_path / f"net{axis}{TARGETS[engine].suffix}"
        options = {"arithmetic": arithmetic} if engine in ("TFLITE", "C") else {}
        target.export(integers, path, **options)
        found = integers.output.grid.codes_of(target.predict(path, x, **options))
        np.testing.assert_array_equal(found, evaluate(integers, x, arithmetic=arithmetic))


@pytest.mark.parametrize("backend", but_long(HERE, lambda name: name == "mindspore"))
def test_every_backend_evaluates_the_same_codes(backend):
    x = np.random.default_rng(0).integers(0, 256, (3, 1, 6, 6), np.uint8)
    graph, params = with_ranges(attending(2))
    module = qat.backend(backend)
    np.testing.assert_array_equal(
        module.predict_codes(module.lower(graph, params), x), evaluate(qat.to_integer(graph, params), x)
    )


@pytest.mark.parametrize("length", [1, 2, 1000, 5000])
def test_any_length(length, tmp_path):
    """Sums of exponentials stay below 2^24, with fewer parts of e^0 the more there are."""
    network = Traced(lambda self, x: qat.Softmax(2)(self.c(x)), qat.Input((1, 1, length)), c=qat.Conv2dBnAct(1, 1, 1))
    graph, params = with_ranges(network)
    integers = qat.to_integer(graph, params)
    x = np.random.default_rng(length).integers(0, 256, (2, 1, 1, length), np.uint8)
    for engine in ("ONNX", "TFLITE", "C"):
        target, path = qat.target(engine), tmp_path / f"net{TARGETS[engine].suffix}"
        target.export(integers, path)
        found = integers.output.grid.codes_of(target.predict(path, x))
        np.testing.assert_array_equal(found, evaluate(integers, x), err_msg=engine)


def test_an_end_over_another_axis_is_trained_as_it_is():
    """Only of a softmax over the classes does training take the logits."""
    for axis, ends in ((0, "conv"), (1, "end")):
        network = Traced(
            lambda self, x: self.end(self.conv(x)),
            qat.Input((1, 4, 4)),
            conv=qat.Conv2dBnAct(1, 2, 1),
            end=qat.Softmax(axis),
        )
        assert logits_graph(network.graph()).outputs == (ends,)

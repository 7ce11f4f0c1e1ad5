"""Networks with a softmax, several inputs, several outputs: trained, deployed, certified."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import qat
from qat.data import Dataset, Split
from qat.deploy.verify import compare, export_verified, verify
from qat.integer import trace_codes
from qat.passes.logits_graph import logits_graph
from qat.training.loop import evaluate_accuracy, train
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe

TORCH, ONNX = qat.backend("torch"), qat.target("ONNX")
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 128)
IMAGES = np.clip(RNG.normal(60, 20, (128, 1, 8, 8)) + 40 * LABELS[:, None, None, None], 0, 255).astype(np.uint8)
OTHERS = RNG.integers(0, 256, (128, 2, 4, 4), np.uint8)


class Classifier(qat.Network):
    """Ends in probabilities, or in logits."""

    inputs = qat.Input((1, 8, 8), mean=0.5, std=0.3)

    def __init__(self, softmax: bool = True) -> None:
        self.conv = qat.Conv2dBnAct(1, 6, 3, stride=2, has_bn=True, activation="relu")
        self.flatten, self.fc = qat.Flatten(), qat.DenseBnAct(96, 4)
        self.softmax = qat.Softmax() if softmax else None

    def construct(self, x):
        x = self.fc(self.flatten(self.conv(x)))
        return self.softmax(x) if self.softmax else x


class TwoByTwo(qat.Network):
    """Two images of different shapes go in; class scores and an image come out."""

    inputs = (qat.Input((1, 8, 8), mean=0.5, std=0.3), qat.Input((2, 4, 4)))

    def __init__(self) -> None:
        self.first = qat.Conv2dBnAct(1, 3, 3, stride=2, activation="relu")
        self.second = qat.Conv2dBnAct(2, 3, 3, has_bn=True)
        self.add, self.flatten = qat.Add("relu"), qat.Flatten()
        self.fc = qat.DenseBnAct(48, 4)

    def construct(self, x, y):
        both = self.add(self.first(x), self.second(y))
        return self.fc(self.flatten(both)), both


def quantized(network: qat.Network, images: object = IMAGES) -> qat.Checkpoint:
    """After a short training on all outputs."""
    graph = qat.convert_quant_network(network)

    def loss(ops, outputs, labels):
        return ops.softmax_cross_entropy(outputs[0] if isinstance(outputs, tuple) else outputs, labels)

    step = TORCH.make_step(TORCH.lower(logits_graph(graph)), Optimizer(), loss)
    for _ in range(10):
        step(images, LABELS, 0.02)
    return qat.Checkpoint(graph, TORCH.read(step.model))


def test_a_network_that_ends_in_a_softmax_is_trained_by_its_logits(tmp_path: Path) -> None:
    """It ends with the very parameters of the network without; as probabilities, its outputs choose the same classes."""
    dataset = Dataset("noise", "noise", Split(IMAGES, LABELS), Split(IMAGES, LABELS))
    trained = {}
    for softmax in (True, False):
        graph = qat.convert_quant_network(Classifier(softmax))
        start = qat.Checkpoint(graph, graph.initial_params())
        trained[softmax] = train(TORCH, start, dataset, Recipe(epochs=12, batch_size=32, lr=0.05))
    for name, array in trained[False].params.items():
        np.testing.assert_array_equal(trained[True].params[name], array)
    assert evaluate_accuracy(TORCH, trained[True], dataset.test) == evaluate_accuracy(
        TORCH, trained[False], dataset.test
    )
    assert evaluate_accuracy(TORCH, trained[True], dataset.test) > 0.8
    certificate = export_verified(tmp_path / "net.onnx", ONNX, TORCH, trained[True], dataset.test, data="noise")
    assert certificate.passed
    assert [x.codes for x in certificate.comparisons] == [512, 512]
    shares = ONNX.predict(tmp_path / "net.onnx", IMAGES)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=0, atol=4 / 256)


def test_the_integer_softmax_is_within_one_code_of_the_real_one() -> None:
    checkpoint = quantized(Classifier())
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    (logits,) = integers.nodes[-1].inputs
    codes = trace_codes(integers, IMAGES, [logits.name, integers.output.name])
    real = logits.grid.dequantize(codes[logits.name]).astype(np.float64)
    shares = np.exp(real - real.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    error = np.abs(codes[integers.output.name] - np.minimum(256 * shares, 255))
    assert error.max() < 0.51  # half a code, and what the table's rounding adds
    assert np.abs(codes[integers.output.name] - np.minimum(250 * shares, 255)).max() > 0.51


def test_several_inputs_and_outputs_are_certified(tmp_path: Path) -> None:
    images = (IMAGES, OTHERS)
    checkpoint = quantized(TwoByTwo(), images)
    split = Split(images, LABELS)
    certificate = export_verified(tmp_path / "net.onnx", ONNX, TORCH, checkpoint, split, data="noise")
    assert certificate.passed
    assert [x.codes for x in certificate.comparisons] == [128 * (4 + 48)] * 2
    assert certificate.reference_top1 is None  # no classifier with one output
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    scores, image = qat.evaluate(integers, images)
    assert (scores.shape, image.shape) == ((128, 4), (128, 3, 4, 4))
    model = TORCH.lower(checkpoint.graph, checkpoint.params).eval()
    real = TORCH.predict(model, images)
    np.testing.assert_array_equal(real[1], integers.outputs[1].grid.dequantize(image))
    # A file of other parameters differs, and the report names the node.
    wrong = checkpoint.params["second.weight"].copy()
    wrong[0, 0, 1, 1] += 1.0
    other = replace(checkpoint, params=checkpoint.params | {"second.weight": wrong})
    found = verify(tmp_path / "net.onnx", ONNX, TORCH, other, split, data="noise").comparisons[0]
    assert found.differ
    assert "first at second" in str(found.divergence)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES, "has 2 inputs but got 1 array;"),
        ((IMAGES, OTHERS[:5]), r"its inputs hold \[128, 5\] samples; give equally many"),
        ((OTHERS, IMAGES), r"takes raw pixels, uint8 \(N, 1, 8, 8\), but got uint8 \(128, 2, 4, 4\)"),
        ((IMAGES[:0], OTHERS[:0]), "there are no images"),
    ],
)
def test_wrong_inputs_are_refused(images: object, message: str) -> None:
    checkpoint = quantized(TwoByTwo(), (IMAGES, OTHERS))
    with pytest.raises(qat.QatError, match=message):
        qat.evaluate(qat.to_integer(checkpoint.graph, checkpoint.params), images)


def test_float_networks_with_several_outputs_and_softmax_are_exported(tmp_path: Path) -> None:
    """Tolerance 1e-5: float sums in another order."""
    for network, images in ((TwoByTwo(), (IMAGES, OTHERS)), (Classifier(), IMAGES)):
        graph = network.graph()
        params = graph.initial_params()
        ONNX.export_float(graph, params, tmp_path / "float.onnx")
        expected = TORCH.predict(TORCH.lower(graph, params), images)
        found = ONNX.predict(tmp_path / "float.onnx", images)
        for a, b in zip(*(x if isinstance(x, tuple) else (x,) for x in (found, expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
            assert np.abs(a - b[::-1]).max() > 1e-5


def test_a_file_with_another_output_scale_is_refused(tmp_path: Path) -> None:
    """Its codes would round back to the right ones while the numbers that it returns are wrong."""
    checkpoint = quantized(Classifier(softmax=False))
    ONNX.export(qat.to_integer(checkpoint.graph, checkpoint.params), tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    (last,) = (node for node in model.graph.node if node.output[0] == "output")
    (scale,) = (x for x in model.graph.initializer if x.name == last.input[1])
    changed = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * np.float32(1.003), "changed")
    last.input[1] = "changed"
    model.graph.initializer.append(changed)
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(qat.QatError, match=r"returns numbers that are no multiples of fc's scale"):
        verify(tmp_path / "net.onnx", ONNX, TORCH, checkpoint, Split(IMAGES, LABELS), data="noise")


def test_there_must_be_something_to_verify() -> None:
    checkpoint = quantized(Classifier())
    with pytest.raises(qat.QatError, match="there is nothing to verify"):
        compare([], qat.to_integer(checkpoint.graph, checkpoint.params), Split(IMAGES, LABELS), data="noise")

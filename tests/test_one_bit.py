"""Networks of 1-bit weights and activations, the first and last layer of 8 bits: every target computes their codes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from calibrations import calibrate

import qat
from qat.deploy.arithmetics import arithmetic_options
from qat.integer import IntegerGraph, IntegerTable, trace_codes
from qat.quantizers import BaseActivationQuantizer
from qat.registry import BACKENDS, TARGETS, installed
from qat.training.optimizer import Optimizer
from qat.vocabulary.ops import Array

BINARY, BINARY_A = qat.BinaryWeightQuantizer, qat.BinaryActivationQuantizer
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (48, 1, 8, 8), np.uint8), RNG.integers(0, 10, 48)


class Padded(qat.Network):
    """Zero padding of codes that are never 0, a padded pooling, an addition, a mean."""

    inputs = qat.Input((1, 8, 8), mean=0.5, std=0.25)

    def __init__(self, activation: str | None = None) -> None:
        self.first = qat.Conv2dBnAct(1, 8, 3, has_bn=True, activation=activation)
        self.conv1 = qat.Conv2dBnAct(8, 16, 3, has_bn=True, activation=activation)
        self.conv2 = qat.Conv2dBnAct(16, 16, 3, has_bn=True, activation=activation)
        self.conv3 = qat.Conv2dBnAct(
            16, 16, 3, pad_mode="pad", padding=(1, 0, 2, 1), has_bn=True, activation=activation
        )
        self.pool = qat.MaxPool2d(3, 2, pad_mode="same")
        self.add, self.mean, self.flatten = qat.Add(activation), qat.AvgPool2d(2, pad_mode="same"), qat.Flatten()
        self.dense, self.last = qat.DenseBnAct(96, 32, has_bn=True, activation=activation), qat.DenseBnAct(32, 10)

    def construct(self, x):
        x = self.conv1(self.pool(self.first(x)))
        x = self.add(self.conv2(x), x)
        return self.last(self.dense(self.flatten(self.mean(self.conv3(x)))))


CASES = {
    "signs, folded": (BINARY(per_channel=True), BINARY_A(scale="mean"), True),
    "signs, constant": (BINARY(scale="constant"), BINARY_A(), False),
    "0 and 1": (BINARY(per_channel=True), qat.LSQActivationQuantizer(1), True),
    "0 and 1, DoReFa": (BINARY(scale="constant"), qat.DoReFaActivationQuantizer(1), False),
    "0 and 1, PACT": (BINARY(per_channel=True), qat.PACTActivationQuantizer(1, initial_alpha=2.0), True),
    "0 and 1, by range": (BINARY(per_channel=True), qat.ActivationQuantizer(1), True),
}


@cache
def trained(case: str) -> tuple[qat.Graph, dict[str, Array], IntegerGraph]:
    weights, activations, bn_fold = CASES[case]
    network = Padded(None if activations.by_sign else "relu")
    layers = {
        "first": {"weight_quantizer": None},
        "mean": {"activation_quantizer": None},  # of codes 0 and 1, but a mean is not known to be positive
        "last": {"weight_quantizer": None, "activation_quantizer": None},
    }
    graph = qat.convert_quant_network(
        network, weight_quantizer=weights, activation_quantizer=activations, bn_fold=bn_fold, layers=layers
    )
    torch = qat.backend("torch")
    model = torch.lower(graph)
    step = torch.make_step(model, Optimizer(name="adam"))
    losses = [step(IMAGES, LABELS, 3e-3) for _ in range(40)]
    assert losses[-1] < losses[0]
    params = torch.read(model)
    return graph, params, qat.to_integer(graph, params)


@cache
def reference(case: str, arithmetic: str) -> dict[str, Array]:
    """Codes of every node."""
    integers = trained(case)[2]
    return trace_codes(integers, IMAGES, [node.output.name for node in integers.nodes], arithmetic=arithmetic)


@pytest.mark.parametrize("case", CASES)
def test_inner_layers_have_one_bit(case: str) -> None:
    weights, activations, _ = CASES[case]
    codes = reference(case, "float")
    graph, _, integers = trained(case)
    for node in graph.nodes:
        quantizer = getattr(node.cell, "weight_quantizer", None)
        if quantizer == weights:
            (found,) = (each for each in integers.nodes if each.name == node.name)
            assert set(np.unique(found.weight)) <= {-1, 1}
    expected = {-1, 1} if activations.by_sign else {0, 1}
    tables = {node.name for node in integers.nodes if isinstance(node, IntegerTable)}
    names = ["dense.fake_quant", "conv1.fake_quant"] if activations.by_sign else ["dense", "conv1", "first"]
    assert (len(tables) > 0) == activations.by_sign
    for name in names:
        assert set(np.unique(codes[name])) == expected, name


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", [name for name, entry in BACKENDS.items() if installed(entry)])
def test_every_backend_evaluates_the_same_codes(backend: str, case: str) -> None:
    graph, params, integers = trained(case)
    framework = qat.backend(backend)
    found = framework.trace(framework.lower(graph, params), IMAGES, [node.output for node in integers.nodes])
    for name, codes in reference(case, "float").items():
        np.testing.assert_array_equal(found[name], codes, err_msg=name)


FILES = [
    ("ONNX", {}, "float"),
    ("ONNX", {"weights": "uint8"}, "float"),
    ("TFLITE", {"arithmetic": "float"}, "float"),
    ("TFLITE", {"arithmetic": "fixed"}, "fixed"),
    ("C", {"arithmetic": "float"}, "float"),
    ("C", {"arithmetic": "fixed"}, "fixed"),
    ("MINDIR", {}, "float"),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("file_format", "options", "arithmetic"), FILES, ids=str)
def test_every_file_computes_the_same_codes(
    file_format: str, options: dict[str, str], arithmetic: str, case: str, tmp_path: Path
) -> None:
    if not installed(TARGETS[file_format]):
        pytest.skip(f"{file_format} is not installed")
    integers, codes, target = trained(case)[2], reference(case, arithmetic), qat.target(file_format)
    path = tmp_path / f"net{TARGETS[file_format].suffix}"
    target.export(integers, path, **options)
    running = arithmetic_options(target, arithmetic)
    found = target.trace(path, IMAGES, [node.output for node in integers.nodes], **running)
    assert len(found) >= len(integers.nodes) - 1  # some cannot give the input
    for name in found:
        np.testing.assert_array_equal(found[name], codes[name], err_msg=name)
    final = integers.output.grid.codes_of(target.predict(path, IMAGES, **running))
    np.testing.assert_array_equal(final, codes[integers.output.name])


def test_an_accumulator_of_0_is_positive() -> None:
    """Everything is 0 where the input is the grey of its mean and there is no bias."""
    network = qat.convert_quant_network(
        Padded(),
        weight_quantizer=BINARY(scale="constant"),
        activation_quantizer=BINARY_A(),
        bn_fold=False,
        layers={"last": {"activation_quantizer": None}},
    )
    integers = qat.to_integer(network, network.observed_params())
    zeros = np.full((1, 1, 8, 8), integers.input.grid.zero_point, np.uint8)
    codes = trace_codes(integers, zeros, ["first", "first.fake_quant"])
    assert (codes["first"] == 0).all()
    assert (codes["first.fake_quant"] == 1).all()


@pytest.mark.parametrize("activations", [BINARY_A(scale="mean"), BINARY_A()], ids=str)
def test_calibration_deploys(activations: BaseActivationQuantizer) -> None:
    network = Padded().graph()
    settings = {"activation_quantizer": activations, "layers": {"last": {"activation_quantizer": None}}}
    checkpoint = calibrate(network, network.initial_params(), IMAGES, **settings)
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    assert set(np.unique(trace_codes(integers, IMAGES, ["dense.fake_quant"])["dense.fake_quant"])) == {-1, 1}


def test_signs_after_a_relu_are_refused() -> None:
    with pytest.raises(qat.QatError, match=r"first\.fake_quant: .* never negative, .* every code would be 1") as raised:
        qat.convert_quant_network(Padded("relu"), activation_quantizer=BINARY_A())
    assert "\n" not in str(raised.value)

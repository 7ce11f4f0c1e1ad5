"""Wrong arguments of the public functions: one line each, that says what was found and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibrations import calibrate

import qat
from qat.data import Dataset, Split
from qat.deploy.floats import export_float
from qat.networks import LeNet5
from qat.registry import TARGETS
from qat.training.loop import train
from qat.training.recipe import Recipe

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 3, 8, 8), np.uint8)
LABELS = np.zeros(8, np.int64)


class Net(qat.Network):
    inputs = qat.Input((3, 8, 8))

    def __init__(self, result: Callable[[Any], Any] = lambda y: y) -> None:
        self.conv = qat.Conv2dBnAct(3, 4, 3)
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(256, 4)
        self.result = result

    def construct(self, x):
        return self.result(self.fc(self.flatten(self.conv(x))))


class Pooled(qat.Network):
    """Nothing in it is quantized."""

    inputs = qat.Input((3, 8, 8))

    def __init__(self) -> None:
        self.pool = qat.MaxPool2d(2)

    def construct(self, x):
        return self.pool(x)


class Needless(Pooled):
    def construct(self):
        return None


GRAPH = Net().graph()
PARAMS = GRAPH.initial_params()
QUANTIZED = calibrate(GRAPH, PARAMS, IMAGES)


def refused(message: str, act: Callable[..., Any], *arguments: Any) -> None:
    with pytest.raises(qat.QatError, match=message) as caught:
        act(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda y: [y, y], r"^Net: construct returned a list, not .*: several outputs are a tuple, as \(a, b\)$"),
        (lambda y: {"a": y}, r"^Net: construct returned a dict, not .*: several outputs are a tuple, as \(a, b\)$"),
        (lambda y: None, r"^Net: construct returned None, not the output of a cell: has it a return\?$"),
        (lambda y: (y, None), r"^Net: construct returned a tuple with None, not .*: return outputs of cells alone"),
        (lambda y: (y, [y]), r"^Net: construct returned a tuple with \[.*\], not .*: return outputs"),
        (lambda y: 3, r"^Net: construct returned 3, not the output of a cell$"),
    ],
)
def test_what_a_construct_returns(result: Any, message: str) -> None:
    refused(message, Net(result).graph)


def test_what_a_construct_takes() -> None:
    refused(r"^Needless: inputs says that 1 enters, but construct cannot be called with as many", Needless().graph)


def test_a_network_in_which_nothing_is_quantized_is_not_told_to_be_converted() -> None:
    checkpoint = calibrate(Pooled(), {}, IMAGES)
    refused(
        r"^Pooled has no cell whose numbers are quantized .*; add such a cell$",
        lambda: qat.to_integer(checkpoint.graph, checkpoint.params),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda params: [], r": is a list; give a dict of arrays by their names in Net$"),
        (lambda params: {k: v for k, v in params.items() if k != "fc.bias"}, "they lack 'fc.bias'"),
        (lambda params: params | {"z": params["fc.bias"]}, "they hold 'z', which it does not know"),
        (
            lambda params: params | {"fc.bias": np.zeros(5, np.float32)},
            r"'fc.bias' has shape \(5,\) but Net needs \(4,\)",
        ),
        (
            lambda params: params | {"fc.bias": np.zeros(4)},
            r"is float64, not float32; give params\['fc.bias'\].astype",
        ),
        (lambda params: params | {"fc.bias": np.zeros(4, int)}, r"'fc.bias' is int64, not float32"),
        (lambda params: params | {"fc.bias": np.array(["a"] * 4)}, r"'fc.bias' is <U1, not float32"),
        (lambda params: params | {"fc.bias": [0.0] * 4}, r"'fc.bias' is a list; give a NumPy array"),
    ],
)
def test_parameters(change: Any, message: str, tmp_path: Path) -> None:
    own, quantized = change(PARAMS), change(QUANTIZED.params)
    for name in ("torch", "keras", "mindspore"):
        refused(message, qat.backend(name).lower, GRAPH, own)
    for name in ("ONNX", "TFLITE"):
        refused(message, qat.target(name).export_float, GRAPH, own, tmp_path / "net")
    refused(message, lambda: calibrate(GRAPH, own, IMAGES))
    refused(message, lambda: qat.to_integer(QUANTIZED.graph, quantized))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("what", [None, 3, "lenet", Net, [Net()], PARAMS])
def test_what_is_no_network(what: Any, tmp_path: Path) -> None:
    message = "is neither a qat.Network nor a qat.Graph; give an instance, as LeNet5()"
    for act in (
        lambda: qat.convert_quant_network(what),
        lambda: qat.to_integer(what, PARAMS),
        lambda: calibrate(what, PARAMS, IMAGES),
        lambda: qat.backend("torch").lower(what),
        *(lambda name=name: export_float(qat.target(name), what, PARAMS, tmp_path / "x") for name in TARGETS),
    ):
        refused(message, act)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_no_integer_graph(name: str, tmp_path: Path) -> None:
    for what in (None, 3, GRAPH, QUANTIZED.graph, Net()):
        refused(
            rf"is a {type(what).__name__}, not the integers of one; give qat.to_integer\(network, params\)",
            qat.target(name).export,
            what,
            tmp_path / "net",
        )
        refused("not the integers of one", qat.evaluate, what, IMAGES)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: qat.backend("Torhc"),
            "^backend 'Torhc' is unknown, perhaps torch is meant: choose one of torch, keras, mindspore",
        ),
        (lambda: qat.backend("abacus"), "^backend 'abacus' is unknown: choose one of torch, keras, mindspore"),
        (lambda: qat.backend([]), r"^backend \[\] is unknown: choose one of torch"),
        (
            lambda: qat.target("onxn"),
            "^file format 'onxn' is unknown, perhaps ONNX is meant: choose one of ONNX, TFLITE, ",
        ),
        (
            lambda: qat.convert_quant_network(LeNet5(), num_bits=1),
            "^WeightQuantizer: num_bits is 1; use a whole number from 2 to 16, or Binary.* or Ternary.*qat help quantizers",
        ),
        (lambda: qat.WeightQuantizer(0), "^WeightQuantizer: num_bits is 0; use a whole number from 2 to 16$"),
        (
            lambda: qat.convert_quant_network(LeNet5(), weight_quantizer="LSQ"),
            r"^convert_quant_network: weight_quantizer is 'LSQ', .*; give an object, as qat.LSQWeightQuantizer\(num_bits=4\),",
        ),
        (
            lambda: qat.convert_quant_network(
                LeNet5(), layers={"c*": {"activation_quantizer": qat.PACTActivationQuantizer}}
            ),
            r"^layers: 'c\*': .*activation_quantizer is <class .*; give an object, as qat.LSQActivationQuantizer\(num_bits=4\)",
        ),
        (lambda: qat.Recipe(optimizer="adam"), r"^Recipe: optimizer is 'adam', a name; give qat.Optimizer\('adam'\)$"),
        (lambda: qat.target(None), "^file format None is unknown: choose one of ONNX"),
        (lambda: calibrate(GRAPH, PARAMS, IMAGES, percentile="99"), "^percentile is '99'; use a finite number"),
        (
            lambda: Split(IMAGES, LABELS.astype(str)),
            r"^Split: labels are <U21 \(8,\); give whole or real numbers, a row for",
        ),
        (
            lambda: Split(IMAGES, LABELS.astype(complex)),
            r"^Split: labels are complex128 \(8,\); give whole or real numbers",
        ),
        (lambda: Split(IMAGES, np.array(3)), r"^Split: labels are int64 \(\); give whole or real numbers"),
        (lambda: Split(IMAGES, LABELS[:3]), "^Split: there are 8 images and 3 labels; give as many of each$"),
        (
            lambda: Split(IMAGES, LABELS - 1),
            "^Split: a label is -1; classes count from 0, and a regression takes real numbers$",
        ),
        (lambda: Split(IMAGES.tolist(), LABELS), "^Split: got a list; give NumPy arrays"),
        (lambda: Split(IMAGES, "abc"), "^Split: got a str; give NumPy arrays"),
        (lambda: Split((), LABELS), "^Split: got no images; give NumPy arrays"),
        (
            lambda: trained(start=GRAPH),
            "^train: got a Graph in place of a Checkpoint; give backend, start, dataset, recipe$",
        ),
        (lambda: trained(dataset=IMAGES), "^train: got a ndarray in place of a Dataset"),
        (lambda: trained(recipe=None), "^train: got a NoneType in place of a Recipe"),
        (lambda: trained(dataset=data(IMAGES[:0], LABELS[:0])), "^d: there are no images to train on$"),
        (lambda: trained(dataset=data(IMAGES, LABELS + 9)), "^d: its labels reach 9, but Net gives"),
        (
            lambda: trained(dataset=data(IMAGES[:, :, :4], LABELS)),
            r"^Net: takes raw pixels, uint8 \(N, 3, 8, 8\), but got",
        ),
    ],
)
def test_what_else(act: Any, message: str) -> None:
    refused(message, act)


def data(images: np.ndarray, labels: np.ndarray) -> Dataset:
    return Dataset("d", "d", Split(images, labels), Split(images, labels))


def trained(**changes: Any) -> qat.Checkpoint:
    arguments = {
        "backend": qat.backend("torch"),
        "start": qat.Checkpoint(GRAPH, PARAMS),
        "dataset": data(IMAGES, LABELS),
        "recipe": Recipe(1, 4),
    }
    return train(**(arguments | changes))


def test_what_is_printed_of_a_network_and_of_a_checkpoint_is_one_short_line() -> None:
    class Two(qat.Network):
        inputs = (qat.Input((1, 4, 4)), qat.Input((3,)))

        def __init__(self) -> None:
            self.blocks = [qat.Flatten(), Block()]
            self.again = self.blocks[0]

    class Block(qat.Network):
        def __init__(self) -> None:
            self.fc = qat.DenseBnAct(16, 2)

    assert repr(LeNet5()) == "LeNet5 of 7 cells, input 1 x 32 x 32"
    assert repr(Two()) == "Two of 2 cells, input 1 x 4 x 4 and 3"
    assert repr(Block()) == "Block of 1 cell"
    graph = qat.convert_quant_network(LeNet5())
    checkpoint = qat.Checkpoint(graph, graph.initial_params(0), step=1200)
    assert repr(checkpoint) == "Checkpoint of LeNet5, quantized, step 1,200, 61,684 parameters"

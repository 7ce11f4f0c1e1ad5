"""GRU and LSTM of all sources, imported: equal floats, and the same codes in every engine."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from import_codes import assert_codes_are_equal

import qat

STEPS, FEATURES, UNITS = 3, 3, 2


def names(found: Any) -> list[str]:
    return [type(node.cell).__name__ for node in found.graph.nodes]


# -- Keras ------------------------------------------------------------------------------------------------------------


def keras_model(*layers: Any, **options: Any) -> Any:
    """With random weights."""
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((STEPS, FEATURES)), *layers], **options)
    rng = np.random.default_rng(0)
    for each in model.weights:
        each.assign(rng.normal(0.0, 0.4, each.shape))
    return model


KERAS: dict[str, Callable[[Any], list[Any]]] = {
    "the last state": lambda layers: [layers.GRU(UNITS), layers.Dense(3)],
    "reset before": lambda layers: [layers.GRU(UNITS, reset_after=False, return_sequences=True), layers.Conv1D(2, 2)],
    "two layers": lambda layers: [
        layers.LSTM(UNITS, return_sequences=True),
        layers.Dropout(0.5),
        layers.LSTM(UNITS, use_bias=False),
    ],
    "backwards": lambda layers: [
        layers.GRU(UNITS, return_sequences=True, go_backwards=True),
        layers.GRU(UNITS, go_backwards=True),
    ],
    "both ways": lambda layers: [
        layers.Bidirectional(layers.LSTM(UNITS, return_sequences=True)),
        layers.Bidirectional(layers.GRU(UNITS), merge_mode="ave"),
    ],
}


@pytest.mark.parametrize("which", KERAS)
def test_layers_of_keras(which: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    keras = pytest.importorskip("keras")
    found = qat.import_model(keras_model(*KERAS[which](keras.layers)))
    assert_codes_are_equal(found, tmp_path)


def test_the_last_state_is_no_part_of_a_stack() -> None:
    keras = pytest.importorskip("keras")
    found = qat.import_model(keras_model(keras.layers.GRU(UNITS, return_sequences=True), keras.layers.GRU(UNITS)))
    assert "Stack" not in names(found)
    assert names(found).count("Slice") == STEPS  # of the input alone


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda layers: layers.GRU(UNITS, activation="relu"), "GRU with the activations relu and sigmoid"),
        (lambda layers: layers.SimpleRNN(UNITS), "SimpleRNN"),
        (lambda layers: layers.Bidirectional(layers.SimpleRNN(UNITS)), "Bidirectional of SimpleRNN"),
        (lambda layers: layers.Bidirectional(layers.GRU(UNITS), merge_mode=None), "Bidirectional with 2 outputs"),
    ],
)
def test_other_layers_of_keras_are_refused(build: Callable[[Any], Any], words: str) -> None:
    keras = pytest.importorskip("keras")
    x = keras.Input((STEPS, FEATURES))
    with pytest.raises(qat.QatError, match=words):
        qat.import_model(keras.Model(x, build(keras.layers)(x)))


# -- PyTorch, and ONNX as PyTorch exports it ---------------------------------------------------------------------------


class SamplesFirst(torch.nn.Module):
    """Two layers, both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = torch.nn.GRU(FEATURES, UNITS, 2, batch_first=True, bidirectional=True)
        self.head = torch.nn.Linear(2 * UNITS, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, _ = self.gru(x)
        return self.head(states[:, -1])


class StepsFirst(torch.nn.Module):
    """What is computed of values (L, N, C), and of the last states (layers, N, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(FEATURES, UNITS, bidirectional=True)
        self.head = torch.nn.Linear(4 * UNITS, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, (last, _) = self.lstm(torch.tanh(x.transpose(0, 1)))
        return self.head(torch.cat((last[-2], last[-1], torch.relu(states[1:])[0]), 1))


class BehindConvolutions(torch.nn.Module):
    """The states of all steps, and the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gru = torch.nn.Conv1d(STEPS, 3, 1), torch.nn.GRU(3, UNITS, batch_first=True)
        self.head = torch.nn.Linear(UNITS, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states, last = self.gru(torch.relu(self.conv(x)).transpose(1, 2))
        return self.head(states), last.squeeze(0)


@pytest.mark.parametrize("module", [SamplesFirst, StepsFirst, BehindConvolutions])
def test_modules_of_torch(module: type[torch.nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = qat.import_model(module().eval(), torch.zeros(1, STEPS, FEATURES))
    assert found.difference.relative < 1e-5
    if module is StepsFirst:
        assert_codes_are_equal(found, tmp_path)


class WithStates(torch.nn.Module):
    """States to begin with, or c."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.lstm, self.what = (
            torch.nn.LSTM(FEATURES, UNITS, batch_first=True, proj_size=int(what == "projected")),
            what,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        begin = (x[:, :1, :UNITS].transpose(0, 1),) * 2 if self.what == "begun" else None
        states, (_, c) = self.lstm(x, begin)
        return c[0] if self.what == "c" else states


@pytest.mark.parametrize(
    ("what", "words"), [("begun", "states to begin with"), ("c", "result 2 of lstm"), ("projected", "projections")]
)
def test_other_modules_of_torch_are_refused(what: str, words: str) -> None:
    with pytest.raises(qat.QatError, match=words):
        qat.import_model(WithStates(what).eval(), torch.zeros(2, STEPS, FEATURES))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("module", [SamplesFirst, StepsFirst, BehindConvolutions])
def test_nodes_of_onnx(module: type[torch.nn.Module], dynamic: bool, tmp_path: Path) -> None:
    path = onnx_file(module, tmp_path, dynamic=dynamic)
    found = qat.import_model(path)
    if not dynamic:
        assert_codes_are_equal(found, tmp_path)


def onnx_file(module: type[torch.nn.Module], folder: Path, *, dynamic: bool) -> Path:
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    file, axes = io.BytesIO(), {"x": {0: "samples"}} if dynamic else None
    example = torch.zeros(1, STEPS, FEATURES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module().eval(), (example,), file, input_names=["x"], dynamic_axes=axes, dynamo=False, opset_version=14
        )
    path = folder / "net.onnx"
    path.write_bytes(file.getvalue())
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activations": ["Relu", "Tanh"]}, "GRU with the activations Relu, Tanh"),
        ({"clip": 3.0}, "GRU with clip"),
    ],
)
def test_other_nodes_of_onnx_are_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    x, y = (onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", [1, 4, 3]), ("y", None)))
    rng = np.random.default_rng(0)
    weights = [
        onnx.numpy_helper.from_array(rng.normal(size=(1, 6, size)).astype(np.float32), name)
        for name, size in (("w", 3), ("r", 2))
    ]
    axes = onnx.numpy_helper.from_array(np.array([0]), "a")
    nodes = [
        onnx.helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        onnx.helper.make_node("GRU", ["t", "w", "r"], ["", "h"], hidden_size=2, **change),
        onnx.helper.make_node("Squeeze", ["h", "a"], ["y"]),
    ]
    graph = onnx.helper.make_graph(nodes, "net", [x], [y], [*weights, axes])
    path = tmp_path / "net.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8), path)
    with pytest.raises(qat.QatError, match=words):
        qat.import_model(path)

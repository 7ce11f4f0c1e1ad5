"""Cells over series, (C, L): what PyTorch and Keras compute, trained and deployed as pictures of one row are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frameworks import HERE, but_long
from graphs import chain

import qat
from qat.integer import IntegerRearrange, evaluate
from qat.passes.fold_batch_norm import fold_batch_norm
from qat.registry import TARGETS, installed
from qat.training.forward import Forward
from qat.vocabulary.arrays import as_tuple
from qat.vocabulary.numpy_ops import NUMPY_OPS

F = np.float32
TORCH = qat.backend("torch")


def real(cell: qat.Cell, x: Any, **params: Any) -> Any:
    """What a float cell makes of real numbers."""
    graph = chain(cell, shape=x.shape[1:])
    node = replace(graph.nodes[0], cell=qat.Input(x.shape[1:], dtype="float32"))
    graph = qat.Graph((node, *graph.nodes[1:]), graph.outputs)
    given = {f"c0.{name}": array for name, array in params.items()}
    (y,), _ = Forward(graph, NUMPY_OPS)(given, (x,), training=False, phase=0)
    return y


CONVOLUTIONS = {
    "plain": ({"pad_mode": "valid"}, {}),
    "stride, dilation and padding": (
        {"stride": 2, "dilation": 2, "pad_mode": "pad", "padding": 3},
        {"stride": 2, "dilation": 2, "padding": 3},
    ),
    "groups": ({"group": 2, "pad_mode": "pad", "padding": 1}, {"groups": 2, "padding": 1}),
    "depthwise": ({"group": 4, "pad_mode": "valid"}, {"groups": 4}),
}


@pytest.mark.parametrize(("fields", "theirs"), CONVOLUTIONS.values(), ids=list(CONVOLUTIONS))
def test_a_convolution_is_that_of_pytorch_with_its_weight(fields: dict[str, Any], theirs: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    layer = torch.nn.Conv1d(4, 8, 3, **theirs)
    x = rng.normal(size=(2, 4, 15)).astype(F)
    weight, bias = (each.detach().numpy() for each in (layer.weight, layer.bias))
    found = real(qat.Conv1dBnAct(4, 8, 3, has_bias=True, **fields), x, weight=weight, bias=bias)
    np.testing.assert_allclose(found, layer(torch.from_numpy(x)).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 3)])
def test_a_causal_convolution_is_that_of_keras(stride: int, dilation: int) -> None:
    """Its output sees no later step, and is as long as that of Keras."""
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    x = np.random.default_rng(1).normal(size=(2, 3, 14)).astype(F)
    layer = keras.layers.Conv1D(5, 4, strides=stride, padding="causal", dilation_rate=dilation, use_bias=False)
    expected = np.asarray(layer(x.transpose(0, 2, 1))).transpose(0, 2, 1)
    weight = np.asarray(layer.kernel).transpose(2, 1, 0)
    cell = qat.Conv1dBnAct(3, 5, 4, stride=stride, pad_mode="causal", dilation=dilation)
    found = real(cell, x, weight=weight)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    later = x.copy()
    later[:, :, 7:] = 9.0
    np.testing.assert_array_equal(
        real(cell, later, weight=weight)[:, :, : -(-7 // stride)], found[:, :, : -(-7 // stride)]
    )


POOLINGS = {
    "largest": (qat.MaxPool1d(3, 2, "pad", 1), torch.nn.MaxPool1d(3, 2, 1)),
    "largest, one more": (qat.MaxPool1d(4, 3, ceil_mode=True), torch.nn.MaxPool1d(4, 3, ceil_mode=True)),
    "mean": (qat.AvgPool1d(3, 2, "pad", 1), torch.nn.AvgPool1d(3, 2, 1)),
    "mean without padding": (
        qat.AvgPool1d(3, 2, "pad", 1, count_include_pad=False),
        torch.nn.AvgPool1d(3, 2, 1, count_include_pad=False),
    ),
    "global mean": (qat.GlobalAvgPool1d(), torch.nn.AdaptiveAvgPool1d(1)),
}


@pytest.mark.parametrize(("cell", "layer"), POOLINGS.values(), ids=list(POOLINGS))
def test_poolings_are_those_of_pytorch(cell: qat.Cell, layer: Any) -> None:
    x = np.random.default_rng(2).normal(size=(2, 4, 15)).astype(F)
    np.testing.assert_allclose(real(cell, x), layer(torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-6)


def test_a_batch_norm_of_series_is_folded_into_a_convolution_of_series() -> None:
    graph = chain(qat.BatchNorm(3), shape=(3, 8))
    params = graph.initial_params()
    rng = np.random.default_rng(3)
    for name in params:
        params[name] = rng.uniform(0.5, 2.0, params[name].shape).astype(F)
    folded, own = fold_batch_norm(graph, params)
    assert isinstance(folded.nodes[-1].cell, qat.Conv1dBnAct)
    pixels = rng.integers(0, 256, (2, 3, 8), np.uint8)
    before, after = (TORCH.predict(TORCH.lower(g, p), pixels) for g, p in ((graph, params), (folded, own)))
    np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-4)


def test_neighbours_of_one_dimension_are_not_reshaped_between() -> None:
    graph = chain(
        qat.Conv1dBnAct(2, 4, 3, activation="relu"),
        qat.Conv1dBnAct(4, 4, 3, group=4),
        qat.MaxPool1d(2),
        qat.BatchNorm(4),
        qat.AvgPool1d(2),
        shape=(2, 16),
    )
    quantized = qat.convert_quant_network(graph)
    nodes = qat.to_integer(quantized, quantized.observed_params()).nodes
    moved = [node.name for node in nodes if isinstance(node, IntegerRearrange)]
    assert moved == ["c0@row", "c4"], "one in front of all of them, and one behind"


def test_wrong_uses_are_said() -> None:
    with pytest.raises(qat.QatError, match=r"^Conv1dBnAct: padding 2 has no effect with pad_mode 'causal'"):
        qat.Conv1dBnAct(2, 4, 3, pad_mode="causal", padding=2)
    with pytest.raises(qat.QatError, match=r"^Conv1dBnAct: kernel .* must be at least 1"):
        qat.Conv1dBnAct(2, 4, 0, pad_mode="causal")
    with pytest.raises(qat.QatError, match=r"takes \(2, L\) but gets \(2, 8, 8\)"):
        qat.Conv1dBnAct(2, 4, 3).output_shape((2, 8, 8))
    with pytest.raises(qat.QatError, match=r"takes \(C, L\) but gets \(2, 8, 8\); use the cell that takes pictures"):
        qat.MaxPool1d(2).output_shape((2, 8, 8))
    with pytest.raises(qat.QatError, match=r"takes \(C, H, W\) but gets \(2, 8\); use the cell that takes series"):
        qat.GlobalAvgPool2d().output_shape((2, 8))
    with pytest.raises(qat.QatError, match=r"its 9 kernel does not fit into its input \(2, 8\)"):
        qat.Conv1dBnAct(2, 4, 9, pad_mode="valid").output_shape((2, 8))


class Accelerometer(qat.Network):
    """A recognizer of movements: three axes in time, each with a mean and deviation of its own."""

    def __init__(self) -> None:
        self.inputs = qat.Input((3, 64), mean=(0.5, 0.45, 0.6), std=(0.1, 0.2, 0.15))
        self.first = qat.Conv1dBnAct(3, 8, 5, stride=2, pad_mode="causal", has_bn=True, activation="relu")
        self.depthwise = qat.Conv1dBnAct(8, 8, 3, group=8, dilation=2, has_bn=True, activation="relu6")
        self.pointwise = qat.Conv1dBnAct(8, 12, 1, has_bn=True, activation="relu")
        self.pool, self.norm = qat.MaxPool1d(2), qat.BatchNorm(12)
        self.smooth = qat.AvgPool1d(3, 1, "same", count_include_pad=False)
        self.mean, self.flatten, self.head = qat.GlobalAvgPool1d(), qat.Flatten(), qat.DenseBnAct(12, 3, has_bias=True)

    def construct(self, x: qat.Traced) -> qat.Traced:
        x = self.pool(self.pointwise(self.depthwise(self.first(x))))
        return self.head(self.flatten(self.mean(self.smooth(self.norm(x)))))


def movements(count: int, seed: int) -> tuple[Any, Any]:
    """Oscillations of three frequencies, at any phase, along three axes, with noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    phase, time = rng.uniform(0, 6, (count, 3, 1)), np.arange(64)
    waves = np.sin(phase + time * np.array([0.25, 0.7, 1.6])[labels][:, None, None])
    return np.clip(128 + 50 * waves + rng.normal(0, 15, waves.shape), 0, 255).astype(np.uint8), labels


def split(count: int, seed: int) -> qat.Split:
    return qat.Split(*movements(count, seed))


def trained(backend: str, epochs: int) -> qat.Checkpoint:
    graph = qat.convert_quant_network(Accelerometer())
    start, data = (
        qat.Checkpoint(graph, graph.initial_params(0)),
        qat.Dataset("made", "here", split(384, 0), split(128, 1)),
    )
    return qat.train(qat.backend(backend), start, data, qat.Recipe(epochs=epochs, batch_size=32, lr=0.02))


@pytest.mark.parametrize("backend", but_long(HERE, lambda name: name == "mindspore"))
def test_a_network_over_series_trains_on_every_backend(backend: str) -> None:
    """Causal and depthwise convolutions, poolings and a batch norm: it learns, and no code differs from NumPy's."""
    found, test, engine = trained(backend, 4), split(128, 1), qat.backend(backend)
    expected = as_tuple(evaluate(qat.to_integer(found.graph, found.params), test.images))[0]
    codes = engine.predict_codes(engine.lower(found.graph, found.params), test.images)
    np.testing.assert_array_equal(as_tuple(codes)[0], expected)
    assert (expected.argmax(1) == test.labels).mean() > 0.9


@pytest.mark.parametrize("target", [name for name in ("ONNX", "TFLITE", "C", "MINDIR") if installed(TARGETS[name])])
def test_a_trained_network_over_series_has_its_codes_in_every_file(target: str, tmp_path: Path) -> None:
    found = trained("torch", 1)
    path = tmp_path / f"net{TARGETS[target].suffix}"
    certificate = qat.verify.export_verified(
        path, qat.target(target), TORCH, found, split(128, 1), data="movements", arithmetic=None
    )
    assert certificate.passed


@pytest.mark.parametrize("target", [name for name in ("ONNX", "TFLITE") if installed(TARGETS[name])])
def test_a_float_network_over_series_is_exported(target: str, tmp_path: Path) -> None:
    graph = Accelerometer().graph()
    params = graph.initial_params()
    pixels, path = movements(8, 2)[0], tmp_path / f"net{TARGETS[target].suffix}"
    qat.target(target).export_float(graph, params, path)
    found = as_tuple(qat.target(target).predict(path, pixels))[0]
    np.testing.assert_allclose(found, TORCH.predict(TORCH.lower(graph, params), pixels), rtol=1e-4, atol=1e-4)

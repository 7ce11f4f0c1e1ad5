"""Poolings whose windows are left over or count different numbers of pixels, and means: equal to PyTorch's, and exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from frameworks import HERE
from hypothesis import given, settings
from hypothesis import strategies as st
from sequential import ALWAYS, Chain, calibrated
from test_tflite import differences, operators

import qat
from qat.integer import IntegerConv2d, IntegerGraph, IntegerMeans, evaluate, trace_codes
from qat.registry import TARGETS, installed
from qat.training.forward import Forward
from qat.training.optimizer import Optimizer
from qat.vocabulary.numpy_ops import NUMPY_OPS

TFLITE = qat.target("TFLITE")


def all_sums(height: int, width: int) -> np.ndarray:
    """Pixels (1, C, H, W): of each sum that they may have, a channel whose pixels have it."""
    count = height * width
    sums = np.arange(255 * count + 1)
    pixels = sums // count + (np.arange(count)[:, None] < sums % count)
    return pixels.T.astype(np.uint8).reshape(1, -1, height, width)


def mean_of(pixels: np.ndarray, high: float, **options: Any) -> IntegerGraph:
    """An average pooling over the whole of these pixels, of real numbers 0 to 1, to codes whose range ends at ``high``."""
    shape = pixels.shape[1:]
    graph = qat.convert_quant_network(Chain(qat.Input(shape), pool=qat.AvgPool2d(shape[1:])), **options)
    params = graph.observed_params()
    (end,) = (name for name in params if name.endswith("max"))
    return qat.to_integer(graph, params | {end: np.array(high, np.float32)})


@pytest.mark.parametrize("size", [(13, 2), (24, 5), (7, 7), (8, 8)])
def test_a_mean_over_the_whole_image_is_exact_for_all_sums(size: tuple[int, int], tmp_path: Path) -> None:
    """As a convolution of transposed codes, which takes a tenth of a depthwise one's time."""
    pixels = all_sums(*size)
    for i, high in enumerate(np.random.default_rng(size[0]).uniform(0.3, 1.5, 3)):
        graph = mean_of(pixels, float(high))
        path = tmp_path / f"{i}.tflite"
        TFLITE.export(graph, path)
        assert operators(path) == {"RESHAPE": 2, "TRANSPOSE": 1, "CONV_2D": 1}
        assert differences(graph, path, pixels, "float") == []
    TFLITE.export(graph, path, arithmetic="fixed")
    assert operators(path) == {"DEPTHWISE_CONV_2D": 1}


@pytest.mark.parametrize(
    ("cell", "form"),
    [
        (qat.AvgPool2d((6, 5)), "CONV_2D"),  # leaves rows and columns out
        (qat.AvgPool2d(9, pad_mode="pad", padding=(1, 1, 1, 2)), "CONV_2D"),
        (qat.Conv2dBnAct(4, 4, 6, group=4, pad_mode="valid"), "DEPTHWISE_CONV_2D"),  # a filter for each channel
        (qat.AvgPool2d(5, 2), "DEPTHWISE_CONV_2D"),  # of which there is a fast kernel
        (qat.AvgPool2d((6, 5), 1), "DEPTHWISE_CONV_2D"),  # several positions
    ],
    ids=str,
)
def test_what_else_is_written_so_and_what_is_not(cell: qat.Cell, form: str, tmp_path: Path) -> None:
    """Codes that are signed, with a narrower clip and a layer behind them, in batches of any size."""
    before = qat.Conv2dBnAct(3, 4, 3, activation=None)
    size = cell.output_shape((4, 7, 6))
    cells = {"before": before, "cell": cell, "flatten": qat.Flatten(), "fc": qat.DenseBnAct(int(np.prod(size)), 3)}
    setup = calibrated(Chain(qat.Input((3, 7, 6)), **cells), images=5, num_bits=(8, 7))
    path = tmp_path / "net.tflite"
    TFLITE.export(setup.integer, path)
    assert operators(path)[form] >= 1
    assert ("TRANSPOSE" in operators(path)) == (form == "CONV_2D")
    assert differences(setup.integer, path, setup.pixels, "float") == []
    assert evaluate(setup.integer, setup.pixels).std() > 0


# -- windows that count different numbers of pixels -------------------------------------------------------------------

WINDOWS = {
    "without padding": qat.AvgPool2d(3, 1, "pad", 1, count_include_pad=False),
    "left over": qat.AvgPool2d(3, 2, ceil_mode=True),
    "both": qat.AvgPool2d((3, 2), (2, 1), "pad", (1, 1, 1, 0), ceil_mode=True, count_include_pad=False),
    "same": qat.AvgPool2d(3, 2, "same", count_include_pad=False),
    "beyond the padding": qat.AvgPool2d(4, 3, "pad", 2, ceil_mode=True),
}


def float_outputs(cell: qat.Cell, x: np.ndarray) -> np.ndarray:
    graph = Chain(qat.Input(x.shape[1:], dtype="float32"), cell=cell).graph()
    ((y,), _) = Forward(graph, NUMPY_OPS)({}, (x,), training=False, phase=0)
    return y


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_poolings_are_pytorchs(data: st.DataObject) -> None:
    size, kernel, stride = (data.draw(st.tuples(*[st.integers(1, most)] * 2)) for most in (9, 4, 4))
    kernel = tuple(map(min, kernel, size))
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    ceil, include = data.draw(st.booleans()), data.draw(st.booleans())
    x = np.random.default_rng(0).normal(size=(2, 3, *size)).astype(np.float32)
    given_x = torch.from_numpy(x)
    mean = qat.AvgPool2d(kernel, stride, "pad", padding, ceil_mode=ceil, count_include_pad=include)
    expected = functional.avg_pool2d(given_x, kernel, stride, padding, ceil, include)
    np.testing.assert_allclose(float_outputs(mean, x), expected.numpy(), rtol=0, atol=1e-6)
    largest = qat.MaxPool2d(kernel, stride, "pad", padding, ceil_mode=ceil)
    expected = functional.max_pool2d(given_x, kernel, stride, padding, 1, ceil)
    np.testing.assert_array_equal(float_outputs(largest, x), expected.numpy())


def test_means_without_padding_are_tensorflows() -> None:
    tf = pytest.importorskip("tensorflow")
    x = np.random.default_rng(0).normal(size=(2, 3, 7, 6)).astype(np.float32)
    expected = tf.nn.avg_pool2d(x.transpose(0, 2, 3, 1), 3, 2, "SAME").numpy().transpose(0, 3, 1, 2)
    found = float_outputs(qat.AvgPool2d(3, 2, "same", count_include_pad=False), x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def between(cell: qat.Cell, **options: Any) -> Any:
    """A pooling of signed codes between two convolutions."""
    cells = {"before": qat.Conv2dBnAct(3, 4, 3), "cell": cell, "last": qat.Conv2dBnAct(4, 2, 1)}
    return calibrated(Chain(qat.Input((3, 8, 7)), **cells), images=5, **options)


@pytest.mark.parametrize("bits", [8, 5])
@pytest.mark.parametrize("name", WINDOWS)
def test_all_codes_are_equal_everywhere(name: str, bits: int, tmp_path: Path) -> None:
    setup = between(WINDOWS[name], num_bits=(8, bits))
    graph = setup.integer
    assert any(isinstance(node, IntegerMeans) for node in graph.nodes)
    tensors = [node.output for node in graph.nodes]
    reference = trace_codes(graph, setup.pixels, [x.name for x in tensors])
    for backend_name in HERE:
        backend = qat.backend(backend_name)
        traced = backend.trace(backend.lower(setup.graph, setup.params), setup.pixels, tensors)
        for x in tensors:
            np.testing.assert_array_equal(traced[x.name], reference[x.name], err_msg=f"{backend_name}, {x.name}")
    for arithmetic in TFLITE.ARITHMETICS:
        TFLITE.export(graph, tmp_path / "net.tflite", arithmetic=arithmetic)
        assert differences(graph, tmp_path / "net.tflite", setup.pixels, arithmetic) == []
    for target_name, arithmetic in (("ONNX", "float"), ("MINDIR", "float"), ("C", "float"), ("C", "fixed")):
        if not installed(TARGETS[target_name]):
            continue
        target, path = qat.target(target_name), tmp_path / f"net{TARGETS[target_name].suffix}"
        options = {"arithmetic": arithmetic} if target_name == "C" else {}
        target.export(graph, path, **options)
        expected = trace_codes(graph, setup.pixels, [x.name for x in tensors], arithmetic=arithmetic)
        traced = target.trace(path, setup.pixels, tensors, **options)
        assert set(traced) >= {"cell", "last"}
        for key, codes in traced.items():
            np.testing.assert_array_equal(codes, expected[key], err_msg=f"{target_name}, {arithmetic}, {key}")


@pytest.mark.parametrize("name", WINDOWS)
def test_training_computes_the_same_means(name: str) -> None:
    """To a code, next to a tie: there a sum is multiplied twice, by the share of its position and by that of the scales."""
    setup = between(WINDOWS[name])
    tensors = {n: NUMPY_OPS.from_numpy(setup.params[n], p.kind) for n, p in setup.graph.params.items()}
    run = Forward(setup.graph, NUMPY_OPS)
    (found,), _ = run(tensors, (setup.pixels.astype(np.float32),), training=False, phase=ALWAYS)
    graph = setup.integer
    off = np.abs(graph.output.grid.codes_of(found).astype(int) - evaluate(graph, setup.pixels))
    assert off.max() <= 1
    assert (off > 0).mean() < 0.01


@pytest.mark.parametrize("backend_name", HERE)
def test_a_training_step_has_the_gradients_of_the_means(backend_name: str) -> None:
    """Of a float network: those that PyTorch's own pooling has."""
    x = np.random.default_rng(0).normal(size=(4, 3, 7, 6)).astype(np.float32)
    graph = Chain(qat.Input((3, 7, 6), dtype="float32"), conv=qat.Conv2dBnAct(3, 2, 1), cell=WINDOWS["both"]).graph()
    params, backend = graph.initial_params(0), qat.backend(backend_name)
    model = backend.lower(graph, params)
    step = backend.make_step(model, Optimizer(momentum=0.0), lambda ops, y, targets: ops.mean(y * y))
    step(x, np.zeros(4, np.int32), 0.5)
    weight = torch.tensor(params["conv.weight"], requires_grad=True)
    padded = functional.pad(functional.conv2d(torch.from_numpy(x), weight), (1, 0))
    inside = functional.pad(torch.ones(1, 1, 7, 6), (1, 0))
    sums = [functional.avg_pool2d(each, (3, 2), (2, 1), (1, 0), True, True, 1) for each in (padded, inside)]
    ((sums[0] / sums[1]) ** 2).mean().backward()
    expected = (weight - 0.5 * weight.grad).detach().numpy()
    np.testing.assert_allclose(backend.read(model)["conv.weight"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bits", [12, 16])
def test_wide_codes_in_c(bits: int, tmp_path: Path) -> None:
    for name, cell in WINDOWS.items():
        setup = between(cell, num_bits=(8, bits))
        c = qat.target("C")
        for arithmetic in c.ARITHMETICS:
            c.export(setup.integer, tmp_path / "net.c", arithmetic=arithmetic)
            expected = evaluate(setup.integer, setup.pixels, arithmetic=arithmetic)
            found = setup.integer.output.grid.codes_of(c.predict(tmp_path / "net.c", setup.pixels))
            np.testing.assert_array_equal(found, expected, err_msg=f"{name}, {arithmetic}")


@pytest.mark.parametrize("target_name", ["ONNX", "TFLITE"])
@pytest.mark.parametrize("name", WINDOWS)
def test_float_files(name: str, target_name: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 7, 6)).astype(np.float32)
    graph = Chain(qat.Input((3, 7, 6), dtype="float32"), cell=WINDOWS[name]).graph()
    target, path = qat.target(target_name), tmp_path / f"net{TARGETS[target_name].suffix}"
    target.export_float(graph, {}, path)
    np.testing.assert_allclose(target.predict(path, x), float_outputs(WINDOWS[name], x), rtol=0, atol=1e-6)


def test_a_dead_output_and_an_uniform_one(tmp_path: Path) -> None:
    """Whose scale is the smallest there is; and windows that all leave the padding out alike are a convolution."""
    setup = between(WINDOWS["without padding"])
    params = setup.params | {f"cell.fake_quant.{end}": np.zeros((), np.float32) for end in ("min", "max")}
    graph = qat.to_integer(setup.graph, params)
    for arithmetic in TFLITE.ARITHMETICS:
        TFLITE.export(graph, tmp_path / "net.tflite", arithmetic=arithmetic)
        assert differences(graph, tmp_path / "net.tflite", setup.pixels, arithmetic) == []
    graph = between(qat.AvgPool2d(2, ceil_mode=True, count_include_pad=False)).integer
    assert (
        type(next(node for node in graph.nodes if node.name == "cell")) is IntegerMeans
    )  # 8 x 7: a column is left over
    graph = between(qat.AvgPool2d((2, 7), ceil_mode=True, count_include_pad=False)).integer
    assert type(next(node for node in graph.nodes if node.name == "cell")) is IntegerConv2d


def test_what_is_too_large_for_tflite_and_what_has_no_effect_is_refused(tmp_path: Path) -> None:
    setup = calibrated(
        Chain(qat.Input((1, 50, 50)), cell=qat.AvgPool2d(3, 1, "pad", 1, count_include_pad=False)), images=1
    )
    with pytest.raises(qat.QatError, match=r"^cell: .* 6,250,000 of its picture .* export to ONNX or C"):
        TFLITE.export(setup.integer, tmp_path / "net.tflite")
    for kind in (qat.MaxPool2d, qat.AvgPool2d):
        with pytest.raises(qat.QatError, match=r"ceil_mode has no effect with pad_mode 'same'"):
            kind(2, pad_mode="same", ceil_mode=True)

"""Bilinear upsampling: in float PyTorch's and Keras's, in integers within a code of them and equal in every engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graphs import chain

import qat
from qat.integer import IntegerConv2d, evaluate
from qat.registry import TARGETS, installed
from qat.vocabulary.arrays import as_tuple

F = np.float32
TORCH = qat.backend("torch")
FACTORS = [2, 3, 4, 8, (2, 3), (1, 5), (16, 2)]


def over_reals(cell: qat.Cell, shape: tuple[int, ...]) -> qat.Graph:
    graph = chain(cell, shape=shape)
    return qat.Graph((replace(graph.nodes[0], cell=qat.Input(shape, dtype="float32")), *graph.nodes[1:]), graph.outputs)


def theirs(x: Any, factor: Any, align_corners: bool) -> Any:
    factors = factor if isinstance(factor, tuple) else (factor, factor)
    size = tuple(n * f for n, f in zip(x.shape[2:], factors, strict=True))
    return torch.nn.functional.interpolate(torch.as_tensor(x), size=size, mode="bilinear", align_corners=align_corners)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("factor", FACTORS)
def test_a_float_network_is_pytorchs_in_value_and_gradient(factor: Any, align_corners: bool) -> None:
    for shape in ((2, 3, 4), (1, 1, 5), (3, 1, 1)):
        x = torch.randn(2, *shape, requires_grad=True)
        model = TORCH.lower(over_reals(qat.UpsampleBilinear(factor, align_corners), shape), {})
        y, found = theirs(x, factor, align_corners), model(x)
        np.testing.assert_allclose(found.detach().numpy(), y.detach().numpy(), rtol=1e-4, atol=1e-5)
        cotangent = torch.randn_like(y)
        mine, other = (torch.autograd.grad(each, x, cotangent)[0].numpy() for each in (found, y))
        np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-4)


def test_a_float_network_is_keras_s() -> None:
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(F)
    layer = keras.layers.UpSampling2D((2, 4), interpolation="bilinear", data_format="channels_last")
    expected = np.asarray(layer(x.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)
    graph = over_reals(qat.UpsampleBilinear((2, 4)), (3, 4, 5))
    np.testing.assert_allclose(TORCH.predict(TORCH.lower(graph, {}), x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", [name for name in ("ONNX", "TFLITE") if installed(TARGETS[name])])
@pytest.mark.parametrize("align_corners", [False, True])
def test_a_float_file_computes_it(target: str, align_corners: bool, tmp_path: Path) -> None:
    x, path = np.random.default_rng(1).normal(size=(2, 3, 4, 5)).astype(F), tmp_path / f"net{TARGETS[target].suffix}"
    qat.target(target).export_float(over_reals(qat.UpsampleBilinear((2, 8), align_corners), (3, 4, 5)), {}, path)
    found = as_tuple(qat.target(target).predict(path, x))[0]
    np.testing.assert_allclose(found, theirs(x, (2, 8), align_corners).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("factor", FACTORS)
def test_codes_are_within_one_of_the_interpolation_and_equal_everywhere(
    factor: Any, align_corners: bool, tmp_path: Path
) -> None:
    graph = qat.convert_quant_network(chain(qat.UpsampleBilinear(factor, align_corners), shape=(2, 4, 5)))
    pixels = np.random.default_rng(2).integers(0, 256, (8, 2, 4, 5), np.uint8)
    params = graph.observed_params()
    for name in params:  # the output has the input's grid: codes are compared with pixels
        params[name] = np.float32(255 / 255) if name.endswith("max") else np.float32(0.0)
    integers = qat.to_integer(graph, params)
    scale = integers.output.grid.scale
    for arithmetic in ("float", "fixed"):
        codes = as_tuple(evaluate(integers, pixels, arithmetic=arithmetic))[0] - integers.output.grid.zero_point
        real = theirs(pixels.astype(F) / 255, factor, align_corners).numpy()
        assert np.abs(codes - np.rint(real / scale)).max() <= 1
    expected = as_tuple(evaluate(integers, pixels))[0]
    found = TORCH.predict_codes(TORCH.lower(graph, params), pixels)
    np.testing.assert_array_equal(as_tuple(found)[0], expected)
    path = tmp_path / "net.onnx"
    qat.target("ONNX").export(integers, path)
    found = integers.output.grid.codes_of(as_tuple(qat.target("ONNX").predict(path, pixels))[0])
    np.testing.assert_array_equal(found, expected)


def test_weights_are_whole_numbers_that_int8_holds() -> None:
    """One convolution where the products of both axes fit, else one for each axis."""
    for factor, sums in ((2, [16]), (3, [9]), (6, [144]), (8, [16, 16])):
        graph = qat.convert_quant_network(chain(qat.UpsampleBilinear(factor), shape=(1, 4, 4)))
        nodes = [
            each for each in qat.to_integer(graph, graph.observed_params()).nodes if isinstance(each, IntegerConv2d)
        ]
        assert [set(each.weight.astype(int).sum(axis=(1, 2, 3)).tolist()) for each in nodes] == [
            {each} for each in sums
        ]


def test_wrong_uses_are_said() -> None:
    with pytest.raises(qat.QatError, match=r"^UpsampleBilinear: factor is 65; use at most 64"):
        qat.UpsampleBilinear(65)
    with pytest.raises(qat.QatError, match=r"makes 160 places of 80 with align_corners, but 128 are the most"):
        qat.UpsampleBilinear(2, align_corners=True).output_shape((1, 80, 4))

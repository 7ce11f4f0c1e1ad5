"""Means and maxima over any axes, and adaptive pooling: PyTorch's in float, equal codes in integers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graphs import Traced, chain

import qat
from qat.integer import IntegerConv2d, IntegerMeans, evaluate
from qat.vocabulary.arrays import as_tuple

F = np.float32
TORCH, ONNX = qat.backend("torch"), qat.target("ONNX")
AXES = [(0,), (1,), (2,), (1, 2), (0, 2), (2, 1, 0)]


def over_reals(cell: qat.Cell, shape: tuple[int, ...]) -> Any:
    graph = chain(cell, shape=shape)
    first = replace(graph.nodes[0], cell=qat.Input(shape, dtype="float32"))
    return TORCH.lower(qat.Graph((first, *graph.nodes[1:]), graph.outputs), {})


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axes", AXES, ids=str)
def test_reductions_are_pytorchs_in_value_and_gradient(axes: tuple[int, ...], keepdims: bool) -> None:
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    dims = tuple(1 + axis for axis in axes)
    for cell, y in (
        (qat.Mean(axes, keepdims), x.mean(dims, keepdim=keepdims)),
        (qat.Max(axes, keepdims), x.amax(dims, keepdim=keepdims)),
    ):
        y, found = y.reshape(2, -1) if y.ndim == 1 else y, over_reals(cell, (3, 4, 5))(x)
        np.testing.assert_allclose(found.detach().numpy(), y.detach().numpy(), rtol=1e-5, atol=1e-6)
        cotangent = torch.randn_like(y)
        mine, other = (torch.autograd.grad(each, x, cotangent, retain_graph=True)[0].numpy() for each in (found, y))
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, (3, 4), (5, 7), (9, 2), (7, 10)], ids=str)
def test_an_adaptive_pooling_is_pytorchs_in_value_and_gradient(size: Any) -> None:
    """Sizes that divide those of the picture, that do not, and larger ones."""
    x = torch.randn(2, 3, 6, 8, requires_grad=True)
    y, found = torch.nn.functional.adaptive_avg_pool2d(x, size), over_reals(qat.AdaptiveAvgPool2d(size), (3, 6, 8))(x)
    np.testing.assert_allclose(found.detach().numpy(), y.detach().numpy(), rtol=1e-5, atol=1e-6)
    cotangent = torch.randn_like(y)
    mine, other = (torch.autograd.grad(each, x, cotangent)[0].numpy() for each in (found, y))
    np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)


CELLS = [
    qat.Mean((0,)),
    qat.Mean((2,), keepdims=True),
    qat.Mean((0, 1, 2)),
    qat.Max((0,), keepdims=True),
    qat.Max((1, 2)),
    qat.AdaptiveAvgPool2d((3, 4)),
    qat.AdaptiveAvgPool2d((4, 3)),
    qat.AdaptiveAvgPool2d((9, 1)),
]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.describe)
def test_engines_give_equal_codes(cell: qat.Cell, tmp_path: Path) -> None:
    graph = qat.convert_quant_network(chain(qat.Conv2dBnAct(2, 4, 3, has_bias=True), cell, shape=(2, 6, 8)))
    params = graph.observed_params()
    integers = qat.to_integer(graph, params)
    pixels, path = np.random.default_rng(0).integers(0, 256, (16, 2, 6, 8), np.uint8), tmp_path / "net.onnx"
    expected = as_tuple(evaluate(integers, pixels))[0]
    assert expected.shape[1:] == cell.output_shape((4, 6, 8))
    found = TORCH.predict_codes(TORCH.lower(graph, params), pixels)
    np.testing.assert_array_equal(as_tuple(found)[0], expected)
    ONNX.export(integers, path)
    found = integers.output.grid.codes_of(as_tuple(ONNX.predict(path, pixels))[0])
    np.testing.assert_array_equal(found, expected)


def test_windows_of_one_size_have_one_multiplier() -> None:
    for size, kind in ((3, IntegerConv2d), (4, IntegerConv2d), (7, IntegerMeans)):
        graph = qat.convert_quant_network(chain(qat.AdaptiveAvgPool2d((size, 2)), shape=(2, 6, 8)))
        nodes = qat.to_integer(graph, graph.observed_params()).nodes
        assert isinstance(nodes[-1], IntegerMeans if size == 7 else kind), size


def test_a_construct_says_them_as_pytorch_does() -> None:
    for says, cell in (
        (lambda self, x: x.mean(1), qat.Mean((0,))),
        (lambda self, x: x.mean((2, 3), keepdim=True), qat.Mean((1, 2), keepdims=True)),
        (lambda self, x: x.amax([-1]), qat.Max((2,))),
    ):
        assert Traced(says).graph().nodes[-1].cell == cell
    with pytest.raises(qat.QatError, match=r"input: has no axis 0 beside that of the samples"):
        Traced(lambda self, x: x.mean(0)).graph()


def test_global_maxima_are_maxima() -> None:
    for cell, shape in ((qat.GlobalMaxPool2d(), (3, 4, 5)), (qat.GlobalMaxPool1d(), (3, 7))):
        x = torch.randn(2, *shape)
        np.testing.assert_array_equal(
            over_reals(cell, shape)(x).numpy().reshape(2, 3), x.reshape(2, 3, -1).amax(2).numpy()
        )
    with pytest.raises(qat.QatError, match=r"takes \(C, H, W\) but gets \(3, 7\); use the cell that takes series"):
        qat.GlobalMaxPool2d().output_shape((3, 7))


def test_wrong_uses_are_said() -> None:
    for axes in ((), (3,), (1, 1), (-1,)):
        with pytest.raises(qat.QatError, match=r"^Mean: axes are .*; give each once"):
            qat.Mean(axes)
    with pytest.raises(qat.QatError, match=r"reduces axes \(1, 2\), but takes \(8,\), whose axes are 0 to 0"):
        qat.Max().output_shape((8,))
    with pytest.raises(qat.QatError, match=r"^AdaptiveAvgPool2d: height is 0; give a whole number of at least 1"):
        qat.AdaptiveAvgPool2d((0, 2))

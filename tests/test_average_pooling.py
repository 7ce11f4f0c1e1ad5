"""Means of windows: over all sums of codes, in every form that a target gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sequential import Chain, calibrated
from test_tflite import differences, operators

import qat
from qat.integer import IntegerGraph, evaluate

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

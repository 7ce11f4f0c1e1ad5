"""benchmarks/todays_networks.py: its canvases, its task of detectors, each of its networks in brief."""

from __future__ import annotations

import argparse
import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from frameworks import but_long

import qat
from qat.networks import Detector, MobileNetV3, UNet
from qat.vocabulary.numpy_ops import NUMPY_OPS

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ...]:
    """todays_networks, detection and scenes, as a script of their folder finds them."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return tuple(importlib.import_module(name) for name in ("todays_networks", "detection", "scenes"))


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Frames and bars of different sides, in the place of digits."""
    images, labels = np.zeros((30, 1, 28, 28), np.uint8), np.arange(30) % 10
    for image, label in zip(images[:, 0], labels, strict=True):
        image[4:24, 6 : 10 + label] = 255
        image[8:20, 8 : 8 + label // 2] = 0
    return images, labels


def test_masks_and_boxes_are_where_the_digits_are(modules: Any, digits: Any) -> None:
    *_, scenes = modules
    found = scenes.scenes(*digits, 20, 48, seed=3)
    assert (found.boxes[:, :, 0] >= 0).sum() >= 20
    for image, mask, rows in zip(found.images[:, 0], found.masks, found.boxes.astype(int), strict=True):
        left_over = mask.copy()
        for _, left, top, right, bottom in rows[rows[:, 0] >= 0]:
            lit = mask[top:bottom, left:right] == 1
            assert lit.any(axis=1).sum() >= len(lit) - 2  # the box has no margin but for pixels that resizing darkens
            assert lit.any(axis=0).sum() >= lit.shape[1] - 2
            assert (image[top:bottom, left:right][lit] > scenes.INK).all()
            left_over[top:bottom, left:right] = 0
        assert not left_over.any()
    assert (found.images[:, 0][found.masks == 0] > scenes.INK).any()  # pieces that are no digits
    again = scenes.scenes(*digits, 20, 48, seed=3)
    np.testing.assert_array_equal(again.images, found.images)


def test_digits_of_another_shape_are_refused(modules: Any) -> None:
    *_, scenes = modules
    with pytest.raises(qat.QatError, match=r"digits of shape \(1, 8, 8\), but canvases take \(1, 28, 28\)"):
        scenes.scenes(np.ones((4, 1, 8, 8), np.uint8), np.zeros(4), 2, 48, seed=0)


def test_counts_are_checked_first(modules: Any) -> None:
    with pytest.raises(qat.QatError, match="--test is 0; give 1 or more"):
        modules[0].run(argparse.Namespace(train=None, test=0, compared=None, data_path="none"))


def perfect(detection: ModuleType, boxes: np.ndarray, size: int) -> tuple[Any, Any, tuple[np.ndarray, ...]]:
    """A task, a network, and the outputs that say these boxes."""
    task, graph = detection.Detection(), Detector(qat.Input((1, size, size))).graph()
    fine, fine_scores, _, coarse, coarse_scores, _ = task.targets(graph, None, boxes)
    return task, graph, (fine, 16 * fine_scores - 8, coarse, 16 * coarse_scores - 8)


def test_the_targets_of_boxes_are_perfect_outputs(modules: Any, digits: Any) -> None:
    _, detection, scenes = modules
    found = scenes.scenes(*digits, 20, 64, seed=1)
    found.boxes[:, 1:, 0] = scenes.NOTHING  # of two that are near one cell, it sees one
    task, graph, outputs = perfect(detection, found.boxes, 64)
    split = qat.Split(found.images, found.boxes)
    assert task.metrics(graph, outputs, split) == {"mAP50": 1.0, "F1": 1.0}
    targets = task.targets(graph, None, found.boxes)
    losses = [task.loss(NUMPY_OPS, (outputs[0] + shift, *outputs[1:]), targets).item() for shift in (0.0, 0.5)]
    assert 0 < losses[0] < losses[1]


def test_boxes_of_another_place_or_class_count_as_wrong_and_as_missing(modules: Any) -> None:
    """Of two boxes of class 3 and one of class 5, one of class 3 is given elsewhere, then that of class 5 as one of class 6."""
    _, detection, _ = modules
    boxes = np.array([[[3, 4, 4, 20, 20], [3, 40, 40, 60, 60], [5, 0, 40, 30, 64]]], np.float32)
    given = boxes.copy()
    given[0, 1, 1:] -= 12  # overlaps by 64 of 736 pixels
    task, graph, outputs = perfect(detection, given, 64)
    split = qat.Split(np.zeros((1, 1, 64, 64), np.uint8), boxes)
    measures = task.metrics(graph, outputs, split)
    assert measures["F1"] == pytest.approx(2 * 2 / (3 + 3))
    assert measures["mAP50"] == pytest.approx((0.5 * 0.5 + 1) / 2)  # of class 3 half is right, and half is found
    given[0, 2, 0] = 6
    *_, outputs = perfect(detection, given, 64)
    assert task.metrics(graph, outputs, split)["F1"] == pytest.approx(2 * 1 / (3 + 3))
    overlaps = detection.overlap(given[0, :, 1:], boxes[0, :, 1:])
    assert overlaps[1, 1] == pytest.approx(64 / 736)


def test_a_box_is_found_once(modules: Any) -> None:
    """Of two boxes that overlap one enough, and each other too little to be one, the second is wrong."""
    _, detection, _ = modules
    boxes = np.array([[[3, 0, 0, 40, 40], [-1, 0, 0, 0, 0]]], np.float32)
    given = np.array([[[3, 0, 0, 40, 30], [3, 0, 16, 40, 40]]], np.float32)
    task, graph, outputs = perfect(detection, given, 64)
    measures = task.metrics(graph, outputs, qat.Split(np.zeros((1, 1, 64, 64), np.uint8), boxes))
    assert measures["F1"] == pytest.approx(2 * 1 / (2 + 1))


SMALL = {
    "mobilenet_v3": lambda x: MobileNetV3(width=0.25, input=x),
    "unet": lambda x: UNet(x, width=4),
    "detector": lambda x: Detector(x, width=4),
}


@pytest.mark.parametrize(
    ("name", "formats"),
    but_long(
        [(name, formats) for name in SMALL for formats in (("ONNX",), ("TFLITE", "C"))],
        lambda name, formats: "C" in formats or name == "mobilenet_v3",  # which test_networks.py has, too
    ),
)
def test_each_in_brief(
    name: str, formats: tuple[str, ...], modules: Any, digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few steps of both trainings, and 0 of some ten thousand codes (of 1,000 of the classifier) differ."""
    todays, *_ = modules
    monkeypatch.setattr(todays, "FORMATS", formats)
    images, labels = digits
    split = qat.Split(np.tile(images, (4, 1, 1, 1)), np.tile(labels, 4))
    source = qat.Dataset("bars", "bars", split, split)
    case = todays.CASES[name]
    recipes = tuple(replace(recipe, epochs=1, batch_size=8) for recipe in case.recipes)
    case = case._replace(
        network=SMALL[name], size=case.size and 32, train=32, test=100 if case.size == 0 else 10, compared=100
    )
    args = argparse.Namespace(backend="torch", device_target="CPU", seed=0, out=str(tmp_path))
    metric, of_float, of_int8, certificate = todays.measured(name, case._replace(recipes=recipes), source, args)
    assert metric in ("top-1", "mean IoU", "mAP50")
    assert 0 <= of_float <= 1
    assert 0 <= of_int8 <= 1
    assert [each.differ for each in certificate.comparisons] == [0] * len(certificate.comparisons)
    assert len(certificate.comparisons) == 1 + sum(len(qat.target(each).ARITHMETICS) for each in formats)
    assert qat.Checkpoint.load(tmp_path / f"{name}_int8.ckpt").task == case.task
    assert len(list(tmp_path.glob(f"{name}_f*"))) >= len(formats)

"""benchmarks/rapidocr.py: the pictures that it renders, and how it counts."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from benchmark_scripts import loaded


@pytest.fixture(scope="module")
def ocr() -> ModuleType:
    return loaded("rapidocr")


def test_pages_have_text_and_are_those_of_their_seed(ocr: ModuleType) -> None:
    pages = ocr.several(ocr.page, ocr.DETECTOR)(0, 4)
    assert (pages.shape, pages.dtype) == ((4, 3, 320, 320), np.uint8)
    np.testing.assert_array_equal(pages, ocr.several(ocr.page, ocr.DETECTOR)(0, 4))
    assert not np.array_equal(pages, ocr.several(ocr.page, ocr.DETECTOR)(1, 4))
    for page in pages.astype(float):  # ink is far from its ground, and there is some
        far = np.abs(page - np.median(page, (1, 2), keepdims=True)).max(0) > 60
        assert 0.005 < far.mean() < 0.4


def test_a_line_that_is_upside_down_is_of_class_1(ocr: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "words", lambda rng, letters: "LLLLLLLLLL")  # more ink at the bottom
    monkeypatch.setattr(ocr, "ground", lambda rng, height, width: (np.full((height, width, 3), 200.0), False))
    found = [ocr.line(np.random.default_rng(seed), ocr.CLASSIFIER.shape) for seed in range(10)]
    assert {label for _, label in found} == {0, 1}
    for picture, label in found:
        upper, lower = ((half < 120).sum() for half in np.split(picture, 2, axis=1))
        assert (upper > lower) == bool(label)


def test_a_short_line_stands_before_grey(ocr: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "words", lambda rng, letters: "Ab")
    picture, _ = ocr.line(np.random.default_rng(0), ocr.CLASSIFIER.shape)
    assert (picture[:, :, -40:] == ocr.GREY).all()
    assert (picture[:, :, :30] != ocr.GREY).any()


def test_overlap(ocr: ModuleType) -> None:
    a, b = np.array([True, True, False, False]), np.array([False, True, True, False])
    assert ocr.overlap(a, b) == pytest.approx(1 / 3)
    assert ocr.overlap(a, a) == 1.0
    assert ocr.overlap(~(a | ~a), ~(a | ~a)) == 1.0  # no text in either

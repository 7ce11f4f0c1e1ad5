"""Changes of one picture after the other, by albumentations: crop, flip, colours, RandAugment, TrivialAugment."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np

from qat.errors import QatError
from qat.extras import how_to_install
from qat.vocabulary.ops import Array

ONE_BY_ONE = ("crop", "flip", "color", "randaugment", "trivialaugment")


def changed_one_by_one(
    kinds: tuple[str, ...], images: Array, maps: Array | None, seeds: Array
) -> tuple[Array, Array | None]:
    """Change each picture by a seed of its own.

    Args:
        kinds: of ``ONE_BY_ONE``, in any order: it is always theirs.
        images: uint8 (N, C, H, W).
        maps: (N, H, W), moved with the pictures; None for none.
        seeds: integers (N,).

    Returns:
        Images and maps, new arrays.

    Raises:
        QatError: without albumentations.
    """
    compose = _compose(tuple(kind for kind in ONE_BY_ONE if kind in kinds), images.shape[1:])
    images = np.array(images)
    maps = None if maps is None else np.array(maps)
    for number, seed in enumerate(seeds):
        compose.set_random_seed(int(seed))
        given = {"image": np.ascontiguousarray(images[number].transpose(1, 2, 0))}
        if maps is not None:
            given["mask"] = maps[number].astype(np.int32)  # OpenCV has no int64
        found = compose(**given)
        images[number] = found["image"].transpose(2, 0, 1)
        if maps is not None:
            maps[number] = found["mask"]
    return images, maps


@lru_cache(maxsize=4)
def _compose(kinds: tuple[str, ...], shape: tuple[int, int, int]) -> Any:
    """The changes, one after the other, of pictures (C, H, W)."""
    A = _albumentations()  # noqa: N806 (its documentation's name)
    channels, height, width = shape
    makers: dict[str, Callable[[], Any]] = {
        "crop": lambda: A.RandomResizedCrop((height, width), p=1.0),
        "flip": lambda: A.HorizontalFlip(p=0.5),
        "color": lambda: A.ColorJitter(
            brightness=0.4, contrast=0.4, saturation=0.4 * (channels == 3), hue=0.1 * (channels == 3), p=1.0
        ),
        # The strengths of the papers: 2 changes of 9 of 30, and 1 of any.
        "randaugment": lambda: A.SomeOf(_fourteen(A, shape, 0.3, 0.3, wide=False), n=2, replace=True, p=1.0),
        "trivialaugment": lambda: A.OneOf(_fourteen(A, shape, 0.0, 1.0, wide=True), p=1.0),
    }
    return A.Compose([makers[kind]() for kind in kinds])


def _fourteen(
    A: Any,  # noqa: N803
    shape: tuple[int, int, int],
    low: float,
    high: float,
    *,
    wide: bool,
) -> list[Any]:
    """RandAugment's fourteen changes (arXiv 1909.13719, section 3), without the colours of grey pictures: thirteen then.

    Args:
        A: albumentations.
        shape: (C, H, W).
        low: the smallest strength, 0 to 1.
        high: the largest one.
        wide: the ranges of TrivialAugment (arXiv 2103.10158, table 6), not of RandAugment.
    """
    shear = math.degrees(math.atan(0.99 if wide else 0.3))
    turn, shift, level, bits = (135.0, 32.0 / 224.0, 0.99, 6) if wide else (30.0, 150.0 / 331.0, 0.9, 4)

    def signed(make: Callable[[tuple[float, float]], Any], most: float) -> Any:
        """By a strength of either sign."""
        return A.OneOf([make((low * most, high * most)), make((-high * most, -low * most))], p=1.0)

    def jitter(name: str) -> Any:
        """By a factor on either side of 1."""
        still = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)}
        return signed(lambda by: A.ColorJitter(**{**still, name: (1 + by[0], 1 + by[1])}, p=1.0), level)

    affine = partial(A.Affine, p=1.0)
    kept = 8 - round(high * bits), 8 - round(low * bits)
    return [
        A.NoOp(),
        signed(lambda by: affine(shear={"x": by, "y": 0}), shear),
        signed(lambda by: affine(shear={"x": 0, "y": by}), shear),
        signed(lambda by: affine(translate_percent={"x": by, "y": 0}), shift),
        signed(lambda by: affine(translate_percent={"x": 0, "y": by}), shift),
        signed(lambda by: affine(rotate=by), turn),
        jitter("brightness"),
        jitter("contrast"),
        *([jitter("saturation")] if shape[0] == 3 else []),
        A.Sharpen(alpha=(low * level, high * level), lightness=(1.0, 1.0), p=1.0),
        A.Posterize(num_bits=(max(kept[0], 1), kept[1]), p=1.0),
        A.Solarize(threshold_range=(1.0 - high, 1.0 - low), p=1.0),
        A.AutoContrast(p=1.0),
        A.Equalize(p=1.0),
    ]


def _albumentations() -> Any:
    """The library. Raises QatError where it is not installed.

    It would import PyTorch where that is there, which takes 200 MB in each worker process, for a class that is not used
    here; and ask its server for a newer release.
    """
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    without_torch = "torch" not in sys.modules
    if without_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]  # Python's own way to say that there is none
    try:
        import albumentations
        import cv2
    except ModuleNotFoundError:
        raise QatError(
            f"augment: changes pictures by albumentations, which is not installed: {how_to_install('augment')}"
        ) from None
    finally:
        if without_torch:
            del sys.modules["torch"]
    cv2.setNumThreads(0)
    return albumentations

"""Synthetic pictures to try things with: circles, squares, triangles and crosses in random colours, sizes and places."""

from __future__ import annotations

import numpy as np

from qat.data.dataset import Dataset, Split
from qat.vocabulary.ops import Array

SHAPES = ("circle", "cross", "square", "triangle")
TRAIN, TEST = 400, 100  #: pictures of each shape


def shapes(size: int, seed: int = 0, *, masks: bool = False) -> Dataset:
    """A data set of drawn pictures.

    Args:
        size: of a picture, its height and width.
        seed: of what is drawn.
        masks: whether each pixel has a label, 0 for the background and 1 and more for the shapes.

    Returns:
        uint8 (N, 3, size, size), labels in the order of ``SHAPES``.
    """
    rng = np.random.default_rng(seed)
    splits = []
    for count in (TRAIN, TEST):
        labels = rng.permutation(np.arange(count * len(SHAPES)) % len(SHAPES))
        images, inside = zip(*(_drawn(rng, size, SHAPES[label]) for label in labels), strict=True)
        maps = np.stack([where * (1 + label) for where, label in zip(inside, labels, strict=True)]).astype(np.uint8)
        splits.append(Split(np.stack(images), maps if masks else labels))
    names = ("background", *SHAPES) if masks else SHAPES
    return Dataset("synthetic shapes", "shapes", splits[0], splits[1], names)


def _drawn(rng: np.random.Generator, size: int, shape: str) -> tuple[Array, Array]:
    """One picture, a shape on a noisy background of another colour; and which pixels are the shape's."""
    radius = size * rng.uniform(0.2, 0.4)
    y, x = (np.arange(size) + 0.5 - rng.uniform(radius, size - radius) for _ in range(2))
    y = y[:, np.newaxis]
    if shape == "circle":
        inside = y**2 + x**2 <= radius**2
    elif shape == "square":
        inside = np.maximum(abs(y), abs(x)) <= 0.8 * radius
    elif shape == "triangle":
        inside = (abs(y) <= 0.8 * radius) & (2 * abs(x) <= y + 0.8 * radius)
    else:
        inside = (np.minimum(abs(y), abs(x)) <= 0.25 * radius) & (np.maximum(abs(y), abs(x)) <= radius)
    back, front = rng.uniform(0, 110, 3), rng.uniform(145, 255, 3)
    picture = np.where(inside, front[:, np.newaxis, np.newaxis], back[:, np.newaxis, np.newaxis])
    noisy: Array = np.clip(np.rint(picture + rng.normal(0, 8, picture.shape)), 0, 255)
    return noisy.astype(np.uint8), inside

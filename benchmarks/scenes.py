"""Digits of MNIST pasted on canvases among pieces of others: what a segmentation and a detector are trained on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from qat.errors import QatError
from qat.vocabulary.ops import Array

SIDES = (14, 40)  #: pixels of the longer side of a digit, or what fits twice
DIGIT = (1, 28, 28)  #: shape of a picture with one
MOST = 3  #: digits of a canvas
PIECES, PIECE = 4, 7  #: of other digits, and pixels of their sides
INK = 64  #: a brighter pixel is the digit's
TRIES = 10  #: to find a place for a digit
Box = tuple[int, int, int, int]  #: left, top, right, bottom
NOTHING = -1  #: the class of a row of boxes that is none


class Scenes(NamedTuple):
    """Canvases with what is on them.

    Attributes:
        images: uint8 (N, 1, S, S).
        masks: uint8 (N, S, S): 1 where a pixel is a digit's, else 0.
        boxes: float32 (N, 3, 5): digit, left, top, right and bottom in pixels; rows that are none have the digit -1.
    """

    images: Array
    masks: Array
    boxes: Array


def scenes(digits: Array, labels: Array, count: int, size: int, seed: int) -> Scenes:
    """Canvases at random.

    Args:
        digits: uint8 (N, 1, 28, 28).
        labels: of them, (N,).
        count: how many canvases.
        size: pixels of their sides.
        seed: of all that is random.

    Returns:
        The canvases: one to three digits of different sizes whose boxes do not touch, each pixel the brightest of what lies
        there, and pieces of digits that count for nothing.

    Raises:
        QatError: the digits have another shape.
    """
    if digits.shape[1:] != DIGIT:
        raise QatError(f"digits of shape {digits.shape[1:]}, but canvases take {DIGIT}; give the folder of MNIST")
    rng = np.random.default_rng(seed)
    images, masks = np.zeros((count, 1, size, size), np.uint8), np.zeros((count, size, size), np.uint8)
    boxes = np.zeros((count, MOST, 5), np.float32)
    boxes[..., 0] = NOTHING
    largest = min(SIDES[1], size // 2 + size // 8)
    for image, mask, rows in zip(images[:, 0], masks, boxes, strict=True):
        for _ in range(PIECES):
            piece = _at(digits[rng.integers(len(digits)), 0], rng.integers(4, 25 - PIECE, 2), (PIECE, PIECE))
            there = _at(image, rng.integers(0, size - PIECE + 1, 2), (PIECE, PIECE))
            np.maximum(there, piece, out=there)
        taken: list[Box] = []
        for row in rows[: rng.integers(1, MOST + 1)]:
            chosen = rng.integers(len(digits))
            digit = resized(digits[chosen, 0], int(rng.integers(SIDES[0], largest + 1)))
            place = free_place(rng, digit.shape, size, taken)
            if place is None:
                continue
            left, top, right, bottom = place
            taken.append(place)
            there = _at(image, (top, left), digit.shape)
            np.maximum(there, digit, out=there)
            _at(mask, (top, left), digit.shape)[digit > INK] = 1
            row[:] = (labels[chosen], left, top, right, bottom)
    return Scenes(images, masks, boxes)


def free_place(rng: np.random.Generator, shape: tuple[int, ...], size: int, taken: list[Box]) -> Box | None:
    """Where a digit of that height and width touches none that is there; None where some tries find no such place."""
    height, width = shape
    for _ in range(TRIES):
        top, left = int(rng.integers(0, size - height + 1)), int(rng.integers(0, size - width + 1))
        bottom, right = top + height, left + width
        if not any(top < d and b < bottom and left < c and a < right for a, b, c, d in taken):
            return left, top, right, bottom
    return None


def resized(digit: Array, side: int) -> Array:
    """A digit without its margins, so large that its longer side has so many pixels. digit: uint8 (28, 28)."""
    rows, columns = np.flatnonzero(digit.any(1)), np.flatnonzero(digit.any(0))
    inner = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(round(length * side / max(inner.shape)), 2) for length in inner.shape)
    return np.asarray(Image.fromarray(inner).resize((width, height), Image.Resampling.BILINEAR))


def _at(image: Array, corner: Array | tuple[int, int], shape: tuple[int, ...]) -> Array:
    """A view of the part of a picture that begins at (row, column)."""
    row, column = corner
    return image[row : row + shape[0], column : column + shape[1]]

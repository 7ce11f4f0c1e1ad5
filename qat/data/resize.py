"""Resizing of images in memory."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from qat.vocabulary.ops import Array


def resize_bilinear(images: Array, size: tuple[int, int]) -> Array:
    """Resize images by bilinear interpolation with pixel centres aligned, as OpenCV's INTER_LINEAR; ties round to even.

    Args:
        images: uint8 (N, C, H, W).
        size: the new (H, W).

    Returns:
        uint8 (N, C, *size).
    """
    if images.shape[2:] == size:
        return images
    down, across = _interpolation(images.shape[2], size[0]), _interpolation(images.shape[3], size[1])
    parts = []
    for start in range(0, len(images), 1024):  # float32 copies of a whole data set would not be small
        part = np.matmul(down, images[start : start + 1024].astype(np.float32))
        parts.append(np.rint(np.matmul(part, across.T)).astype(np.uint8))
    return np.concatenate(parts)


@lru_cache
def _interpolation(old: int, new: int) -> Array:
    """The (new, old) matrix that interpolates one axis."""
    # Pixel i covers i to i + 1, so its centre is at i + 1/2 in both sizes.
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    left = np.minimum(at.astype(int), max(old - 2, 0))
    matrix = np.zeros((new, old), np.float32)
    rows = np.arange(new)
    matrix[rows, left] = 1 - (at - left)
    matrix[rows, np.minimum(left + 1, old - 1)] += at - left
    return matrix

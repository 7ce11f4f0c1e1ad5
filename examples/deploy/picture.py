"""Pictures as an exported file takes them, by the recipe in its metadata: NumPy and Pillow alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

FILTERS = {
    "linear": Image.Resampling.BILINEAR,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
    "area": Image.Resampling.BOX,
}


def load(path: str, recipe: dict[str, Any]) -> np.ndarray:
    """The pixels of a picture, uint8 (H, W, C)."""
    how = recipe["picture"]
    new = how["height"], how["width"]
    picture = Image.open(path).convert("L" if how["channels"] == "grayscale" else "RGB")
    old = picture.height, picture.width
    size, (top, left) = plan(old, new, how)
    if how["interpolation"] == "linear" and size[0] >= old[0] and size[1] >= old[1]:
        pixels = four_nearest(np.asarray(picture).reshape(*old, -1), size)
        canvas = np.zeros((*new, pixels.shape[2]), np.uint8)  # larger than the picture where that is padded
        y, x = max(-top, 0), max(-left, 0)
        part = pixels[max(top, 0) : max(top, 0) + new[0], max(left, 0) : max(left, 0) + new[1]]
        canvas[y : y + part.shape[0], x : x + part.shape[1]] = part
        return canvas
    if size != old:
        picture = picture.resize(size[::-1], FILTERS[how["interpolation"]])
    if size != new:
        picture = picture.crop((left, top, left + new[1], top + new[0]))
    return np.asarray(picture).reshape(*new, -1)


def plan(old: tuple[int, int], new: tuple[int, int], how: dict[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The (H, W) that a picture is resized to, and the row and column where the network's picture begins in it."""
    if old == new or how["resize"] == "stretch":
        return new, (0, 0)
    if how["resize"] == "pad":
        ratio = min(new[0] / old[0], new[1] / old[1])
        height, width = (max(1, round(x * ratio)) for x in old)
        return (height, width), (-((new[0] - height) // 2), -((new[1] - width) // 2))
    tall, wide = (how["resize_to"] or int(x / how["crop_fraction"]) for x in new)
    first = tall * old[1] >= wide * old[0]
    height = tall if first else int(wide * old[0] / old[1])
    width = int(tall * old[1] / old[0]) if first else wide
    return (height, width), (round((height - new[0]) / 2), round((width - new[1]) / 2))


def four_nearest(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear interpolation between the four nearest pixels, centres of pixels aligned, as OpenCV's INTER_LINEAR."""
    down, across = matrix(pixels.shape[0], size[0]), matrix(pixels.shape[1], size[1])
    columns = np.matmul(down, pixels.transpose(2, 0, 1).astype(np.float32))
    return np.rint(np.matmul(columns, across.T)).astype(np.uint8).transpose(1, 2, 0)


def matrix(old: int, new: int) -> np.ndarray:
    """What interpolates one axis, (new, old)."""
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    left = np.minimum(at.astype(int), max(old - 2, 0))
    found = np.zeros((new, old), np.float32)
    found[np.arange(new), left] = 1 - (at - left)
    found[np.arange(new), np.minimum(left + 1, old - 1)] += at - left
    return found


def encoded(pixels: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    """What a file takes, a batch of one, by the entry of its input in the recipe."""
    x = pixels[np.newaxis]
    if entry["layout"] == "NCHW":
        x = x.transpose(0, 3, 1, 2)
    how = entry.get("encode", {})
    if "multiplier" in how:
        real = (x.astype(np.float32) - how["offset"]) * np.float32(how["multiplier"])
        x = np.clip(np.rint(real), how["low"], how["high"]) + how["zero_point"]
    elif "scale" in how:
        x = (x.astype(np.float32) - how["offset"]) * np.float32(how["scale"])
    elif how:
        x = x.astype(np.int32) - how["offset"]
    return np.ascontiguousarray(x.astype(entry["dtype"]))


def printed(path: str, values: np.ndarray, entry: dict[str, Any], names: list[str]) -> None:
    """Print the class of a picture, and all numbers that the file gives for it."""
    (row,) = values
    best = int(row.argmax())
    real = (float(row[best]) - entry.get("zero_point", 0)) * entry.get("scale", 1.0)
    print(f"{path}: class {names[best] if names else best}, {real:g}")
    print("values", *row.ravel().tolist())

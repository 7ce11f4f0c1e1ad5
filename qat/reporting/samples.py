"""Samples of a data set as small pictures: pixels as they are, other numbers as curves or as grey values."""

from __future__ import annotations

import base64
import io

import numpy as np

from qat.data.preparation import pillow_image
from qat.reporting.svg import Drawing, escaped
from qat.vocabulary.ops import Array

LARGEST = 128  #: pixels of a picture's longer side on the page
SMALL = 64  #: pixels below which each is shown as a square
COLOURED = 3  #: channels of a coloured picture
MOST_CURVES = 6  #: channels that are drawn
MOST_POINTS = 160  #: of a curve


def drawn(sample: Array, label: str) -> str:
    """A sample as markup.

    Args:
        sample: (C, H, W) pixels, (C, L) or (F,) numbers.
        label: what it is, for those who do not see it.
    """
    if sample.ndim == 3 and min(sample.shape[1:]) > 1 and len(sample) in (1, COLOURED):
        return _picture(sample if sample.dtype == np.uint8 else _grey(sample), label)
    return _curves(sample.reshape(len(sample), -1) if sample.ndim > 1 else sample[np.newaxis], label)


def _grey(numbers: Array) -> Array:
    """Numbers from their least to their largest as 0 to 255."""
    low, high = float(numbers.min()), float(numbers.max())
    scaled: Array = np.rint((numbers - low) * (255.0 / ((high - low) or 1.0))).astype(np.uint8)
    return scaled


def _picture(pixels: Array, label: str) -> str:
    picture = pillow_image().fromarray(
        pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    )
    small = max(picture.size) <= SMALL
    if max(picture.size) > LARGEST:
        picture.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    kind = "png" if small else "jpeg"
    picture.save(buffer, kind, **({"optimize": True} if small else {"quality": 82}))
    content = base64.b64encode(buffer.getvalue()).decode()
    shape = ' class="small"' if small else ""
    return f'<img{shape} alt="{escaped(label)}" src="data:image/{kind};base64,{content}">'


def _curves(rows: Array, label: str) -> str:
    drawing = Drawing(152, 84, label)
    shown = rows[:MOST_CURVES].astype(np.float64)
    low, high = float(shown.min()), float(shown.max())
    length = shown.shape[1]
    chosen = np.unique(np.linspace(0, length - 1, min(length, MOST_POINTS)).astype(int))
    drawing.box(0, 0, 152, 84, "pale c6", round=4)
    for index, row in enumerate(shown):
        heights = 78 - 72 * (row[chosen] - low) / ((high - low) or 1.0)
        places = 4 + 144 * chosen / max(length - 1, 1)
        drawing.curve(zip(places.tolist(), heights.tolist(), strict=True), f"line thin c{index % 6}")
    return drawing.markup

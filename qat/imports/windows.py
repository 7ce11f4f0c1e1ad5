"""Paddings and windows of sources, as cells have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qat.cells.window import window_padding
from qat.imports.program import Operation
from qat.vocabulary.ops import Padding

NO_PADDING = (0, 0, 0, 0)


def resolved(each: Operation, shape: tuple[int, ...], padding: Any) -> Padding:
    """A padding in pixels: top, bottom, left, right.

    Args:
        each: the operation that pads, for its kernel.
        shape: (C, H, W) of what it takes.
        padding: its own, or "same".

    Returns:
        The padding.
    """
    if padding != "same":
        top, bottom, left, right = (int(number) for number in padding)
        return top, bottom, left, right
    options = each.attributes
    kernel = options["kernel"] if "kernel" in options else each.constants["weight"].shape[2:]
    dilation = options.get("dilation", (1, 1))
    size = (shape[1], shape[2])
    return window_padding(size, tuple(kernel), tuple(options["stride"]), tuple(dilation), "same", NO_PADDING)


def placed(padding: Any) -> dict[str, Any]:
    """The fields of a window's padding."""
    if padding == "same":
        return {"pad_mode": "same"}
    return {"pad_mode": "pad", "padding": tuple(padding)} if any(padding) else {"pad_mode": "valid"}


def with_ceil(options: Mapping[str, Any], shape: tuple[int, ...], padding: Padding) -> Padding:
    """The padding that amounts to ``ceil_mode``: as much more at the ends as the last windows reach beyond.

    A window that begins within the image, or the padding before it, is kept, however much of it lies beyond.

    Args:
        options: kernel and stride.
        shape: (C, H, W).
        padding: in pixels, without it.

    Returns:
        The padding.
    """
    ends = []
    for axis, size in enumerate(shape[1:]):
        around = padding[2 * axis : 2 * axis + 2]
        ends.append(around[1] + beyond(size, options["kernel"][axis], options["stride"][axis], 1, around))
    return (padding[0], ends[0], padding[2], ends[1])


def beyond(size: int, width: int, step: int, spread: int, padding: Sequence[int]) -> int:
    """How much more padding at the end a number of windows that is rounded up takes."""
    before, after = padding
    reach = (width - 1) * spread + 1
    count = -(-(size + before + after - reach) // step) + 1
    if (count - 1) * step >= size + before:  # it would begin in the padding
        count -= 1
    return max((count - 1) * step + reach - size - before - after, 0)

"""Paddings and windows of sources, as cells have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qat.cells.window import window_padding
from qat.imports.program import Operation
from qat.vocabulary.ops import Padding

NO_PADDING = (0, 0, 0, 0)


def resolved(each: Operation, shape: tuple[int, ...], padding: Any) -> Padding:
    """A padding in pixels: top, bottom, left, right.

    Args:
        each: the operation that pads, for its kernel.
        shape: (C, H, W) of what it takes, or (C, L).
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
    size = (shape[1], shape[2]) if len(shape) == 3 else (1, shape[1])
    return window_padding(size, tuple(kernel), tuple(options["stride"]), tuple(dilation), "same", NO_PADDING)


def transposed_window(
    taken: tuple[int, int], made: tuple[int, int], kernel: Sequence[int], stride: tuple[int, int], mode: str
) -> dict[str, Any]:
    """Stride and padding of a transposed convolution as TensorFlow has it, the gradient of a convolution of what it makes.

    Args:
        taken: height and width of its input.
        made: of its output.
        kernel: height and width.
        stride: likewise.
        mode: the padding of that convolution, "same" or "valid".

    Returns:
        The attributes of the operation, without dilation and groups.
    """
    first = window_padding(made, (kernel[0], kernel[1]), stride, (1, 1), mode, NO_PADDING)[::2]
    padding: list[int] = []
    further: list[int] = []
    for size, out, width, step, before in zip(taken, made, kernel, stride, first, strict=True):
        after = (size - 1) * step + width - before - out
        padding += [before, max(after, 0)]
        further.append(max(-after, 0))
    fields = {"stride": stride, "padding": tuple(padding), "output_padding": tuple(further)}
    return fields | {"dilation": (1, 1), "groups": 1}


def placed(padding: Any) -> dict[str, Any]:
    """The fields of a window's padding."""
    if padding == "same":
        return {"pad_mode": "same"}
    return {"pad_mode": "pad", "padding": tuple(padding)} if any(padding) else {"pad_mode": "valid"}


def around(pad: Operation) -> Padding:
    """The widths of a padding around an image, or at the ends of a series."""
    widths = pad.attributes["widths"]
    (top, bottom), (left, right) = widths[2:] if len(widths) == 4 else ((0, 0), widths[2])
    return top, bottom, left, right

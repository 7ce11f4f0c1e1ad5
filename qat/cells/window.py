"""Sizes and paddings of sliding windows."""

from __future__ import annotations

import math

from qat.errors import QatError
from qat.vocabulary.ops import Padding, Pair
from qat.vocabulary.param import Shape

LARGEST = 1 << 16  #: kernel, stride or dilation; nobody's image is larger
PAD_MODES = ("same", "valid", "pad")
#: Numbers of one sample's padded input, and in all of its windows: a few bytes of a file could ask for any memory.
LARGEST_INPUT, LARGEST_WINDOWS = 1 << 27, 1 << 28


def window_padding(size: Pair, kernel: Pair, stride: Pair, dilation: Pair, pad_mode: str, padding: Padding) -> Padding:
    """The zeros around an image: none for "valid", the given ones for "pad"; for "same" as many as make the output
    ceil(size / stride), the odd one at the bottom and the right, as TensorFlow and MindSpore place it.
    """
    if pad_mode == "valid":
        return (0, 0, 0, 0)
    if pad_mode == "pad":
        return padding
    ends: list[int] = []
    for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        ends += [total // 2, total - total // 2]
    return (ends[0], ends[1], ends[2], ends[3])


def output_size(size: Pair, kernel: Pair, stride: Pair, dilation: Pair, padding: Padding) -> Pair:
    """Height and width of the output: floor((size + padding - reach) / stride) + 1."""
    height = (size[0] + padding[0] + padding[1] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    width = (size[1] + padding[2] + padding[3] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    return height, width


def overhang(size: int, kernel: int, stride: int, before: int, after: int) -> int:
    """How far a further window of ceil_mode reaches beyond the padding, 0 where there is none: where pixels are left over, and
    it starts at one of them or in the padding before them (as PyTorch's do).
    """
    free = size + before + after - kernel
    starts = -(-free // stride) * stride
    return starts - free if free >= 0 and starts < size + before else 0


def checked_output_size(x: Shape, kernel: Pair, stride: Pair, dilation: Pair, padding: Padding) -> Pair:
    """``output_size`` for an input (C, H, W). Raises QatError where padding or windows would take up more than an image
    does in any network.
    """
    padded = x[0] * (x[1] + padding[0] + padding[1]) * (x[2] + padding[2] + padding[3])
    height, width = output_size((x[1], x[2]), kernel, stride, dilation, padding)
    windows = x[0] * math.prod(kernel) * max(height, 0) * max(width, 0)
    for what, numbers, most in (("padded input", padded, LARGEST_INPUT), ("windows", windows, LARGEST_WINDOWS)):
        if numbers > most:
            raise QatError(
                f"has {numbers:,} numbers in the {what} of one sample {x}, but {most:,} are the most; use a smaller image, "
                "kernel or padding"
            )
    return height, width


def check_window(
    owner: str, pad_mode: str, padding: int | Pair | Padding, kernel: Pair, stride: Pair, dilation: Pair
) -> Padding:
    """The padding as (top, bottom, left, right). Raises QatError where a field of a windowed cell is wrong."""
    if pad_mode not in PAD_MODES:
        raise QatError(f"{owner}: pad_mode {pad_mode!r} is unknown; use one of {', '.join(PAD_MODES)}")
    if min(*kernel, *stride, *dilation) < 1 or max(*kernel, *stride, *dilation) > LARGEST:
        raise QatError(
            f"{owner}: kernel {kernel}, stride {stride} and dilation {dilation} must be at least 1, and at most {LARGEST}"
        )
    if isinstance(padding, int):
        padding = (padding,) * 4
    elif len(padding) == 2:
        padding = (padding[0], padding[0], padding[1], padding[1])
    if min(padding) < 0:
        raise QatError(f"{owner}: padding is {padding}; use numbers of at least 0")
    if any(padding) and pad_mode != "pad":
        raise QatError(f"{owner}: padding {padding} has no effect with pad_mode {pad_mode!r}; use pad_mode='pad'")
    return (padding[0], padding[1], padding[2], padding[3])

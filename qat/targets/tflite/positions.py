"""Convolutions over positions: one filter for all channels, that makes of a channel's pixels those of its output.

XNNPACK has fast kernels for depthwise windows of 9 and 25 pixels. A mean over a whole picture has more, and alone took a
fifth of the time of a small network. Transposed, it is a product of the (C, H W) codes with one row of weights, for the
kernels of 1x1 convolutions: the same sums, requantized by the same multiplier in the same way, so that no code can differ.
With a row, and a multiplier, for each position these are also the means of windows that count different numbers of pixels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qat.errors import QatError
from qat.integer import IntegerConv2d, IntegerMeans
from qat.vocabulary.ops import Array

FAST_WINDOW = 25  #: pixels of the largest window with a depthwise kernel of its own
MOST_WEIGHTS = 1 << 22  #: of the rows of all positions


def mean_over_positions(node: IntegerConv2d) -> IntegerConv2d | None:
    """The 1x1 convolution from positions to one position, one sample's channels being its pixels.

    Args:
        node: a convolution.

    Returns:
        Weight (1, H W, 1, 1); None where the depthwise kernels are as fast, or the channels differ in their filters.
    """
    weight = node.centred_weight
    if not node.group == node.inputs[0].shape[0] == len(weight) > 1:
        return None
    if node.output.shape[1:] != (1, 1) or np.prod(weight.shape[2:]) <= FAST_WINDOW:
        return None
    if any((each != each[:1]).any() for each in (weight, node.bias, node.requantize.multiplier, node.weight_scale)):
        return None
    return replace(
        node,
        weight=_rows(node, weight[0, 0]),
        bias=node.bias[:1],
        weight_scale=node.weight_scale[:1],
        weight_zero_point=np.zeros(1, np.int32),
        requantize=node.requantize._replace(multiplier=node.requantize.multiplier[:1]),
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        dilation=(1, 1),
        group=1,
    )


def means_over_positions(node: IntegerMeans) -> IntegerConv2d:
    """The 1x1 convolution from positions to positions, weight (P, H W, 1, 1). Raises QatError where it would be too large."""
    weights = int(np.prod(node.inputs[0].shape[1:])) * len(node.weight_scale)
    if weights > MOST_WEIGHTS:
        raise QatError(
            f"{node.name}: is {node.kind}, for which TFLITE needs a weight for each pixel at each output position, {weights:,} "
            f"of its picture {node.inputs[0].shape}, and {MOST_WEIGHTS:,} are the most; pool without padding or with "
            "count_include_pad=True, or export to ONNX or C"
        )
    return replace(node.positions, weight=_rows(node.sums, np.ones(node.kernel, np.int8)))


def _rows(node: IntegerConv2d, window: Array) -> Array:
    """The window's weights where each position of a convolution's output meets the picture: (P, H W, 1, 1)."""
    _, height, width = node.inputs[0].shape
    _, rows, columns = node.output.shape
    top, bottom, left, right = node.padding
    found = np.zeros((rows, columns, top + height + bottom, left + width + right), window.dtype)
    for y, x in np.ndindex(window.shape):
        for row, column in np.ndindex(rows, columns):
            at = (row * node.stride[0] + y * node.dilation[0], column * node.stride[1] + x * node.dilation[1])
            found[row, column, at[0], at[1]] = window[y, x]
    return found[:, :, top : top + height, left : left + width].reshape(rows * columns, -1, 1, 1)

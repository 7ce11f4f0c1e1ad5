"""A depthwise convolution with one filter for all channels, written as a convolution over positions.

XNNPACK has fast kernels for depthwise windows of 9 and 25 pixels. A mean over a whole picture has more, and alone took a
fifth of the time of a small network. Transposed, it is a product of the (C, H W) codes with one row of weights, for the
kernels of 1x1 convolutions: the same sums, requantized by the same multiplier in the same way, so that no code can differ.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qat.integer import IntegerConv2d

FAST_WINDOW = 25  #: pixels of the largest window with a depthwise kernel of its own


def over_positions(node: IntegerConv2d) -> IntegerConv2d | None:
    """The 1x1 convolution from positions to positions, one sample's channels being its pixels.

    Args:
        node: a convolution.

    Returns:
        Weight (1, H W, 1, 1); None where the depthwise kernels are as fast, or the channels differ in their filters.
    """
    channels, *size = node.inputs[0].shape
    kernel = node.weight.shape[2:]
    if not node.group == channels == len(node.weight) > 1:
        return None
    if node.output.shape[1:] != (1, 1) or np.prod(kernel) <= FAST_WINDOW:
        return None
    weight = node.centred_weight
    for each in (weight, node.bias, node.requantize.multiplier, node.weight_scale):
        if (each != each[:1]).any():
            return None
    top, _, left, _ = node.padding
    row = np.zeros((*size,), weight.dtype)
    for y in range(kernel[0]):
        for x in range(kernel[1]):
            place = (y * node.dilation[0] - top, x * node.dilation[1] - left)
            if 0 <= place[0] < size[0] and 0 <= place[1] < size[1]:
                row[place] = weight[0, 0, y, x]
    return replace(
        node,
        weight=row.reshape(1, -1, 1, 1),
        bias=node.bias[:1],
        weight_scale=node.weight_scale[:1],
        weight_zero_point=np.zeros(1, np.int32),
        requantize=node.requantize._replace(multiplier=node.requantize.multiplier[:1]),
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        dilation=(1, 1),
        group=1,
    )

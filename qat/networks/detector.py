"""Boxes and classes of what is in a picture, at two sizes."""

from __future__ import annotations

from typing import Any

import qat
from qat.cells.tracing import Traced
from qat.errors import QatError

STRIDES = (8, 16)  #: pixels of the input between two cells of an output


def conv(in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> qat.Conv2dBnAct:
    """A convolution with batch normalisation and SiLU."""
    return qat.Conv2dBnAct(in_channels, out_channels, kernel_size, stride, has_bn=True, activation="silu")


class SplitStage(qat.Network):
    """YOLOv8's C2f: a 1x1 convolution whose output is split in two; one half passes a residual block of two 3x3 convolutions;
    both halves and what the block gives are joined by another 1x1 convolution.

    Args:
        in_channels: of the input.
        out_channels: of the output, an even number.
        residual: whether the block adds its input; True by default.
    """

    def __init__(self, in_channels: int, out_channels: int, *, residual: bool = True) -> None:
        half = out_channels // 2
        self.first = conv(in_channels, out_channels, 1)
        self.inner = [conv(half, half), conv(half, half)]
        self.residual = residual
        self.join = qat.Concat()
        self.last = conv(3 * half, out_channels, 1)

    def construct(self, x: Traced) -> Traced:
        kept, passed = self.first(x).chunk(2)
        y = self.inner[1](self.inner[0](passed))
        return self.last(self.join(kept, passed, passed + y if self.residual else y))


class PooledStage(qat.Network):
    """YOLOv8's SPPF: three 5x5 max poolings of stride 1 after one another, joined with what they were given.

    Args:
        channels: of input and output, an even number.
    """

    def __init__(self, channels: int) -> None:
        self.first = conv(channels, channels // 2, 1)
        self.pool = qat.MaxPool2d(5, 1, "same")
        self.join = qat.Concat()
        self.last = conv(2 * channels, channels, 1)

    def construct(self, x: Traced) -> Traced:
        found = [self.first(x)]
        for _ in range(3):
            found.append(self.pool(found[-1]))
        return self.last(self.join(*found))


class Detector(qat.Network):
    """A small network after YOLOv8 (Jocher et al., github.com/ultralytics/ultralytics): convolutions with SiLU, stages that
    split their channels, a neck that upsamples and joins, and raw heads at strides of 8 and 16 pixels.

    It gives four outputs, apart, so that each has a grid of its own: for each stride ``boxes``, (4, H, W), how far left, top,
    right and bottom of what a cell sees lie from the cell's centre, in strides; and ``scores``, (classes, H, W), logits of a
    sigmoid. Cell (i, j) has its centre at pixel ((i + 0.5) stride, (j + 0.5) stride).

    Args:
        input: (C, H, W), both sides multiples of 16; default: 1 x 64 x 64 pixels.
        outputs: classes; default 10.
        width: channels of the first convolution; default 8.

    Raises:
        QatError: for an input of another shape.
    """

    any_size = True

    def __init__(self, input: qat.Input | None = None, outputs: int = 10, width: int = 8) -> None:
        input = input or qat.Input((1, 64, 64), mean=0.5, std=0.25)
        if len(input.shape) != 3 or any(side % STRIDES[-1] for side in input.shape[1:]):
            raise QatError(
                f"Detector: its input is {input.shape}, but it takes pictures (C, H, W) whose sides are multiples of "
                f"{STRIDES[-1]}, so that what is upsampled fits; give such a size"
            )
        self.inputs = input
        one, two, four, eight = width, 2 * width, 4 * width, 8 * width
        self.stem: list[Any] = [conv(input.shape[0], one, 3, 2), conv(one, two, 3, 2), SplitStage(two, two)]
        self.fine: list[Any] = [conv(two, four, 3, 2), SplitStage(four, four)]
        self.coarse: list[Any] = [conv(four, eight, 3, 2), SplitStage(eight, eight), PooledStage(eight)]
        self.upsample, self.join = qat.Upsample(2), qat.Concat()
        self.merged_fine = SplitStage(eight + four, four, residual=False)
        self.down = conv(four, four, 3, 2)
        self.merged_coarse = SplitStage(four + eight, eight, residual=False)
        channels = (four, eight)
        self.before_boxes = [conv(each, four) for each in channels]
        self.before_scores = [conv(each, four) for each in channels]
        self.boxes = [qat.Conv2dBnAct(four, 4, 1, has_bias=True) for _ in channels]
        self.scores = [qat.Conv2dBnAct(four, outputs, 1, has_bias=True) for _ in channels]

    def construct(self, x: Traced) -> tuple[Traced, ...]:
        for cell in self.stem:
            x = cell(x)
        fine = x
        for cell in self.fine:
            fine = cell(fine)
        coarse = fine
        for cell in self.coarse:
            coarse = cell(coarse)
        fine = self.merged_fine(self.join(self.upsample(coarse), fine))
        coarse = self.merged_coarse(self.join(self.down(fine), coarse))
        outputs = []
        for number, level in enumerate((fine, coarse)):
            outputs.append(self.boxes[number](self.before_boxes[number](level)))
            outputs.append(self.scores[number](self.before_scores[number](level)))
        return tuple(outputs)

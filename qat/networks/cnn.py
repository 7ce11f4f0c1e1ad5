"""Convolutional networks for pictures, and for series, of any size."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import qat
from qat.cells.tracing import Traced
from qat.errors import QatError

SMALLEST = 8  #: pixels of a side, or samples of a series
LAST = 4  #: what a side may be halved down to
MOST_STAGES = 4
WIDEST = 8  #: times the channels of the first convolution


def _widths(width: int, size: int) -> list[int]:
    """The channels of the first convolution, then of each that halves a side of ``size``."""
    stages = min(MOST_STAGES, (size // LAST).bit_length() - 1)
    return [width * min(2**stage, WIDEST) for stage in range(stages + 1)]


class Cnn(qat.Network):
    """3x3 convolutions with batch normalisation and ReLU, all but the first of stride 2, until a side has 4 to 7 pixels, but at
    most four of them; global average pooling, a dense layer.

    Of 3 x 64 x 64 pixels: 246,682 parameters, 18.3 million products.

    Args:
        input: (C, H, W), sides of at least 8; default: 3 x 64 x 64 pixels.
        outputs: numbers that it gives; default 10.
        width: channels of the first convolution; the others have 2, 4 and 8 times as many; default 16.

    Raises:
        QatError: for an input of another shape.
    """

    any_size = True

    def __init__(
        self,
        input: qat.Input | None = None,
        outputs: int = 10,
        width: int = 16,
    ) -> None:
        input = input or qat.Input((3, 64, 64), mean=0.5, std=0.25)
        if len(input.shape) != 3 or min(input.shape[1:]) < SMALLEST:
            raise QatError(
                f"Cnn: its input is {input.shape}, but it takes (C, H, W) with sides of at least {SMALLEST}; series (C, L) are "
                "for cnn1d, anything else for mlp"
            )
        self.inputs = input
        widths = _widths(width, min(input.shape[1:]))
        self.conv = qat.Conv2dBnAct(input.shape[0], width, 3, has_bn=True, activation="relu")
        self.stages = [
            qat.Conv2dBnAct(before, after, 3, 2, has_bn=True, activation="relu") for before, after in pairwise(widths)
        ]
        self.pool, self.flatten = qat.GlobalAvgPool2d(), qat.Flatten()
        self.fc = qat.DenseBnAct(widths[-1], outputs)

    def construct(self, x: Traced) -> Traced:
        x = self.conv(x)
        for stage in self.stages:
            x = stage(x)
        return self.fc(self.flatten(self.pool(x)))


class Cnn1d(qat.Network):
    """Convolutions along time with batch normalisation and ReLU, all but the first of stride 2, until 4 to 7 places are left,
    but at most four of them; global average pooling, a dense layer.

    A series (C, L) enters as (C, 1, L); one channel may be a row (L,). Of 3 x 128: 35,058 parameters, 466,560 products.

    Args:
        input: (C, 1, L) or (L,), L at least 8; default: 3 x 1 x 128 real numbers.
        outputs: numbers that it gives; default 10.
        width: channels of the first convolution; the others have 2, 4 and 8 times as many; default 8.
        kernel: of each convolution; default 5.

    Raises:
        QatError: for an input of another shape.
    """

    any_size = True

    def __init__(
        self,
        input: qat.Input | None = None,
        outputs: int = 10,
        width: int = 8,
        kernel: int = 5,
    ) -> None:
        input = input or qat.Input((3, 1, 128), dtype="float32")
        shape = input.shape if len(input.shape) > 1 else (1, 1, *input.shape)
        if len(shape) != 3 or shape[1] != 1 or shape[2] < SMALLEST:
            raise QatError(
                f"Cnn1d: its input is {input.shape}, but it takes series (C, 1, L), L at least {SMALLEST}; pictures are for "
                "cnn, anything else for mlp; series (L, C) are to be transposed"
            )
        self.inputs = replace(input, shape=shape)
        widths = _widths(width, shape[2])
        self.conv = qat.Conv2dBnAct(shape[0], width, (1, kernel), has_bn=True, activation="relu")
        self.stages = [
            qat.Conv2dBnAct(before, after, (1, kernel), (1, 2), has_bn=True, activation="relu")
            for before, after in pairwise(widths)
        ]
        self.pool, self.flatten = qat.GlobalAvgPool2d(), qat.Flatten()
        self.fc = qat.DenseBnAct(widths[-1], outputs)

    def construct(self, x: Traced) -> Traced:
        x = self.conv(x)
        for stage in self.stages:
            x = stage(x)
        return self.fc(self.flatten(self.pool(x)))

"""A class for each pixel, by an encoder, a decoder, and what the one hands to the other at each size."""

from __future__ import annotations

import qat
from qat.cells.tracing import Traced
from qat.errors import QatError


class Twice(qat.Network):
    """Two 3x3 convolutions with batch normalisation and ReLU.

    Args:
        in_channels: of the input.
        out_channels: of both convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        self.first = qat.Conv2dBnAct(in_channels, out_channels, 3, has_bn=True, activation="relu")
        self.second = qat.Conv2dBnAct(out_channels, out_channels, 3, has_bn=True, activation="relu")

    def construct(self, x: Traced) -> Traced:
        return self.second(self.first(x))


class UNet(qat.Network):
    """The U-Net of Ronneberger et al. (arXiv 1505.04597, figure 1), small, with padding and batch normalisation.

    Pairs of 3x3 convolutions, between which a max pooling halves a picture and the channels double; then back: transposed
    2x2 convolutions that double the picture and halve the channels, each joined with what the encoder had at that size. A
    1x1 convolution gives the classes.

    Args:
        input: (C, H, W), both sides multiples of 2 ** depth; default: 1 x 64 x 64 pixels.
        outputs: classes of a pixel; default 2.
        width: channels at full resolution; default 8.
        depth: how often a side is halved; default 3.

    Raises:
        QatError: for an input of another shape.
    """

    any_size = True

    def __init__(
        self,
        input: qat.Input | None = None,
        outputs: int = 2,
        width: int = 8,
        depth: int = 3,
    ) -> None:
        input = input or qat.Input((1, 64, 64), mean=0.5, std=0.25)
        if len(input.shape) != 3 or any(side % 2**depth for side in input.shape[1:]):
            raise QatError(
                f"UNet: its input is {input.shape}, but it takes pictures (C, H, W) whose sides are multiples of "
                f"{2**depth}, so that they can be halved {depth} times and doubled again; give such a size"
            )
        self.inputs = input
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = [Twice(before, after) for before, after in zip((input.shape[0], *widths), widths, strict=False)]
        self.pool = qat.MaxPool2d(2)
        self.enlarge = [
            qat.ConvTranspose2dBnAct(2 * after, after, 2, 2, has_bn=True, activation="relu") for after in widths[:-1]
        ]
        self.join = qat.Concat()
        self.up = [Twice(2 * after, after) for after in widths[:-1]]
        self.classes = qat.Conv2dBnAct(width, outputs, 1, has_bias=True)

    def construct(self, x: Traced) -> Traced:
        skipped = []
        for level in self.down[:-1]:
            x = level(x)
            skipped.append(x)
            x = self.pool(x)
        x = self.down[-1](x)
        for skip, enlarge, up in reversed(list(zip(skipped, self.enlarge, self.up, strict=True))):
            x = up(self.join(skip, enlarge(x)))
        return self.classes(x)

"""A class for each pixel, without ever losing resolution."""

from __future__ import annotations

import qat
from qat.cells.tracing import Traced
from qat.errors import QatError


class Segmenter(qat.Network):
    """3x3 convolutions with batch normalisation and ReLU at full resolution, whose dilations 1, 2, 4, 8 and 1 let each pixel
    see 33 around it (as the context module of Yu and Koltun, arXiv 1511.07122, section 3); a 1x1 one.

    Args:
        input: (C, H, W); default: 3 x 64 x 64 pixels.
        outputs: classes of a pixel; default 2.
        width: channels of each convolution; default 16.

    Raises:
        QatError: for an input of another shape.
    """

    any_size = True
    DILATIONS = (1, 2, 4, 8, 1)

    def __init__(
        self,
        input: qat.Input | None = None,
        outputs: int = 2,
        width: int = 16,
    ) -> None:
        input = input or qat.Input((3, 64, 64), mean=0.5, std=0.25)
        if len(input.shape) != 3:
            raise QatError(f"Segmenter: its input is {input.shape}, but it takes pictures (C, H, W); use mlp for rows")
        self.inputs = input
        channels = (input.shape[0], *[width] * len(self.DILATIONS))
        self.layers = [
            qat.Conv2dBnAct(before, width, 3, dilation=dilation, has_bn=True, activation="relu")
            for before, dilation in zip(channels, self.DILATIONS, strict=False)
        ]
        self.classes = qat.Conv2dBnAct(width, outputs, 1, has_bias=True)

    def construct(self, x: Traced) -> Traced:
        for layer in self.layers:
            x = layer(x)
        return self.classes(x)

"""Keyword spotting by convolutions along time."""

from __future__ import annotations

import qat
from qat.cells.tracing import Traced
from qat.errors import QatError

SHORTEST = 4  #: steps: what two poolings halve


class CausalSeparable(qat.Network):
    """A depthwise convolution along time that sees no later step, then one of a single step, each with batch normalisation and
    ReLU.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel: of the depthwise convolution, in steps.
        dilation: distance of its kernel's elements, in steps.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, dilation: int = 1) -> None:
        self.depthwise = qat.Conv1dBnAct(
            in_channels,
            in_channels,
            kernel,
            pad_mode="causal",
            dilation=dilation,
            group=in_channels,
            has_bn=True,
            activation="relu",
        )
        self.pointwise = qat.Conv1dBnAct(in_channels, out_channels, 1, has_bn=True, activation="relu")

    def construct(self, x: Traced) -> Traced:
        return self.pointwise(self.depthwise(x))


class DSCNN1d(qat.Network):
    """Keyword spotting: a causal convolution, a max pooling, two causal depthwise-separable blocks, an average pooling, two
    more blocks of twice the dilation, the mean over time, a dense layer: DS-CNN along time, over (C, L).

    Of 10 x 49: 23,948 numbers, 1,152 of them running statistics; 475,520 products.

    Args:
        input: (C, L), L at least 4; default: 49 frames of 10 cepstral coefficients, real numbers.
        outputs: numbers that it gives; default 12.
        width: channels of each convolution; default 64.
        kernel: of the first and the depthwise convolutions, in steps; default 5.

    Raises:
        QatError: for an input of another shape.
    """

    any_size = True

    def __init__(self, input: qat.Input | None = None, outputs: int = 12, width: int = 64, kernel: int = 5) -> None:
        input = input or qat.Input((10, 49), dtype="float32")
        if len(input.shape) != 2 or input.shape[1] < SHORTEST:
            raise QatError(
                f"DSCNN1d: its input is {input.shape}, but it takes series (C, L), L at least {SHORTEST}; pictures are for "
                "cnn, anything else for mlp"
            )
        self.inputs = input
        self.conv = qat.Conv1dBnAct(input.shape[0], width, kernel, pad_mode="causal", has_bn=True, activation="relu")
        self.pool = qat.MaxPool1d(2)
        self.blocks = [CausalSeparable(width, width, kernel) for _ in range(2)]
        self.halve = qat.AvgPool1d(2)
        self.wide = [CausalSeparable(width, width, kernel, 2) for _ in range(2)]
        self.dropout = qat.Dropout(0.3)
        self.mean, self.flatten = qat.GlobalAvgPool1d(), qat.Flatten()
        self.fc = qat.DenseBnAct(width, outputs)

    def construct(self, x: Traced) -> Traced:
        x = self.pool(self.conv(x))
        for block in self.blocks:
            x = block(x)
        x = self.halve(x)
        for block in self.wide:
            x = block(x)
        return self.fc(self.flatten(self.mean(self.dropout(x))))

"""The network of Aarrestad et al., arXiv 2101.05108, for SVHN: 13,552 weights, none of a layer above 4,096."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import qat
from qat.cells.tracing import Traced
from qat.errors import QatError
from qat.networks.taken import picture

Each = TypeVar("Each", int, bool)


class ConvBlock(qat.Network):
    """Convolution without bias, max pooling where ``pool``, then batch normalisation and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, pool: bool) -> None:
        self.conv = qat.Conv2dBnAct(in_channels, out_channels, kernel_size, pad_mode="valid")
        self.pool = qat.MaxPool2d(kernel_size=2, stride=2) if pool else None
        self.bn = qat.BatchNorm(out_channels, activation="relu")

    def construct(self, x: Traced) -> Traced:
        x = self.conv(x)
        return self.bn(x if self.pool is None else self.pool(x))


class SvhnCnn(qat.Network):
    """Batch normalisation of the input; blocks of convolution, pooling, batch normalisation, ReLU; dense layers with both.

    The defaults are the document's. ``qat.analysis.merge_batch_norm`` brings it into the form that is quantized.

    Args:
        num_class: number of outputs (logits).
        channel: channels of the input, 32x32 pixels.
        filters: output channels of each block.
        kernels: the kernel size of each block, or one for all.
        pools: whether each block pools, or one bool for all.
        dense: outputs of the hidden dense layers.
        dropout: the rate before each dense layer; 0: no dropout.
        mean: of the pixels, as a share of 255 (of SVHN's training images, over all channels).
        std: likewise.
        input: what it is fitted to, in place of its own; None by default.

    Raises:
        QatError: nothing is left of the image after a block, or there are not as many kernels or pools as blocks.
    """

    def __init__(
        self,
        num_class: int = 10,
        channel: int = 3,
        filters: Sequence[int] = (16, 16, 24),
        kernels: int | Sequence[int] = 3,
        pools: bool | Sequence[bool] = True,
        dense: Sequence[int] = (42, 64),
        dropout: float = 0.0,
        mean: float = 0.4514,
        std: float = 0.1993,
        *,
        input: qat.Input | None = None,
    ) -> None:
        self.inputs = picture(input, qat.Input((channel, 32, 32), mean=mean, std=std))
        channels, *sides = self.inputs.shape
        self.bn = qat.BatchNorm(channels)
        self.blocks: list[ConvBlock] = []
        for count, kernel, pool in zip(filters, _each(kernels, filters), _each(pools, filters), strict=True):
            sides = [(side - kernel + 1) // (2 if pool else 1) for side in sides]
            if min(sides) < 1:
                raise QatError(
                    f"SvhnCnn: block {len(self.blocks) + 1} of {len(filters)} has nothing left of the image; use fewer blocks, "
                    "smaller kernels or fewer poolings"
                )
            self.blocks.append(ConvBlock(channels, count, kernel, pool))
            channels = count
        self.flatten = qat.Flatten()
        self.dropout = qat.Dropout(dropout) if dropout else None
        self.dense = []
        width = channels * sides[0] * sides[1]
        for count in dense:
            self.dense.append(qat.DenseBnAct(width, count, has_bias=False, has_bn=True, activation="relu"))
            width = count
        self.output = qat.DenseBnAct(width, num_class)

    def construct(self, x: Traced) -> Traced:
        x = self.bn(x)
        for block in self.blocks:
            x = block(x)
        x = self.flatten(x)
        for dense in [*self.dense, self.output]:
            x = dense(x if self.dropout is None else self.dropout(x))
        return x


def _each(value: Each | Sequence[Each], blocks: Sequence[int]) -> tuple[Each, ...]:
    """One for each block. Raises QatError for another number of them."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * len(blocks)
    if len(values) != len(blocks):
        raise QatError(f"SvhnCnn: got {list(values)} for {len(blocks)} blocks; give one value, or one for each")
    return values

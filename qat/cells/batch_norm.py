"""Batch normalisation by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from qat.cells.base import Param, Shape, check_counts
from qat.cells.convolving import ConvolvingCell
from qat.cells.linear import NEVER
from qat.cells.normalization import batch_norm_params
from qat.cells.series import AXES
from qat.errors import QatError
from qat.quantizers import BaseWeightQuantizer, WeightQuantizer
from qat.vocabulary.ops import Ops, Tensor


@dataclass(frozen=True)
class BatchNorm(ConvolvingCell):
    """Batch normalisation by itself, where it follows no convolution: a 1x1 depthwise convolution with weights of 1.

    Input and output: (C, H, W) or (C, L). Parameters: gamma, beta, moving_mean, moving_variance, (C,).

    Args:
        channels: C.
        momentum, eps, activation, alpha, after_fake, weight_quantizer, bn_fold, freeze_bn: as in Conv2dBnAct.
    """

    channels: int
    momentum: float = 0.9
    eps: float = 1e-5
    activation: str | None = None
    alpha: float | None = None
    after_fake: bool = True
    weight_quantizer: BaseWeightQuantizer | None = None
    bn_fold: str | None = None
    freeze_bn: int = NEVER

    has_bias: ClassVar[bool] = False  # type: ignore[misc]
    has_bn: ClassVar[bool] = True  # type: ignore[misc]
    pruner: ClassVar[None] = None  # type: ignore[misc]
    input_normalization: ClassVar[None] = None  # type: ignore[misc]
    output_channels = "kept"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts("BatchNorm", channels=self.channels)

    @property
    def out_channels(self) -> int:  # type: ignore[override]
        """As many as it takes."""
        return self.channels

    @property
    def weight_shape(self) -> Shape:
        return (self.channels, 1, 1, 1)

    def float_params(self) -> dict[str, Param]:
        return batch_norm_params(self.channels)

    def _complete(self, ops: Ops, params: dict[str, Tensor]) -> dict[str, Tensor]:
        return params | {"weight": ops.from_numpy(np.ones(self.weight_shape, np.float32), "conv_weight")}

    def output_shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if len(x) not in AXES or x[0] != self.channels:
            raise QatError(
                f"takes ({self.channels}, H, W) or ({self.channels}, L) but gets {x}; change channels or the cell before it"
            )
        return x

    def quantized(self, quantizer: BaseWeightQuantizer, bn_fold: str | None, freeze_bn: int) -> BatchNorm:
        """By its range, each channel for itself: one gamma says nothing of another, and its scale alone represents it."""
        if not isinstance(quantizer, WeightQuantizer):
            quantizer = WeightQuantizer(quant_delay=quantizer.quant_delay)
        quantizer = replace(quantizer, per_channel=True)
        return replace(self, weight_quantizer=quantizer, bn_fold=bn_fold, freeze_bn=freeze_bn)

    def macs(self, output: Shape, *, with_bias: bool) -> int:
        return 0  # usually merged into a convolution

    def with_channels(self, outputs: int, inputs: int) -> BatchNorm:
        return replace(self, channels=outputs)

    def window(self, x_shape: Shape) -> dict[str, Any]:
        return {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "group": self.channels}

"""Normalisation of each channel by fixed numbers, as a layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from qat.cells.base import Param, Shape
from qat.cells.convolving import ConvolvingCell
from qat.cells.linear import NEVER
from qat.cells.series import AXES
from qat.errors import QatError
from qat.quantizers import BaseWeightQuantizer, WeightQuantizer
from qat.vocabulary.ops import Array, Ops, Tensor


@dataclass(frozen=True)
class Normalize(ConvolvingCell):
    """y_c = factor_c x_c + shift_c, by numbers that are not trained; in integers a 1x1 depthwise convolution.

    convert_quant_network puts it behind an input whose channels are normalised differently, where no linear cell takes that
    into its weights (``qat.passes.place_normalization``).

    Args:
        factor: one for each channel.
        shift: one for each channel.
        after_fake: let convert_quant_network put a fake quantizer after it. Default: True.
        weight_quantizer: set by convert_quant_network. Default: None, a float cell.

    Raises:
        QatError: for no channels, or not equally many factors and shifts.

    Example:
        >>> import qat
        >>> qat.Normalize((1.0, 2.0), (0.0, -1.0)).output_shape((2, 8, 8))
        (2, 8, 8)
    """

    factor: tuple[float, ...]
    shift: tuple[float, ...]
    after_fake: bool = True
    weight_quantizer: BaseWeightQuantizer | None = None

    has_bias: ClassVar[bool] = False  # type: ignore[misc]
    has_bn: ClassVar[bool] = False  # type: ignore[misc]
    momentum: ClassVar[float] = 0.0  # type: ignore[misc]
    eps: ClassVar[float] = 1.0  # type: ignore[misc]
    activation: ClassVar[None] = None  # type: ignore[misc]
    alpha: ClassVar[None] = None  # type: ignore[misc]
    bn_fold: ClassVar[None] = None  # type: ignore[misc]
    freeze_bn: ClassVar[int] = NEVER  # type: ignore[misc]
    pruner: ClassVar[None] = None  # type: ignore[misc]
    input_normalization: ClassVar[None] = None  # type: ignore[misc]
    output_channels = "kept"
    of_channels = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.factor or len(self.factor) != len(self.shift):
            raise QatError(
                f"Normalize: {len(self.factor)} factors and {len(self.shift)} shifts; give one of each for every channel"
            )

    @property
    def out_channels(self) -> int:  # type: ignore[override]
        """As many as it takes."""
        return len(self.factor)

    @property
    def weight_shape(self) -> Shape:
        return (len(self.factor), 1, 1, 1)

    def float_params(self) -> dict[str, Param]:
        return {}

    def _complete(self, ops: Ops, params: dict[str, Tensor]) -> dict[str, Tensor]:
        weight = np.array(self.factor, np.float32).reshape(self.weight_shape)
        fixed = {
            "weight": ops.from_numpy(weight, "conv_weight"),
            "bias": ops.from_numpy(np.array(self.shift), "vector"),
        }
        return params | fixed

    def output_shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if len(x) not in AXES or x[0] != len(self.factor):
            raise QatError(
                f"takes ({len(self.factor)}, H, W) or ({len(self.factor)}, L) but gets {x}; give it a factor for each channel"
            )
        return x

    def quantized(self, quantizer: BaseWeightQuantizer, bn_fold: str | None, freeze_bn: int) -> Normalize:
        """By its range, each channel for itself: a factor is then its scale, without loss."""
        return replace(self, weight_quantizer=WeightQuantizer(per_channel=True, quant_delay=quantizer.quant_delay))

    def macs(self, output: Shape, *, with_bias: bool) -> int:
        return math.prod(output) * (1 + with_bias)

    def deployed_parameters(self) -> int:
        return 0  # it has none

    def only(self, outputs: Array, inputs: Array) -> Normalize:
        kept = np.flatnonzero(outputs)
        return replace(self, factor=tuple(self.factor[c] for c in kept), shift=tuple(self.shift[c] for c in kept))

    def with_channels(self, outputs: int, inputs: int) -> Normalize:
        """The first of them."""
        return replace(self, factor=self.factor[:outputs], shift=self.shift[:outputs])

    def sliced(self, local: str, array: Array, outputs: Array, inputs: Array) -> Array:
        return array

    def window(self, x_shape: Shape) -> dict[str, Any]:
        return {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "group": len(self.factor)}

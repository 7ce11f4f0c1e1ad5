"""Average poolings whose windows count different numbers of pixels: at the borders, or where the last ones reach beyond."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from qat.integer.fixed_point import FixedMultiplier, LongMultiplier
from qat.integer.grid import Requantize
from qat.integer.linear import IntegerConv2d
from qat.integer.node import Requantizing
from qat.vocabulary.ops import Array, Kind, Ops, Padding, Pair, Tensor


@dataclass(frozen=True, eq=False)
class IntegerMeans(Requantizing):
    """acc = the sum of each window's centred codes, then requantized by a multiplier of its position. P: positions, in rows.

    Where all windows count alike, an average pooling is an IntegerConv2d instead.

    Attributes:
        kernel: (height, width) of a window, in pixels.
        stride: (vertical, horizontal), in pixels.
        padding: (top, bottom, left, right), in pixels of centred code 0.
        weight_scale: 1 / how many pixels a window counts, float32, (P,).
        requantize: what takes sums to the output's codes; its multiplier is (P,).
    """

    kind: ClassVar[str] = "an average pooling whose windows count different numbers of pixels"
    kernel: Pair
    stride: Pair
    padding: Padding
    weight_scale: Array
    requantize: Requantize

    @cached_property
    def positions(self) -> IntegerConv2d:
        """The same sums and multipliers for one channel, an output for each position: what is known of linear nodes."""
        count = len(self.weight_scale)
        return IntegerConv2d(
            name=self.name,
            inputs=self.inputs,
            output=self.output,
            weight=np.ones((count, 1, *self.kernel), np.int8),
            bias=np.zeros(count, np.int32),
            weight_scale=self.weight_scale,
            weight_zero_point=np.zeros(count, np.int32),
            requantize=self.requantize,
        )

    @property
    def fixed(self) -> FixedMultiplier | LongMultiplier:
        """The multiplier and shift of each position in the fixed arithmetic, (P,)."""
        return self.positions.fixed

    def check_range(self) -> None:
        self.positions.check_range()

    def on_map(self, values: Array) -> Array:
        """What is given for each position, as it broadcasts over an activation: (1, 1, H, W)."""
        return values.reshape(1, 1, *self.output.shape[1:])

    @cached_property
    def sums(self) -> IntegerConv2d:
        """The sums, as a depthwise convolution makes them."""
        channels = self.output.shape[0]
        return replace(
            self.positions,
            weight=np.ones((channels, 1, *self.kernel), np.int8),
            bias=np.zeros(channels, np.int32),
            weight_scale=np.ones(channels, np.float32),
            weight_zero_point=np.zeros(channels, np.int32),
            stride=self.stride,
            padding=self.padding,
            group=channels,
        )

    def constants(self) -> dict[str, tuple[Array, Kind]]:
        return {
            "weight": (self.sums.weight, "conv_weight"),
            "bias": (self.sums.bias, "vector"),
            **super().constants(),
        }

    @property
    def bounds(self) -> Array:
        return self.positions.bounds

    @property
    def wide(self) -> bool:
        return self.sums.wide

    def spread(self, scaling: Array) -> tuple[Array, Kind]:
        return self.on_map(scaling), "activation"

    def accumulate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return self.sums.apply(ops, inputs[0], constants["weight"], constants["bias"], wide=self.wide)

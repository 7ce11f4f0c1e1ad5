"""Nodes whose codes are those of their inputs, moved or chosen from: constant channel, max pooling, flatten, concatenation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from qat.integer.node import IntegerNode
from qat.vocabulary.ops import Ops, Padding, Pair, Tensor


@dataclass(frozen=True, eq=False)
class IntegerMaxPool2d(IntegerNode):
    """The largest code of each window.

    Attributes:
        kernel: (height, width) of a window, in pixels.
        stride: (vertical, horizontal), in pixels.
        padding: (top, bottom, left, right), in pixels that are never the largest.
    """

    kind: ClassVar[str] = "max pooling"
    kernel: Pair
    stride: Pair
    padding: Padding

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return ops.max_pool2d(inputs[0], kernel=self.kernel, stride=self.stride, padding=self.padding)


@dataclass(frozen=True, eq=False)
class IntegerConstantChannel(IntegerNode):
    """The channels of its input, and one more behind them that has the same centred code everywhere.

    Attributes:
        value: that centred code.
    """

    kind: ClassVar[str] = "a constant channel"
    value: int

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return with_constant(ops, inputs[0], float(self.value))


def with_constant(ops: Ops, x: Tensor, value: Tensor | float) -> Tensor:
    """The channels of x, finite numbers, and one more that is ``value``, a number or a scalar, everywhere."""
    return ops.concat([x, ops.sum_over_channels(x) * 0.0 + value])


@dataclass(frozen=True, eq=False)
class IntegerFlatten(IntegerNode):
    """(C, H, W) to (C H W), in that order."""

    kind: ClassVar[str] = "flattening"
    renames: ClassVar[bool] = True

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return ops.flatten(inputs[0])


@dataclass(frozen=True, eq=False)
class IntegerConcat(IntegerNode):
    """Tensors of one grid, one after another.

    Attributes:
        axis: of one sample: 0, that of the channels, 1 rows, 2 columns.
    """

    kind: ClassVar[str] = "concatenation"
    axis: int = 0

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return ops.concat(inputs, self.axis)

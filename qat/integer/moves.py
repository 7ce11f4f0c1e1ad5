"""Nodes whose codes are those of their inputs, moved or chosen from: max pooling, padding, other orders, concatenation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qat.errors import QatError
from qat.integer.grid import IntegerTensor
from qat.integer.node import IntegerNode
from qat.vocabulary.ops import Ops, Padding, Pair, Tensor
from qat.vocabulary.rearrangement import Rearrangement


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
class IntegerPad(IntegerNode):
    """Its input with the same centred code around it, or in further channels.

    Attributes:
        widths: how many before and behind, for each axis of one sample, canonical.
        value: that centred code.
    """

    kind: ClassVar[str] = "padding"
    widths: tuple[Pair, ...]
    value: int

    @classmethod
    def of(cls, name: str, x: IntegerTensor, widths: Sequence[Pair], value: int) -> IntegerPad:
        """The node of that name which pads x."""
        shape = tuple(before + size + after for size, (before, after) in zip(x.shape, widths, strict=True))
        return cls(name, (x,), IntegerTensor(name, shape, x.grid), tuple(widths), value)

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return ops.pad(inputs[0] - float(self.value), self.widths) + float(self.value)


def code_of(name: str, value: float, x: IntegerTensor) -> int:
    """The centred code of x next to a number. Raises QatError, as node ``name``, where it has none."""
    with np.errstate(over="ignore"):  # what is infinite has no code either
        code = np.rint(np.float32(value) / x.grid.scale)
    if not x.grid.low <= code <= x.grid.high:
        raise QatError(
            f"{name}: {value:g} has no code among those of {x.name}, whose numbers reach from "
            f"{x.grid.low * x.grid.scale:g} to {x.grid.high * x.grid.scale:g}; use a number within"
        )
    return int(code)


@dataclass(frozen=True, eq=False)
class IntegerRearrange(IntegerNode):
    """Its codes in another order or shape.

    Attributes:
        rearrangement: which one.
    """

    kind: ClassVar[str] = "a rearrangement"
    rearrangement: Rearrangement

    @property
    def renames(self) -> bool:  # type: ignore[override]
        """Where the order stays, canonical and with the channels last."""
        return not self.rearrangement.steps() and not self.rearrangement.steps_channels_last()

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return ops.rearrange(inputs[0], self.rearrangement)


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

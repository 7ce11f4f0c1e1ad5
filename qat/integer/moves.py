"""Nodes that move codes and compute none: all their codes are of the grid of their inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qat.integer.node import IntegerNode
from qat.vocabulary.ops import Ops, Padding, Pair, Tensor


@dataclass(frozen=True, eq=False)
class IntegerInput(IntegerNode):
    """Where codes enter."""

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return inputs[0] - float(self.output.grid.zero_point)


@dataclass(frozen=True, eq=False)
class IntegerMaxPool2d(IntegerNode):
    """The largest code of each window."""

    kernel: Pair
    stride: Pair
    padding: Padding

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return ops.max_pool2d(inputs[0], kernel=self.kernel, stride=self.stride, padding=self.padding)


@dataclass(frozen=True, eq=False)
class IntegerFlatten(IntegerNode):
    """(C, H, W) to (C H W), in that order."""

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return ops.flatten(inputs[0])


@dataclass(frozen=True, eq=False)
class IntegerConcat(IntegerNode):
    """Tensors of one grid, one after another along the channels."""

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return ops.concat(inputs)

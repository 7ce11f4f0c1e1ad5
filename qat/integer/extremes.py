"""The larger and the smaller of two tensors of codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from qat.integer.node import IntegerNode
from qat.vocabulary.ops import Ops, Tensor


@dataclass(frozen=True, eq=False)
class IntegerMaximum(IntegerNode):
    """The larger code of two tensors of one grid; one of both may be (C, 1, 1) beside (C, H, W)."""

    kind: ClassVar[str] = "a maximum"

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return ops.maximum(*inputs)


@dataclass(frozen=True, eq=False)
class IntegerMinimum(IntegerNode):
    """The smaller code of two tensors of one grid; one of both may be (C, 1, 1) beside (C, H, W)."""

    kind: ClassVar[str] = "a minimum"

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return ops.minimum(*inputs)

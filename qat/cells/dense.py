"""Dense layer, fused with batch normalisation and activation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qat.cells.base import Shape, check_counts
from qat.cells.linear import WeightedCell
from qat.errors import QatError
from qat.integer import IntegerDense, IntegerLinear
from qat.vocabulary.ops import Array, Ops, Tensor


@dataclass(frozen=True)
class DenseBnAct(WeightedCell):
    """Dense layer and activation in one cell.

    The other fields and the parameters are those of Conv2dBnAct; weight is (out, in). Input (in,), output (out,).
    """

    has_bias: bool = True

    weight_kind = "dense_weight"
    output_channels = "new"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts("DenseBnAct", in_channels=self.in_channels, out_channels=self.out_channels)

    @property
    def weight_shape(self) -> Shape:
        return (self.out_channels, self.in_channels)

    def output_shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if x != (self.in_channels,):
            raise QatError(
                f"takes ({self.in_channels},) but gets {x}; change in_channels, or put a Flatten before it if that is an "
                "image"
            )
        return (self.out_channels,)

    def macs(self, output: Shape, *, with_bias: bool) -> int:
        return math.prod(self.weight_shape)

    def with_channels(self, outputs: int, inputs: int) -> DenseBnAct:
        return replace(self, in_channels=inputs, out_channels=outputs)

    def sliced(self, local: str, array: Array, outputs: Array, inputs: Array) -> Array:
        array = array[outputs]
        return array if array.ndim < 2 else np.ascontiguousarray(array[:, inputs])

    def apply(self, ops: Ops, x: Tensor, x_shape: Shape, w: Tensor, bias: Tensor | None) -> Tensor:
        return ops.dense(x, w, bias)

    def integer_node(self, x_shape: Shape, **fields: Any) -> IntegerLinear:
        return IntegerDense(**fields)

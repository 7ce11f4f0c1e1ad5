"""Dense layer, fused with batch normalisation and activation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from qat.cells.base import Shape, check_counts
from qat.cells.linear import NEVER, LinearCell
from qat.cells.pruner import MagnitudePruner
from qat.errors import QatError
from qat.integer import IntegerDense, IntegerLinear
from qat.quantizers import BaseWeightQuantizer
from qat.vocabulary.ops import Ops, Tensor


@dataclass(frozen=True)
class DenseBnAct(LinearCell):
    """Dense layer and activation in one cell.

    The other fields and the parameters are those of Conv2dBnAct; weight is (out, in). Input (in,), output (out,).
    """

    in_channels: int
    out_channels: int
    has_bias: bool = True
    has_bn: bool = False
    momentum: float = 0.9
    eps: float = 1e-5
    activation: str | None = None
    alpha: float = 0.2
    after_fake: bool = True
    weight_quantizer: BaseWeightQuantizer | None = None
    bn_fold: str | None = None
    freeze_bn: int = NEVER
    pruner: MagnitudePruner | None = None

    weight_kind = "dense_weight"

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

    def apply(self, ops: Ops, x: Tensor, x_shape: Shape, w: Tensor, bias: Tensor | None) -> Tensor:
        return ops.dense(x, w, bias)

    def quantized(self, quantizer: BaseWeightQuantizer, bn_fold: str | None, freeze_bn: int) -> DenseBnAct:
        return replace(self, weight_quantizer=quantizer, bn_fold=bn_fold, freeze_bn=freeze_bn)

    def integer_node(self, x_shape: Shape, **fields: Any) -> IntegerLinear:
        return IntegerDense(**fields)

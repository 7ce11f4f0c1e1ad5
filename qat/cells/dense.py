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
    """Dense layer, batch normalisation and activation in one cell.

    Input: (in_channels,), output: (out_channels,). Parameters: weight (out, in); the others as in Conv2dBnAct.

    Args:
        in_channels: features of its input.
        out_channels: features of its output.
        has_bias: whether a bias is added. Default: True.
        has_bn: whether batch normalisation comes before the activation. Default: False.
        momentum: of the running statistics, momentum * running + (1 - momentum) * batch, 0 to 1. Default: 0.9.
        eps: what is added to a variance before its square root. Default: 1e-5.
        activation: None or a name of ``qat.vocabulary.activations``. Default: None.
        alpha: the activation's own, as of ``Activation``. Default: None: 0.2 of "leaky_relu", 1 of "elu".
        after_fake: let convert_quant_network put a fake quantizer after it. Default: True.
        weight_quantizer: set by convert_quant_network. Default: None, a float cell.
        bn_fold: set by convert_quant_network (``LinearCell``). Default: None.
        freeze_bn: set by convert_quant_network: the training step from which on running statistics normalise.
        pruner: set by ``qat.pruning.prune_weights``. Default: None.
        input_normalization: set by convert_quant_network, of a cell that takes raw pixels. Default: None.
        tracker: set by training with ``qat.Oscillations``: counts and freezes codes that oscillate. Default: None.

    Example:
        >>> import qat
        >>> sorted(qat.DenseBnAct(84, 10).params())
        ['bias', 'weight']
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
                "image; one along an axis of (C, H, W), (C, L) or (L, C) is a qat.networks.Dense"
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

    def input_rows(self, x: Array, x_shape: Shape, places: int) -> Array:
        return x[np.newaxis]

    def integer_node(self, x_shape: Shape, **fields: Any) -> IntegerLinear:
        return IntegerDense(**fields)

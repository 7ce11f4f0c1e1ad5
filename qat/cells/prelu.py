"""A leaky ReLU whose slope is trained, one for each channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qat.cells.base import Cell, Param, Scope, Shape, check_counts, constant
from qat.errors import QatError
from qat.integer import Function, IntegerBuilder, require_codes
from qat.vocabulary.ops import Array
from qat.vocabulary.values import Value

INITIAL_SLOPE = 0.25  #: He et al., arXiv 1502.01852, section 2.1


@dataclass(frozen=True)
class PReLU(Cell):
    """max(x, 0) + slope_c min(x, 0) with a trained slope for each channel (He et al., arXiv 1502.01852, equation 1).

    In integers it is a table for each channel. Parameter: slope (channels,).

    Args:
        channels: of its input, (channels, H, W) or (channels,).

    Raises:
        QatError: for fewer than one channel.

    Example:
        >>> import qat
        >>> qat.PReLU(8).output_shape((8, 7, 7))
        (8, 7, 7)
    """

    channels: int

    output_numbers = "computed"
    output_channels = "kept"
    non_negative = False
    random = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts("PReLU", channels=self.channels)

    @property
    def keeps_scale(self) -> bool:
        return True

    def float_params(self) -> dict[str, Param]:
        return {"slope": Param((self.channels,), "vector", constant(INITIAL_SLOPE))}

    def output_shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if x[0] != self.channels:
            raise QatError(
                f"has slopes for {self.channels} channels but gets {x}; change channels or the cell before it"
            )
        return x

    def macs(self, output: Shape, *, with_bias: bool) -> int:
        return 0  # a table

    def deployed_parameters(self) -> int:
        return 0  # they are in the tables

    def with_channels(self, outputs: int, inputs: int) -> PReLU:
        return replace(self, channels=outputs)

    def sliced(self, local: str, array: Array, outputs: Array, inputs: Array) -> Array:
        kept: Array = array[outputs]
        return kept

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        ops, x = scope.ops, inputs[0].real(scope.ops)
        return Value(ops.relu(x) - ops.relu(-x) * ops.on_channel(scope.param("slope"), x))

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Function:
        x, slope = require_codes(name, inputs[0]), params["slope"].astype(np.float64)
        if x.grid.wide:
            raise QatError(
                f"{name}: its input has codes of more than 8 bits, of which it would need a table for each channel; give the "
                "fake quantizer before it 8 bits"
            )
        return Function(name, x, lambda real: np.where(real > 0.0, real, slope[:, None] * real))

"""The fake quantizer of an activation: a node of its own in the graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qat.cells.base import Cell, Param, Scope, Shape, constant
from qat.errors import QatError
from qat.integer import Function, Grid, IntegerBuilder, IntegerTensor
from qat.numpy_ops import NUMPY_OPS
from qat.ops import Array, Ops, Tensor
from qat.quantizers import ActivationQuantizer
from qat.serial import check_flags
from qat.values import Value


@dataclass(frozen=True)
class FakeQuant(Cell):
    """Turns real numbers or accumulators into codes of one scale and zero point.

    y = clip(rint(x * m), qmin - z, qmax - z) with m = s_x / s_y: centred codes. During its quantizer's quant_delay
    it passes its input through; in training it follows the range of what passes, in either case.

    non_negative: a ReLU came before; the range starts at 0, only its end is tracked, and the gradient at 0 is 0.
    shares: names of the fake quantizers that must have the same scale and zero point, because their codes are added or
    concatenated. Each tracks what passes through itself; the common range is the union of all.
    """

    quantizer: ActivationQuantizer
    non_negative: bool = False
    shares: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.quantizer, ActivationQuantizer):
            raise QatError(f"FakeQuant: quantizer is {self.quantizer!r}, no ActivationQuantizer")
        check_flags(self, "non_negative")
        if not isinstance(self.shares, tuple) or not all(isinstance(name, str) for name in self.shares):
            raise QatError(f"FakeQuant: shares is {self.shares!r}; give the names of other fake quantizers")

    def params(self) -> dict[str, Param]:
        """The running range; infinite as long as nothing was observed."""
        low = Param((), "scalar", constant(np.inf), trainable=False)
        high = Param((), "scalar", constant(-np.inf), trainable=False)
        return {"max": high} if self.non_negative else {"min": low, "max": high}

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        (x,) = inputs
        ops = scope.ops
        running = scope.params()
        if scope.context.training:
            for name, old in running.items():
                batch = x.smallest(ops) if name == "min" else x.largest(ops)
                running[name] = ops.moving_average(old, batch, self.quantizer.ema_decay)
                scope.update(name, running[name])
        if scope.context.phase < self.quantizer.quant_delay:
            return x
        scale, zero_point = self._grid(ops, running, scope.param_of)
        multiplier = ops.reciprocal(scale) if x.scale is None else x.scale / scale
        rectified = self.non_negative or x.relu is not None
        low = 0.0 if rectified else float(self.quantizer.qmin) - zero_point
        high = float(self.quantizer.qmax) - zero_point
        if x.relu is not None and not math.isinf(x.relu):
            high = ops.minimum(ops.rint(x.relu / scale), high)
        codes = ops.requantize(x.data, ops.on_channel(multiplier, x.data), low, high, open_low=rectified)
        return Value(codes, scale, codes=True)

    def _grid(
        self, ops: Ops, own: Mapping[str, Tensor], of_cell: Callable[[str, str], Tensor | None]
    ) -> tuple[Tensor, Tensor | float]:
        """Scale (a scalar tensor) and zero point, from its own running range and the ranges of those it shares with."""
        quantizer = self.quantizer
        others = {name: [of_cell(cell, name) for cell in self.shares] for name in ("min", "max")}
        lows = [low for low in (own.get("min"), *others["min"]) if low is not None]
        high = own["max"]
        for other in others["max"]:
            high = ops.maximum(high, other)
        if not lows:
            if quantizer.symmetric:
                return quantizer.symmetric_scale(ops, high), 0.0
            return quantizer.affine_scale(ops, high), float(quantizer.qmin)
        low, high = ops.minimum(lows[0], 0.0), ops.maximum(high, 0.0)
        for other in lows[1:]:
            low = ops.minimum(low, other)
        if quantizer.symmetric:
            return quantizer.symmetric_scale(ops, ops.maximum(-low, high)), 0.0
        scale = quantizer.affine_scale(ops, high - low)
        return scale, quantizer.zero_point(ops, low, scale)

    def grid(self, name: str, params: Mapping[str, Array], network: Mapping[str, Array] | None = None) -> Grid:
        """The codes of its output, derived in NumPy; ``network``: all parameters by full name, for those it shares with.

        Raises QatError where no data was ever observed.
        """
        unseen = {"min": np.inf, "max": -np.inf}
        if any(params[local] == unseen[local] for local in self.params()):
            raise QatError(
                f"{name} has never seen data, so its range is unknown: train the quantized network for at least one step "
                "before it is evaluated or exported"
            )
        ops, quantizer = NUMPY_OPS, self.quantizer

        def of_cell(cell: str, local: str) -> Array | None:
            array = (network or {}).get(f"{cell}.{local}")
            return None if array is None else ops.from_numpy(array, "scalar")

        own = {local: ops.from_numpy(params[local], "scalar") for local in self.params()}
        scale, zero_point = self._grid(ops, own, of_cell)
        zero = zero_point if isinstance(zero_point, float) else zero_point[0]
        return Grid(np.float32(scale[0]), int(zero), quantizer.qmin, quantizer.qmax)

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        (x,) = inputs
        if isinstance(x, IntegerTensor):  # codes already: brought to another grid
            x = Function(name, x, lambda real: real)
        grid = self.grid(name, params, builder.params)
        return builder.quantize(x, grid, min((name, *self.shares)), keep_scale=self.quantizer.power_of_two)

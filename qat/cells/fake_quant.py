"""The fake quantizer of an activation: a node of its own in the graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qat.cells.base import Cell, Param, Scope, Shape, constant
from qat.errors import QatError
from qat.integer import Accumulator, Grid, IntegerBuilder, IntegerTensor
from qat.numpy_ops import NUMPY_OPS
from qat.ops import Array, Ops, Tensor
from qat.quantizers import ActivationQuantizer
from qat.values import Value


@dataclass(frozen=True)
class FakeQuant(Cell):
    """Turns real numbers or accumulators into codes of one scale and zero point.

    y = clip(rint(x * m), qmin - z, qmax - z) with m = s_x / s_y: centred codes. During its quantizer's quant_delay
    it passes its input through; in training it follows the range of what passes, in either case.

    non_negative: a ReLU came before; the range starts at 0, only its end is tracked, and the gradient at 0 is 0.
    """

    quantizer: ActivationQuantizer
    non_negative: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.quantizer, ActivationQuantizer):
            raise QatError(f"FakeQuant: quantizer is {self.quantizer!r}, no ActivationQuantizer")

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
        running = {name: scope.param(name) for name in self.params()}
        if scope.context.training:
            batch = dict(zip(("min", "max"), x.range(ops), strict=True))
            for name, old in running.items():
                running[name] = ops.moving_average(old, batch[name], self.quantizer.ema_decay)
                scope.update(name, running[name])
        if scope.context.step < self.quantizer.quant_delay:
            return x
        scale, zero_point = self._grid(ops, running)
        multiplier = ops.reciprocal(scale) if x.scale is None else x.scale / scale
        low = 0.0 if self.non_negative else float(self.quantizer.qmin) - zero_point
        high = float(self.quantizer.qmax) - zero_point
        if x.relu is not None and not math.isinf(x.relu):
            high = ops.minimum(ops.rint(x.relu / scale), high)
        codes = ops.requantize(x.data, ops.on_channel(multiplier, x.data), low, high, open_low=self.non_negative)
        return Value(codes, scale, codes=True)

    def _grid(self, ops: Ops, running: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | float]:
        """Scale (a scalar tensor) and zero point, from the running range."""
        quantizer = self.quantizer
        high = running["max"]
        if self.non_negative:
            if quantizer.symmetric:
                return quantizer.symmetric_scale(ops, high), 0.0
            return quantizer.affine_scale(ops, high), float(quantizer.qmin)
        low, high = ops.minimum(running["min"], 0.0), ops.maximum(high, 0.0)
        if quantizer.symmetric:
            return quantizer.symmetric_scale(ops, ops.maximum(-low, high)), 0.0
        scale = quantizer.affine_scale(ops, high - low)
        return scale, quantizer.zero_point(ops, low, scale)

    def grid(self, name: str, params: Mapping[str, Array]) -> Grid:
        """The codes of its output, derived in NumPy. Raises QatError where no data was ever observed."""
        if not all(np.isfinite(params[local]).all() for local in self.params()):
            raise QatError(
                f"{name} has never seen data, so its range is unknown: train the quantized network for at least one step "
                "before it is evaluated or exported"
            )
        ops, quantizer = NUMPY_OPS, self.quantizer
        scale, zero_point = self._grid(ops, {local: ops.from_numpy(params[local], "scalar") for local in self.params()})
        zero = zero_point if isinstance(zero_point, float) else zero_point[0]
        return Grid(np.float32(scale[0]), int(zero), quantizer.qmin, quantizer.qmax)

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        (x,) = inputs
        if not isinstance(x, Accumulator):
            raise QatError(
                f"{name} quantizes {x.name}, which already is integers: only one fake quantizer may follow a cell"
            )
        return builder.add(x.requantized(self.grid(name, params)))

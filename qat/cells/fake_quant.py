"""The fake quantizer of an activation: a node of its own in the graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qat.cells.base import Cell, Param, Quantized, Scope, Shape
from qat.errors import QatError
from qat.integer import Function, Grid, IntegerBuilder, IntegerTensor, RealNumbers, by_sign
from qat.quantizers import BaseActivationQuantizer
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array, Tensor
from qat.vocabulary.values import Value


@dataclass(frozen=True)
class FakeQuant(Cell):
    """Turns real numbers or accumulators into codes of one scale and zero point.

    y = clip(rint(x * m), qmin - z, qmax - z) with m = s_x / s_y: centred codes. What s_y and z are, and which parameters they
    come from, its quantizer says. During the quantizer's quant_delay it passes its input through; in training the
    quantizer observes what passes (``observe``), in either case.

    Args:
        quantizer: of activations; see ``qat.quantizers``.
        non_negative: True after a ReLU; the range starts at 0, and the gradient at 0 is 0. Default: False.
        shares: names of the fake quantizers that must have the same scale and zero point, because their codes are added or
            concatenated. Each observes what passes through itself; the common grid follows from the parameters of all.
    """

    quantizer: BaseActivationQuantizer
    non_negative: bool = False
    shares: tuple[str, ...] = ()

    output_numbers = "coded"
    output_channels = "kept"
    random = False

    @property
    def code_bits(self) -> int:
        return self.quantizer.num_bits

    @property
    def keeps_scale(self) -> bool:
        """Its range follows."""
        return True

    def quantizer_params(self) -> dict[str, Param]:
        return self.quantizer.params(self.non_negative)

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def observe(self, scope: Scope, x: Value) -> None:
        """Before ``forward``, in training: look at what passes. (``Forward`` lets all that share a grid look first.)"""
        if scope.context.training and scope.context.quantizes:
            ops, own, phase = scope.ops, scope.params(), scope.context.phase
            if scope.has_updated:  # a step of a recurrence, after others
                before = scope.params_before()
                found = self.quantizer.observe_again(ops, x, before, own, self.non_negative, phase=phase)
            else:
                found = self.quantizer.observe(ops, x, own, self.non_negative, phase=phase)
            for name, value in found.items():
                scope.update(name, value)

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        (x,) = inputs
        ops, quantizer, own = scope.ops, self.quantizer, scope.params()
        if not scope.quantizes(quantizer):
            return x
        features, shared = math.prod(scope.input_shapes[0]), self._shared(scope.param_of)
        scope.note("", Quantized(quantizer, x, own, features, shared))
        if scope.context.arithmetic == "fixed":
            x = x.in_fixed_arithmetic()
        y = quantizer.quantize(ops, x, own, shared, self.non_negative, features)
        if scope.context.drop:
            real = x.real(ops)
            return Value(real + ops.drop(y.real(ops) - real, scope.context.drop))
        return y

    def _shared(self, of_cell: Callable[[str, str], Tensor | None]) -> list[dict[str, Tensor]]:
        """Parameters and state of those it shares with, by local name."""
        names = self.quantizer.params(False)
        found = [{local: of_cell(cell, local) for local in names} for cell in self.shares]
        return [{local: tensor for local, tensor in each.items() if tensor is not None} for each in found]

    def grid(self, name: str, params: Mapping[str, Array], network: Mapping[str, Array] | None = None) -> Grid:
        """The codes of its output, derived in NumPy; ``network``: all parameters by full name, for those it shares with.

        Raises QatError where no data was ever observed.
        """
        quantizer = self.quantizer
        if quantizer.unseen({local: params[local] for local in self.params()}):
            raise QatError(
                f"{name} has never seen data, so its range is unknown: train the quantized network for at least one step "
                "before it is evaluated or exported, or give calibration_images to qat.prepare"
            )
        own, shared = self._deployed(params, network or {})
        scale, *codes = quantizer.grid(NUMPY_OPS, own, shared, self.non_negative)
        codes += quantizer.bounds(NUMPY_OPS, own, shared, self.non_negative)
        return Grid(np.float32(scale[0]), *(int(code if isinstance(code, float) else code[0]) for code in codes))

    def _deployed(
        self, params: Mapping[str, Array], network: Mapping[str, Array]
    ) -> tuple[dict[str, Array], list[dict[str, Array]]]:
        """Its parameters and state, and those of what it shares with, for NUMPY_OPS."""

        def of_cell(cell: str, local: str) -> Array | None:
            array = network.get(f"{cell}.{local}")
            return None if array is None else NUMPY_OPS.from_numpy(array, "scalar")

        own = {local: NUMPY_OPS.from_numpy(params[local], "scalar") for local in self.params()}
        return own, self._shared(of_cell)

    def _function(self, params: Mapping[str, Array], network: Mapping[str, Array]) -> Callable[[Array], Array]:
        """What brings real numbers, float64, to its grid where a rounding does not: a table of codes is made of it."""
        if self.quantizer.uniform:
            return lambda real: real
        own, shared = self._deployed(params, network)

        def quantized(real: Array) -> Array:
            x = Value(real.astype(np.float32).reshape(1, -1))
            y = self.quantizer.quantize(NUMPY_OPS, x, own, shared, self.non_negative, real.size)
            values: Array = y.real(NUMPY_OPS)[0].astype(np.float64)
            return values

        return quantized

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        (x,) = inputs
        grid = self.grid(name, params, builder.params)
        if isinstance(x, IntegerTensor) and x.grid.real:
            x = RealNumbers(name, x)
        if isinstance(x, IntegerTensor):  # codes already: brought to another grid
            x = Function(name, x, self._function(params, builder.params))
        elif not self.quantizer.uniform:
            raise QatError(
                f"{name}: a {type(self.quantizer).__name__} is a table of codes, but {x.name} gives none; convert the network "
                "with convert_quant_network, which puts a fake quantizer between them"
            )
        if self.quantizer.by_sign:
            x = by_sign(builder, name, x, grid.scale)
        return builder.quantize(
            x, grid, min((builder.cell_name or name, *self.shares)), keep_scale=self.quantizer.keep_scale
        )

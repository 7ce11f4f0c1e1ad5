"""Convolutions and dense layers: sums of products, requantized."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import add
from typing import Any, ClassVar

import numpy as np

from qat.errors import QatError
from qat.integer.fixed_point import FixedMultiplier, LongMultiplier, linear_multiplier
from qat.integer.grid import Grid, IntegerTensor, Requantize, Shape, clip_bounds
from qat.integer.node import IntegerNode, Pending, Requantizing
from qat.vocabulary.ops import EXACT_INTEGERS, Array, Kind, Ops, Padding, Pair, Tensor

INT32_MAX = 2**31 - 1  #: the largest accumulator of every runtime
EXACT_LONG = 2**53  #: float64 holds every integer up to here
SMALLEST_MULTIPLIER = 2.0**-32  #: that XNNPACK takes
MOST_PARTS = 8  #: of a sum; with more of them float64 is as fast
EVEN = 16  #: parts have a multiple of so many channels, as vectors do


@dataclass(frozen=True, eq=False)
class IntegerLinear(Requantizing):
    """acc = W (x_q - z_x) + b_q, then requantized. O: output channels.

    Attributes:
        weight: codes, output channels first, in the smallest type that holds them, signed or (affine) unsigned.
        bias: codes, int32, (O,); their scale is that of the accumulator.
        weight_scale: float32, (O,).
        weight_zero_point: int32, (O,).
        requantize: what takes accumulators to the output's codes.
        weight_kind: how a backend lays out the weight.
    """

    weight: Array
    bias: Array
    weight_scale: Array
    weight_zero_point: Array
    requantize: Requantize

    weight_kind: ClassVar[Kind] = "conv_weight"

    @property
    def centred_weight(self) -> Array:
        """weight - weight_zero_point, int32."""
        centred: Array = self.weight.astype(np.int32) - self.weight_zero_point.reshape(
            (-1,) + (1,) * (self.weight.ndim - 1)
        )
        return centred

    @cached_property
    def bounds(self) -> Array:
        """Of each output, int64, (O,): the larger of the sums of the positive and of the negative products, plus |b_q|, where a
        centred input code lies within the grid (or is 0, in the padding).
        """
        positive, negative = (x.sum(axis=1) for x in self._extremes())
        bounds: Array = np.maximum(positive, negative) + np.abs(self.bias.astype(np.int64))
        return bounds

    @cached_property
    def accumulator_bound(self) -> int:
        """The largest of ``bounds``."""
        return int(self.bounds.max())

    def _extremes(self) -> tuple[Array, Array]:
        """The sums of all positive, and of all negative products of each output with each input channel, int64, (O, I)."""
        w = self.centred_weight.reshape(*self.weight.shape[:2], -1).astype(np.int64)
        grid = self.inputs[0].grid
        low, high = min(grid.low, 0), max(grid.high, 0)
        return np.maximum(w * high, w * low).sum(axis=2), np.maximum(-w * high, -w * low).sum(axis=2)

    @property
    def wide(self) -> bool:
        """True where float32 does not hold every accumulator, so that a wider type has to accumulate."""
        return self.accumulator_bound > EXACT_INTEGERS

    @cached_property
    def parts(self) -> tuple[range, ...]:
        """The input channels in parts, of which float32 holds every sum, where it does not hold that of all: it is several
        times faster than float64. None where it holds all, or where there would be too many.
        """
        channels = self.weight.shape[1]
        if not self.wide or channels != self.inputs[0].shape[0]:  # in groups
            return ()
        reached = [np.cumsum(x, axis=1) for x in self._extremes()]
        before: list[Any] = [0, 0]
        taken: Any = np.abs(self.bias.astype(np.int64))  # the first part has the bias
        found: list[range] = []
        first = 0
        while first < channels and len(found) < MOST_PARTS:
            sums = np.maximum(*(x - x0 for x, x0 in zip(reached, before, strict=True))) + np.reshape(taken, (-1, 1))
            last = int((sums.max(axis=0) <= EXACT_INTEGERS).sum())
            last -= (last - first) % EVEN if last < channels and last - first >= EVEN else 0
            if last <= first:
                return ()
            found.append(range(first, last))
            before, taken, first = [x[:, last - 1 : last] for x in reached], 0, last
        return tuple(found) if first == channels else ()

    @property
    def in_parts(self) -> bool:
        return bool(self.parts)

    @property
    def wide_codes(self) -> bool:
        """True where the codes of weight or input need more than 8 bits."""
        return self.weight.dtype.itemsize > 1 or self.inputs[0].grid.wide

    def check_range(self) -> None:
        limit, holder = INT32_MAX, "the int32 of every runtime"
        if self.wide_codes:
            limit, holder = EXACT_LONG, "what float64 adds exactly"
        if self.accumulator_bound > limit:
            raise QatError(
                f"{self.name}: its accumulator may reach {self.accumulator_bound}, beyond {holder}; use fewer bits or "
                "fewer inputs"
            )

    def constants(self) -> dict[str, tuple[Array, Kind]]:
        weight = self.centred_weight
        return {
            **{f"weight{part.start}": (weight[:, part.start : part.stop], self.weight_kind) for part in self.parts},
            **({} if self.parts else {"weight": (weight, self.weight_kind)}),
            "bias": (self.bias, "vector"),
            **super().constants(),
        }

    def spread(self, scaling: Array) -> tuple[Array, Kind]:
        return scaling, "vector"

    def accumulate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        (x,), bias = inputs, constants["bias"]
        if not self.parts:
            return self.apply(ops, x, constants["weight"], bias, wide=self.wide)
        sums = [
            self.apply(ops, ops.pick(x, 0, part), constants[f"weight{part.start}"], None if part.start else bias)
            for part in self.parts
        ]
        return reduce(add, (ops.cast(each, "float64") for each in sums))

    @cached_property
    def moderate_weight_scale(self) -> Array:
        """weight_scale, float32, (O,), changed where its multiplier is needlessly large or small; no code changes.

        1. With bounds [low, high] and h = max(|low|, |high|), a multiplier of h + 1/2 or more takes every accumulator
           but 0 to a bound; h + 3/4 does the same.
        2. With accumulators below 2^30, a multiplier below 2^-32 takes all of them to 0; 2^-32 does the same.

        Dead outputs and dead inputs have such multipliers, since their scale is the smallest there is. Some runtimes
        refuse them, and fixed-point arithmetic could not hold the former.
        """
        one = np.float64(self.output.grid.scale) / np.float64(self.inputs[0].grid.scale)  # has the multiplier 1
        enough = max(abs(self.requantize.low), abs(self.requantize.high)) + 0.75
        scale = np.where(self.requantize.multiplier > enough, np.float32(enough * one), self.weight_scale)
        if self.accumulator_bound < 2**30:
            small = np.float32(SMALLEST_MULTIPLIER * (1.0 + 2.0**-20) * one)
            scale = np.where(self.requantize.multiplier < SMALLEST_MULTIPLIER, small, scale)
        moderate: Array = scale
        return moderate

    @cached_property
    def fixed(self) -> FixedMultiplier | LongMultiplier:
        """The multiplier and shift of each output in the fixed arithmetic, (O,); the long form where a code is wide."""
        x_scale, y_scale = self.inputs[0].grid.scale, self.output.grid.scale
        scale, bound = self.moderate_weight_scale, self.accumulator_bound
        long = self.wide_codes or self.output.grid.wide
        return linear_multiplier(self.name, x_scale, scale, y_scale, bound, long=long)

    @abstractmethod
    def apply(self, ops: Ops, x: Tensor, w: Tensor, bias: Tensor | None, *, wide: bool = False) -> Tensor:
        """The sums of products, plus the bias; ``wide`` as in ``Ops.conv2d``."""


@dataclass(frozen=True, eq=False)
class IntegerConv2d(IntegerLinear):
    """A convolution; weight (O, I / group, kh, kw).

    Attributes:
        stride: (vertical, horizontal), in pixels.
        padding: (top, bottom, left, right), in pixels of centred code 0.
        dilation: (vertical, horizontal).
        group: groups of channels.
    """

    kind: ClassVar[str] = "a convolution"
    stride: Pair = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    group: int = 1

    def apply(self, ops: Ops, x: Tensor, w: Tensor, bias: Tensor | None, *, wide: bool = False) -> Tensor:
        return ops.conv2d(
            x,
            w,
            bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            group=self.group,
            wide=wide,
        )


@dataclass(frozen=True, eq=False)
class IntegerDense(IntegerLinear):
    """A dense layer; weight (O, I), I in canonical (CHW) order."""

    kind: ClassVar[str] = "a dense layer"
    weight_kind: ClassVar[Kind] = "dense_weight"

    def apply(self, ops: Ops, x: Tensor, w: Tensor, bias: Tensor | None, *, wide: bool = False) -> Tensor:
        return ops.dense(x, w, bias, wide=wide)


@dataclass(frozen=True)
class Accumulator(Pending):
    """A linear node, or one of means, without requantization.

    Attributes:
        finish: makes the node, given its requantization and its output.
        name: of the node.
        shape: of its output, of one sample.
        scale: of the accumulator, f32(s_x * s_w), float32, (O,); of means for each position.
        relu: the upper bound of the ReLU that is still to be applied; None: no ReLU.
    """

    finish: Callable[[Requantize, IntegerTensor], IntegerNode]
    name: str
    shape: Shape
    scale: Array
    relu: float | None

    def requantized(self, grid: Grid) -> IntegerNode:
        multiplier = (self.scale / grid.scale).astype(np.float32)
        normal = np.isfinite(multiplier) & (multiplier >= np.finfo(np.float32).tiny)
        if not normal.all():
            channel = int(np.argmin(normal))
            raise QatError(
                f"{self.name}: output channel {channel} has scale {self.scale[channel]:g} where its codes have {grid.scale:g}: "
                "their quotient is no normal float32, and runtimes would disagree; its weights or biases are far too large "
                "or too small"
            )
        return self.finish(
            Requantize(multiplier, *clip_bounds(grid, self.relu)), IntegerTensor(self.name, self.shape, grid)
        )

    def clipped(self) -> IntegerNode:
        """clip(acc, -1, 1): the multiplier is 1, since of an accumulator that is compared with 0 the scale does not matter."""
        one = np.ones(len(self.scale), np.float32)
        grid = Grid(np.float32(1.0), zero_point=0, qmin=-1, qmax=1)
        node = self.finish(Requantize(one, *clip_bounds(grid, self.relu)), IntegerTensor(self.name, self.shape, grid))
        grid = grid._replace(scale=node.inputs[0].grid.scale)
        changes: dict[str, Any] = {
            "output": node.output._replace(grid=grid),
            "weight_scale": np.ones_like(getattr(node, "weight_scale", one)),
        }
        return replace(node, **changes)

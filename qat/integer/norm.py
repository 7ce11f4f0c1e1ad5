"""Normalisations of places over their channels, and of groups of channels: by mean and variance, or by the mean of squares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qat.errors import QatError
from qat.integer.grid import Grid, IntegerTensor, Requantize, clip_bounds
from qat.integer.node import IntegerNode, Pending
from qat.vocabulary.ops import EXACT_INTEGERS, Array, Kind, Ops, Tensor
from qat.vocabulary.rearrangement import Rearrangement, by_group

LARGEST_SUM = 4094.0**2  #: of squares: with their roots, one too large, r^2 + r stays below 2^24
MOST_CHANNELS = 2**13  #: of which the mean is subtracted: the square of the sum of what is left of it stays up to 2^24
LARGEST_UNIT, LARGEST_GAIN, LARGEST_SHIFT = 2.0**14, 2.0**9 - 1, 2.0**23  #: whose sum of products stays below 2^24
LARGEST_MULTIPLIER = np.float32(2.0**17)  #: with it, as with any larger one, every sum but 0 becomes a bound


@dataclass(frozen=True, eq=False)
class IntegerNorm(IntegerNode):
    """y_c = clip(rint(f32(acc_c m))) of acc_c = u_c gain_c + shift_c, where u_c is x_c normalised (docs/numerics.md):

        d_c = C x_c - sum_k x_k, or x_c where it is not centred
        e_c = rint(f32(d_c step)),  t = sum_c e_c where it is centred, else 0
        n = sum_c e_c^2 - rint(f32(t^2 share)) + extra
        r the integer next to the root of n
        u_c = rint(f32(d_c f32(unit / r)))

    share is f32(1 / C); of groups, C counts all numbers of a group, and the sums are over these. Everything but the products
    with step, share, unit / r and m is an exact integer below 2^24.

    Attributes:
        centred: whether the mean is subtracted.
        step: of e in steps of d, float32.
        extra: what is added to a variance, in squares of e.
        unit: float32.
        gain: (C,), int32.
        shift: (C,), int32.
        requantize: the multiplier m, one number, and the clip.
        num_groups: of channels, each of which is normalised over its places too; None: each place by itself.
    """

    kind: ClassVar[str] = "a normalisation over channels"
    centred: bool
    step: np.float32
    extra: int
    unit: np.float32
    gain: Array
    shift: Array
    requantize: Requantize
    num_groups: int | None = None

    @property
    def grouping(self) -> Rearrangement | None:
        """What makes channels of all that is normalised together; None where it is the channels."""
        return None if self.num_groups is None else by_group(self.inputs[0].shape, self.num_groups)

    @property
    def count(self) -> int:
        """How many numbers are normalised together."""
        how = self.grouping
        return self.inputs[0].shape[0] if how is None else how.shape[0]

    @property
    def share(self) -> np.float32:
        """1 / C."""
        return np.float32(1.0 / self.count)

    def check_range(self) -> None:
        (x,) = self.inputs
        largest = max(x.grid.high - x.grid.low, x.grid.high, -x.grid.low)
        if self.count * largest > EXACT_INTEGERS or (self.centred and self.count > MOST_CHANNELS):
            what, fewer = ("channels", "fewer channels") if self.num_groups is None else ("numbers", "more groups")
            raise QatError(
                f"{self.name}: normalises {self.count} {what} of codes of up to {largest}, whose sums float32 does not hold; "
                f"use fewer bits, or {fewer}"
            )

    def constants(self) -> dict[str, tuple[Array, Kind]]:
        scalars = {"step": self.step, "unit": self.unit}
        return {
            **{name: (np.asarray(number), "scalar") for name, number in scalars.items()},
            "multiplier": (self.requantize.multiplier, "scalar"),
            "gain": (self.gain, "vector"),
            "shift": (self.shift, "vector"),
        }

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        (x,), how = inputs, self.grouping
        x = x if how is None else ops.rearrange(x, how)
        d = x * float(self.count) - ops.sum_over_channels(x) if self.centred else x
        e = ops.rint(d * constants["step"])
        n = ops.sum_over_channels(e * e) + float(self.extra)
        if self.centred:
            t = ops.sum_over_channels(e)
            n = n - ops.rint(t * t * float(self.share))
        r = ops.rint(ops.sqrt(n))
        # Where a runtime's root is off by one, r^2 - r < n <= r^2 + r puts it right.
        above = ops.minimum(ops.maximum(n - r * r - r, 0.0), 1.0)
        below = ops.minimum(ops.maximum(r * r - r - n + 1.0, 0.0), 1.0)
        u = ops.rint(d * (constants["unit"] / (r + above - below)))
        u = u if how is None else ops.rearrange(u, how.back)
        total = u * ops.on_channel(constants["gain"], u) + ops.on_channel(constants["shift"], u)
        low, high = float(self.requantize.low), float(self.requantize.high)
        return ops.requantize(total, constants["multiplier"], low, high)


@dataclass(frozen=True)
class Norm(Pending):
    """The normalisation of a tensor over its channels, or of groups of them.

    Attributes:
        name: of the node that it becomes.
        input: the tensor.
        gamma: (C,), float64.
        beta: (C,), float64.
        eps: what is added to a variance, a real number.
        centred: whether the mean is subtracted.
        num_groups: as of the node.
    """

    name: str
    input: IntegerTensor
    gamma: Array
    beta: Array
    eps: float
    centred: bool
    num_groups: int | None = None

    @property
    def _count(self) -> int:
        """How many numbers are normalised together."""
        return math.prod(self.input.shape) // self.num_groups if self.num_groups else self.input.shape[0]

    @property
    def _units(self) -> float:
        """How many steps of u are 1: none is more than 1.5 sqrt(C) times as many."""
        return float(np.floor(LARGEST_UNIT / (1.5 * np.sqrt(self._count))))

    @property
    def _gain_scale(self) -> float:
        """Of the codes of gamma. Those of beta, in steps of u times it, have to fit too."""
        largest = float(np.abs(self.gamma).max()) / LARGEST_GAIN
        return max(largest, float(np.abs(self.beta).max()) * self._units / LARGEST_SHIFT, 2.0**-60)

    def requantized(self, grid: Grid) -> IntegerNorm:
        source, channels = self.input.grid, self._count
        eps = self.eps / float(source.scale) ** 2  # in squares of codes
        largest = (source.high - source.low) / 2 if self.centred else max(source.high, -source.low)
        fine = (np.sqrt(LARGEST_SUM / channels) - 0.51) / np.sqrt(largest**2 + eps)  # steps of e in a code
        fine = np.floor(fine) if fine >= 1.0 else fine  # then e differs from x - mean by the same everywhere
        root = np.sqrt(channels)
        gain_scale, units = self._gain_scale, self._units
        multiplier = min(np.float32(gain_scale / units / float(grid.scale)), LARGEST_MULTIPLIER)
        return IntegerNorm(
            self.name,
            (self.input,),
            IntegerTensor(self.name, self.input.shape, grid),
            self.centred,
            step=np.float32(fine / channels if self.centred else fine),
            extra=max(int(np.rint(channels * fine**2 * eps)), 1),
            unit=np.float32(units * fine / root if self.centred else units * fine * root),
            gain=np.rint(self.gamma / gain_scale).astype(np.int32),
            shift=np.rint(self.beta * units / gain_scale).astype(np.int32),
            requantize=Requantize(np.full(1, multiplier, np.float32), *clip_bounds(grid, None)),
            num_groups=self.num_groups,
        )

    def clipped(self) -> IntegerNorm:
        scale = np.float32(self._gain_scale / self._units)
        return self.requantized(Grid(scale, zero_point=0, qmin=-1, qmax=1))

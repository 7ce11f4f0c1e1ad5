"""Numbers put around a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qat.cells.base import Cell, Scope, Shape
from qat.errors import QatError
from qat.integer import IntegerBuilder, IntegerPad, IntegerPick, IntegerTensor, code_of, require_codes
from qat.vocabulary.ops import Array, Ops, Padding, Pair, Tensor
from qat.vocabulary.values import Value

MODES = ("constant", "reflect")
LARGEST = 1 << 16  #: on one side; nobody's picture is larger


@dataclass(frozen=True)
class Pad(Cell):
    """A number around a picture, or the picture's own pixels reflected: (C, H, W) to (C, H + top + bottom, W + left + right).

    A convolution pads with zeros by itself (``padding``), at no cost. In integers the number is the code next to it.

    Args:
        padding: in pixels: one number, (vertical, horizontal), or (top, bottom, left, right). Of (C, L) rows are left out: one
            number is both ends of L, and (0, 0, left, right) each.
        value: the number. Default: 0.0.
        mode: "constant", the default, or "reflect": the pixels next to the edge, which itself is not repeated.
        channels: how many constant channels come before and behind. Default: (0, 0).

    Raises:
        QatError: for numbers below 0, another mode, or a value or channels with "reflect".

    Example:
        >>> import qat
        >>> qat.Pad((1, 2)).output_shape((3, 8, 8)), qat.Pad(1, mode="reflect").output_shape((3, 8, 8))
        ((3, 10, 12), (3, 10, 10))
    """

    padding: int | Pair | Padding
    value: float = 0.0
    mode: str = "constant"
    channels: Pair = (0, 0)

    output_numbers = "moved"
    non_negative = False
    random = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in MODES:
            raise QatError(f"Pad: mode {self.mode!r} is unknown; use one of {', '.join(MODES)}")
        sides = (*self._sides, *self.channels)
        if min(sides) < 0 or max(sides) > LARGEST:
            raise QatError(
                f"Pad: padding is {self.padding} and channels {self.channels}; use numbers of 0 to {LARGEST}"
            )
        if self.mode == "reflect" and (self.value or any(self.channels)):
            raise QatError("Pad: mode 'reflect' repeats pixels, and takes no value and no channels; leave them out")

    @property
    def output_channels(self) -> str:  # type: ignore[override]
        """Those of its input, unless it adds some."""
        return "fixed" if any(self.channels) else "kept"

    @property
    def constants(self) -> tuple[float, ...]:
        return (self.value,) if any((*self._sides, *self.channels)) and self.value else ()

    @property
    def keeps_sign(self) -> bool:
        """A number other than 0 does not grow with the input."""
        return self.value == 0.0

    @property
    def _sides(self) -> Padding:
        given = self.padding
        if isinstance(given, int):
            return (given,) * 4
        top, bottom, left, right = given if len(given) == 4 else (given[0], given[0], given[1], given[1])
        return top, bottom, left, right

    def widths(self, shape: Shape) -> tuple[Pair, ...]:
        """Before and behind each axis of a sample of that shape. Raises QatError where they do not fit."""
        top, bottom, left, right = self._sides
        if len(shape) == 3:
            widths: tuple[Pair, ...] = (self.channels, (top, bottom), (left, right))
        elif len(shape) == 2 and (isinstance(self.padding, int) or not top + bottom):
            widths = (self.channels, (left, right))
        else:
            raise QatError(f"pads pictures (C, H, W) by {self._sides} but gets {shape}; move it before the Flatten")
        if self.mode == "reflect" and any(max(width) >= size for width, size in zip(widths, shape, strict=True)):
            raise QatError(f"reflects {self._sides} pixels of {shape}, more than there are beside the edge; use less")
        return widths

    def output_shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        return tuple(before + size + after for size, (before, after) in zip(x, self.widths(x), strict=True))

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        ops, x, shape = scope.ops, inputs[0].settled(scope.ops), scope.input_shapes[0]
        widths = self.widths(shape)
        if self.mode == "reflect":
            return x.with_data(_reflected(ops, x.data, shape, widths))
        padded = ops.pad(x.data, widths)
        if not self.value:
            return x.with_data(padded)
        inside = tuple(slice(before, before + size) for size, (before, _) in zip(shape, widths, strict=True))
        around = np.ones((1, *self.output_shape(shape)), np.float32)
        around[(0, *inside)] = 0.0
        value: Tensor = self.value
        if x.codes:
            scale: Tensor = x.scale
            value = ops.on_channel(ops.rint(self.value / scale), padded)
        return x.with_data(padded + ops.from_numpy(around, "activation") * value)

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        x = require_codes(name, inputs[0])
        widths = self.widths(x.shape)
        if not any(map(any, widths)):
            return x
        if self.mode == "constant":
            return builder.add(IntegerPad.of(name, x, widths, code_of(name, self.value, x)))
        places = {
            axis: _reflection(size, *width)
            for axis, (size, width) in enumerate(zip(x.shape, widths, strict=True))
            if any(width)
        }
        return builder.add(IntegerPick.of(name, x, places))


def _reflection(size: int, before: int, after: int) -> list[int]:
    """The places along an axis, those beyond its ends reflected."""
    return [*range(before, 0, -1), *range(size), *range(size - 2, size - 2 - after, -1)]


def _reflected(ops: Ops, x: Tensor, shape: Shape, widths: tuple[Pair, ...]) -> Tensor:
    """Place by place, so that every gradient is a sum in the same order on every device."""
    for axis, (size, (before, after)) in enumerate(zip(shape, widths, strict=True)):
        if before or after:
            places = _reflection(size, before, after)
            ends = [
                [ops.pick(x, axis, (place,)) for place in part] for part in (places[:before], places[before + size :])
            ]
            x = ops.concat([*ends[0], x, *ends[1]], axis)
    return x

"""Average pooling to an output of a given size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qat.cells.base import Cell, Scope, Shape, check_counts, image_sizes, pair
from qat.cells.pooling import AvgPool2d, shares_of
from qat.integer import (
    Accumulator,
    IntegerBuilder,
    IntegerMeans,
    IntegerPad,
    IntegerPick,
    IntegerTensor,
    Pending,
    Requantize,
    require_codes,
)
from qat.vocabulary.ops import Array, Pair
from qat.vocabulary.values import Value


@dataclass(frozen=True)
class AdaptiveAvgPool2d(Cell):
    """Means of windows that share a picture evenly, as PyTorch's: output i of n along a side of H is over the places from
    floor(i H / n) to ceil((i + 1) H / n).

    Where n divides H it is an AvgPool2d. Else windows overlap and differ in size: they are laid side by side, as large as the
    largest, and filled up with zeros that do not count. Input: (C, H, W), output: (C, n, m).

    Args:
        output_size: of the output; one number, or (height, width).

    Raises:
        QatError: for a size below 1.

    Example:
        >>> import qat
        >>> qat.AdaptiveAvgPool2d(3).output_shape((8, 7, 9))
        (8, 3, 3)
    """

    output_size: int | Pair

    output_numbers = "averaged"
    output_channels = "kept"
    non_negative = False
    random = False

    def __post_init__(self) -> None:
        super().__post_init__()
        height, width = pair(self.output_size)
        check_counts("AdaptiveAvgPool2d", height=height, width=width)

    def output_shape(self, *shapes: Shape) -> Shape:
        channels, _, _ = image_sizes(shapes[0])
        return (channels, *pair(self.output_size))

    def _windows(self, shape: Shape) -> tuple[dict[int, list[int]], Pair, list[list[float]]]:
        """By axis the places of all windows, one after another, the one behind the picture standing for 0, unless windows are
        side by side already; the size of a window; and 1 / how many pixels each counts (``shares_of``).
        """
        places: dict[int, list[int]] = {}
        sizes: list[int] = []
        counts: list[list[int]] = []
        for axis, (size, outputs) in enumerate(zip(shape[1:], pair(self.output_size), strict=True), start=1):
            starts = [i * size // outputs for i in range(outputs)]
            lengths = [-(-(i + 1) * size // outputs) - start for i, start in enumerate(starts)]
            longest = max(lengths)
            found = []
            for start, length in zip(starts, lengths, strict=True):
                found += [start + i if i < length else size for i in range(longest)]
            if found != list(range(size)):
                places[axis] = found
            sizes.append(longest)
            counts.append(lengths)
        return places, (sizes[0], sizes[1]), shares_of(counts[0], counts[1])

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        ops, x = scope.ops, inputs[0].settled(scope.ops)
        places, kernel, shares = self._windows(scope.input_shapes[0])
        data = x.data
        if places:
            data = ops.pad(data, ((0, 0), (0, int(1 in places)), (0, int(2 in places))))
            for axis, each in places.items():
                data = ops.pick(data, axis, each)
        total = ops.sum_pool2d(data, kernel=kernel, stride=kernel, padding=(0, 0, 0, 0))
        if len(shares) == 1 == len(shares[0]):
            share = shares[0][0]
            return Value(total * share) if x.scale is None else Value(total, x.scale * share)
        each = ops.from_numpy(np.array([[shares]], np.float32), "activation")
        return Value(total * each, x.scale, step=None if x.scale is None else each * x.scale)

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Pending:
        x = require_codes(name, inputs[0])
        output_shape = self.output_shape(x.shape)
        places, kernel, shares = self._windows(x.shape)
        if places:
            widths = ((0, 0), (0, int(1 in places)), (0, int(2 in places)))
            x = builder.add(IntegerPad.of(f"{name}@padded", x, widths, 0))
            x = builder.add(IntegerPick.of(f"{name}@windows", x, places))
        if len(shares) == 1 == len(shares[0]):
            return AvgPool2d(kernel).to_integer(builder, name, params, x)
        scale = np.array(shares, np.float32).reshape(-1)

        def finish(requantize: Requantize, output: IntegerTensor) -> IntegerMeans:
            return IntegerMeans(name, (x,), output, kernel, kernel, (0, 0, 0, 0), scale, requantize)

        return Accumulator(finish, name, output_shape, x.grid.scale * scale, None)

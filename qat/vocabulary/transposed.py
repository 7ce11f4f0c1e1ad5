"""Transposed convolutions as convolutions: each phase of the output has a kernel of its own, and blocks are made of phases.

Along one axis, with stride s, kernel w of k elements and padding p, output place Y is the sum over h of x[h] w[t] with
t = Y + p - h s. With Y = q s + r, 0 <= r < s, it is t = r + p + s (q - h): for each phase r a convolution with each s-th of w.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from qat.vocabulary.rearrangement import Rearrangement, Sizes, Step

Pair = tuple[int, int]
Padding = tuple[int, int, int, int]  #: top, bottom, left, right


class Axis(NamedTuple):
    """What a transposed convolution does along one axis."""

    places: tuple[int, ...]  #: by phase and tap, the element of the kernel; one beyond its last stands for 0
    padding: Pair  #: of the convolution: zeros before and behind
    per_phase: int  #: how many places each phase has
    start: int  #: the first place of the blocks that is one of the output
    size: int  #: of the output


def along_axis(size: int, kernel: int, stride: int, padding: Pair, more: int, dilation: int) -> Axis:
    """Along an axis of that size, as PyTorch counts: padding is cut off, and ``more`` places stand behind.

    The blocks may begin some places before the output where that takes fewer taps: ceil(reach / stride), the fewest there are.
    """
    before, after = padding
    reach = dilation * (kernel - 1) + 1
    made = (size - 1) * stride - before - after + reach + more
    start, fewest = 0, -(-reach // stride)
    lowest, highest = _taps(before, reach, stride)
    if highest - lowest + 1 > fewest:
        start = before % stride
        lowest, highest = _taps(before - start, reach, stride)
    count = (made - 1 + start) // stride + 1
    places = []
    for phase in range(stride):
        for tap in range(highest, lowest - 1, -1):
            t = phase + before - start + stride * tap
            places.append(t // dilation if 0 <= t < reach and t % dilation == 0 else kernel)
    return Axis(tuple(places), (highest, count - lowest - size), count, start, made)


def _taps(before: int, reach: int, stride: int) -> tuple[int, int]:
    """The lowest and the highest q - h for which any phase has an element of the kernel."""
    return -((before + stride - 1) // stride), (reach - 1 - before) // stride


@dataclass(frozen=True)
class Transposed:
    """A transposed convolution over pictures of one size.

    Attributes:
        rows: along the vertical axis.
        columns: along the horizontal one.
        kernel: (height, width).
        stride: (vertical, horizontal).
        cut: what is cut off of the full output: (top, bottom, left, right).
        more: rows and columns that stand behind (output_padding).
        dilation: (vertical, horizontal).
    """

    rows: Axis
    columns: Axis
    kernel: Pair
    stride: Pair
    cut: Padding
    more: Pair
    dilation: Pair

    @property
    def padding(self) -> Padding:
        """Of the convolution."""
        return (*self.rows.padding, *self.columns.padding)

    @property
    def size(self) -> Pair:
        """Of the output."""
        return self.rows.size, self.columns.size

    def blocks(self, outputs: int) -> Rearrangement | None:
        """How phases become blocks; None where there is one."""
        (vertical, horizontal), rows, columns = self.stride, self.rows.per_phase, self.columns.per_phase
        if vertical * horizontal == 1:
            return None
        step = Step((outputs, vertical, horizontal, rows, columns), (0, 3, 1, 4, 2))
        source: Sizes = (outputs * vertical * horizontal, rows, columns)
        return Rearrangement(source, step, (outputs, rows * vertical, columns * horizontal))

    def parts(self) -> dict[int, tuple[int, ...]]:
        """The places of the blocks that the output has, by axis of a sample, where these are not all."""
        found = {}
        for number, axis, stride in ((1, self.rows, self.stride[0]), (2, self.columns, self.stride[1])):
            if axis.size < axis.per_phase * stride:
                found[number] = tuple(range(axis.start, axis.start + axis.size))
        return found


def transposed(size: Pair, kernel: Pair, stride: Pair, cut: Padding, more: Pair, dilation: Pair) -> Transposed:
    """That of pictures of this size."""
    rows = along_axis(size[0], kernel[0], stride[0], (cut[0], cut[1]), more[0], dilation[0])
    columns = along_axis(size[1], kernel[1], stride[1], (cut[2], cut[3]), more[1], dilation[1])
    return Transposed(rows, columns, kernel, stride, cut, more, dilation)


def by_phases(ops: Any, x: Any, w: Any, bias: Any, how: Transposed, outputs: int, group: int) -> Any:
    """``Ops.conv_transpose2d`` by a convolution and moves."""
    phases = ops.phase_weight(w, how.rows.places, how.columns.places, how.stride)
    y = ops.conv2d(x, phases, None, stride=(1, 1), padding=how.padding, dilation=(1, 1), group=group)
    blocks = how.blocks(outputs)
    if blocks is not None:
        y = ops.rearrange(y, blocks)
    for axis, places in how.parts().items():
        y = ops.pick(y, axis, places)
    return y if bias is None else y + ops.on_channel(bias, y)

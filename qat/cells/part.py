"""Parts of a tensor: every so many numbers from one place to another along an axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qat.cells.base import Cell, Scope, Shape
from qat.cells.shape import axis_of, check_axis
from qat.errors import QatError, shortened
from qat.integer import IntegerBuilder, IntegerPick, IntegerTensor, require_codes
from qat.vocabulary.ops import Array
from qat.vocabulary.values import Value


@dataclass(frozen=True)
class Slice(Cell):
    """A part along one axis, as Python's ``start:stop:step``; in a construct ``x[:, :4]`` is ``Slice(0, 0, 4)(x)``.

    Args:
        axis: of one sample: 0 the channels, 1 rows, 2 columns.
        start: the first place; a negative one counts from the end. Default: 0.
        stop: the place behind the last one, likewise; None, the default: the end.
        step: from one place to the next, at least 1. Default: 1.

    Raises:
        QatError: for another axis or step.

    Example:
        >>> import qat
        >>> qat.Slice(0, stop=-1).output_shape((4, 8, 8)), qat.Slice(2, step=2).output_shape((4, 8, 8))
        ((3, 8, 8), (4, 8, 4))
    """

    axis: int
    start: int = 0
    stop: int | None = None
    step: int = 1

    output_numbers = "moved"
    non_negative = False
    random = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_axis("Slice", self.axis)
        if self.step < 1:
            raise QatError(f"Slice: step is {self.step}; use a whole number of at least 1")

    @property
    def output_channels(self) -> str:  # type: ignore[override]
        """By its axis: which channels it leaves out is a matter of their places."""
        return "fixed" if self.axis == 0 else "kept"

    def places(self, shape: Shape) -> range:
        """Where its numbers are along the axis. Raises QatError where there are none."""
        found = range(*slice(self.start, self.stop, self.step).indices(shape[axis_of(self.axis, shape)]))
        if not found:
            stop = "" if self.stop is None else self.stop
            raise QatError(
                f"takes {self.start}:{stop}:{self.step} along axis {self.axis} of {shape}, where nothing is; use places within"
            )
        return found

    def output_shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        return (*x[: self.axis], len(self.places(x)), *x[self.axis + 1 :])

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        x = inputs[0].settled(scope.ops)
        return x.with_data(scope.ops.pick(x.data, self.axis, self.places(scope.input_shapes[0])))

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        x = require_codes(name, inputs[0])
        return builder.add(IntegerPick.of(name, x, {self.axis: self.places(x.shape)}))


def indexed(name: str, shape: Shape, key: Any) -> list[Slice]:
    """The cells of ``x[key]``, where the first index is of the samples, all of which stay.

    Args:
        name: of x.
        shape: of one sample.
        key: slices, and an Ellipsis perhaps.

    Returns:
        One cell for each axis of which a part is taken.

    Raises:
        QatError: for other indices, and for too many.
    """
    keys = key if isinstance(key, tuple) else (key,)
    if keys.count(Ellipsis) == 1:
        place = keys.index(Ellipsis)
        keys = (*keys[:place], *(slice(None),) * (len(shape) + 2 - len(keys)), *keys[place + 1 :])
    if not all(isinstance(each, slice) for each in keys):
        wrong = next(each for each in keys if not isinstance(each, slice))
        raise QatError(
            f"{name}[...]: an index is {shortened(wrong)}, but an axis stays one: take parts by slices, as x[:, 2:3] for one "
            "channel"
        )
    if len(keys) > len(shape) + 1:
        raise QatError(f"{name}[...]: has {len(keys)} indices, but {len(shape) + 1} axes, that of the samples included")
    if keys[0] != slice(None):
        raise QatError(f"{name}[...]: the first index is of the samples, all of which stay; write x[:, ...]")
    cells = (Slice(axis, *_bounds(name, each, shape[axis])) for axis, each in enumerate(keys[1:]))
    return [cell for cell in cells if cell.places(shape) != range(shape[cell.axis])]


def _bounds(name: str, each: slice, size: int) -> tuple[int, int | None, int]:
    """Start, stop and step of a slice, from the front."""
    try:
        start, stop, step = each.indices(size)
    except (TypeError, ValueError):
        raise QatError(f"{name}[...]: a slice is {each.start}:{each.stop}:{each.step}; use whole numbers") from None
    return start, max(stop, 0), step


def parted(name: str, size: int, sizes: int | Sequence[int]) -> list[tuple[int, int]]:
    """Start and stop of each part that ``x.split(sizes)`` gives: parts of that size, or of these sizes.

    Args:
        name: of x.
        size: of its axis.
        sizes: of each part, the last of which may be smaller; or of all parts, whose sum is the size of the axis.

    Raises:
        QatError: they do not fit.
    """
    if isinstance(sizes, int):
        if sizes < 1:
            raise QatError(f"{name}.split: parts of {sizes}; use a size of at least 1")
        return [(start, min(start + sizes, size)) for start in range(0, size, sizes)]
    if not isinstance(sizes, (tuple, list)) or not all(isinstance(each, int) for each in sizes):
        raise QatError(f"{name}.split: parts of {shortened(sizes)}; give a size, or a list of the sizes of all parts")
    if not sizes or min(sizes) < 1 or sum(sizes) != size:
        raise QatError(f"{name}.split: parts of {list(sizes)}, whose axis has {size}; give sizes that add up to it")
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return list(zip([0, *ends[:-1]], ends, strict=True))

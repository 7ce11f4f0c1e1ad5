"""What the readers of files share of operations that move numbers, or take them from other places.

Those that change the number of axes see a sample in the order of the file: an image with channels last is turned into that
order first, and what they give is turned back where it is such an image. Two turns that meet cancel (``qat.imports.movement``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from qat.imports.sources.steps import (
    TO_FIRST,
    TO_LAST,
    Call,
    Shape,
    Step,
    Steps,
    first_axis,
    first_shape,
    shown,
    takes_all,
    unknown,
)
from qat.reading import check_sample
from qat.vocabulary.ops import Array

FILE_ORDER, CANONICAL = (1, 2, 0), (2, 0, 1)  #: of the axes of a sample, to (H, W, C) and back


def in_file_order(call: Call, steps: Steps) -> Steps:
    """Steps on a sample as the file has it."""
    before = [Step("transpose", {"axes": FILE_ORDER})] if call.last and len(call.shape()) == 4 else []
    after = [Step("transpose", {"axes": CANONICAL})] if call.gives_last and len(call.result or ()) == 4 else []
    return [*before, *steps, *after]


def reshaped(call: Call, given: Shape, wanted: Shape | None, *, last: bool) -> Steps:
    """What keeps the order of the numbers. given: the shape of what it starts from; last: that has channels last."""
    if not given or wanted is None:
        return unknown(f"{call.of} of a size that is not known")
    if len(wanted) == 2 and wanted[0] == given[0]:
        return [Step("flatten")]
    if len(wanted) < 2 or wanted[0] != given[0]:
        return unknown(f"{call.of} from {shown(given)} to {shown(wanted)}")
    before = [Step("transpose", {"axes": FILE_ORDER})] if last and len(given) == 4 else []
    after = [Step("transpose", {"axes": CANONICAL})] if call.gives_last and len(wanted) == 4 else []
    return [*before, Step("reshape", {"shape": wanted[1:]}), *after]


def transposed(call: Call, order: Sequence[int]) -> tuple[Steps, bool]:
    """Axes in another order, and whether the result has channels last: where that alone is the difference, it is nothing."""
    found, rank = tuple(int(axis) for axis in order), len(call.shape())
    if found == tuple(range(len(found))):
        return [Step("identity")], call.last
    if found == (TO_FIRST if call.last else TO_LAST):
        return [Step("identity")], not call.last
    if not rank or len(found) != rank or found[0] != 0:
        return unknown(f"{call.of} in the order {shown(found)}"), call.last
    axes = tuple(first_axis(axis, rank, call.last) - 1 for axis in found[1:])
    axes = tuple(axes[axis] for axis in CANONICAL) if call.last and rank == 4 else axes
    return [Step("transpose", {"axes": axes})], call.last


def part(call: Call, axis: int, start: int, stop: int, step: int = 1) -> Steps:
    """Every so many numbers along an axis of the file; bounds as Python's slices have them."""
    rank = len(call.shape())
    if not rank or step < 1:
        return unknown(f"{call.of} backwards" if rank else f"{call.of} of a size that is not known")
    axis %= rank
    places = range(*slice(start, stop, step).indices(call.shape()[axis]))
    if places == range(call.shape()[axis]) and (axis or takes_all(call.shape()[0], start, stop)):
        return [Step("identity")]
    if axis == 0 or not places:
        return unknown(f"{call.of} of the samples" if axis == 0 else f"{call.of} of nothing")
    bounds = {"start": places.start, "stop": places.stop, "step": places.step}
    return [Step("slice", {"axis": first_axis(axis, rank, call.last)} | bounds)]


def parts(call: Call, axes: Sequence[int], starts: Sequence[int], stops: Sequence[int], steps: Sequence[int]) -> Steps:
    """Parts along several axes."""
    found: Steps = []
    for each in zip(axes, starts, stops, steps, strict=True):
        found += part(call, *each)
    return [step for step in found if step.kind != "identity"] or [Step("identity")]


def selected(call: Call, axis: int, index: int) -> Steps:
    """One place along an axis, which is gone."""
    rank = len(call.shape())
    if not rank or axis % rank == 0:
        return unknown(f"{call.of} of the samples" if rank else f"{call.of} of a size that is not known")
    axis %= rank
    found = [Step("select", {"axis": first_axis(axis, rank, call.last), "index": int(index) % call.shape()[axis]})]
    turned = call.last and rank == 4 and axis != 3  # channels and what is left of height and width
    return [*found, Step("transpose", {"axes": (1, 0)})] if turned else found


def picked(call: Call, axis: int) -> Steps:
    """Places along an axis that are constants: one of them, or those from one to another."""
    places = call.constant(1)
    if places is None or places.ndim > 1 or not places.size:
        return unknown(f"{call.of} of computed places" if places is None else f"{call.of} of places in several axes")
    if places.ndim == 0:
        return selected(call, axis, int(places))
    numbers = [int(place) for place in places]
    size = call.shape()[axis % len(call.shape())] if call.shape() else 0
    numbers = [number % size for number in numbers] if size else numbers
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    if step < 1 or any(b - a != step for a, b in pairwise(numbers)):
        return unknown(f"{call.of} of places {shown(numbers)}")
    return part(call, axis, numbers[0], numbers[-1] + 1, step)


def divided(call: Call, axis: int, sizes: Sequence[int], place: int) -> Steps:
    """One of the parts of these sizes that an axis is divided into."""
    start = sum(sizes[:place])
    return part(call, axis, start, start + sizes[place])


def equal_part(call: Call, axis: int, size: int, place: int) -> Steps:
    """One of the parts of one size that an axis is divided into, the last of which may be smaller."""
    return part(call, axis, place * size, (place + 1) * size)


def stacked(call: Call, axis: int) -> Steps:
    """Values along a new axis."""
    if not call.result or axis % len(call.result) == 0 or any(array is not None for array in call.given):
        return unknown(f"{call.of} of samples, or with a constant")
    if call.last and len(call.shape()) == 4:
        return unknown(f"{call.of} of images to five axes")
    return in_file_order(call, [Step("stack", {"axis": axis % len(call.result)})])


def spread(call: Call) -> Steps:
    """Repeated along axes of one place."""
    given, wanted = call.shape(), call.result
    if not given or wanted is None or len(given) != len(wanted) or given[0] != wanted[0]:
        return unknown(f"{call.of} from {shown(given)} to {shown(wanted or ())}")
    if given == wanted:
        return [Step("identity")]
    sizes = tuple(wanted[axis] for axis in TO_FIRST) if call.last and len(wanted) == 4 else wanted
    return [Step("expand", {"shape": sizes[1:]})]


def shuffled(call: Call, factor: int, order: str, *, deep: bool) -> Steps:
    """Channels to blocks of pixels, or back (deep). order: "dcr", TensorFlow's, or "crd"."""
    if len(call.shape()) != 4 or factor < 1:
        return unknown(f"{call.of} of {shown(call.shape())}")
    shape = tuple(call.shape()[axis] for axis in TO_FIRST) if call.last else call.shape()
    _, channels, height, width = shape
    r = factor
    if (channels % (r * r) and not deep) or (deep and (height % r or width % r)):
        raise ValueError(f"its {call.of} by {r} does not fit {shown(shape)}")
    if deep:
        sizes, axes = (channels, height // r, r, width // r, r), (0, 2, 4, 1, 3) if order == "crd" else (2, 4, 0, 1, 3)
        wanted = (channels * r * r, height // r, width // r)
    else:
        less = channels // (r * r)
        sizes = (less, r, r, height, width) if order == "crd" else (r, r, less, height, width)
        axes = (0, 3, 1, 4, 2) if order == "crd" else (2, 3, 0, 4, 1)
        wanted = (less, height * r, width * r)
    return [Step("move", {"parts": sizes, "axes": axes, "shape": wanted})]


def nearest(call: Call, placed: Callable[[Array, float, int], Array]) -> Steps:
    """Nearest neighbours, where each is repeated.

    placed: of the places of the output, the factor and the size before, those of the input.
    """
    sizes = _image_sizes(call)
    if sizes is None:
        return unknown(f"{call.of} of {shown(call.shape())}, not of the sizes of images")
    factors = []
    for size, wanted in zip(*sizes, strict=True):
        check_sample(wanted)  # before its places are made
        factor = wanted // size
        found = np.clip(placed(np.arange(wanted), wanted / size, size), 0, size - 1)
        if factor * size != wanted or not np.array_equal(found, np.arange(wanted) // max(factor, 1)):
            return unknown(f"{call.of} from {shown(sizes[0])} to {shown(sizes[1])}, which does not repeat each pixel")
        factors.append(factor)
    return [Step("identity")] if set(factors) == {1} else [Step("upsample", {"factor": tuple(factors)})]


def _image_sizes(call: Call) -> tuple[Shape, Shape] | None:
    """Height and width of the image that is taken and of the one that is given; None where these are no such images."""
    if len(call.shape()) != 4 or call.result is None or len(call.result) != 4:
        return None
    before, after = (first_shape(shape, call.last) for shape in (call.shape(), call.result))
    return (before[2:], after[2:]) if before[:2] == after[:2] else None


def bilinear(call: Call, *, align_corners: bool) -> Steps:
    """Bilinear interpolation to an image that is a whole factor larger. align_corners: the corners' centres stay those."""
    sizes = _image_sizes(call)
    if sizes is None:
        return unknown(f"{call.of} of {shown(call.shape())}, not of the sizes of images")
    factors = tuple(wanted // size for size, wanted in zip(*sizes, strict=True))
    if any(factor * size != wanted for factor, size, wanted in zip(factors, *sizes, strict=True)):
        return unknown(f"{call.of} from {shown(sizes[0])} to {shown(sizes[1])}, by no whole factor")
    if set(factors) == {1}:
        return [Step("identity")]
    return [Step("upsample_bilinear", {"factor": factors, "align_corners": align_corners})]


def over_axes(call: Call, kind: str, axes: Sequence[int] | None, keepdims: bool) -> Steps:
    """A mean or maximum over some axes. kind: "mean" or "max"."""
    rank = len(call.shape())
    found = sorted({int(axis) % rank for axis in axes}) if axes and rank else []
    if not found or found[0] == 0 or (len(found) == rank - 1 and not keepdims):
        return unknown(f"{call.of} over axes {shown(axes or ())} of {shown(call.shape())}")
    placed = tuple(sorted(first_axis(axis, rank, call.last) for axis in found))
    if keepdims or placed == (2, 3):
        return [Step(kind, {"axes": placed, "keepdims": keepdims})]
    return in_file_order(call, [Step(kind, {"axes": tuple(found), "keepdims": False})])

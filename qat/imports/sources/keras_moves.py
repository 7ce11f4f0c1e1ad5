"""What layers and operations of Keras that only move numbers, or take them over axes, are among the plain operations.

They see a sample in Keras's own order of axes: it is brought into that order first, and what they give into the canonical one
afterwards. Turns that meet cancel (``qat.imports.movement``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from qat.imports.sources.keras_calls import Call, Layout, Reader, Step, Steps, unknown

Sizes = tuple[int, ...]


def _to_keras(layout: Layout, sizes: Sizes) -> list[Step]:
    """From the canonical order to Keras's."""
    rank = len(sizes)
    series = [Step("reshape", {"shape": layout.shape(sizes)[:2]})] if rank == 2 else []
    turn = [] if rank < 2 or layout.channels_first else [Step("transpose", {"axes": (*range(1, rank), 0)})]
    return [*series, *turn]


def _from_keras(layout: Layout, sizes: Sizes) -> list[Step]:
    """The inverse."""
    rank = len(sizes)
    turn = [] if rank < 2 or layout.channels_first else [Step("transpose", {"axes": (rank - 1, *range(rank - 1))})]
    series = [Step("reshape", {"shape": layout.shape(sizes)})] if rank == 2 else []
    return [*turn, *series]


def _shaped(steps: Sequence[Step], sizes: Sizes) -> Steps:
    """Steps with the shapes of what they give, from that of what the first one takes."""
    for step in steps:
        options = step.attributes
        if step.kind == "reshape":
            sizes = tuple(options["shape"])
        elif step.kind == "transpose":
            sizes = tuple(sizes[axis] for axis in options["axes"])
        elif step.kind == "select":
            sizes = tuple(size for axis, size in enumerate(sizes, 1) if axis != options["axis"])
        elif step.kind == "slice":
            count = len(range(options["start"], options["stop"], options["step"]))
            sizes = tuple(count if axis == options["axis"] else size for axis, size in enumerate(sizes, 1))
        elif step.kind == "stack":
            sizes = (*sizes[: options["axis"] - 1], options["count"], *sizes[options["axis"] - 1 :])
        elif step.kind in ("mean", "max"):
            kept = options["keepdims"]
            sizes = tuple(
                1 if axis in options["axes"] else size
                for axis, size in enumerate(sizes, 1)
                if kept or axis not in options["axes"]
            )
        yield Step(step.kind, options, step.constants, step.inputs, step.part, sizes)


def in_keras_order(call: Call, *steps: Step) -> Steps:
    """Steps on a sample as Keras has it."""
    sizes = call.taken[0].sizes
    every = [*_to_keras(call.layout, sizes), *steps, *_from_keras(call.layout, call.given)]
    yield from _shaped(every, call.layout.shape(sizes))


def reshape(call: Call) -> Steps:
    """What keeps the order of the numbers."""
    before, after = call.taken[0].sizes, call.given
    if before == after:
        return
    if len(after) == 1 and 2 <= len(before) <= 3:
        yield Step("flatten", {"channels_last": not call.layout.channels_first})
    else:
        yield from in_keras_order(call, Step("reshape", {"shape": after}))


def _transposed(call: Call, order: Sequence[int]) -> Steps:
    """order: of all axes, the samples' included."""
    if order[0] != 0:
        yield unknown(f"{call.name} of the samples")
    else:
        yield from in_keras_order(call, Step("transpose", {"axes": tuple(int(axis) - 1 for axis in order[1:])}))


def _permute(call: Call) -> Steps:
    yield from _transposed(call, (0, *call.operation.dims))


def _transpose(call: Call) -> Steps:
    axes = call.operation.axes
    rank = call.taken[0].rank
    yield from _transposed(call, list(range(rank))[::-1] if axes is None else [int(axis) % rank for axis in axes])


def _swapped(call: Call) -> Steps:
    rank = call.taken[0].rank
    order = list(range(rank))
    a, b = (int(axis) % rank for axis in (call.operation.axis1, call.operation.axis2))
    order[a], order[b] = b, a
    yield from _transposed(call, order)


def _part(axis: int, size: int, places: slice) -> list[Step]:
    """Part of an axis, counted with that of the samples. Raises ValueError for one that goes backwards."""
    start, stop, step = places.indices(size)
    if step < 1:
        raise ValueError("backwards")
    if (start, stop, step) == (0, size, 1):
        return []
    return [Step("slice", {"axis": axis, "start": start, "stop": stop, "step": step})]


def _item(call: Call) -> Steps:
    """x[...]: slices and single places."""
    key = call.arguments[1]
    keys = key if isinstance(key, tuple) else (key,)
    (x,) = call.taken
    if Ellipsis in keys:
        place = keys.index(Ellipsis)
        keys = (*keys[:place], *(slice(None),) * (x.rank + 1 - len(keys)), *keys[place + 1 :])
    steps: list[Step] = []
    try:
        if keys[0] != slice(None) or not all(isinstance(each, (slice, int, np.integer)) for each in keys):
            raise ValueError("of the samples, or by other indices")
        for axis, each in enumerate(keys[1:], 1):
            if isinstance(each, slice):
                steps += _part(axis, x.sizes[axis - 1], each)
        for axis in reversed(range(1, len(keys))):
            if not isinstance(keys[axis], slice):
                steps.append(Step("select", {"axis": axis, "index": int(keys[axis]) % x.sizes[axis - 1]}))
    except (ValueError, TypeError) as error:
        yield unknown(f"{call.name} {error}")
        return
    yield from in_keras_order(call, *steps)


def _cropped(call: Call) -> Steps:
    cropping = call.operation.cropping
    sides = [cropping] if isinstance(cropping[0], int) else list(cropping)
    first = 2 if call.layout.channels_first else 1
    steps: list[Step] = []
    for axis, (before, after) in enumerate(sides, first):
        size = call.taken[0].sizes[axis - 1]
        steps += _part(axis, size, slice(before, size - after))
    yield from in_keras_order(call, *steps)


def _upsampled(call: Call) -> Steps:
    size, way = call.operation.size, getattr(call.operation, "interpolation", "nearest")
    factor = (int(size), 1) if isinstance(size, int) else tuple(size)
    if way == "bilinear":
        yield Step("upsample_bilinear", {"factor": factor, "align_corners": False})
    elif way == "nearest":
        yield Step("upsample", {"factor": factor})
    else:
        yield unknown(f"{call.name} by {way}")


def _stacked(call: Call) -> Steps:
    rank = call.taken[0].rank + 1
    axis = call.operation.axis % rank
    if axis == 0 or rank > 4:
        yield unknown(f"{call.name} of the samples, or of images")
        return
    if call.taken[0].rank > 2:  # each would have to be turned by itself
        yield unknown(f"{call.name} of values of {call.taken[0].rank} axes")
        return
    names = tuple(each.name for each in call.taken)
    count = len(call.taken)
    steps = [Step("stack", {"axis": axis, "count": count}, inputs=names), *_from_keras(call.layout, call.given)]
    yield from _shaped(steps, call.taken[0].sizes)


def over_axes(kind: str) -> Reader:
    """A reader of a mean or maximum over some axes."""

    def read(call: Call) -> Steps:
        operation, (x,) = call.operation, call.taken
        axes = range(x.rank) if operation.axis is None else operation.axis
        found = sorted(int(axis) % x.rank for axis in (axes if isinstance(axes, Sequence | range) else (axes,)))
        keepdims = bool(operation.keepdims)
        if found[0] == 0 or (len(found) == x.rank - 1 and not keepdims):
            yield unknown(f"{call.name.lower()} over axes {operation.axis} of {x.rank}")
            return
        placed = tuple(sorted(call.layout.axis(axis, x.rank) for axis in found))
        placed = (2, 3) if x.rank == 3 and placed == (2,) else placed
        if keepdims or placed == (2, 3):
            yield Step(kind, {"axes": placed, "keepdims": keepdims})
        else:
            yield from in_keras_order(call, Step(kind, {"axes": tuple(found), "keepdims": False}))

    return read


def padded(call: Call, widths: Sequence[Sequence[int]], value: float, mode: str) -> Steps:
    """A padding. widths: of all axes as Keras has them."""
    rank = call.taken[0].rank
    placed = {call.layout.axis(axis, rank): tuple(width) for axis, width in enumerate(widths)}
    if rank not in (3, 4) or mode not in ("constant", "reflect") or any(placed[0]):
        yield unknown(f"{call.name} of mode {mode} and widths {tuple(map(tuple, widths))}")
    else:
        every = (*(placed[axis] for axis in range(rank)), (0, 0))[:4]
        yield Step("pad", {"widths": every, "value": value, "mode": mode})


LAYERS: Mapping[str, Reader] = {
    "Reshape": reshape,
    "Permute": _permute,
    **dict.fromkeys(("Cropping1D", "Cropping2D"), _cropped),
    **dict.fromkeys(("UpSampling1D", "UpSampling2D"), _upsampled),
}
OPERATIONS: Mapping[str, Reader] = {
    **dict.fromkeys(("Reshape", "ExpandDims", "Squeeze"), reshape),
    "Transpose": _transpose,
    "SwapAxes": _swapped,
    "Swapaxes": _swapped,
    "GetItem": _item,
    "Stack": _stacked,
    "Mean": over_axes("mean"),
    "Max": over_axes("max"),
}


def _split(call: Call, place: int) -> Steps:
    (x,) = call.taken
    axis = int(call.operation.axis) % x.rank
    if axis == 0:
        yield unknown(f"{call.name} of the samples")
        return
    size, given = x.sizes[axis - 1], call.operation.indices_or_sections
    starts = [0, *given, size] if isinstance(given, Sequence) else list(range(0, size + 1, size // int(given)))
    step = _part(axis, size, slice(int(starts[place]), int(starts[place + 1])))
    yield from in_keras_order(call, *step)


def _unstacked(call: Call, place: int) -> Steps:
    axis = int(call.operation.axis) % call.taken[0].rank
    if axis == 0:
        yield unknown(f"{call.name} of the samples")
    else:
        yield from in_keras_order(call, Step("select", {"axis": axis, "index": place}))


#: Operations that give several values: what each of them is, by its place.
OF_SEVERAL: Mapping[str, Callable[[Call, int], Steps]] = {"Split": _split, "Unstack": _unstacked}

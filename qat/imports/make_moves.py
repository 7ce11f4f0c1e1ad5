"""Cells of what only moves numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from qat.cells import Concat, Pad, Slice, Stack, Upsample, UpsampleBilinear
from qat.cells.base import Cell, Shape
from qat.imports.fusion import Fusion
from qat.imports.program import Operation, RefusedError
from qat.imports.stacks import rows_of
from qat.imports.windows import around


def flatten(fusion: Fusion, each: Operation) -> None:
    """A Flatten; of a row nothing."""
    source = each.inputs[0]
    shape = fusion.shape(source)
    if each.attributes.get("channels_last") and len(shape) == 3 and shape[0] > 1 and math.prod(shape[1:]) > 1:
        flat = f"{each.output} channels first"
        fusion.reshaped(each, source, (math.prod(shape),), flat)
        fusion.node_of[each.output] = fusion.given(each, flat)
        fusion.flattened[each.output] = shape
    elif source in fusion.flattened:
        fusion.same(each, source, each.output)
    else:
        fusion.reshaped(each, source, (math.prod(shape),), each.output)


def reshape(fusion: Fusion, each: Operation) -> None:
    """Part of a move."""
    fusion.reshaped(each, each.inputs[0], tuple(each.attributes["shape"]), each.output)


def transpose(fusion: Fusion, each: Operation) -> None:
    """Part of a move."""
    fusion.transposed(each, each.inputs[0], each.attributes["axes"], each.output)


def move(fusion: Fusion, each: Operation) -> None:
    """Parts of a move."""
    options = each.attributes
    parts = fusion.reshaped(each, each.inputs[0], tuple(options["parts"]), f"{each.output}@parts")
    turned = fusion.transposed(each, parts, options["axes"], f"{each.output}@turned")
    fusion.reshaped(each, turned, tuple(options["shape"]), each.output)


def slice_(fusion: Fusion, each: Operation) -> None:
    """A Slice, or nothing where it takes all."""
    options, source = each.attributes, each.inputs[0]
    axis = _axis(fusion, each, "a part")
    places = range(options["start"], options["stop"], options["step"])
    if places == range(fusion.shape(source)[axis]):
        fusion.same(each, source, each.output)
        return
    fusion.part(each, source, axis, places, each.output)


def select(fusion: Fusion, each: Operation) -> None:
    """A Slice of one place, whose axis is gone."""
    source, index = each.inputs[0], each.attributes["index"]
    axis = _axis(fusion, each, "a part")
    shape = fusion.shape(source)
    if len(shape) == 1:
        raise RefusedError(each, "a part of a row that has no channels left")
    if (stack := rows_of(fusion, source)) is not None and stack[0] == axis:
        fusion.same(each, stack[1][index], each.output)
        return
    part = source
    if shape[axis] > 1:
        part = f"{each.output}@part"
        fusion.part(each, source, axis, range(index, index + 1), part)
    fusion.reshaped(each, part, (*shape[:axis], *shape[axis + 1 :]), each.output)


def concat(fusion: Fusion, each: Operation) -> None:
    """A Concat; of one value nothing."""
    axis = _axis(fusion, each, "a concatenation")
    if len(each.inputs) == 1:
        fusion.same(each, each.inputs[0], each.output)
    else:
        fusion.node(each, Concat(axis), *each.inputs)


def stack(fusion: Fusion, each: Operation) -> None:
    """A Stack; of one value a reshape."""
    rank = fusion.rank(each) + 1
    axis = each.attributes["axis"] % rank - 1
    if axis < 0:
        raise RefusedError(each, "a stack along the samples")
    if len(each.inputs) > 1:
        fusion.node(each, Stack(axis), *each.inputs)
        return
    shape = fusion.shape(each.inputs[0])
    fusion.reshaped(each, each.inputs[0], (*shape[:axis], 1, *shape[axis:]), each.output)


def roll(fusion: Fusion, each: Operation) -> None:
    """Two parts in the other order, along each axis."""
    source, shape = each.inputs[0], fusion.shape(each.inputs[0])
    shifts = [
        (axis - 1, count % shape[axis - 1])
        for axis, count in zip(*(each.attributes[it] for it in ("axes", "shifts")), strict=True)
    ]
    moved = [(axis, count) for axis, count in shifts if count]
    for number, (axis, count) in enumerate(moved):
        value = each.output if number == len(moved) - 1 else f"{each.output}@{number}"
        name = fusion.named(each)
        cut, names = fusion.shape(source)[axis] - count, (f"{value}@last", f"{value}@first")
        fusion.part(each, source, axis, range(cut, cut + count), names[0], f"{name}.last")
        fusion.part(each, source, axis, range(cut), names[1], f"{name}.first")
        fusion.node(each, Concat(axis), *names, value=value)
        source = value
    if not moved:
        fusion.same(each, source, each.output)


def _axis(fusion: Fusion, each: Operation, what: str) -> int:
    """Of a sample."""
    axis = each.attributes["axis"] % fusion.rank(each) - 1
    if axis < 0:
        raise RefusedError(each, f"{what} along the samples")
    return int(axis)


def upsample(fusion: Fusion, each: Operation) -> None:
    """An Upsample."""
    fusion.node(each, Upsample(tuple(each.attributes["factor"])), each.inputs[0])


def upsample_bilinear(fusion: Fusion, each: Operation) -> None:
    """An UpsampleBilinear."""
    options = each.attributes
    cell = UpsampleBilinear(tuple(options["factor"]), align_corners=options["align_corners"])
    fusion.node(each, cell, each.inputs[0])


def expand(fusion: Fusion, each: Operation) -> None:
    """What is spread over axes of one place."""
    shape = tuple(each.attributes["shape"])
    spread(fusion, each, each.inputs[0], shape, each.output)


def spread(fusion: Fusion, each: Operation, source: str, shape: Shape, value: str) -> str:
    """Numbers repeated along axes of one place, as NumPy broadcasts them: an upsampling, of channels as rows. Returns value."""
    given = fusion.shape(source)
    aligned = (1,) * (len(shape) - len(given)) + given
    if len(shape) > 3 or any(a != b and a != 1 for a, b in zip(aligned, shape, strict=True)):
        raise RefusedError(each, f"a spread of {given} to {shape}")
    image = aligned + (1,) * (3 - len(shape))
    factors = [b // a for a, b in zip(aligned, shape, strict=True)] + [1] * (3 - len(shape))
    source = fusion.reshaped(each, source, image, f"{value}@image")
    if factors[1:] != [1, 1]:
        fusion.node(each, Upsample((factors[1], factors[2])), source, value=f"{value}@wide")
        source = f"{value}@wide"
    if factors[0] != 1:
        turned = fusion.transposed(each, source, (1, 0, 2), f"{value}@turned")
        fusion.node(each, Upsample((factors[0], 1)), turned, value=f"{value}@deep")
        source = fusion.transposed(each, f"{value}@deep", (1, 0, 2), f"{value}@whole")
    return fusion.reshaped(each, source, shape, value)


def pad(fusion: Fusion, each: Operation) -> None:
    """Numbers around an image: put off, for what follows may pad by itself. Others are cells at once."""
    options, source = each.attributes, each.inputs[0]
    batch, channels, *others = options["widths"]
    if any(batch) or len(others) not in (1, 2):
        raise RefusedError(each, f"a padding of {tuple(map(tuple, options['widths']))}, not of images or series")
    mode = options.get("mode", "constant")
    if min(map(min, options["widths"])) < 0:
        _crop(fusion, each)
    elif mode == "constant" and not any(channels):
        if source not in fusion.pads:
            fusion.given(each, source)
        fusion.pads[each.output] = each
    elif mode == "constant":
        fusion.node(each, Pad(around(each), value=options["value"], channels=tuple(channels)), source)
    else:
        fusion.node(each, Pad(around(each), mode=mode), source)


def _crop(fusion: Fusion, each: Operation) -> None:
    """A padding below 0."""
    widths, shape = each.attributes["widths"][1:], fusion.shape(each.inputs[0])
    if max(map(max, widths)) > 0:
        raise RefusedError(each, f"a padding of {widths}, which crops on one side")
    cells: list[Cell] = [
        Slice(axis, -before, size + after)
        for axis, ((before, after), size) in enumerate(zip(widths, shape, strict=True))
        if before or after
    ]
    fusion.chain(each, cells, each.inputs[0])


MAKERS: Mapping[str, Callable[[Fusion, Operation], None]] = {
    "flatten": flatten,
    "reshape": reshape,
    "transpose": transpose,
    "move": move,
    "slice": slice_,
    "select": select,
    "concat": concat,
    "stack": stack,
    "roll": roll,
    "upsample": upsample,
    "upsample_bilinear": upsample_bilinear,
    "expand": expand,
    "pad": pad,
}

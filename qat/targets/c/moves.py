"""The functions of a C file that move codes: loops over the output in the order of the file, channels last."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from qat.integer import IntegerPick
from qat.targets.c.linear import LinearWriter, small_type
from qat.targets.c.text import dimensions, stored_axis, stored_shape, width
from qat.vocabulary.ops import as_slice

COUNTERS = "ijk"


def add_pick(writer: LinearWriter, node: IntegerPick) -> None:
    """Append a function that copies runs of the axes behind the last one of which places are chosen."""
    (x,) = node.inputs
    shape, rank = stored_shape(x.shape), len(x.shape)
    places = {stored_axis(axis, rank): each for axis, each in node.places.items()}
    looped = max(places) + 1
    run = prod(shape[looped:])
    constants, terms = [], []
    for axis, counter in zip(range(looped), COUNTERS, strict=False):
        place = counter
        if axis in places:
            place, constant = _place(writer, node, axis, places[axis])
            constants += constant
        step = prod(shape[axis + 1 : looped])
        terms.append(f"{place} * {step}" if step > 1 else place)
    offset = " + ".join(terms)
    copy = f"*y++ = x[{offset}];"
    if run > 1:
        copy = f"memcpy(y, x + ({offset}) * {run}, {run * width(x)}), y += {run};"
    what = f"places of {dimensions(x.shape)} to {dimensions(node.output.shape)}"
    writer.define(node, what, constants, loops(stored_shape(node.output.shape)[:looped], copy))


def _place(writer: LinearWriter, node: IntegerPick, axis: int, places: Sequence[int]) -> tuple[str, list[str]]:
    """The place along an axis as an expression of its counter, and the constants that it needs."""
    counter = COUNTERS[axis]
    part = as_slice(places)
    if part is not None:
        scaled = f"{counter} * {part.step}" if part.step > 1 else counter
        return (f"({part.start} + {scaled})" if part.start else f"({scaled})"), []
    times = len(places) // (max(places) + 1)
    if times and list(places) == [i // times for i in range(len(places))]:
        return f"({counter} / {times})", []
    name, table = f"{writer.function(node)}_places{axis}", np.array(places)
    return f"{name}[{counter}]", [writer.array(small_type(table), name, table)]


def loops(sizes: Sequence[int], statement: str) -> str:
    """Nested loops over these sizes, with the counters i, j, k, around a statement."""
    lines = [f"    int32_t {', '.join(COUNTERS[: len(sizes)])};"]
    for depth, size in enumerate(sizes):
        counter = COUNTERS[depth]
        lines.append(f"{'    ' * (depth + 1)}for ({counter} = 0; {counter} < {size}; {counter}++)")
    return "\n".join([*lines, f"{'    ' * (len(sizes) + 1)}{statement}"])

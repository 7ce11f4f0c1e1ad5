"""The functions of a C file that move codes: loops over the output in the order of the file, channels last."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from qat.integer import IntegerPad, IntegerPick, IntegerRearrange
from qat.targets.c.linear import LinearWriter, small_type
from qat.targets.c.text import stored_axis, stored_shape, width
from qat.targets.common import no_form
from qat.vocabulary.listing import dimensions
from qat.vocabulary.rearrangement import as_slice

COUNTERS = "ijklm"


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


def add_pad(writer: LinearWriter, node: IntegerPad) -> None:
    """Append a function that sets all to the code, and copies runs of the input into it: rows, or what is behind the last axis
    that is padded.
    """
    (x,), y = node.inputs, node.output
    given, made = stored_shape(x.shape), stored_shape(y.shape)
    before = {stored_axis(axis, len(given)): width[0] for axis, width in enumerate(node.widths)}
    looped = max(1, *(stored_axis(axis, len(given)) for axis, width in enumerate(node.widths) if any(width)))
    run, first = prod(given[looped:]), before[looped] * prod(made[looped + 1 :])
    terms = [str(first)] if first else []
    for axis, counter in zip(range(looped), COUNTERS, strict=False):
        place = f"({before[axis]} + {counter})" if before[axis] else counter
        terms.append(f"{place} * {prod(made[axis + 1 :])}")
    code, size = node.value + y.grid.zero_point - y.grid.qmin, prod(y.shape)
    fill = f"    memset(y, {code}, {size});"
    if width(y) > 1:
        fill = f"    for (i = 0; i < {size}; i++)\n        y[i] = {code};"
    copy = f"memcpy(y + {' + '.join(terms)}, x, {run * width(x)}), x += {run};"
    what = f"{dimensions(x.shape)} padded to {dimensions(y.shape)}"
    writer.define(node, what, [], loops(given[:looped], copy, fill))


def add_rearrangement(writer: LinearWriter, node: IntegerRearrange) -> None:
    """Append a function that copies runs which stay together; or, where no axis of the one shape lies within one of the other,
    goes through the codes in their canonical order.
    """
    (x,) = node.inputs
    steps = node.rearrangement.steps_channels_last()
    what = f"{dimensions(x.shape)} to {dimensions(node.output.shape)}, rearranged"
    if not steps:
        body = f"    memcpy(y, x, {prod(x.shape) * width(x)});"
    elif len(steps) == 1:
        parts, axes = steps[0]
        run = parts[-1] if axes[-1] == len(parts) - 1 else 1
        looped = axes[:-1] if run > 1 else axes
        offset = " + ".join(
            f"{counter} * {step}" if (step := prod(parts[axis + 1 :])) > 1 else counter
            for axis, counter in zip(looped, COUNTERS, strict=False)
        )
        copy = f"memcpy(y, x + {offset}, {run * width(x)}), y += {run};" if run > 1 else f"*y++ = x[{offset}];"
        body = loops([parts[axis] for axis in looped], copy)
    elif node.rearrangement.steps():  # of parts that are none of its axes, which no cell here has
        raise no_form(node, "C")
    else:
        (channels, *places), (made, *others) = x.shape, node.output.shape
        size = prod(others)
        body = f"""\
    int32_t i, j, n = 0;
    for (i = 0; i < {channels}; i++)
        for (j = 0; j < {prod(places)}; j++, n++)
            y[n % {size} * {made} + n / {size}] = x[j * {channels} + i];"""
    writer.define(node, what, [], body)


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


def loops(sizes: Sequence[int], statement: str, before: str = "") -> str:
    """Nested loops over these sizes, with the counters i, j, k, ..., around a statement. before: lines that come first."""
    lines = [f"    int32_t {', '.join(COUNTERS[: len(sizes)])};", *filter(None, [before])]
    for depth, size in enumerate(sizes):
        counter = COUNTERS[depth]
        lines.append(f"{'    ' * (depth + 1)}for ({counter} = 0; {counter} < {size}; {counter}++)")
    return "\n".join([*lines, f"{'    ' * (len(sizes) + 1)}{statement}"])

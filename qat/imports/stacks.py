"""Rows along a new axis, put off: what takes one of them, as the last state of a recurrence, takes the row itself."""

from __future__ import annotations

from qat.imports.fusion import Fusion
from qat.imports.movement import Movement
from qat.imports.program import Operation


def put_off(fusion: Fusion, each: Operation, values: tuple[str, ...], axis: int) -> None:
    """Let the operation's value be a stack of rows, of which there is a cell where something takes it whole."""
    sizes = [len(values), *fusion.shape(values[0])]
    fusion.stacks[each.output] = (each, axis, values)
    fusion.shapes[each.output] = tuple(sizes[:: -1 if axis else 1])


def rows_of(fusion: Fusion, value: str) -> tuple[int, tuple[str, ...]] | None:
    """The axis and the rows of a stack that is put off, its two axes exchanged perhaps; None: it is none."""
    turned, source = False, value
    if value in fusion.moves and value not in fusion.node_of:
        movement = fusion.moves[value][1]
        source = movement.source
        as_it_is = Movement.none(source, fusion.shape(source))
        turned = movement != as_it_is
        if turned and (len(as_it_is.shape) != 2 or movement != as_it_is.transposed((1, 0))):
            return None
    if source not in fusion.stacks:
        return None
    _, axis, values = fusion.stacks[source]
    return 1 - axis if turned else axis, values

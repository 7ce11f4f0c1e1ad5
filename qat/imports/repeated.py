"""What a source computes twice of the same values, computed once: exporters repeat an activation for each that takes it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from qat.imports.program import Operation, Program

#: Kinds that have no parameters of their own. Two equal layers stay two.
PLAIN = (
    *("activation", "add", "clip", "elementwise", "mul", "sub", "maximum", "minimum"),
    *("expand", "reshape", "select", "slice", "transpose", "upsample"),
)


def once(program: Program) -> Program:
    """The same network without operations that repeat an earlier one.

    Args:
        program: of a front end.

    Returns:
        The program.
    """
    same: dict[str, str] = {}
    known: dict[Hashable, str] = {}
    kept = []
    for each in program.operations:
        each = replace(each, inputs=tuple(same.get(name, name) for name in each.inputs))
        first = known.setdefault(_key(each), each.output) if each.kind in PLAIN else each.output
        if first == each.output:
            kept.append(each)
        else:
            same[each.output] = first
    return replace(program, operations=tuple(kept), outputs=tuple(same.get(name, name) for name in program.outputs))


def _key(each: Operation) -> Hashable:
    """Equal for operations that compute the same."""
    constants = tuple((name, array.shape, array.tobytes()) for name, array in sorted(each.constants.items()))
    return each.kind, each.inputs, repr(sorted(each.attributes.items())), constants

"""What the C types of codes take for granted, checked before a file is written: that every code fits where it is stored."""

from __future__ import annotations

import numpy as np

from qat.errors import QatError
from qat.integer import IntegerChannelTable, IntegerGraph, IntegerNode, IntegerPad, IntegerSoftmax, IntegerTable
from qat.targets.c.constants import TYPES
from qat.targets.c.text import stored_type


def check_codes(graph: IntegerGraph) -> None:
    """Raise QatError where a number that is written into the functions would not fit into the type that takes it there.

    A code c is stored as c - qmin, and so are the code of 0 with which padding is filled, and the bounds between which results
    are clipped; tables are read by the stored code.
    """
    for node in graph.nodes:
        if not node.output.grid.real:
            for what, fault in _faults(node):
                if fault:
                    raise QatError(
                        f"{graph.name}: {node.name} {what}, so that the C file would compute other codes; export to ONNX or "
                        "TFLITE, and report it with the checkpoint"
                    )


def _faults(node: IntegerNode) -> list[tuple[str, bool]]:
    """What could be wrong, in words, and whether it is."""
    grid, kind = node.output.grid, stored_type(node.output)
    found = [
        (
            f"has codes from {grid.qmin} to {grid.qmax}, which {kind} does not hold",
            _span(node) > np.iinfo(TYPES[kind]).max,
        ),
        (f"has the zero point {grid.zero_point}, which is none of its codes", not grid.low <= 0 <= grid.high),
    ]
    requantize = getattr(node, "requantize", None)
    if requantize is not None:
        bounds = (requantize.low, requantize.high)
        found.append((f"clips to {bounds[0]} to {bounds[1]}, where it has no codes", not _within(bounds, node)))
    if isinstance(node, IntegerPad):
        found.append(
            (f"pads with {node.value}, which is none of its codes", not _within((node.value, node.value), node))
        )
    if isinstance(node, (IntegerTable, IntegerChannelTable, IntegerSoftmax)):
        entries, source = node.table.shape[-1], node.inputs[0].grid
        codes = source.qmax - source.qmin + 1
        found.append((f"has a table of {entries} entries for {codes} codes", entries != codes))
    if isinstance(node, (IntegerTable, IntegerChannelTable)):
        bounds = (int(node.table.min()), int(node.table.max()))
        found.append((f"has a table from {bounds[0]} to {bounds[1]}, where it has no codes", not _within(bounds, node)))
    return found


def _span(node: IntegerNode) -> int:
    return node.output.grid.qmax - node.output.grid.qmin


def _within(bounds: tuple[int, int], node: IntegerNode) -> bool:
    """True where centred codes lie among those of a node."""
    return node.output.grid.low <= bounds[0] <= bounds[1] <= node.output.grid.high

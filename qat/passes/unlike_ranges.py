"""Warn where values of unlike ranges are joined on one grid, so that the smaller ones become few codes, or 0."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace

from qat.cells.fake_quant import FakeQuant
from qat.errors import QatWarning
from qat.graph import Graph
from qat.integer import Grid
from qat.quantizers.base import SMALLEST_SCALE
from qat.vocabulary.ops import Array


def warn_of_unlike_ranges(graph: Graph, params: Mapping[str, Array]) -> None:
    """One QatWarning for each cell that puts a part of much smaller numbers on the grid of larger ones.

    Args:
        graph: a network; a float one has no grids.
        params: its parameters and state, ranges observed.
    """
    for text in unlike_ranges(graph, params):
        warnings.warn(text, QatWarning, stacklevel=3)


def unlike_ranges(graph: Graph, params: Mapping[str, Array]) -> list[str]:
    """What ``warn_of_unlike_ranges`` says, in the order of the graph.

    Of a grid of b bits a part with a range r times smaller than the common one has 2^b / r codes left. It is named where
    r > 2^(b/2), so that more than half of its bits are lost: with 8 bits, fewer than 16 of 256 codes are left.

    1. Only cells that move codes are meant, as Concat: their parts are still read apart afterwards. What an Add loses of
       a small part is small beside the sum.
    2. A part that is 0 everywhere loses nothing, and codes that are signs stay signs on any grid.
    """
    cells = {node.name: node.cell for node in graph.nodes if isinstance(node.cell, FakeQuant)}
    own = {node.name: node.own(params) for node in graph.nodes if node.name in cells}
    if any(cell.quantizer.unseen(own[name]) for name, cell in cells.items()):
        return []  # a learned range begins after its quant_delay
    origins: dict[str, frozenset[str]] = {}  # the fake quantizers whose codes a node gives on
    found = []

    def grid(name: str, *, shares: bool) -> Grid:
        """Of a fake quantizer, the common one or that of its own range."""
        cell = cells[name] if shares else replace(cells[name], shares=())
        return cell.grid(name, own[name], params)

    def losses(parts: list[frozenset[str]]) -> Iterator[tuple[float, str]]:
        """How often the range of a part fits into the common one, and its widest fake quantizer."""
        for part in parts:
            if part:
                widest = max(sorted(part), key=lambda name: grid(name, shares=False).scale)
                scale = grid(widest, shares=False).scale
                if scale > SMALLEST_SCALE and not cells[widest].quantizer.by_sign:
                    yield float(grid(widest, shares=True).scale) / float(scale), widest

    for node in graph.nodes:
        if node.name in cells:
            origins[node.name] = frozenset((node.name,))
            continue
        parts = [origins[name] for name in node.inputs]
        origins[node.name] = frozenset().union(*parts) if node.cell.keeps_grid else frozenset()
        if len(parts) < 2 or not (node.cell.one_grid and node.cell.keeps_grid):
            continue
        ratio, small = max(losses(parts), default=(1.0, ""))
        if small:
            common = grid(small, shares=True)
            codes = common.qmax - common.qmin + 1
            if ratio * ratio > codes:
                large = max((small, *cells[small].shares), key=lambda name: grid(name, shares=False).scale)
                found.append(
                    _text(node.name, codes / ratio, common, *((n, grid(n, shares=False)) for n in (small, large)))
                )
    return found


def _text(join: str, left: float, common: Grid, small: tuple[str, Grid], large: tuple[str, Grid]) -> str:
    ranges = [
        f"{name} from {g.low * float(g.scale):.4g} to {g.high * float(g.scale):.4g}" for name, g in (small, large)
    ]
    codes = common.qmax - common.qmin + 1
    remains = f"about {left:.0f} remain" if left >= 1.5 else "at most one remains"
    return (
        f"{join}: puts unlike ranges on one grid, {ranges[0]} and {ranges[1]}: of the former's {codes} codes {remains}, and "
        f"what is below {float(common.scale) / 2:.3g} becomes 0; make them outputs of their own, scale them alike in the float "
        "network, or use more activation bits"
    )

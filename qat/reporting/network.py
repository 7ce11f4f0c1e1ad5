"""A network as a drawing: a box for each layer, one below the other; what skips some of them runs beside the boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from qat.analysis.metrics import NodeMetrics
from qat.graph import Graph
from qat.reporting.svg import Drawing, short, shortened_name
from qat.vocabulary.listing import dimensions

BOX, ROW, HIGH = 272.0, 62.0, 46.0  #: a box's width, the distance of two boxes, a box's height
LANE = 13.0  #: the distance of two lanes
COLUMN = 14  #: boxes in a column of the page
LETTERS = 33  #: of a name
BAR = 46.0  #: the width of a share of all bytes


@dataclass(frozen=True)
class Box:
    """A layer of the drawing.

    Attributes:
        name: of the node.
        cell: the name of its class.
        lines: what is said of it.
        kind: its colour.
        share: of all bytes, 0 to 1.
        reads: the boxes whose outputs it takes, by number.
    """

    name: str
    cell: str
    lines: tuple[str, str]
    kind: str
    share: float
    reads: tuple[int, ...]


def boxes(graph: Graph, layers: Sequence[NodeMetrics], stored: Mapping[str, int]) -> list[Box]:
    """The boxes of a network, in its order.

    Args:
        graph: float or quantized.
        layers: of ``measure``.
        stored: bytes by the name of the node.
    """
    numbers = {x.name: index for index, x in enumerate(layers)}
    nodes = {node.name: node for node in graph.nodes}
    total = sum(stored.values()) or 1

    def behind(name: str) -> int:
        """The box whose numbers a node has: that before a fake quantizer."""
        while name not in numbers:
            name = nodes[name].inputs[0]
        return numbers[name]

    found = []
    for x in layers:
        reads = tuple(dict.fromkeys(behind(name) for name in nodes[x.name].inputs))
        bits = f"{x.activation_bits} bits"
        if x.weight_bits is not None:
            bits = f"{x.activation_bits} bits, weights {x.weight_bits}"
        costs = [f"{stored[x.name]:,} bytes"] if stored.get(x.name) else []
        costs += [f"{short(x.macs)} MACs"] if x.macs else []
        kind = "c0" if x.parameters else "c4" if len(reads) > 1 else "c2" if not reads else "c6"
        lines = (f"{dimensions(x.shape)} · {bits}", " · ".join([shortened_name(x.cell, 18), *costs]))
        found.append(Box(x.name, x.cell, lines, kind, stored.get(x.name, 0) / total, reads))
    return found


def lanes(drawn: Sequence[Box]) -> dict[int, tuple[int, int]]:
    """For each box that another than the next one reads: its lane, and the last box that reads it. Lanes that run beside one
    another are different.
    """
    last: dict[int, int] = {}
    for index, box in enumerate(drawn):
        for read in box.reads:
            if index - read > 1:
                last[read] = index
    found: dict[int, tuple[int, int]] = {}
    for begin, end in sorted(last.items()):
        taken = {lane for other, (lane, until) in found.items() if other < end and until > begin}
        found[begin] = (next(k for k in range(len(drawn)) if k not in taken), end)
    return found


def network_drawing(graph: Graph, layers: Sequence[NodeMetrics], stored: Mapping[str, int]) -> str:
    """The drawing, in columns that a page puts beside one another where it is wide enough.

    Args:
        graph: float or quantized.
        layers: of ``measure``.
        stored: bytes by the name of the node.

    Returns:
        Markup: an SVG element for each column.
    """
    drawn = boxes(graph, layers, stored)
    beside = lanes(drawn)
    width = BOX + 16 + LANE * (1 + max((lane for lane, _ in beside.values()), default=-1)) + 6
    columns = -(-len(drawn) // COLUMN)
    size = -(-len(drawn) // columns)
    parts = [
        _column(graph.name, drawn, beside, start, min(start + size, len(drawn)), width)
        for start in range(0, len(drawn), size)
    ]
    return f'<div class="flow">{"".join(parts)}</div>\n'


def _column(
    name: str, drawn: Sequence[Box], beside: Mapping[int, tuple[int, int]], start: int, stop: int, width: float
) -> str:
    top, more = (22.0 if start else 4.0), stop < len(drawn)
    height = top + ROW * (stop - start) + (6.0 if more else -12.0)
    drawing = Drawing(width, height, f"{name}, layers {start + 1} to {stop}")

    def middle(index: int) -> float:
        return top + ROW * (index - start) + HIGH / 2

    for begin, (lane, end) in beside.items():
        _lane(drawing, drawn, begin, end, BOX + 12 + LANE * lane, f"c{(lane + 1) % 6}", (start, stop), middle)
    for index in range(start, stop):
        y = middle(index) - HIGH / 2
        if index - 1 in drawn[index].reads:
            above = y - (ROW - HIGH) if index > start else 2.0
            drawing.line(BOX / 2, above, BOX / 2, y - 4, "edge")
            drawing.path(f"M{BOX / 2 - 4:.1f} {y - 6:.1f}h8l-4 6z", "arrow")
        _box(drawing, drawn[index], y)
    if more and stop - 1 in drawn[stop].reads:
        y = middle(stop - 1) + HIGH / 2
        drawing.line(BOX / 2, y, BOX / 2, height, "edge")
    return drawing.markup


def _box(drawing: Drawing, box: Box, y: float) -> None:
    drawing.box(1, y, BOX - 2, HIGH, "node", f"{box.name}: {box.cell}, {', '.join(box.lines)}", round=5)
    drawing.box(1, y, 5, HIGH, f"fill {box.kind}", round=2)
    drawing.text(13, y + 15, shortened_name(box.name, LETTERS), "name")
    drawing.text(13, y + 28.5, box.lines[0])
    drawing.text(13, y + 40.5, box.lines[1], "small")
    if box.share > 0.0:
        drawing.box(BOX - BAR - 7, y + 22, BAR, 5, "fill pale c0", "its share of all bytes", round=2)
        drawing.box(BOX - BAR - 7, y + 22, max(BAR * box.share, 1.0), 5, "fill c0", "its share of all bytes", round=2)


def _lane(
    drawing: Drawing,
    drawn: Sequence[Box],
    begin: int,
    end: int,
    x: float,
    kind: str,
    shown: tuple[int, int],
    middle: Callable[[int], float],
) -> None:
    """What runs beside the boxes from one to those that read it, as much of it as this column has."""
    start, stop = shown
    if end < start or begin >= stop:
        return
    top = middle(begin) + 8 if begin >= start else 0.0
    bottom = middle(end) - 8 if end < stop else drawing.height
    if begin >= start:
        drawing.path(f"M{BOX - 1:.1f} {top:.1f}H{x - 5:.1f}q5 0 5 5", f"lane {kind}")
        top += 5
    readers = [k for k in range(max(begin + 2, start), min(end + 1, stop)) if begin in drawn[k].reads]
    for reader in readers:
        y = middle(reader) - 8
        drawing.path(f"M{x:.1f} {y - 5:.1f}q0 5 -5 5H{BOX + 5:.1f}", f"lane {kind}")
        drawing.path(f"M{BOX + 6:.1f} {y - 4:.1f}v8l-6 -4z", f"lanearrow {kind}")
    drawing.line(x, top, x, bottom - 5 if end < stop else bottom, f"lane {kind}")

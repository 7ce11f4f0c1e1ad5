"""Drawings as SVG text, small, and with the colours of the page they stand on, light or dark.

matplotlib's figures have paths for letters and fixed colours, and take a tenth of a second each: a report of fifty layers has a
hundred drawings. These have text as text, and classes in place of colours, which the page's style sheet gives.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence

from qat.errors import one_line
from qat.vocabulary.ops import Array

KILO = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


class Drawing:
    """An SVG element that grows.

    Args:
        width: of its own units; text is 11 of them high.
        height: likewise.
        label: what it shows, for those who do not see it.
    """

    def __init__(self, width: float, height: float, label: str) -> None:
        self.width, self.height, self.label = width, height, label
        self._parts: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line. kind: classes of the style sheet, here and below."""
        self._parts.append(f'<path class="{kind}" d="M{_n(x1)} {_n(y1)}L{_n(x2)} {_n(y2)}"/>')

    def path(self, commands: str, kind: str, title: str = "") -> None:
        """Any path, of SVG's own commands."""
        self._parts.append(_titled(f'<path class="{kind}" d="{commands}"', "path", title))

    def curve(self, points: Iterable[tuple[float, float]], kind: str) -> None:
        """Points joined by straight lines."""
        joined = "L".join(f"{_n(x)} {_n(y)}" for x, y in points)
        if joined:
            self._parts.append(f'<path class="{kind}" d="M{joined}"/>')

    def box(
        self, x: float, y: float, width: float, height: float, kind: str, title: str = "", *, round: float = 0.0
    ) -> None:
        """A rectangle. title: shown where a mouse rests on it."""
        corners = f' rx="{_n(round)}"' if round else ""
        start = f'<rect class="{kind}" x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"{corners}'
        self._parts.append(_titled(start, "rect", title))

    def dot(self, x: float, y: float, kind: str, title: str = "") -> None:
        """A small disc."""
        self._parts.append(_titled(f'<circle class="{kind}" cx="{_n(x)}" cy="{_n(y)}" r="3"', "circle", title))

    def text(
        self, x: float, y: float, text: str, kind: str = "", anchor: str = "start", *, turned: bool = False
    ) -> None:
        """A line of text. anchor: which end of it is at x: start, middle or end. turned: it goes upwards."""
        turn = f' transform="rotate(-90 {_n(x)} {_n(y)})"' if turned else ""
        self._parts.append(
            f'<text class="{kind}" x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}"{turn}>{escaped(text)}</text>'
        )

    @property
    def markup(self) -> str:
        """The element."""
        size = f'viewBox="0 0 {_n(self.width)} {_n(self.height)}" style="max-width:{_n(self.width * 1.25)}px"'
        return f'<svg role="img" aria-label="{escaped(self.label)}" {size}>{"".join(self._parts)}</svg>'


class Plot(Drawing):
    """A drawing with two axes, in whose numbers lines and boxes are given.

    Args:
        width, height: as of a drawing.
        label: as of a drawing.
        x: the ends of the horizontal axis.
        y: the ends of the vertical axis, the lower one first.
        x_label: below it.
        y_label: above the vertical axis.
        log: whether the vertical axis is logarithmic.
        ticks: whether the axes have numbers: of the horizontal one, and of the vertical one.
        whole: whether only whole numbers stand below the horizontal axis.
    """

    LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 22.0, 34.0

    def __init__(
        self,
        width: float,
        height: float,
        label: str,
        *,
        x: tuple[float, float],
        y: tuple[float, float],
        x_label: str = "",
        y_label: str = "",
        log: bool = False,
        ticks: tuple[bool, bool] = (True, True),
        whole: bool = False,
    ) -> None:
        super().__init__(width, height, label)
        self._x, self._y, self._log = _apart(x), _apart(y), log
        right, bottom = width - self.RIGHT, height - self.BOTTOM
        for value in log_ticks(*self._y) if log else even_ticks(*self._y):
            if ticks[1]:
                self.line(self.LEFT, self.at_y(value), right, self.at_y(value), "grid")
                self.text(self.LEFT - 5, self.at_y(value) + 3.5, short(value), "tick", "end")
        for value in even_ticks(*self._x, most=6):
            if ticks[0] and not (whole and value % 1):
                self.line(self.at_x(value), bottom, self.at_x(value), bottom + 3, "axis")
                self.text(self.at_x(value), bottom + 14, short(value), "tick", "middle")
        self.line(self.LEFT, bottom, right, bottom, "axis")
        if x_label:
            self.text((self.LEFT + right) / 2, height - 4, x_label, "label", "middle")
        if y_label:
            self.text(4, 12, y_label, "label")

    def at_x(self, value: float) -> float:
        """Where a number lies on the horizontal axis, in the drawing's units."""
        low, high = self._x
        return self.LEFT + (value - low) / (high - low) * (self.width - self.LEFT - self.RIGHT)

    def at_y(self, value: float) -> float:
        """Where a number lies on the vertical axis."""
        low, high = self._y
        if self._log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, 1e-300))
        share = min(max((value - low) / (high - low), -0.02), 1.02)
        return self.height - self.BOTTOM - share * (self.height - self.TOP - self.BOTTOM)

    def series(self, xs: Sequence[float], ys: Sequence[float], kind: str, *, dots: bool = False) -> None:
        """A curve through those points whose numbers are finite."""
        points = [(self.at_x(x), self.at_y(y)) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)]
        self.curve(points, f"line {kind}")
        if dots or len(points) == 1:
            for x, y in points:
                self.dot(x, y, f"fill {kind}")

    def bars(self, edges: Array, heights: Array, kind: str) -> None:
        """A histogram: a bar from edge to edge, all of them one path."""
        floor = self.height - self.BOTTOM
        commands = []
        for low, high, height in zip(edges[:-1], edges[1:], heights, strict=True):
            if height > 0.0:
                x1, x2, y = self.at_x(low), self.at_x(high), self.at_y(height)
                commands.append(f"M{_n(x1)} {_n(floor)}V{_n(y)}H{_n(x2)}V{_n(floor)}Z")
        if commands:
            self.path("".join(commands), kind)

    def outline(self, edges: Array, heights: Array, kind: str) -> None:
        """A histogram as one line above its bars."""
        points = [(self.at_x(edges[0]), self.height - self.BOTTOM)]
        for low, high, height in zip(edges[:-1], edges[1:], heights, strict=True):
            points += [(self.at_x(low), self.at_y(height)), (self.at_x(high), self.at_y(height))]
        self.curve([*points, (self.at_x(edges[-1]), self.height - self.BOTTOM)], kind)


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """What the classes of a drawing mean, as HTML. entries: a class and a text each."""
    if not entries:
        return ""
    items = "".join(f'<span><i class="{kind}"></i>{escaped(text)}</span>' for kind, text in entries)
    return f'<p class="legend">{items}</p>'


def escaped(text: str) -> str:
    """A text for HTML or SVG: no markup, and control characters shown."""
    return html.escape(one_line(text))


def breakable(name: str) -> str:
    """A name for HTML that is broken at its dots and underscores, where it has to be broken."""
    return re.sub(r"(?<=[A-Za-z0-9])([./_])(?=\w)", r"\1<wbr>", escaped(name))


def even_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between two ends, at most so many: multiples of 1, 2 or 5 times a power of 10."""
    span = high - low
    if not span > 0.0 or not math.isfinite(span):
        return [low]
    step = 10.0 ** math.floor(math.log10(span / most))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if span / (step * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of 10 between two ends, at most six."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**k for k in range(first, last + 1, 1 + (last - first) // 6)]


def short(value: float) -> str:
    """A number in few characters: 1.2k, 0.05, 3M."""
    for unit, letter in KILO:
        if abs(value) >= unit * 0.9995:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}" if abs(value) >= 1e-4 or value == 0.0 else f"{value:.0e}".replace("e-0", "e-")


def in_bytes(size: int) -> str:
    """A number of bytes in few characters: 63.1 kB."""
    text = short(size)
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} B"


def shortened_name(name: str, most: int) -> str:
    """A name in at most so many characters: what is left out is from its middle, since many begin or end alike."""
    if len(name) <= most:
        return name
    head = max(most, 2) // 2 - 1
    return f"{name[:head]}…{name[head + 1 - max(most, 2) :]}"


def _apart(ends: tuple[float, float]) -> tuple[float, float]:
    low, high = ends
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _titled(start: str, element: str, title: str) -> str:
    return f"{start}><title>{escaped(title)}</title></{element}>" if title else f"{start}/>"


def _n(value: float) -> str:
    """A coordinate, to a tenth."""
    return f"{value:.1f}".removesuffix(".0")

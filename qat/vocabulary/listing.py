"""Lists of named things as plain text of at most 80 columns, and as HTML for notebooks."""

from __future__ import annotations

import html
import re
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from itertools import zip_longest
from typing import Any

from qat.tables import broken

WIDTH = 80  #: columns of a terminal
GAP = 2  #: columns between two columns of texts
LEAST = 12  #: columns that a text has at least
INDENT = "    "  #: before what is said of a row in further lines
NO_BREAK = "\N{NO-BREAK SPACE}"
LEFT, WHOLE = ' style="text-align:left"', ' style="white-space:nowrap"'
#: As 1,200 and -3.5e-05, 8/4 and -/4 bits, 3 x 8 x 8, 0 to 255, 12.5 %.
NUMBER = re.compile(r"-?/?[\d.,/]+(?:e[-+]?\d+)?(?: x \d+)*(?: to -?[\d.,]+)?(?: (?:%|dB|bits|points))?")


@dataclass(frozen=True)
class Row:
    """One thing.

    Attributes:
        texts: one for each column.
        more: what else there is to say of it.
    """

    texts: tuple[str, ...]
    more: str = ""


@dataclass(frozen=True)
class Listing:
    """A title, and rows below column names.

    Attributes:
        title: in a line.
        columns: their names.
        rows: what is listed.

    >>> print(Listing("Two fruits", ("name", "colour"), (Row(("apple", "red"), "of a tree"), Row(("lemon", "")))).text)
    Two fruits
    name   colour
    apple  red
        of a tree
    lemon
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def text(self) -> str:
        """Plain text: what else there is to say of a row stands below it, nothing in <> broken."""
        widths = [
            max(len(text) for text in texts)
            for texts in zip(self.columns, *(row.texts for row in self.rows), strict=True)
        ]
        widths = _narrowed(widths)
        lines = [self.title, *_lines(self.columns, widths)]
        for row in self.rows:
            lines += _lines(row.texts, widths)
            whole = re.sub("<[^>]*>", lambda found: found[0].replace(" ", NO_BREAK), row.more)
            more = textwrap.wrap(
                whole,
                WIDTH,
                initial_indent=INDENT,
                subsequent_indent=INDENT,
                break_long_words=False,
                break_on_hyphens=False,
            )
            lines += [line.replace(NO_BREAK, " ") for line in more]
        return "\n".join(lines)

    @property
    def html(self) -> str:
        """A table: numbers to the right, as a notebook has all that does not say otherwise, texts to the left."""
        rows = [(*row.texts, row.more) for row in self.rows]
        styles = [_style(texts) for texts in zip(*rows, strict=True)]
        styles = styles or [""] * (len(self.columns) + 1)

        def line(tag: str, texts: Sequence[str]) -> str:
            cells = zip(texts, styles, strict=True)
            return "<tr>" + "".join(f"<{tag}{style}>{html.escape(text)}</{tag}>" for text, style in cells) + "</tr>"

        head, body = line("th", (*self.columns, "")), "".join(line("td", row) for row in rows)
        return f"<p>{html.escape(self.title)}</p><table><thead>{head}</thead><tbody>{body}</tbody></table>"


def _style(texts: Sequence[str]) -> str:
    """Of a column: of texts, or of numbers, each of which stays on one line."""
    if any(text not in ("", "-", "exact") and NUMBER.fullmatch(text) is None for text in texts):
        return LEFT
    return WHOLE if any(" " in text for text in texts) else ""


class Listed(ABC):
    """Prints as a listing, in notebooks too; its ``repr`` is one line."""

    @property
    @abstractmethod
    def _listing(self) -> Listing:
        """What is printed."""

    def __str__(self) -> str:
        return self._listing.text

    def _repr_html_(self) -> str:
        return self._listing.html


def of_fields(owner: Any) -> Listing:
    """The fields of a dataclass, with their values and where these are others their defaults.

    Args:
        owner: an instance.

    Returns:
        The class's name, a row for each field.
    """
    rows = []
    for field, usual in _fields(owner):
        value = getattr(owner, field)
        rows.append(Row((field, repr(value), "" if value == usual else repr(usual))))
    return Listing(type(owner).__name__, ("field", "value", "default"), tuple(rows))


def given_fields(owner: Any) -> str:
    """A dataclass as Python, with the fields alone that have other values than by default: ``Recipe(epochs=3)``."""
    given = [f"{field}={value!r}" for field, usual in _fields(owner) if (value := getattr(owner, field)) != usual]
    return f"{type(owner).__name__}({', '.join(given)})"


def _fields(owner: Any) -> list[tuple[str, Any]]:
    """Each with its default."""
    return [
        (x.name, x.default if x.default_factory is MISSING else x.default_factory()) for x in fields(owner) if x.repr
    ]


def dimensions(shape: Sequence[int]) -> str:
    """A shape in words, as "1 x 32 x 32"."""
    return " x ".join(map(str, shape))


def _narrowed(widths: Sequence[int]) -> list[int]:
    """The widest columns made narrower, until a line fits."""
    found = list(widths)
    while sum(found) + GAP * (len(found) - 1) > WIDTH and max(found) > LEAST:
        found[found.index(max(found))] -= 1
    return found


def _lines(texts: Sequence[str], widths: Sequence[int]) -> list[str]:
    """A row, in several lines where a text is wider than its column; the first, a name, has one of its own then."""
    if len(texts[0]) > widths[0]:
        return [texts[0], *_lines(("", *texts[1:]), widths)]
    cells = [
        [text] if len(text) <= width else broken(text, width).split("\n")
        for text, width in zip(texts, widths, strict=True)
    ]
    return [
        (" " * GAP).join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()
        for parts in zip_longest(*cells, fillvalue="")
    ]

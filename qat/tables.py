"""Tables and texts that fit a width: what ``qat.console`` prints them with."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # rich takes time, and who only lists a network's nodes needs none of it
    from rich.table import Table


class _Form(NamedTuple):
    """How columns are set apart.

    Args:
        each: columns of the terminal that every column of the table takes beside its texts.
        more: that the table takes beside.
    """

    each: int
    more: int

    def borders(self, columns: int) -> int:
        """What is no text."""
        return self.each * columns + self.more


FRAMED, OPEN, TIGHT = _Form(3, 1), _Form(2, -2), _Form(1, 1)  #: lines and spaces; two spaces; lines alone
LEAST = 14  #: columns that a text in a table has at least, before the table is divided


def count(value: int) -> str:
    """A whole number as "1,234"."""
    return f"{value:,}"


def counted(number: int, thing: str) -> str:
    """How many of something there are: "1 epoch", "2,000 epochs".

    Args:
        number: of them.
        thing: one of them; an s makes several.

    >>> from qat.tables import counted
    >>> counted(1, "epoch"), counted(2000, "test sample")
    ('1 epoch', '2,000 test samples')
    """
    return f"{number:,} {thing}{'s' * (number != 1)}"


def percent(value: float) -> str:
    """A share as "98.21 %"."""
    return f"{100 * value:.2f} %"


def cell_len(text: str) -> int:
    """How many columns a text takes on a terminal: two for a wide sign, as a Chinese one, none for one that joins another."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text
    )


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: above it.
        key: of its values in a JSON document; "", the default: the heading in small letters, with _ between words.
        form: a value as text; a value that is None is shown as nothing. In place of a function None, for a column that is in
            the document alone.
        later: whether it stands in a further table where the output is narrow.
    """

    heading: str
    key: str = ""
    form: Callable[[Any], str] | None = str
    later: bool = False

    @property
    def name(self) -> str:
        """The key."""
        return self.key or re.sub(r"\W+", "_", self.heading.lower()).strip("_") or "name"

    def text(self, value: Any) -> str:
        """A value as it is shown."""
        return "" if value is None or self.form is None else self.form(value)


def named(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """The rows as values by key."""
    return [{column.name: value for column, value in zip(columns, row, strict=True)} for row in rows]


def folded(line: str, width: int) -> str:
    """A line broken at spaces where it is wider; further lines are indented by two more columns than the first one.

    Args:
        line: a text on one line.
        width: in columns.

    Returns:
        Lines. A word that is wider than that has one of its own, and stays whole.
    """
    if cell_len(line) <= width:
        return line
    indent = line[: len(line) - len(line.lstrip())]
    lines = textwrap.wrap(
        line.strip(),
        max(width, 20),
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines)


def tables(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> list[Table]:
    """The table, in several tables one below the other where it is wider than it may be.

    Args:
        columns: of the table.
        cells: rows of a text for each column.
        width: that it may have.

    Returns:
        Tables that show every character; of several each has the first column.
    """
    shown = [i for i, column in enumerate(columns) if column.form is not None]
    headings, texts = _chosen(columns, cells, shown)
    if _natural(headings, texts, FRAMED) <= width:
        return [_table(headings, texts)]
    shown = [i for i in shown if i == shown[0] or not cells or any(row[i] for row in cells)]  # what says something
    headings, texts = _chosen(columns, cells, shown)
    headings = [heading.replace(" ", "\n") for heading in headings]
    for form in (FRAMED, OPEN, TIGHT):  # columns that touch are hard to read: rather a text on two lines
        for least in (None, *([] if form is FRAMED else [LEAST])):
            widths = _narrowed(headings, texts, width, least, form)
            if widths is not None:
                return [_table(headings, texts, widths if widths != _widths(headings, texts) else None, form=form)]
    later = [place for place, i in enumerate(shown) if columns[i].later]
    return [
        table
        for part in ([i for i in range(len(shown)) if i not in later], [0, *later])
        if len(part) > 1 or len(shown) == 1
        for table in _divided([headings[i] for i in part], [[row[i] for i in part] for row in texts], width)
    ]


def _chosen(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], shown: Sequence[int]
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of some columns."""
    return [columns[i].heading for i in shown], [[row[i] for i in shown] for row in cells]


def _widths(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    """That each column takes, without its borders."""
    lines = [[*heading.split("\n"), *(row[i] for row in cells)] for i, heading in enumerate(headings)]
    return [max(map(cell_len, texts)) for texts in lines]


def _natural(headings: Sequence[str], cells: Sequence[Sequence[str]], form: _Form) -> int:
    return sum(_widths(headings, cells)) + form.borders(len(headings))


def _narrowed(
    headings: Sequence[str], cells: Sequence[Sequence[str]], width: int, least: int | None, form: _Form
) -> list[int] | None:
    """The columns' widths where texts are folded, at spaces alone where least is None; None where it does not suffice."""
    widths = _widths(headings, cells)
    smallest = []
    for i, heading in enumerate(headings):
        texts = [row[i] for row in cells]
        if not any(re.search(r"[^\W\d_]", text) for text in texts):  # numbers stay whole
            smallest.append(widths[i])
            continue
        words = [word for text in (heading, *texts) for word in text.split()] or [""]
        longest = max(map(cell_len, words))
        smallest.append(min(widths[i], max(LEAST, longest) if least is None else least))
    excess = sum(widths) + form.borders(len(widths)) - width
    while excess > 0:  # the widest of those that can be narrower gives way
        places = [i for i, (now, end) in enumerate(zip(widths, smallest, strict=True)) if now > end]
        if not places:
            return None
        widest = max(places, key=lambda i: widths[i])
        widths[widest] -= 1
        excess -= 1
    return widths


def _divided(headings: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> list[Table]:
    """Several tables with the first column each, and as many of the others as fit."""
    widths = _widths(headings, cells)
    others = sum(widths[1:]) + TIGHT.borders(len(widths))
    if others + min(LEAST, widths[0]) <= width:  # all of it fits, where the first column is narrower
        widths[0] = min(widths[0], width - others)
    else:
        widths[0] = min(widths[0], max(LEAST, width // 3))
    most = max(width - widths[0] - TIGHT.borders(2), 1)  # of one further column
    widths[1:] = [min(x, most) for x in widths[1:]]
    found, chosen = [], [0]
    for i in range(1, len(widths)):
        if len(chosen) > 1 and sum(widths[j] for j in (*chosen, i)) + TIGHT.borders(len(chosen) + 1) > width:
            found.append(chosen)
            chosen = [0]
        chosen.append(i)
    found.append(chosen)
    return [
        _table(
            [headings[i] for i in chosen],
            [[row[i] for i in chosen] for row in cells],
            [widths[i] for i in chosen],
            form=next(
                x
                for x in (FRAMED, OPEN, TIGHT)
                if x is TIGHT or sum(widths[i] for i in chosen) + x.borders(len(chosen)) <= width
            ),
        )
        for chosen in found
    ]


def broken(text: str, width: int) -> str:
    """A text in lines, broken at spaces; a word that is wider than a line also behind the signs in names and paths, and
    elsewhere where there are none.

    Args:
        text: on one line.
        width: of a line, in columns.

    Returns:
        The same characters in lines, but for spaces at their ends.
    """
    lines = [""]
    for word in re.split(r"(?<=\s)", text):
        parts = [word] if cell_len(word.rstrip()) <= width else re.split(r"(?<=[./_])(?!\d)", word)
        for part in parts:
            if cell_len(lines[-1] + part.rstrip()) > width and lines[-1]:
                lines.append("")
            lines[-1] += part
            while cell_len(lines[-1].rstrip()) > width:
                lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return "\n".join(line.rstrip() for line in lines)


def _is_text(texts: Sequence[str]) -> bool:
    """Whether a column holds words alone, which stand at its left; numbers stand at the right, one below the other."""
    return any(texts) and not any(re.match(r"[-+(<]*[\d.,]*\d(?![\d-])", text) for text in texts)


def _table(
    headings: Sequence[str],
    cells: Sequence[Sequence[str]],
    widths: Sequence[int] | None = None,
    *,
    form: _Form = FRAMED,
) -> Table:
    """A table; its texts are folded where widths are given."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if form is OPEN:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    else:
        table = Table(box=box.HEAVY_HEAD, padding=(0, 1 if form is FRAMED else 0))
    for index, heading in enumerate(headings):
        table.add_column(
            Text(heading),
            justify="left" if index == 0 or _is_text([row[index] for row in cells]) else "right",
            no_wrap=widths is None,
            overflow="fold",
            width=None if widths is None else widths[index],
        )
    for row in cells:
        table.add_row(*map(Text, row if widths is None else map(broken, row, widths)))
    if widths is None:
        table.width = _natural(headings, cells, form)  # whatever the console has
    return table

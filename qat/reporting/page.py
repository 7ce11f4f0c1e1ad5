"""A page of sections as one self-contained HTML file: nothing of it is fetched from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import qat
from qat.analysis.figures import Picture
from qat.errors import QatError, one_line
from qat.extras import how_to_install
from qat.reporting.style import STYLE
from qat.reporting.svg import breakable, escaped

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
{{ style | safe }}</style>
</head>
<body>
<header>
<h1>{{ title }}</h1>
{% for line in lines %}<p class="from">{{ line }}</p>
{% endfor %}{% if tiles %}<div class="tiles">{% for tile in tiles %}<div class="tile {{ tile.kind }}"><b>{{ tile.value }}</b>\
<span>{{ tile.text }}</span></div>
{% endfor %}</div>
{% endif %}{{ commands | safe }}</header>
{% if sections | length > 2 %}<nav aria-label="Contents">{% for section, _, _ in sections %}<a href="#{{ section.anchor }}">\
{{ section.short or section.title }}</a>{% endfor %}</nav>
{% endif %}{% for section, tabled, drawing in sections %}<section id="{{ section.anchor }}">
<h2>{{ section.title }}</h2>
{% if section.text %}<p>{{ section.text }}</p>
{% endif %}{{ tabled | safe }}{{ section.body | safe }}{% if drawing %}<figure>{{ drawing | safe }}</figure>
{% endif %}</section>
{% endfor %}<footer>Written by qat-engine {{ version }}.</footer>
</body>
</html>
"""
#: Of matplotlib's figures: its colours, and those of the style sheet that take their places.
COLOURS = {
    "#ffffff": "paper",
    "#000000": "ink",
    "#222222": "ink",
    "#555555": "muted",
    "#dddddd": "rule",
    "#0072b2": "c0",
    "#d55e00": "c1",
    "#009e73": "c2",
    "#cc79a7": "c3",
    "#e69f00": "c4",
    "#56b4e9": "c5",
}


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Args:
        title: the heading.
        text: a paragraph; empty for none.
        columns: headings of the table.
        rows: of the table; empty for no table.
        picture: a figure of matplotlib; None for none.
        body: markup below the table, which is not escaped.
        short: what the table of contents calls it; empty for the heading.
        anchor: its id on the page; by default made of the heading.
    """

    title: str
    text: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    picture: Picture | None = None
    body: str = ""
    short: str = ""
    anchor: str = ""


@dataclass(frozen=True)
class Tile:
    """A figure of the summary.

    Args:
        value: in large letters.
        text: what it is.
        kind: "good", "bad", or "" for neither.
    """

    value: str
    text: str
    kind: str = ""


def html_page(
    title: str,
    lines: Sequence[str],
    commands: Sequence[str],
    sections: Sequence[Section],
    tiles: Sequence[Tile] = (),
) -> str:
    """Make the page.

    Args:
        title: of the page.
        lines: what the report is about.
        commands: the commands that made it.
        sections: in their order.
        tiles: the summary; none by default.

    Returns:
        The HTML text.

    Raises:
        QatError: where Jinja2 is not installed.
    """
    require_jinja2()
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, finalize=_shown)
    template = environment.from_string(TEMPLATE)
    named, drawings = _anchored(sections), [drawing(section, index) for index, section in enumerate(sections)]
    tables = [table(section.columns, section.rows) if section.rows else "" for section in sections]
    page: str = template.render(
        title=title,
        style=STYLE,
        lines=lines,
        tiles=tiles,
        commands=command_lines(commands) if commands else "",
        sections=list(zip(named, tables, drawings, strict=True)),
        version=qat.__version__,
    )
    return page


def require_jinja2() -> None:
    """Raise QatError where Jinja2 is not installed."""
    try:
        import jinja2  # noqa: F401 (whether it is there)
    except ModuleNotFoundError:
        raise QatError(f"reports need Jinja2, which is not installed: {how_to_install('plots')}") from None


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    shares: Sequence[float] = (),
    minor: Sequence[int] = (),
    total: bool = False,
) -> str:
    """A table as markup.

    Args:
        columns: headings.
        rows: texts.
        shares: for each row the length of a bar behind its last column, 0 to 1; none by default. The total has none.
        minor: columns, from 0, that are left out where the page is narrow.
        total: whether the last row is a total.

    Returns:
        Markup that scrolls by itself where the page is too narrow.
    """
    kinds = [' class="minor"' if k in minor else "" for k in range(len(columns))]
    head = "".join(f"<th{kind}>{escaped(x)}</th>" for kind, x in zip(kinds, columns, strict=True))
    head += "<th></th>" if shares else ""
    lines = []
    for index, row in enumerate(rows):
        cells = f"<td{kinds[0]}>{breakable(row[0])}</td>"
        cells += "".join(f"<td{kind}>{_cell(x)}</td>" for kind, x in zip(kinds[1:], row[1:], strict=True))
        if shares:
            length = 100 * shares[index] if index < len(shares) else 0.0
            cells += f'<td class="share"><i style="width:{length:.1f}%"></i></td>'
        last = total and index == len(rows) - 1
        lines.append(f"<tr{' class=' + chr(34) + 'total' + chr(34) if last else ''}>{cells}</tr>")
    body = "\n".join(lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>\n'


def command_lines(commands: Sequence[str]) -> str:
    """Lines of commands, which are broken between words as long as a word fits a line."""
    lines = [" ".join(f"<span>{escaped(word)}</span>" for word in command.split(" ")) for command in commands]
    return "<pre>" + "\n".join(lines) + "</pre>\n"


def _cell(text: str) -> str:
    """A number stays on one line with its unit, or its deviation."""
    return escaped(text).replace(" %", "&nbsp;%").replace(" ± ", "&nbsp;±&nbsp;").replace("&lt; ", "&lt;&nbsp;")


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values as a table of two columns without headings."""
    lines = "\n".join(f"<tr><td>{escaped(name)}</td><td>{escaped(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts"><tbody>\n{lines}\n</tbody></table>\n'


def figure(markup: str, caption: str = "") -> str:
    """A drawing with a caption."""
    return f"<figure>{markup}{f'<figcaption>{escaped(caption)}</figcaption>' if caption else ''}</figure>\n"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph."""
    return f"<p{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{escaped(text)}</p>\n"


def _anchored(sections: Sequence[Section]) -> list[Section]:
    """With an anchor each, no two alike."""
    found: list[Section] = []
    used: set[str] = set()
    for index, section in enumerate(sections):
        anchor = section.anchor or re.sub(r"[^a-z0-9]+", "-", (section.short or section.title).lower()).strip("-")
        if not anchor or anchor in used:
            anchor = f"{anchor or 'section'}-{index}"
        used.add(anchor)
        found.append(replace(section, anchor=anchor))
    return found


def _shown(value: object) -> object:
    """Escape control characters of texts; markup, which only the figures are, passes unchanged."""
    return one_line(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def drawing(section: Section, number: int) -> str:
    """The <svg> element of a section's figure, in the page's colours; empty where it has none.

    All figures of a page share one space of ids, so the ids of this one get its number.

    Args:
        section: of the report.
        number: of the section, unique on the page.

    Returns:
        SVG text.
    """
    if section.picture is None:
        return ""
    element = (
        f'<svg class="plot" role="img" aria-label="{escaped(section.title)}"'
        + section.picture.svg().partition("<svg")[2]
    )
    element = re.sub(r'\bid="', f'id="s{number}-', element)
    element = re.sub(r'(url\(#|href="#)', lambda match: f"{match[1]}s{number}-", element)
    for colour, name in COLOURS.items():
        element = element.replace(f": {colour}", f": var(--{name})")
    return element

"""A study as a self-contained HTML file, with tables and with figures as SVG."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

import qat
from qat.analysis.figures import Picture
from qat.errors import QatError, one_line
from qat.extras import how_to_install

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 "DejaVu Sans", "Segoe UI", Helvetica, Arial, sans-serif; color: #222; margin: 2rem auto; max-width: 66rem;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; } p.from { color: #555; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.8rem; text-align: right; border-bottom: 1px solid #ddd; } th { border-bottom: 2px solid #999; }
th:first-child, td:first-child { text-align: left; } caption { text-align: left; color: #555; padding-bottom: 0.4rem; }
figure { margin: 1rem 0; overflow-x: auto; } figure svg { max-width: 100%; height: auto; } figcaption { color: #555; }
pre { background: #f4f4f4; padding: 0.8rem; white-space: pre-wrap; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for line in lines %}<p class="from">{{ line }}</p>
{% endfor %}{% if commands %}<pre>{% for command in commands %}{{ command }}
{% endfor %}</pre>
{% endif %}{% for section, drawing in sections %}<section>
<h2>{{ section.title }}</h2>
{% if section.text %}<p>{{ section.text }}</p>
{% endif %}{% if section.rows %}<table>
<thead><tr>{% for cell in section.columns %}<th>{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in section.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
{% endif %}{% if drawing %}<figure>{{ drawing | safe }}</figure>
{% endif %}</section>
{% endfor %}<p class="from">Written by qat-engine {{ version }}.</p>
</body>
</html>
"""


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Args:
        title: the heading.
        text: a paragraph; empty for none.
        columns: headings of the table.
        rows: of the table; empty for no table.
        picture: a figure; None for none.
    """

    title: str
    text: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    picture: Picture | None = None


def html_report(title: str, lines: Sequence[str], commands: Sequence[str], sections: Sequence[Section]) -> str:
    """Make the report.

    Args:
        title: of the page.
        lines: what the report is about.
        commands: the commands that made it.
        sections: in their order.

    Returns:
        The HTML text.

    Raises:
        QatError: where Jinja2 is not installed.
    """
    try:
        import jinja2
    except ModuleNotFoundError:
        raise QatError(f"reports need Jinja2, which is not installed: {how_to_install('plots')}") from None
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, finalize=_shown)
    template = environment.from_string(TEMPLATE)
    drawings = [drawing(section, index) for index, section in enumerate(sections)]
    page: str = template.render(
        title=title,
        lines=lines,
        commands=commands,
        sections=list(zip(sections, drawings, strict=True)),
        version=qat.__version__,
    )
    return page


def _shown(value: object) -> object:
    """Escape control characters of texts; markup, which only the figures are, passes unchanged."""
    return one_line(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def drawing(section: Section, number: int) -> str:
    """The <svg> element of a section's figure; empty where it has none.

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
        f'<svg role="img" aria-label="{html.escape(one_line(section.title))}"'
        + section.picture.svg().partition("<svg")[2]
    )
    element = re.sub(r'\bid="', f'id="s{number}-', element)
    return re.sub(r'(url\(#|href="#)', lambda match: f"{match[1]}s{number}-", element)

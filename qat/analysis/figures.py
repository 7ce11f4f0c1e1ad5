"""Figures in one style, as PNG and SVG. They need matplotlib (the extra ``plots``), imported on first
use.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qat.errors import QatError, one_line
from qat.extras import how_to_install
from qat.files import check_writable, write_atomically

#: Okabe and Ito's colours (jfly.uni-koeln.de/color), which colour-blind people can distinguish too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titlelocation": "left",
    "axes.labelsize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "svg.fonttype": "path",  # looks the same without the font
    "svg.hashsalt": "qat",  # the same figure gives the same file
    "figure.dpi": 100,
}
DPI = 160
SUFFIXES = (".png", ".svg")


class Picture:
    """A figure with a grid of axes; draw inside a ``with`` block, where the style is set.

    Args:
        width: in inches.
        height: in inches.
        rows: of axes; 1 by default.
        columns: of axes; 1 by default.
        **options: for matplotlib's ``Figure.subplots``.

    Raises:
        QatError: where matplotlib is not installed.
    """

    def __init__(self, width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> None:
        require_matplotlib()
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._in_style: Any = lambda: matplotlib.rc_context(STYLE)
        self._style: Any = None
        with self._in_style():
            self.figure: Any = Figure(figsize=(width, height), layout="constrained")
            FigureCanvasAgg(self.figure)
            self.axes = self.figure.subplots(rows, columns, squeeze=False, **options)

    def __enter__(self) -> Picture:
        self._style = self._in_style()
        self._style.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._style.__exit__(*error)

    def svg(self) -> str:
        """The figure as SVG, without a time stamp, so that equal figures give equal files."""
        buffer = io.StringIO()
        with self._in_style():
            self.figure.savefig(buffer, format="svg", metadata={"Date": None})
        return buffer.getvalue()

    def write(self, path: str | Path) -> None:
        """Write one file, all at once. Raises QatError unless its name ends in .png or .svg."""
        check_picture(path)
        if Path(path).suffix.lower() == ".svg":
            write_atomically(path, self.svg().encode())
            return
        buffer = io.BytesIO()
        with self._in_style():
            self.figure.savefig(buffer, format="png", dpi=DPI)
        write_atomically(path, buffer.getvalue())

    def save(self, stem: str | Path) -> list[Path]:
        """Write ``<stem>.png`` and ``<stem>.svg``; returns their paths."""
        paths = [Path(stem).with_name(Path(stem).name + suffix) for suffix in SUFFIXES]
        for path in paths:
            self.write(path)
        return paths


def plain_text(text: str) -> str:
    """Escape a text for matplotlib, line by line: control characters are shown, and $ does not start a formula."""
    return "\n".join(map(one_line, text.split("\n"))).replace("$", r"\$")


def require_matplotlib() -> None:
    """Raise QatError where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise QatError(f"pictures need matplotlib, which is not installed: {how_to_install('plots')}")


def check_picture(path: str | Path) -> None:
    """Raise QatError where a picture of that name cannot be written; called before its content is computed."""
    require_matplotlib()
    if Path(path).suffix.lower() not in SUFFIXES:
        raise QatError(f"{path}: a picture is a file that ends in {' or '.join(SUFFIXES)}; give it such a name")
    check_writable(path)


def heat_map(
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    x_label: str,
    y_label: str,
    unit: str,
) -> Picture:
    """A table as a heat map with its numbers written in.

    The colour grows with the square root of the value, so that 0.1 can be told from 0 beside values of 50.

    Args:
        values: a row of numbers for each name in ``rows``; negative ones have the colour of 0.
        rows: names of the rows.
        columns: names of the columns.
        title: above the figure.
        x_label: below the columns.
        y_label: beside the rows.
        unit: at the colour bar.

    Returns:
        The figure.
    """
    with Picture(2.6 + 0.95 * len(columns), 1.9 + 0.42 * len(rows)) as picture:
        from matplotlib.colors import PowerNorm

        table = np.asarray(values, np.float64)
        axes = picture.axes[0, 0]
        norm = PowerNorm(0.5, vmin=0.0, vmax=max(float(table.max()), 1.0))
        image = axes.imshow(np.maximum(table, 0.0), cmap="YlOrRd", norm=norm, aspect="auto")
        axes.set_xticks(range(len(columns)), map(plain_text, columns))
        axes.set_yticks(range(len(rows)), map(plain_text, rows))
        axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
        axes.grid(visible=False, which="major")
        axes.grid(which="minor", color="white", linewidth=1.5)
        axes.set_axisbelow(False)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        for row, column in np.ndindex(table.shape):
            value = table[row, column]
            dark = norm(max(value, 0.0)) > 0.6
            text = f"{value:.2f}" if abs(value) >= 0.005 else "0"
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")
        axes.set(xlabel=x_label, ylabel=y_label, title=plain_text(title))
        picture.figure.colorbar(image, ax=axes, label=unit, shrink=0.9)
    return picture

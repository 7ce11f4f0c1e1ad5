"""Pictures that commands draw, with matplotlib, which is imported only where one is asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qat.errors import QatError


def require_matplotlib() -> None:
    """Raise QatError where it is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise QatError("pictures need matplotlib, which is not installed: pip install 'qat-engine[plots]'")


def heat_map(
    path: Path,
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    x_label: str,
    y_label: str,
    unit: str,
) -> None:
    """A table of colours with its numbers written in; the ending of ``path`` says which format. The colour grows with the
    square root, so that a tenth of a point is told from none beside losses of fifty.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    table = np.asarray(values, np.float64)
    figure = Figure(figsize=(2.6 + 0.95 * len(columns), 1.9 + 0.42 * len(rows)), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    norm = PowerNorm(0.5, vmin=0.0, vmax=max(float(table.max()), 1.0))
    image = axes.imshow(np.maximum(table, 0.0), cmap="YlOrRd", norm=norm, aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    for row, column in np.ndindex(table.shape):
        value = table[row, column]
        dark = norm(max(value, 0.0)) > 0.6
        text = f"{value:.2f}" if abs(value) >= 0.005 else "0"
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, fontsize=11, loc="left")
    figure.colorbar(image, ax=axes, label=unit, shrink=0.9)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise QatError(f"{path}: cannot be written ({error}); give a file that ends in .png, .pdf or .svg") from None

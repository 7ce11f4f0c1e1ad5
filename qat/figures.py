"""Pictures in one style, as PNG and SVG. Needs matplotlib (``pip install 'qat-engine[plots]'``), imported when first used."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from qat.errors import QatError
from qat.files import write_atomically

#: Okabe and Ito's colours (jfly.uni-koeln.de/color), which colour-blind people can tell apart as well.
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


class Picture:
    """A figure of rows x columns axes in this style; what is drawn within ``with`` has it.

    width, height: inches. Raises QatError without matplotlib.
    """

    def __init__(self, width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> None:
        try:
            import matplotlib
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ModuleNotFoundError:
            raise QatError(
                "pictures need matplotlib, which is not installed: pip install 'qat-engine[plots]'"
            ) from None
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
        """As SVG, without the time at which it was made."""
        buffer = io.StringIO()
        with self._in_style():
            self.figure.savefig(buffer, format="svg", metadata={"Date": None})
        return buffer.getvalue()

    def save(self, stem: str | Path) -> list[Path]:
        """Write ``<stem>.png`` and ``<stem>.svg``, each as a whole; returns their paths."""
        buffer = io.BytesIO()
        with self._in_style():
            self.figure.savefig(buffer, format="png", dpi=DPI)
        contents = {".png": buffer.getvalue(), ".svg": self.svg().encode()}
        paths = []
        for suffix, content in contents.items():
            path = Path(stem).with_name(Path(stem).name + suffix)
            write_atomically(path, content)
            paths.append(path)
        return paths

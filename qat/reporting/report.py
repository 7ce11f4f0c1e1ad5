"""One self-contained HTML page of a run, or of two side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qat.data import Split
from qat.deploy.interfaces import TrainingBackend
from qat.files import write_atomically
from qat.registry import training_backend
from qat.reporting import comparison
from qat.reporting import sections as of_run
from qat.reporting.gather import LAYER_SAMPLES, Facts, gather
from qat.reporting.page import html_page, require_jinja2
from qat.reporting.svg import escaped
from qat.training.checkpoint import Checkpoint


class Page:
    """A page of HTML.

    Args:
        title: of it.
        html: its text, with all that it needs in it.
    """

    def __init__(self, title: str, html: str) -> None:
        self.title, self.html = title, html

    def __repr__(self) -> str:
        return f"Page {self.title!r}, {len(self.html.encode()):,} bytes"

    def _repr_html_(self) -> str:
        """The page in a frame, for notebooks."""
        frame = f'title="{escaped(self.title)}" style="width:100%;height:40rem;border:0"'
        return f'<iframe {frame} srcdoc="{_quoted(self.html)}"></iframe>'

    def save(self, path: str | Path) -> None:
        """Write the page, as a whole or not at all.

        Args:
            path: where to; an existing file is replaced.

        Raises:
            QatError: where it cannot be written.
        """
        write_atomically(path, self.html.encode())


class Report(Page):
    """The page of one run.

    Args:
        facts: what it says, as numbers.
        commands: lines that made the run; none by default.
    """

    def __init__(self, facts: Facts, commands: Sequence[str] = ()) -> None:
        self.facts = facts
        title = f"{facts.name}: report of a run"
        page = html_page(title, self._lines(), commands, of_run.sections(facts), of_run.tiles(facts))
        super().__init__(title, page)

    def _lines(self) -> list[str]:
        run = self.facts
        return [
            f"{run.checkpoint.graph.name}, in float and in integers, on {len(run.split):,} {run.data or 'samples'}."
        ]

    def compared_with(self, other: Report) -> Page:
        """Both runs side by side: tables of their figures with differences, curves in one chart.

        Args:
            other: of another run.

        Returns:
            The page.
        """
        a, b = self.facts, other.facts
        title = f"{a.name} and {b.name} side by side"
        return Page(title, html_page(title, comparison.lines((a, b)), (), comparison.sections(a, b)))


def report(
    checkpoint: Checkpoint,
    split: Split,
    *,
    backend: TrainingBackend | None = None,
    device_target: str | None = None,
    name: str = "",
    data: str = "",
    class_names: Sequence[str] = (),
    float_checkpoint: Checkpoint | None = None,
    certificates: Sequence[str | Path] = (),
    bench: str | Path | None = None,
    images: int = LAYER_SAMPLES,
    commands: Sequence[str] = (),
) -> Report:
    """Make the report of a run: one HTML page that needs nothing else, docs/report.md says what is on it.

    Args:
        checkpoint: of the quantized network, calibrated or trained.
        split: samples, in the shape and dtype that the network takes, and the labels of the checkpoint's task; without labels
            there are no metrics.
        backend: that evaluates; None, the default: the first that is installed.
        device_target: the device that computes; None: the best that there is.
        name: of the run; by default the network's.
        data: what the samples are, for the page.
        class_names: what the labels mean; by default what the checkpoint says.
        float_checkpoint: of the float network that it was made from, to compare with; None, the default: its own parameters,
            with every quantizer idle. Layers are compared with its own parameters in any case where training has moved them.
        certificates: exported files, whose certificates are shown; none by default.
        bench: a file with what ``qat bench --json`` printed; None, the default: nothing is said of latency.
        images: on so many of the samples layers are compared with float; 64 by default, or all where there are fewer.
        commands: lines that made the run, for the page; none by default.

    Returns:
        The report: ``save`` writes it, ``facts`` has its figures, ``compared_with`` puts another one beside it.

    Raises:
        QatError: for a float network, samples that it does not take, a file without a certificate or of another network, a
            float checkpoint of another network; where Jinja2 is not installed.

    >>> import numpy as np
    >>> import qat
    >>> from qat.networks import LeNet5
    >>> rng = np.random.default_rng(0)
    >>> split = qat.Split(rng.integers(0, 256, (20, 1, 32, 32), np.uint8), np.arange(20) % 10)
    >>> quantized = qat.calibrate(LeNet5(), LeNet5().graph().initial_params(), split.images)
    >>> page = qat.report(quantized, split, name="first")
    >>> page.save("first.html")
    >>> page.facts.macs, page.html.count("<section")
    (416520, 8)
    """
    require_jinja2()
    found = gather(
        checkpoint,
        split,
        backend=backend or training_backend(),
        device_target=device_target,
        name=name,
        data=data,
        class_names=class_names,
        float_checkpoint=float_checkpoint,
        certificates=certificates,
        bench=bench,
        images=min(images, len(split)) if images == LAYER_SAMPLES else images,
    )
    return Report(found, commands)


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;")

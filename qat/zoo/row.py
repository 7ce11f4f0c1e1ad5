"""What was measured of a network of the zoo: a row of its table, which is kept as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from qat import tasks
from qat.errors import QatError
from qat.files import write_atomically
from qat.reading import read_text, reading
from qat.vocabulary.fields import build, check_fields, check_type
from qat.zoo.settings import WIDTHS


@dataclass(frozen=True)
class FileFigures:
    """Of one exported file.

    Attributes:
        bytes: of the file; of C of its constants, since its source is text.
        codes: that its runtime computed and that were compared with NumPy's integers.
        differ: of these.
        engine: the runtime.
    """

    bytes: int
    codes: int
    differ: int
    engine: str

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class WidthFigures:
    """Of a network at one width.

    Attributes:
        way: how it was reached.
        figure: of the test samples, computed in integers.
        arena: bytes of the activations of its C file, scratch memory included.
        backend: the evaluation pass of the training backend, which is compared too.
        files: by format.
        codes: SHA-256 of the output codes of random samples (``qat.zoo.kept.codes_digest``).
    """

    way: str
    figure: float
    arena: int
    backend: FileFigures
    files: Mapping[str, FileFigures]
    codes: str

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Row:
    """What was measured of a network.

    Args:
        name: of the entry.
        of: a digest of the float network and its parameters.
        network: the name of the graph.
        task: the name of its task.
        metric: what figures are, as "top-1".
        arithmetic: of networks and files.
        parameters: trained numbers.
        macs: multiply-accumulates of a sample.
        trained, tested: how many samples there are to calibrate or train on, and were evaluated; of recordings their windows.
        float_figure: of the float network.
        widths: by the width.
        official: the name of the publisher's int8 file, and its figure on the same samples. None, the default: there is none.
        cores: what an inference of the first width's .c file takes on emulated processors: instructions, flash, ram, arena,
            stack, differ; none by default.
        other: whether other test samples were given; False by default.

    Raises:
        QatError: for a field of another type, and for a task that is code.

    >>> import qat
    >>> row = qat.zoo.figures_of("mnist_cnn")
    >>> row.metric, row.macs, row.differ
    ('top-1', 203552, 0)
    """

    name: str
    of: str
    network: str
    task: str
    metric: str
    arithmetic: str
    parameters: int
    macs: int
    trained: int
    tested: int
    float_figure: float
    widths: Mapping[str, WidthFigures]
    official: tuple[str, float] | None = None
    cores: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    other: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if ":" in self.task:
            raise QatError(f"Row: task is {self.task!r}, which would run code; use the name of a task")

    def save(self, path: str | Path) -> None:
        """Write it as JSON, as a whole or not at all."""
        write_atomically(path, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> Row:
        """Read what ``save`` wrote. Raises QatError for anything else."""
        advice = "give what 'qat zoo make' wrote"
        text = read_text(path, advice)
        with reading(path, "a row of the zoo", advice):
            return _built(json.loads(text))

    def joined(self, before: Row) -> Row:
        """With the widths of an earlier row that were not made again, where that is of the same network and samples.

        Args:
            before: the earlier row.

        Returns:
            A row with the widths of both, in the order of ``WIDTHS``.
        """
        same = ("name", "of", "task", "metric", "arithmetic", "trained", "tested", "float_figure", "other")
        if any(getattr(self, name) != getattr(before, name) for name in same):
            return self
        widths = {**before.widths, **self.widths}
        return replace(self, widths={name: widths[name] for name in WIDTHS if name in widths})

    @property
    def differ(self) -> int:
        """Codes that differ, in all files, on all cores, and in the backend."""
        of_files = sum(x.differ for each in self.widths.values() for x in (each.backend, *each.files.values()))
        return of_files + sum(core["differ"] for core in self.cores.values())

    def shown(self, value: float) -> str:
        """A figure as tables have it: percent, or the metric's own number."""
        text = tasks.create(self.task).value(self.metric, value)
        return text.removesuffix(" %")


#: What is counted on an emulated processor.
CORE = ("instructions", "flash", "ram", "arena", "stack", "differ")
#: Of the tables below.
ACCURACY = ("network", "parameters", "MACs", "metric", "samples", "float", *WIDTHS, "publisher's int8")
COST = (
    "network",
    "width",
    "how",
    "bytes: .onnx",
    ".tflite",
    "C, constants",
    "arena",
    "codes compared in each",
    "differ",
)


def _built(data: Any) -> Row:
    """A row of JSON values. Raises QatError or ValueError for anything else."""
    if not isinstance(data, dict):
        raise ValueError("it is no object")
    widths = {}
    for width, each in _object(data, "widths").items():
        files = {name: build(FileFigures, _object(_object(each, "files"), name)) for name in _object(each, "files")}
        backend = build(FileFigures, _object(each, "backend"))
        widths[width] = build(WidthFigures, {**each, "backend": backend, "files": files})
    cores = {core: _object(_object(data, "cores"), core) for core in _object(data, "cores")}
    for core, own in cores.items():
        for name in CORE:
            check_type(f"{core}: {name}", own.get(name), int)
    return build(Row, {**data, "widths": widths, "cores": cores})


def _object(data: Any, name: str) -> dict[str, Any]:
    """An entry of an object that is an object itself. Raises ValueError where it is none."""
    found = data.get(name) if isinstance(data, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f"its {name} are no object")
    return found


def accuracy_rows(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """A line for each network: its figures at every width.

    Args:
        rows: of the networks.

    Returns:
        Texts, as many as ``ACCURACY`` has.
    """
    found = []
    for row in rows:
        widths = [row.shown(row.widths[name].figure) if name in row.widths else "not measured" for name in WIDTHS]
        official = "" if row.official is None else row.shown(row.official[1])
        costs = (f"{row.parameters:,}", f"{row.macs:,}")
        found.append((row.name, *costs, row.metric, f"{row.tested:,}", row.shown(row.float_figure), *widths, official))
    return found


def cost_rows(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """A line for each width of each network: its files and their certificates.

    Args:
        rows: of the networks.

    Returns:
        Texts, as many as ``COST`` has.
    """
    found = []
    for row in rows:
        for width, each in row.widths.items():
            sizes = [f"{each.files[name].bytes:,}" if name in each.files else "" for name in ("ONNX", "TFLITE", "C")]
            checked = [each.backend, *each.files.values()]
            codes = f"{min(x.codes for x in checked):,}"
            differ = f"{sum(x.differ for x in checked):,}"
            found.append((row.name, width, each.way, *sizes, f"{each.arena:,}", codes, differ))
    return found


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as docs/zoo.md has it."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def load_rows(folder: str | Path) -> list[Row]:
    """The rows that lie in a folder, in the order of the zoo's names.

    Args:
        folder: that ``make`` wrote to.

    Raises:
        QatError: there is none.
    """
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        raise QatError(f"{folder}: holds no rows of the zoo; give the --out of 'qat zoo make'")
    return [Row.load(path) for path in paths]

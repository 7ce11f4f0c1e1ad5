"""The charts of a report: curves of a training, histograms on grids, the arena, confusion matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from qat.analysis.agreement import Codes
from qat.cells.linear import LinearCell
from qat.integer import IntegerGraph, IntegerLinear
from qat.integer.memory import activation_buffers, plan_memory, renamed_sources
from qat.reporting.svg import Drawing, Plot, short, shortened_name
from qat.tasks import Task
from qat.training.monitor import Epoch
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array

MOST_BARS = 64  #: of a histogram
MOST_LINES = 20  #: of a grid whose codes are drawn one by one
FOUR_DIGITS = 10_000  #: counts below fit a square of a confusion matrix
LEAST_SHARE = 1e-4  #: of the numbers of a histogram; rarer ones are cut off below
LEAST_WIDTH = 200.0  #: of a confusion matrix, for what stands below it
WIDTH, HEIGHT = 440.0, 230.0  #: of a chart that stands alone
CARD = (290.0, 128.0)  #: of one on a layer's card


class Course:
    """The epochs of one training, and what they are called."""

    def __init__(self, name: str, epochs: Sequence[Epoch], kind: str) -> None:
        self.name, self.epochs, self.kind = name, epochs, kind

    @property
    def metric(self) -> str | None:
        """The name of the metric that was evaluated after each epoch; None where none was."""
        return next((x.metric for x in self.epochs if x.metric is not None), None)


def loss_chart(courses: Sequence[Course]) -> tuple[str, list[tuple[str, str]]]:
    """The losses of trainings, on the training samples and on those held back.

    Returns:
        Markup, and the entries of its legend.
    """
    values = [
        x for c in courses for e in c.epochs for x in (e.loss, e.validation_loss) if x is not None and math.isfinite(x)
    ]
    low, high = min(values, default=0.0), max(values, default=1.0)
    log = low > 0.0 and high / low > 20.0
    ends = (10.0 ** math.floor(math.log10(low)), high * 1.2) if log else (min(low, 0.0), high * 1.05)
    last = max(len(c.epochs) for c in courses)
    plot = Plot(
        WIDTH, HEIGHT, "Loss by epoch", x=(1, last), y=ends, x_label="epoch", y_label="loss", log=log, whole=True
    )
    entries = []
    for course in courses:
        numbers = range(1, len(course.epochs) + 1)
        plot.series(numbers, [e.loss for e in course.epochs], course.kind, dots=last <= 30)
        entries.append((f"{course.kind} rule", course.name))
        held = [math.nan if e.validation_loss is None else e.validation_loss for e in course.epochs]
        if any(map(math.isfinite, held)):
            plot.series(numbers, held, f"{course.kind} dash")
            entries.append((f"{course.kind} rule limit", f"{course.name}, held-back samples"))
    return plot.markup, entries


def metric_chart(
    courses: Sequence[Course], task: Task, marks: Sequence[tuple[str, float, str]]
) -> tuple[str, list[tuple[str, str]]] | None:
    """The metric of the held-back samples after each epoch, with levels to compare it with; None where nothing was held back.

    Args:
        courses: trainings.
        task: that knows how its metrics are written.
        marks: name, value and class of a level each.
    """
    courses = [c for c in courses if c.metric is not None]
    if not courses:
        return None
    metric = courses[0].metric or ""
    factor = 100.0 if task.is_percent(metric) else 1.0
    curves = {
        id(c): [math.nan if e.validation_metric is None else factor * e.validation_metric for e in c.epochs]
        for c in courses
    }
    found = [x for curve in curves.values() for x in curve if math.isfinite(x)] + [factor * x for _, x, _ in marks]
    low, high = min(found), max(found)
    room = max(high - low, 1e-6) * 0.08
    last = max(len(c.epochs) for c in courses)
    unit = " in %" if factor == 100.0 else ""
    label = f"{task.label(metric)}{unit}"
    plot = Plot(
        WIDTH,
        HEIGHT,
        f"{label} by epoch",
        x=(1, last),
        y=(low - room, high + room),
        x_label="epoch",
        y_label=label,
        whole=True,
    )
    entries = []
    for course in courses:
        plot.series(range(1, len(course.epochs) + 1), curves[id(course)], course.kind, dots=last <= 30)
        entries.append((f"{course.kind} rule", f"{course.name}, held-back samples"))
    for name, value, kind in marks:
        y = plot.at_y(factor * value)
        plot.line(plot.LEFT, y, WIDTH - plot.RIGHT, y, f"limit {kind}")
        entries.append((f"{kind} rule limit", name))
    return plot.markup, entries


def weights_chart(name: str, codes: Array, steps: Array | None) -> str:
    """The codes of a layer's weight, and the float numbers that they stand for, in steps of the code.

    Args:
        name: of the layer.
        codes: centred.
        steps: the float numbers; None where they are not known.

    Returns:
        Markup: bars for the codes, an outline for the float numbers, a line for each code of a coarse grid.
    """
    largest = max(1, int(np.abs(codes).max()))
    width = max(1, -(-(2 * largest + 1) // MOST_BARS))
    edges = np.arange(-largest, largest + width + 1, width) - 0.5
    shares = np.histogram(codes, edges)[0] / codes.size
    plot = _histogram(f"Weights of {name}", edges, shares, "weight, in codes")
    _grid(plot, -largest, largest)
    plot.bars(edges, shares, "soft c0")
    if steps is not None:
        fine = np.linspace(edges[0], edges[-1], MOST_BARS + 1) if width == 1 else edges
        outline = np.histogram(np.clip(steps, edges[0], edges[-1]), fine)[0] / steps.size
        plot.outline(fine, outline * ((edges[1] - edges[0]) / (fine[1] - fine[0])), "line thin c1")
    return plot.markup


def codes_and_steps(node: IntegerLinear, cell: LinearCell, params: Mapping[str, Array]) -> tuple[Array, Array | None]:
    """All centred codes of a weight as deployed, and its float numbers in steps of their scales.

    A batch normalisation that is merged after its weight was quantized turns codes around and may make them smaller
    (``LinearCell.to_integer``): then so are the float numbers, so that each stands at its code.

    Args:
        node: of the integer graph.
        cell: that it was made of.
        params: of the cell, by local name.

    Returns:
        int32, and float64, or None where the cell has other weights than the node.
    """
    codes, of_input = node.centred_weight, np.full(1, node.inputs[0].grid.scale, np.float32)
    weight, _, coded, _ = cell.coded(cell.numpy_params(params), of_input)
    if weight.shape != codes.shape:
        return codes.reshape(-1), None
    steps = (weight / NUMPY_OPS.on_output(coded.scale.astype(np.float64), weight)).reshape(len(codes), -1)
    own, deployed = coded.centred.reshape(steps.shape).astype(np.float64), codes.reshape(steps.shape)
    squares = (own**2).sum(axis=1, keepdims=True)
    turned = np.divide(
        (own * deployed).sum(axis=1, keepdims=True), squares, out=np.ones_like(squares), where=squares > 0.0
    )
    return codes.reshape(-1), (steps * turned).reshape(-1)


def activation_chart(name: str, codes: Codes) -> str:
    """The float numbers of an activation on the grid of its codes, with what lies beyond it.

    Args:
        name: of the layer.
        codes: of ``diagnose``.
    """
    size = codes.high - codes.low + 1
    width = max(1, -(-size // MOST_BARS))
    edges = np.arange(codes.low, codes.high + width + 1, width) - 0.5
    given = _binned(codes.given, width) / max(codes.numbers, 1)
    made = _binned(codes.made, width) / max(codes.numbers, 1)
    plot = _histogram(f"Activation of {name}", edges, np.maximum(given, made), "activation, in codes")
    _grid(plot, codes.low, codes.high)
    plot.bars(edges, made, "soft c2")
    plot.outline(edges, given, "line thin c1")
    for at, beyond in (
        (codes.low, codes.least < codes.scale * (codes.low - 0.5)),
        (codes.high, codes.largest > codes.scale * (codes.high + 0.5)),
    ):
        if beyond:
            plot.line(plot.at_x(at), plot.TOP - 6, plot.at_x(at), plot.height - plot.BOTTOM, "limit c1")
    return plot.markup


def _histogram(label: str, edges: Array, shares: Array, x_label: str) -> Plot:
    largest = float(shares.max(initial=0.0)) or 1.0
    least = max(min(float(shares[shares > 0].min(initial=largest)) * 0.5, largest / 10), LEAST_SHARE)
    ends = (10.0 ** math.floor(math.log10(least)), largest * 1.5)
    x = (float(edges[0]), float(edges[-1]))
    return Plot(*CARD, label, x=x, y=ends, x_label=x_label, y_label="share", log=True)


def _grid(plot: Plot, low: int, high: int) -> None:
    """A small line below the axis for each code, where there are few; a longer one for the grid's ends."""
    bottom = plot.height - plot.BOTTOM
    if high - low < MOST_LINES:
        for code in range(low, high + 1):
            plot.line(plot.at_x(code), plot.TOP, plot.at_x(code), bottom, "grid")


def _binned(counts: Array, width: int) -> Array:
    padded = np.pad(counts, (0, -len(counts) % width))
    found: Array = padded.reshape(-1, width).sum(axis=1)
    return found


def arena_chart(graph: IntegerGraph, most: int = 0) -> tuple[str, int]:
    """The arena over time: each activation is a box, from the step that makes it to the last that reads it, as high as it has
    bytes.

    Args:
        graph: the integer graph.
        most: bytes at the top of the axis, for charts that are compared; 0, the default: the arena's own size.

    Returns:
        Markup, and the arena's size in bytes.
    """
    buffers = activation_buffers(graph, renamed_sources(graph))
    plan = plan_memory(list(buffers.values()))
    steps = len(graph.nodes)
    plot = Plot(
        WIDTH,
        HEIGHT + 40,
        "The arena over time",
        x=(0, steps + 1),
        y=(0, max(plan.size, most)),
        whole=True,
        x_label="step of the evaluation",
        y_label="bytes",
    )
    for index, (name, buffer) in enumerate(buffers.items()):
        x, right = plot.at_x(buffer.first), plot.at_x(buffer.last + 1)
        begin = plan.offsets[name]
        y, bottom = plot.at_y(begin + buffer.size), plot.at_y(begin)
        title = f"{name}: {buffer.size:,} bytes from byte {begin:,}, steps {buffer.first} to {buffer.last}"
        plot.box(x, y, max(right - x - 0.6, 0.8), max(bottom - y - 0.4, 0.8), f"soft c{index % 6}", title)
        if right - x > 7.0 * min(len(name), 8) + 8 and bottom - y > 13:
            plot.text(
                x + 4, (y + bottom) / 2 + 4, shortened_name(name.partition("@")[0], int((right - x - 8) / 6.2)), "small"
            )
    return plot.markup, plan.size


def confusion_chart(counts: Array, names: Sequence[str], title: str, other: Array | None = None) -> str:
    """A confusion matrix: a row for each true class, the darker the more of it were taken for the column's.

    Args:
        counts: int64 (K, K).
        names: of the classes.
        title: above it.
        other: with what it is compared: cells that differ have a frame.
    """
    classes = len(counts)
    cell = 30.0 if classes <= 12 else 340.0 / classes
    left = 16.0 + 6.0 * min(max(map(len, names)), 12)
    drawing = Drawing(max(left + cell * classes + 6, LEAST_WIDTH), 44 + cell * classes + 20, title)
    drawing.text(0, 12, shortened_name(title, int(drawing.width / 8)), "name")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for row in range(classes):
        y = 42 + row * cell
        if cell >= 11:
            drawing.text(left - 5, y + cell / 2 + 4, shortened_name(names[row], 12), "tick", "end")
            drawing.text(left + (row + 0.5) * cell, 36, shortened_name(names[row], 4), "tick", "middle")
        for column in range(classes):
            x, count = left + column * cell, int(counts[row, column])
            right = row == column
            share = float(shares[row, column]) ** 0.5
            drawing.box(x, y, cell, cell, "cell empty")
            kind = "c0" if right else "c1"
            if count:
                title = f"{count:,} of class {names[row]} taken for {names[column]}"
                drawing.path(_square(x, y, cell), f"cell fill {kind} o{min(9, int(share * 10))}", title)
            if count and cell >= 24:
                drawing.text(
                    x + cell / 2,
                    y + cell / 2 + 4,
                    str(count) if count < FOUR_DIGITS else short(count),
                    "onit" if share > 0.6 else "",
                    "middle",
                )
            if other is not None and other[row, column] != count:
                drawing.box(x + 1, y + 1, cell - 2, cell - 2, "limit c4")
    drawing.text(left, 42 + cell * classes + 15, "rows: true class, columns: taken for", "label")
    return drawing.markup


def _square(x: float, y: float, size: float) -> str:
    return f"M{x:.1f} {y:.1f}h{size:.1f}v{size:.1f}h-{size:.1f}z"


def grouped_bars(names: Sequence[str], values: Mapping[str, Sequence[float]], unit: str, label: str) -> str:
    """Horizontal bars, those of one name beside one another.

    Args:
        names: of the rows.
        values: for each series a number for each row; the key is its class.
        unit: of the numbers, for the axis.
        label: what it shows.
    """
    row = 11.0 * len(values) + 18
    finite = [x for own in values.values() for x in own if math.isfinite(x)]
    low, high = min([0.0, *finite]), max([1e-9, *finite])
    height = Plot.TOP + row * len(names) + Plot.BOTTOM
    plot = Plot(WIDTH, height, label, x=(low, high * 1.02), y=(0, 1), x_label=unit, ticks=(True, False))
    zero = plot.at_x(0.0)
    for index, name in enumerate(names):
        y = plot.TOP + index * row
        plot.text(zero if low == 0.0 else plot.LEFT, y + 9, name, "small")
        for place, (kind, own) in enumerate(values.items()):
            if math.isfinite(own[index]):
                x, top = plot.at_x(own[index]), y + 13 + 11 * place
                plot.box(min(x, zero), top, abs(x - zero), 9, f"fill {kind}", f"{name}: {own[index]:.4g}")
    return plot.markup

"""The sections on what float and integers say: metrics, which class was taken for which, samples judged differently."""

from __future__ import annotations

import numpy as np

from qat import tasks
from qat.data.class_names import class_names
from qat.reporting.charts import confusion_chart
from qat.reporting.gather import Facts, confusions, judged_differently
from qat.reporting.page import Section, figure, paragraph, table
from qat.reporting.samples import drawn
from qat.reporting.svg import escaped
from qat.tables import counted
from qat.vocabulary.arrays import as_tuple
from qat.vocabulary.ops import Array

MOST_CLASSES = 40  #: of a drawn confusion matrix
MOST_CONFUSED = 15  #: rows of the table in its place
MOST_SAMPLES = 24  #: that are drawn
MOST_NUMBERS = 4  #: that fit a caption
MAP = 3  #: axes of an output that has something to say of each pixel


def accuracy(run: Facts) -> Section:
    """The metrics in float and in integers, and which class was taken for which."""
    if run.unmeasured:
        text = f"There are no metrics: {run.unmeasured}"
        return Section("Float and integers", body=paragraph(text, "note") + _agreement(run), short="Accuracy")
    rows = []
    for name, value in run.metrics.items():
        before = run.float_metrics[name]
        rows.append(
            (run.task.label(name), run.task.value(name, before), run.task.value(name, value), change(run, name))
        )
    where = "the float checkpoint" if run.own_float else "the same parameters with every quantizer idle"
    body = [table(("", "float", "integers", "change"), rows)]
    body.append(paragraph(f"Float: {where}. Integers: what is deployed.", "note"))
    body.append(_agreement(run))
    found = confusions(run)
    if found is None:
        body.append(
            paragraph(f"There is no confusion matrix: {run.task.name} has no classes that exclude one another.", "note")
        )
    else:
        body.append(_confused(run, *found))
    return Section("Float and integers", body="".join(body), short="Accuracy")


def change(run: Facts, metric: str, before: float | None = None, after: float | None = None) -> str:
    """How much a metric differs, in points where it is a share."""
    before = run.float_metrics[metric] if before is None else before
    after = run.metrics[metric] if after is None else after
    if run.task.is_percent(metric):
        return f"{100 * (after - before):+.2f} points"
    return f"{after - before:+.4g}"


def _agreement(run: Facts) -> str:
    rows = []
    for x in run.diagnosis.outputs:
        same = "" if x.agreement is None else f"{100 * x.agreement:.1f} %"
        rows.append((x.name, decibels(x.sqnr), f"{x.cosine:.5f}", same))
    floats = "the float checkpoint" if run.own_layers else "its own parameters in float"
    samples = counted(run.diagnosis.samples, "sample")
    caption = f"Against {floats}, on {samples}. SQNR: the power of the float numbers over that of the error."
    return table(("output", "SQNR in dB", "cosine", "same largest number"), rows) + paragraph(caption, "note")


def _confused(run: Facts, of_float: Array, of_integers: Array) -> str:
    classes = len(of_integers)
    names = class_names(classes, run.class_names)
    if classes <= MOST_CLASSES:
        drawings = [
            figure(confusion_chart(of_float, names, "Float")),
            figure(confusion_chart(of_integers, names, "Integers", of_float), "A frame: another count than in float."),
        ]
        return f'<div class="pair">{"".join(drawings)}</div>\n'
    off = of_integers * (1 - np.eye(classes, dtype=np.int64))
    order = np.argsort(-off, axis=None, kind="stable")[:MOST_CONFUSED]
    rows = [
        (names[k // classes], names[k % classes], f"{off.flat[k]:,}", f"{of_float.flat[k]:,}")
        for k in order.tolist()
        if off.flat[k]
    ]
    text = f"The confusion matrix has {classes:,} classes; these are most often taken for one another."
    return paragraph(text) + table(("class", "taken for", "integers", "float"), rows)


def samples(run: Facts) -> Section:
    """Those that the two networks judge differently."""
    which, words = judged_differently(run)
    title = "Samples judged differently"
    if not len(which):
        return Section(title, body=paragraph(f"There are none: {words}.", "note"), short="Samples")
    shown = which[:MOST_SAMPLES]
    text = f"{words[:1].upper()}{words[1:]}." + (
        f" The first {len(shown)} are shown." if len(which) > len(shown) else ""
    )
    picked = run.split.chosen(shown).in_memory()
    images = as_tuple(picked.images)
    figures = []
    for place, number in enumerate(shown.tolist()):
        said = _judged(run, number, tuple(x[place] for x in picked.outputs))
        pictures = "".join(drawn(np.asarray(x[place]), f"sample {number}") for x in images)
        lines = "<br>".join(map(escaped, said))
        figures.append(f"<figure>{pictures}<figcaption>{lines}</figcaption></figure>")
    return Section(title, text, body=f'<div class="samples">{"".join(figures)}</div>\n', short="Samples")


def _judged(run: Facts, number: int, labels: tuple[Array, ...]) -> list[str]:
    """What is said of a sample: lines, of several outputs after the name of each. labels: of each; none where unknown."""
    parts = run.task.parts if isinstance(run.task, tasks.Several) else (tasks.OutputTask("", run.task),)
    of_each = len(labels) == len(run.outputs) and not run.unmeasured
    known = labels if of_each else (None,) * len(run.outputs)
    lines = [f"sample {number:,}"]
    for place, (own, of_float, label) in enumerate(zip(run.outputs, run.float_outputs, known, strict=True)):
        part = parts[place] if len(parts) == len(run.outputs) else tasks.OutputTask("", run.task)
        before = f"{part.output}: " if part.output else ""
        lines += [before + line for line in _of_output(run, part.task, own[number], of_float[number], label)]
    return lines


def _of_output(run: Facts, task: tasks.Task, own: Array, of_float: Array, label: Array | None) -> list[str]:
    if isinstance(task, tasks.Classification) and own.ndim == 1:
        names = class_names(len(own), run.class_names)
        known = [] if label is None else [f"is {names[int(label)]}"]
        return [*known, f"float: {names[int(of_float.argmax())]}", f"integers: {names[int(own.argmax())]}"]
    if own.size <= MOST_NUMBERS:
        known = [] if label is None or np.size(label) > MOST_NUMBERS else [f"is {_numbers(np.asarray(label))}"]
        return [*known, f"float: {_numbers(of_float)}", f"integers: {_numbers(own)}"]
    if own.ndim == MAP and isinstance(task, tasks.Segmentation):
        same = (own.argmax(axis=0) == of_float.argmax(axis=0)).mean()
        return [f"{100 * (1 - same):.2f} % of the pixels get another class"]
    error = float(np.sqrt(((own.astype(np.float64) - of_float) ** 2).mean()))
    return [f"outputs differ by {error:.3g} (RMS)"]


def _numbers(values: Array) -> str:
    return ", ".join(f"{x + 0.0:.4g}" for x in np.ravel(values).tolist())


def decibels(value: float) -> str:
    """A ratio in dB, as tables show it."""
    return "exact" if value == float("inf") else f"{value:.1f}"

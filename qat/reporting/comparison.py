"""The sections of a page that puts two runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from qat import tasks
from qat.data.class_names import class_names
from qat.reporting.charts import arena_chart, confusion_chart, grouped_bars
from qat.reporting.gather import Facts, confusions
from qat.reporting.judged import MOST_CLASSES, change, decibels
from qat.reporting.network import network_drawing
from qat.reporting.page import Section, figure, paragraph, table
from qat.reporting.sections import courses_of, curve_pair, history
from qat.reporting.svg import escaped, legend, shortened_name
from qat.tables import counted

MOST_NAME = 34  #: characters of a layer's name
MOST_BARS = 40  #: layers whose SQNR is drawn
Row = tuple[str, str, str, str]


def sections(a: Facts, b: Facts) -> list[Section]:
    """All that there is to compare.

    Args:
        a: one run.
        b: another one.
    """
    found = [figures(a, b), stories(a, b), curves(a, b), classes(a, b), layers(a, b), memory(a, b), networks(a, b)]
    return [section for section in found if section is not None]


def figures(a: Facts, b: Facts) -> Section:
    """The figures of both, and how much those of the second differ."""
    rows: list[Row] = []
    for name in a.metrics:
        if name in b.metrics and a.task.is_percent(name) == b.task.is_percent(name):
            pairs = {"float": (a.float_metrics, b.float_metrics), "integers": (a.metrics, b.metrics)}
            for words, (of_a, of_b) in pairs.items():
                one, two = of_a[name], of_b[name]
                text = f"{a.task.label(name)}, {words}"
                rows.append((text, a.task.value(name, one), b.task.value(name, two), change(a, name, one, two)))
    counts: list[tuple[str, Callable[[Facts], int | None]]] = [
        ("bytes of constants", lambda x: x.bytes or None),
        ("bytes of arena, in C", lambda x: x.arena),
        ("bytes of activations", lambda x: x.activations),
        ("MACs for a sample", lambda x: x.macs),
        ("bit operations", lambda x: sum(y.bops for y in x.layers)),
        ("parameters", lambda x: sum(y.parameters for y in x.layers)),
    ]
    for words, count in counts:
        rows.append(_counted(words, count(a), count(b)))
    for index, (x, y) in enumerate(zip(a.diagnosis.outputs, b.diagnosis.outputs, strict=False)):
        words = "SQNR of the output in dB" if len(a.diagnosis.outputs) == 1 else f"SQNR of output {index} in dB"
        rows.append((words, decibels(x.sqnr), decibels(y.sqnr), _apart(x.sqnr, y.sqnr)))
    rows.append(("certificates", _certified(a), _certified(b), ""))
    body = [table(("", a.name, b.name, "difference"), rows)]
    where = [f"{x.name}: {len(x.split):,} {x.data or 'samples'}" for x in (a, b)]
    body.append(paragraph("; ".join(where) + ".", "note"))
    for run in (a, b):
        if run.unmeasured:
            body.append(paragraph(f"{run.name} has no metrics: {run.unmeasured}", "note"))
    body.append(_same_answers(a, b))
    return Section("Figures", body="".join(body))


def _counted(words: str, one: int | None, two: int | None) -> Row:
    texts = ["none" if x is None else f"{x:,}" for x in (one, two)]
    if one is None or two is None:
        return words, texts[0], texts[1], ""
    share = f" ({100 * (two - one) / one:+.1f} %)" if one and two != one else ""
    return words, texts[0], texts[1], f"{two - one:+,}{share}" if two != one else "0"


def _apart(one: float, two: float) -> str:
    return f"{two - one:+.1f}" if np.isfinite(two - one) else ""


def _certified(run: Facts) -> str:
    if not run.certificates:
        return "none given"
    return ", ".join(f"{x.differ:,} of {counted(x.codes, 'code')} differ" for x in run.certificates)


def _same_answers(a: Facts, b: Facts) -> str:
    """In how many of the same samples a classifier answers alike."""
    both = [x.outputs[0] for x in (a, b)]
    of_classes = all(isinstance(x.task, tasks.Classification) and len(x.outputs) == 1 for x in (a, b))
    if not of_classes or both[0].shape != both[1].shape or a.data != b.data:
        return ""
    same = int((both[0].argmax(axis=1) == both[1].argmax(axis=1)).sum())
    return paragraph(f"The integers of both give {same:,} of {counted(len(both[0]), 'sample')} the same class.")


def stories(a: Facts, b: Facts) -> Section:
    """What was trained on what."""
    parts = [f"<div><h3>{escaped(x.name)}</h3>{history(x).body}</div>" for x in (a, b)]
    return Section("What was trained on what", body=f'<div class="pair">{"".join(parts)}</div>\n', short="History")


def curves(a: Facts, b: Facts) -> Section | None:
    """The courses of both in one chart."""
    one = courses_of(a, f"{a.name}: ")
    known = [course.epochs for course in one]
    two = [course for course in courses_of(b, f"{b.name}: ", len(one)) if course.epochs not in known]
    for course in one:
        if course.epochs in b.courses:
            course.name = course.name.replace(f"{a.name}: ", "both: ", 1)
    courses = [*one, *two]
    if not courses:
        return None
    return Section("Loss and accuracy curves", body=curve_pair(a, courses, b), short="Curves")


def classes(a: Facts, b: Facts) -> Section | None:
    """The confusion matrices of both, of their integers."""
    found = [confusions(x) for x in (a, b)]
    if found[0] is None or found[1] is None:
        return None
    one, two = found[0][1], found[1][1]
    if one.shape != two.shape or len(one) > MOST_CLASSES:
        return None
    names = class_names(len(one), a.class_names)
    drawings = [
        figure(confusion_chart(one, names, a.name)),
        figure(confusion_chart(two, names, b.name, one), f"A frame: another count than {a.name}."),
    ]
    return Section(
        "Confusion matrices of the integers", body=f'<div class="pair">{"".join(drawings)}</div>\n', short="Confusion"
    )


def layers(a: Facts, b: Facts) -> Section:
    """The layers of both, by name."""
    one, two = ({x.name: x for x in run.diagnosis.layers} for run in (a, b))
    names = [*one, *(name for name in two if name not in one)]
    rows = []
    for name in names:
        x, y = one.get(name), two.get(name)
        bits = [f"{z.weight_bits or '-'}/{z.activation_bits}" if z else "" for z in (x, y)]
        ratios = [decibels(z.sqnr) if z else "" for z in (x, y)]
        blame = [f"{100 * z.blame:.1f} %" if z else "" for z in (x, y)]
        rows.append(
            (shortened_name(name, MOST_NAME), *bits, *ratios, _apart(x.sqnr, y.sqnr) if x and y else "", *blame)
        )
    each = (a.name, b.name)
    columns = (
        "layer",
        *(f"bits w/a, {x}" for x in each),
        *(f"SQNR in dB, {x}" for x in each),
        "difference",
        *(f"blame, {x}" for x in each),
    )
    drawing = ""
    if len(names) <= MOST_BARS:
        values = {
            kind: [found[name].sqnr if name in found else float("nan") for name in names]
            for kind, found in (("c0", one), ("c1", two))
        }
        shown = [shortened_name(name, MOST_NAME) for name in names]
        bars = grouped_bars(shown, values, "SQNR in dB", "SQNR of each layer in both")
        drawing = legend([("c0", a.name), ("c1", b.name)]) + figure(bars)
    return Section("Layer by layer", body=table(columns, rows, minor=(1, 2, 6, 7)) + drawing, short="Layers")


def memory(a: Facts, b: Facts) -> Section:
    """The bytes of both, and the arenas on one scale."""
    body = []
    if a.stored and b.stored:
        names = [*a.stored, *(name for name in b.stored if name not in a.stored)]
        rows = [
            (shortened_name(x, MOST_NAME), *_counted("", a.stored.get(x, 0), b.stored.get(x, 0))[1:]) for x in names
        ]
        rows.append(("total", *_counted("", a.bytes, b.bytes)[1:]))
        body.append(table(("layer", a.name, b.name, "difference"), rows, total=True))
    most = max(a.activations, b.activations)
    parts = [
        figure(arena_chart(x.integers, most)[0], f"{x.name}: {x.activations:,} bytes of activations") for x in (a, b)
    ]
    body.append(f'<h3>The arenas over time</h3><div class="pair">{"".join(parts)}</div>\n')
    return Section("Where the bytes are", body="".join(body), short="Bytes")


def networks(a: Facts, b: Facts) -> Section | None:
    """Both networks, unless they are drawn alike."""
    drawings = [network_drawing(x.checkpoint.graph, x.layers, x.stored) for x in (a, b)]
    if drawings[0] == drawings[1]:
        return None
    body = "".join(f"<div><h3>{escaped(x.name)}</h3>{each}</div>" for x, each in zip((a, b), drawings, strict=True))
    return Section("The networks", body=f'<div class="pair">{body}</div>\n', short="Networks")


def lines(runs: Sequence[Facts]) -> list[str]:
    """What the page is about."""
    found: Mapping[str, None] = dict.fromkeys(x.data for x in runs if x.data)
    return [f"On {', '.join(found)}."] if found else []

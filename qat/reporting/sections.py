"""The sections of one run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qat.analysis.diagnosed import Layer
from qat.cells.linear import LinearCell
from qat.integer import IntegerLinear
from qat.reporting.charts import (
    Course,
    activation_chart,
    arena_chart,
    codes_and_steps,
    loss_chart,
    metric_chart,
    weights_chart,
)
from qat.reporting.costs import by_layer
from qat.reporting.gather import Facts
from qat.reporting.judged import accuracy, decibels, samples
from qat.reporting.network import network_drawing
from qat.reporting.page import Section, Tile, command_lines, facts, figure, paragraph, table
from qat.reporting.svg import breakable, escaped, in_bytes, legend, short, shortened_name
from qat.reporting.told import course_names, stages
from qat.tables import counted
from qat.vocabulary.listing import dimensions
from qat.vocabulary.ops import Array

NAME = 34  #: characters of a layer's name in a table
CARDS = 16  #: layers whose charts are there at once; of a deeper network the others have to be opened


def tiles(run: Facts) -> list[Tile]:
    """The summary."""
    found = []
    for name in list(run.metrics)[:1]:
        label = run.task.label(name, short=True)
        found.append(Tile(run.task.value(name, run.float_metrics[name]), f"{label} in float"))
        found.append(Tile(run.task.value(name, run.metrics[name]), f"{label} of the integers"))
    if run.stored:
        found.append(Tile(in_bytes(run.bytes), f"{run.bytes:,} bytes of constants"))
    memory, what = (
        (run.activations, "bytes of activations") if run.arena is None else (run.arena, "bytes of arena, in C")
    )
    found.append(Tile(in_bytes(memory), f"{memory:,} {what}"))
    found.append(Tile(short(run.macs), f"{run.macs:,} MACs for a sample"))
    if run.certificates:
        differ = sum(x.differ for x in run.certificates)
        codes = sum(codes for x in run.certificates for _, codes, _ in x.rows)
        found.append(
            Tile(
                f"{differ:,} differ",
                f"of {counted(codes, 'code')}: {counted(len(run.certificates), 'certificate')}",
                "bad" if differ else "good",
            )
        )
    if run.bench and run.bench["here"]:
        fastest = min(run.bench["here"], key=lambda row: row["seconds"])
        found.append(Tile(_seconds(fastest["seconds"]), f"a sample, {fastest['file'].rpartition('/')[2]}"))
    return found


def sections(run: Facts) -> list[Section]:
    """All that there is to say, in its order."""
    found = [
        history(run),
        accuracy(run),
        curves(run),
        network(run),
        memory(run),
        layers(run),
        speed(run),
        certificates(run),
        samples(run),
    ]
    return [section for section in found if section is not None]


def history(run: Facts) -> Section:
    """What was trained on what."""
    graph, checkpoint = run.checkpoint.graph, run.checkpoint
    takes = " and ".join(f"{dimensions(x.shape)} {x.dtype}" for x in graph.input_specs)
    rows = [
        ("network", f"{graph.name}, {run.integers.arithmetic} arithmetic"),
        ("takes", takes),
        ("gives", " and ".join(dimensions(x.shape) for x in run.integers.outputs)),
        ("task", run.task.name),
        ("evaluated on", f"{len(run.split):,} {run.data or 'samples'}"),
    ]
    if checkpoint.preparation is not None:
        rows.append(("pictures", str(checkpoint.preparation)))
    body = [facts(rows)]
    for number, (title, settings, command) in enumerate(stages(checkpoint), 1):
        said = command_lines([command]) if command else ""
        body.append(f'<div class="card stage"><h3>{number}. {escaped(title)}</h3>{facts(settings)}{said}</div>\n')
    if not checkpoint.history:
        body.append(paragraph("The checkpoint keeps no history: it was made from Python.", "note"))
    return Section("What was trained on what", body=_in_order(body), short="History")


def _in_order(body: Sequence[str]) -> str:
    first, *others = body
    return f'{first}<div class="pair stages">{"".join(others)}</div>\n' if others else first


def curves(run: Facts) -> Section | None:
    """The course of the trainings."""
    courses = courses_of(run)
    if not courses:
        text = "No training has kept its course: the network was imported, calibrated or made from Python."
        return Section("Loss and accuracy curves", body=paragraph(text, "note"), short="Curves")
    return Section("Loss and accuracy curves", body=curve_pair(run, courses), short="Curves")


def courses_of(run: Facts, words: str = "", first: int = 0) -> list[Course]:
    """The trainings of a run. words: before their names. first: the colour that they begin with."""
    names = course_names(run.checkpoint)
    return [
        Course(f"{words}{name}", epochs, f"c{(first + k) % 6}")
        for k, (name, epochs) in enumerate(zip(names, run.courses, strict=True))
    ]


def curve_pair(run: Facts, courses: Sequence[Course], other: Facts | None = None) -> str:
    """Charts of losses and of the metric."""
    drawing, entries = loss_chart(courses)
    drawings = [figure(drawing) + legend(entries)]
    metric = next((course.metric for course in courses if course.metric), None)
    marks = []
    if metric in run.metrics and metric is not None:
        if other is None:
            marks = [
                ("float, test samples", run.float_metrics[metric], "c6"),
                ("integers, test samples", run.metrics[metric], "c2"),
            ]
        else:
            marks = [
                (f"{x.name}, integers", x.metrics[metric], f"c{2 + k}")
                for k, x in enumerate((run, other))
                if metric in x.metrics
            ]
    found = metric_chart(courses, run.task, marks)
    if found is None:
        text = "No samples were held back in training (--validation), so that there is no curve of the accuracy."
        return f'<div class="pair"><div>{drawings[0]}</div></div>' + paragraph(text, "note")
    return f'<div class="pair"><div>{drawings[0]}</div><div>{figure(found[0])}{legend(found[1])}</div></div>\n'


def network(run: Facts) -> Section:
    """The network as a drawing."""
    entries = [("c2", "input"), ("c0", "with parameters"), ("c4", "joins several"), ("c6", "without parameters")]
    text = (
        "Each box: shape of the output, bits of its codes and of its weights, bytes of its constants, multiply-accumulates; "
        "the bar is its share of all bytes. What skips layers runs beside them."
    )
    drawing = network_drawing(run.checkpoint.graph, run.layers, run.stored)
    return Section("The network", text, body=legend(entries) + drawing, short="Network")


def memory(run: Facts) -> Section:
    """Where the bytes are, and the arena over time."""
    body = []
    if run.stored:
        stored, other = by_layer(run.layers, run.stored)
        largest = max(stored.values(), default=1)
        own = [x for x in run.layers if stored.get(x.name) or x.macs]
        rows = [
            (
                shortened_name(x.name, NAME),
                f"{x.parameters:,}" if x.parameters else "",
                f"{x.macs:,}" if x.macs else "",
                f"{x.weight_bits or '-'}/{x.activation_bits}",
                f"{stored.get(x.name, 0):,}",
                f"{100 * stored.get(x.name, 0) / max(run.bytes, 1):.1f} %",
            )
            for x in own
        ]
        shares = [stored.get(x.name, 0) / largest for x in own]
        if other:
            rows.append(("tables of fake quantizers", "", "", "", f"{other:,}", f"{100 * other / run.bytes:.1f} %"))
            shares.append(min(other / largest, 1.0))
        rows.append(("total", f"{sum(x.parameters for x in run.layers):,}", f"{run.macs:,}", "", f"{run.bytes:,}", ""))
        columns = ("layer", "parameters", "MACs", "bits w/a", "bytes", "share")
        body.append(table(columns, rows, shares=shares, minor=(1, 2), total=True))
        body.append(paragraph("Bytes: the constants of its C file, weights, biases, multipliers and tables.", "note"))
    else:
        body.append(
            paragraph("C does not hold this network, by whose file bytes are counted; so there are none here.", "note")
        )
    drawing, size = arena_chart(run.integers)
    own_arena = "" if run.arena is None else f" The C file's arena, with scratch memory: {run.arena:,} bytes."
    what = "Each box is an activation, from the step that makes it to the last that reads it."
    text = f"{what} Together they take {size:,} bytes.{own_arena}"
    body.append("<h3>The arena over time</h3>" + figure(drawing, text))
    return Section("Where the bytes are", body="".join(body), short="Bytes")


def layers(run: Facts) -> Section:
    """Each layer: its error, its weights and its activation on their grids."""
    found = run.diagnosis
    advice = "".join(f"<li>{escaped(x.text)}</li>" for x in found.advice)
    floats = "the float checkpoint" if run.own_layers else "its own parameters in float"
    text = (
        f"Integers against {floats}, on {counted(found.samples, 'sample')}. Blame: the share of the outputs' error that a "
        "layer causes alone. Own: its SQNR with that layer alone quantized. Clipped: float numbers beyond the grid."
    )
    rows = [
        (
            shortened_name(x.name, NAME),
            f"{x.weight_bits or '-'}/{x.activation_bits}",
            decibels(x.sqnr),
            decibels(x.own),
            f"{x.cosine:.4f}",
            _clipped(x),
            f"{100 * x.blame:.1f} %",
        )
        for x in found.layers
    ]
    columns = ("layer", "bits w/a", "SQNR in dB", "own", "cosine", "clipped", "blame")
    most = max((x.blame for x in found.layers), default=0.0) or 1.0
    entries = [
        ("c0", "weight codes"),
        ("c2", "activation codes"),
        ("c1 rule", "float numbers, in steps of the code"),
        ("c1 rule limit", "the grid ends, numbers lie beyond"),
    ]
    body = [
        f"<h3>What to do</h3><ul>{advice}</ul>",
        table(columns, rows, shares=[x.blame / most for x in found.layers], minor=(3, 4)),
        "<h3>Weights and activations on their grids</h3>",
        legend(entries),
        _cards(run),
    ]
    return Section("Layer by layer", text, body="".join(body), short="Layers")


def _clipped(x: Layer) -> str:
    """Not zero where there are some."""
    return "< 0.01 %" if 0.0 < x.clipped < 5e-5 else f"{100 * x.clipped:.2f} %"


def _cards(run: Facts) -> str:
    """The charts of each layer, those that are most to blame before others where there are many."""
    cards = _drawn(run)
    if len(cards) <= CARDS:
        return f'<div class="cards">{"".join(cards)}</div>\n'
    order = sorted(range(len(cards)), key=lambda k: -run.diagnosis.layers[k].blame)
    first, others = ("".join(cards[k] for k in sorted(x)) for x in (order[:CARDS], order[CARDS:]))
    return (
        paragraph(f"The {CARDS} layers most to blame, in the network's order.", "note")
        + f'<div class="cards">{first}</div>\n<details><summary>The other {len(cards) - CARDS} layers</summary>'
        + f'<div class="cards">{others}</div></details>\n'
    )


def _drawn(run: Facts) -> list[str]:
    found, nodes = [], linear_nodes(run)
    for x in run.diagnosis.layers:
        parts = [f"<h3>{breakable(x.name)}</h3>"]
        said = f"SQNR {decibels(x.sqnr)} dB, cosine {x.cosine:.5f}, {100 * x.codes_used:.0f} % of the codes used"
        parts.append(paragraph(said))
        for name in x.weights:
            for node, cell in nodes.get(name, ())[:1]:
                own = {local: run.checkpoint.params[f"{name}.{local}"] for local in cell.params()}
                weights, steps = codes_and_steps(node, cell, own)
                parts.append(figure(weights_chart(name, weights, steps)))
                own_name = "" if name == x.name else f"{name}: "
                parts.append(paragraph(own_name + _said_of_weight(node, weights), "note"))
        codes = run.diagnosis.codes.get(x.name)
        if codes is not None:
            parts.append(figure(activation_chart(x.name, codes)))
            grid = f"{codes.scale * codes.low:.3g} to {codes.scale * codes.high:.3g} in steps of {codes.scale:.3g}"
            parts.append(
                paragraph(
                    f"float {codes.least:.3g} to {codes.largest:.3g}, grid {grid}, {_clipped(x)} clipped",
                    "note",
                )
            )
        found.append(f'<div class="card">{"".join(parts)}</div>\n')
    return found


def linear_nodes(run: Facts) -> Mapping[str, Sequence[tuple[IntegerLinear, LinearCell]]]:
    """The integer nodes of each cell with a weight, and the cell, by its name."""
    cells = {node.name: node for node in run.checkpoint.graph.nodes}
    found: dict[str, list[tuple[IntegerLinear, LinearCell]]] = {}
    for node in run.integers.nodes:
        of = cells.get(node.belongs_to)
        if isinstance(node, IntegerLinear) and of is not None and isinstance(of.cell, LinearCell):
            found.setdefault(of.cell_name, []).append((node, of.cell))
    return found


def _said_of_weight(node: IntegerLinear, codes: Array) -> str:
    least, largest = float(node.weight_scale.min()), float(node.weight_scale.max())
    steps = (
        f"steps of {least:.3g}" if least == largest else f"steps of {least:.3g} to {largest:.3g}, one for each output"
    )
    used = (
        f"{len(np.unique(codes)):,} codes from {codes.min()} to {codes.max()}, {100 * (codes == 0).mean():.1f} % are 0"
    )
    return f"{codes.size:,} weights, {used}; {steps}"


def speed(run: Facts) -> Section | None:
    """How long an inference takes, where it was measured."""
    if run.bench is None:
        return None
    here, cores = run.bench["here"], run.bench["cores"]
    slowest = max((row["seconds"] for row in here), default=1.0)
    rows = [
        (
            row["file"].rpartition("/")[2],
            str(row.get("runtime", "")),
            f"{row['bytes']:,}",
            _seconds(row["seconds"]),
            " to ".join(_seconds(x) for x in row["quartiles"]),
        )
        for row in here
    ]
    body = [
        table(
            ("file", "runs in", "bytes", "median", "quartiles"),
            rows,
            shares=[row["seconds"] / slowest for row in here],
            minor=(2, 4),
        ),
        paragraph(f"One sample, one thread, on {run.bench.get('machine', 'this machine')}.", "note"),
    ]
    if cores:
        costs = [
            (row["file"].rpartition("/")[2], row["core"], *(f"{row[x]:,}" for x in ("instructions", "flash", "ram")))
            for row in cores
        ]
        body.append("<h3>Emulated processors</h3>" + table(("file", "core", "instructions", "flash", "RAM"), costs))
    return Section("Latency", body="".join(body))


def certificates(run: Facts) -> Section:
    """What was verified."""
    if not run.certificates:
        text = (
            "No exported file was given: qat export writes one with its certificate, and --certificates shows it here."
        )
        return Section("Certificates", body=paragraph(text, "note"))
    body = []
    for each in run.certificates:
        found = each.found
        verdict = "all codes are equal" if not each.differ else f"{each.differ:,} codes differ"
        rows = [(engine, f"{codes:,}", f"{differ:,}") for engine, codes, differ in each.rows]
        samples = f"{counted(int(found['images']), 'sample')}, {found['data']}"
        body.append(f"<h3>{escaped(each.file)}: {verdict}</h3>")
        body.append(table(("engine, against NumPy's integers", "codes compared", "differ"), rows))
        body.append(paragraph(f"{each.size:,} bytes; {samples}.", "note"))
        if found.get("arithmetics"):
            body.append(paragraph(str(found["arithmetics"])))
        if found.get("not_promised"):
            body.append(paragraph(str(found["not_promised"])))
        known = found.get("reference_metrics") or {}
        name = next(iter(known), "")
        same = (
            name in run.metrics
            and found["images"] == len(run.split)
            and found.get("arithmetic") == run.integers.arithmetic
        )
        if same and abs(float(known[name]) - run.metrics[name]) > 1e-9:
            text = (
                f"It certifies {run.task.words(name, float(known[name]))} where this checkpoint has "
                f"{run.task.value(name, run.metrics[name])}: the samples or the parameters are others. qat verify says which."
            )
            body.append(paragraph(text))
    return Section("Certificates", body="".join(body))


def _seconds(value: float) -> str:
    return f"{1e6 * value:,.1f} µs" if value < 1e-3 else f"{1e3 * value:,.2f} ms"

"""What a notebook shows: one short line of everything a user has in hand, and a table of it as HTML."""

from __future__ import annotations

import html.parser
import io
import re
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from calibrations import PLAIN

import qat
from qat import console
from qat.analysis.diagnosed import Diagnosis, decibels
from qat.deploy.certificate import Certificate, Comparison
from qat.imports.imported import Imported
from qat.networks import LeNet5
from qat.training.log import TrainingLog
from qat.vocabulary.listing import Listed, Listing, Row, given_fields, of_fields

MOST = 400  #: characters of a line that names a thing
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 1, 32, 32), np.uint8)
HARM = "<script>alert('&')</script>"


class Tables(html.parser.HTMLParser):
    """Checks that every tag is closed in order, and keeps the cells of tables."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.rows: list[int] = []
        self.left: list[int] = []
        self.whole: list[int] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag in {"p", "table", "thead", "tbody", "tr", "th", "td"}
        assert attrs in ([], [("style", "text-align:left")], [("style", "white-space:nowrap")])
        self.left += [len(self.cells)] if attrs and "left" in attrs[0][1] else []
        self.whole += [len(self.cells)] if attrs and "nowrap" in attrs[0][1] else []
        self.open.append(tag)
        if tag == "tr":
            self.rows.append(0)
        if tag in {"th", "td"}:
            self.rows[-1] += 1
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1] in {"th", "td"}:
            self.cells[-1] += data


def read(text: str) -> Tables:
    tables = Tables()
    tables.feed(text)
    tables.close()
    assert tables.open == []
    assert len(set(tables.rows)) <= 1  # as many cells in each row
    return tables


@pytest.fixture(scope="module")
def things() -> dict[str, Any]:
    graph, backend = LeNet5().graph(), qat.backend("torch")
    images, labels = IMAGES, np.arange(24) % 10
    start = qat.Checkpoint(graph, graph.initial_params(0), class_names=tuple(f"class {n}" for n in range(1000)))
    quantized = qat.calibrate(graph, start.params, images, num_bits=4, **PLAIN)
    split = qat.data.Split(images, labels)
    data = qat.data.Dataset("noise", "from Python", split, split, class_names=start.class_names)
    trained = qat.train(
        backend, replace(quantized, class_names=start.class_names), data, qat.Recipe(epochs=1, batch_size=8)
    )
    integers = qat.to_integer(quantized.graph, quantized.params)
    return {
        "graph": graph,
        "quantized graph": quantized.graph,
        "integers": integers,
        "checkpoint": start,
        "calibrated": quantized,
        "trained": trained,
        "split": split,
        "dataset": data,
        "recipe": qat.Recipe(epochs=3, augment=("crop", "flip"), oscillations=qat.Oscillations(freeze=0.01)),
        "diagnosis": qat.diagnose(quantized.graph, quantized.params, images),
        "repair": qat.repair(start, images, target_drop=30.0, num_bits=2, decide_on=split, **PLAIN),
        "imported": Imported(graph, dict(start.params), notes=["what a user should know"]),
    }


@pytest.fixture(scope="module")
def certificate(things: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("file") / "net.onnx"
    return qat.export(things["calibrated"], path, images=(IMAGES, np.arange(24) % 10))


NAMES = ["graph", "quantized graph", "integers", "checkpoint", "calibrated", "trained", "split", "dataset", "recipe"]
NAMES += ["diagnosis", "repair", "imported"]


@pytest.mark.parametrize("name", NAMES)
def test_a_thing_is_a_line_and_a_table(name: str, things: dict[str, Any]) -> None:
    thing = things[name]
    assert isinstance(thing, Listed)
    assert len(repr(thing)) < MOST
    assert "\n" not in repr(thing)
    assert "array(" not in repr(thing) + str(thing)
    found = read(thing._repr_html_())
    assert len(found.rows) > 1 or name == "repair"
    assert len(thing._repr_html_()) < 8000


def test_the_history_of_a_checkpoint_is_a_line_for_each_record(things: dict[str, Any]) -> None:
    """Not the record itself, a dictionary of the settings and of every candidate."""
    trained = str(things["trained"]).splitlines()
    assert [line.split(maxsplit=1) for line in trained if line.startswith("history")] == [
        ["history[0]", "Trained 1 epoch on noise with torch"],
        ["history[1]", "Calibrated on 24 images: minmax, rounding nearest"],
    ]
    assert "{" not in str(things["trained"])
    odd = replace(
        things["checkpoint"], history=({}, {"calibration": 3}, {"calibration": {"images": [1]}}, {"own_key": 1})
    )
    assert [line.split(maxsplit=1)[1] for line in str(odd).splitlines() if line.startswith("history")] == [
        "Made",
        "Calibrated",
        "Calibrated on [1] images",
        "Own key",
    ]


def test_advice_is_a_list_to_read(things: dict[str, Any]) -> None:
    advice = things["diagnosis"].advice
    assert isinstance(advice, tuple)
    assert repr(advice) == f"{len(advice)} pieces of advice: {', '.join(x.what for x in advice)}"
    assert repr(advice[0]) == f"Advice {advice[0].what}: {advice[0].text}"
    lines = str(advice).splitlines()
    assert lines[0] == f"{len(advice)} pieces of advice"
    assert lines[2].split() == [advice[0].what, *", ".join(advice[0].layers[:3]).split()]
    assert [x.text for x in advice] == read(advice._repr_html_()).cells[5::3]


def test_every_name_is_looked_at(things: dict[str, Any]) -> None:
    assert [*things] == NAMES


def test_parts_of_what_is_found_are_short_too(things: dict[str, Any]) -> None:
    parts = [
        *things["integers"].nodes,
        *things["diagnosis"].layers,
        *things["diagnosis"].advice,
        *things["repair"].raised,
    ]
    assert len(parts) > 15
    assert max(len(repr(part)) for part in parts) < MOST
    assert repr(things["integers"].nodes[1]) == "IntegerConv2d conv1(input), 6 x 28 x 28"
    assert repr(things["diagnosis"].layers[0]).startswith("Layer conv1, 4/4 bits, blame ")


def test_what_the_lines_say(things: dict[str, Any]) -> None:
    assert repr(things["dataset"]) == "Dataset noise, 24 + 24 samples of 1 x 32 x 32, 1,000 classes"
    assert repr(things["recipe"]) == (
        "Recipe(epochs=3, augment=('crop', 'flip'), oscillations=Oscillations(freeze=0.01, freeze_from=None, dampen=0.0, "
        "momentum=0.01))"
    )
    assert repr(things["imported"]) == "Imported: Graph of LeNet5, float, 9 nodes, input 1 x 32 x 32, 1 note"
    assert "what a user should know" in str(things["imported"])
    cells = read(things["dataset"]._repr_html_()).cells
    assert cells[5:10] == ["training", "24", "1 x 32 x 32", "uint8", ""]
    assert "1 epoch, 3 steps" in read(things["trained"]._repr_html_()).cells


def test_a_certificate_is_a_line_its_summary_and_a_table(certificate: Certificate) -> None:
    assert repr(certificate).endswith("net.onnx, 24 samples, 480 codes compared, 0 differ")
    assert len(repr(certificate)) < MOST
    assert str(certificate) == certificate.summary()
    cells = read(certificate._repr_html_()).cells
    assert cells[:6] == ["engine", "arithmetic", "codes compared", "differ", "by at most", "metric"]
    assert "NumPy integers" in cells
    assert cells.count("240") == 2
    assert len(repr(certificate.comparisons[0])) < MOST


def test_a_difference_shows() -> None:
    one = Comparison("<engine>", 240, 3, 1, {"top-1": 0.5}, "conv1, image 0")
    found = Certificate("net.onnx", "Net", HARM, 24, {"top-1": 0.51}, (one,), ((0, 3), (3, 0)))
    assert repr(found) == "Certificate of net.onnx, 24 samples, 240 codes compared, 3 differ"
    assert "<script" not in found._repr_html_()
    cells = read(found._repr_html_()).cells
    assert {"<engine>", "3", "conv1, image 0", "top-1 50.00 %", "top-1 51.00 %"} <= set(cells)


def test_a_measurement_is_a_line() -> None:
    from qat.deploy.measuring import Measured

    codes = np.zeros((500, 1000), np.uint8)
    found = Measured((codes,), (codes,), (815_626,) * 500, {"conv": 1}, {}, 67_260, 68_000, 6_052, 6_052, 560)
    assert repr(found) == (
        "Measured on 500 samples: 815,626 instructions, 67,260 bytes of flash, 6,052 of RAM, 560 of stack"
    )


def test_names_of_others_are_escaped(tmp_path: Path) -> None:
    split = qat.data.Split(np.zeros((4, 2), np.float32), None)
    shown = qat.data.Dataset(HARM, "x", split, split)._repr_html_()
    assert "<script" not in shown
    read(shown)
    told = qat.Checkpoint(LeNet5().graph(), LeNet5().graph().initial_params(0), class_names=(HARM,))._repr_html_()
    assert "<script" not in told
    assert any("<script>alert" in cell for cell in read(told).cells)
    (row,) = Listing(HARM, (HARM,), (Row((HARM,), HARM),)).html.split("<tbody>")[1:]
    assert "<script" not in row


def test_the_reader_of_tables_finds_what_is_not_closed() -> None:
    with pytest.raises(AssertionError):
        read("<table><tr><td>1</table>")
    with pytest.raises(AssertionError):
        read("<p>a<script>b</script></p>")
    with pytest.raises(AssertionError):
        read("<table><tr><td>1</td></tr><tr><td>1</td><td>2</td></tr></table>")


def test_fields_show_what_is_not_their_default() -> None:
    recipe = qat.Recipe(epochs=3)
    assert given_fields(recipe) == "Recipe(epochs=3)"
    rows = {row.texts[0]: row.texts[1:] for row in of_fields(recipe).rows}
    assert rows["epochs"] == ("3", "10")
    assert rows["batch_size"] == ("64", "")
    assert eval(repr(recipe), {"Recipe": qat.Recipe}) == recipe


def test_an_exact_layer_has_no_decibels() -> None:
    assert decibels(float("inf")) == "exact"
    assert decibels(20.04) == "20.0"
    assert issubclass(Diagnosis, Listed)


def test_numbers_stand_to_the_right_and_texts_to_the_left() -> None:
    rows = (
        Row(("stem", "Conv2d", "1,200", "8/4", "3 x 8 x 8", "0 to 255", "-3.5e-05", "exact")),
        Row(("1", "", "", "-/4", "10", "-8 to 7", "1", "12.5 %"), "more"),
    )
    found = read(Listing("", tuple("abcdefgh"), rows).html)
    assert [k % 9 for k in found.left] == [0, 1, 8] * 3
    assert [k % 9 for k in found.whole] == [4, 5, 7] * 3
    assert read(Listing("", ("a",), ()).html).left == []


# -- bars ---------------------------------------------------------------------------------------------------------------


class CellOutput(io.StringIO):
    """As a notebook's standard output, which says that it is a terminal."""

    __module__ = "ipykernel.iostream"

    def isatty(self) -> bool:
        return True


def test_a_notebook_gets_plain_lines_and_a_bar_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    out = CellOutput()
    monkeypatch.setattr(sys, "stdout", out)
    plain = console.make_console()
    assert not plain.is_terminal
    assert not plain.is_jupyter  # else rich would show each line as an output of its own
    monkeypatch.setattr(console, "has_widgets", lambda: False)
    assert console.bar_console(plain) is None
    plain.print("a line", style="bold")
    assert out.getvalue() == "a line\n"
    monkeypatch.setattr(console, "has_widgets", lambda: True)
    drawn = console.bar_console(plain)
    assert drawn is not None
    assert drawn.is_jupyter


class Widget:
    """As ipywidgets.Output: what is printed within, by any thread, is shown in it, and closed with it."""

    within: ClassVar[list[int]] = []
    log: ClassVar[list[int]] = []

    def __enter__(self) -> None:
        Widget.log.append(threading.get_ident())
        Widget.within.append(threading.get_ident())
        time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        Widget.within.pop()

    def clear_output(self, wait: bool = False) -> None: ...

    def close(self) -> None: ...


class LosingOutput(CellOutput):
    """Loses what is printed while a widget is drawn, as a notebook does."""

    __module__ = "ipykernel.iostream"

    def write(self, text: str) -> int:
        return len(text) if Widget.within else super().write(text)


def test_no_line_of_a_training_is_lost_in_the_bar_of_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    out, shown = LosingOutput(), SimpleNamespace(display=lambda *_, **__: None)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(console, "has_widgets", lambda: True)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=shown))
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    monkeypatch.setitem(sys.modules, "ipywidgets", SimpleNamespace(Output=Widget))
    monkeypatch.setattr(console.Bar, "REDRAWN", 0.0)
    Widget.log.clear()
    with TrainingLog(40, 1) as log:
        for epoch in range(1, 41):
            time.sleep(0.02)
            log.step(epoch, 1, 0.5, 0.1)
    assert re.findall(r"Epoch: ?\[ ?(\d+)/", out.getvalue()) == [*map(str, range(1, 41))]
    assert len(Widget.log) >= 40
    assert {*Widget.log} == {threading.get_ident()}, "no other thread draws"


def test_a_command_in_a_cell_gets_colours_and_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert console.bar_console(console.make_console()) is not None
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    assert console.make_console().is_terminal
    assert console.bar_console(console.make_console()) is None


def test_a_training_in_a_notebook_writes_no_escapes(monkeypatch: pytest.MonkeyPatch, things: dict[str, Any]) -> None:
    out = CellOutput()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(console, "has_widgets", lambda: False)
    qat.train(qat.backend("torch"), things["calibrated"], things["dataset"], qat.Recipe(epochs=2, batch_size=8))
    lines = out.getvalue().splitlines()
    assert [line[:13] for line in lines] == ["Epoch: [ 1/  ", "Epoch: [ 2/  "]
    assert "\x1b" not in out.getvalue()

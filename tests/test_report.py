"""The report of a run: its figures are the library's, and in a real browser it fits, without a network and without an error."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from command import run
from task_networks import Four, Numbers, Pixels, Two

import qat
from qat.cells.fake_quant import FakeQuant
from qat.cli import main
from qat.errors import QatError
from qat.integer import IntegerLinear
from qat.integer.memory import activation_buffers, activation_memory, renamed_sources
from qat.networks import LeNet5
from qat.reporting import charts, gather, network, sections, svg, told
from qat.reporting.page import Section, Tile, html_page
from qat.reporting.report import Report
from qat.tasks import Classification, Multilabel, OutputTask, Reconstruction, Regression, Segmentation, Several
from qat.training.checkpoint import COURSE, Checkpoint
from qat.training.monitor import Epoch, Progress

pytest.importorskip("jinja2")
pytest.importorskip("torch")
RNG = np.random.default_rng(3)
HOSTILE = '<script>alert("x")</script>'


class Residual(qat.Network):
    """Two branches that skip layers, one within the other, and a long way round."""

    def __init__(self) -> None:
        self.inputs = qat.Input((3, 8, 8), mean=0.5, std=0.3)
        self.first, self.second, self.third = (
            qat.Conv2dBnAct(3, 3, 3, has_bn=True, activation="relu") for _ in range(3)
        )
        self.inner, self.outer = qat.Add(), qat.Add()
        self.pool, self.flatten, self.fc = qat.GlobalAvgPool2d(), qat.Flatten(), qat.DenseBnAct(3, 4)

    def construct(self, x):
        one = self.first(x)
        two = self.inner(self.second(one), one)
        return self.fc(self.flatten(self.pool(self.outer(self.third(two), one))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeNet-5 trained on digits, quantized in two ways, exported, timed."""
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("runs")
    data = ["--data_path", "digits"]
    lenet, quantized, calibrated = (str(folder / f"{name}.ckpt") for name in ("lenet", "lenet_quant", "lenet_4"))
    recipe = ["--epochs", "2", "--validation", "150", "--lr", "0.05"]
    assert main(["train", *data, *recipe, "--save_path", lenet]) == 0
    assert main(["train-quant", *data, "--ckpt_path", lenet, *recipe, "--lr", "0.01", "--save_path", quantized]) == 0
    few = ["--num_bits", "3", "6", "--method", "minmax", "--rounding", "nearest", "--images", "60"]
    few += ["--bias_correction", "false", "--equalize", "false"]
    assert main(["calibrate", *data, "--ckpt_path", lenet, *few, "--save_path", calibrated]) == 0
    export = ["export", *data, "--ckpt_path", quantized, "--file_format", "C", "--file_name", str(folder / "lenet.c")]
    assert main(export) == 0
    here = {
        "file": "lenet.c",
        "runtime": "cc",
        "bytes": 1234,
        "seconds": 5e-5,
        "quartiles": [4e-5, 7e-5],
        "least": 3e-5,
    }
    core = {"file": "lenet.c", "core": "Cortex-M4", "instructions": 4_000_000, "flash": 70_000, "ram": 9_000}
    (folder / "bench.json").write_text(json.dumps({"machine": "Linux", "here": [here], "cores": [core]}))
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    path = folder / "report.html"
    given = ["--certificates", str(folder / "lenet.c"), "--bench", str(folder / "bench.json"), "--out", str(path)]
    assert main(["report", "--ckpt_path", str(folder / "lenet_quant.ckpt"), "--data_path", "digits", *given]) == 0
    return path


@pytest.fixture(scope="module")
def compared(folder: Path) -> Path:
    path = folder / "compared.html"
    two = [str(folder / "lenet_quant.ckpt"), str(folder / "lenet_4.ckpt")]
    assert main(["report", "--compare", *two, "--data_path", "digits", "--images", "20", "--out", str(path)]) == 0
    return path


def plain(markup: str) -> str:
    """The text of a page, as it is read."""
    return html.unescape(
        re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>|<wbr>", "", markup, flags=re.S)))
    )


def made(network: qat.Network, images: Any, labels: Any, task: qat.Task, **settings: Any) -> Report:
    """The report of a network that was never trained."""
    graph = network.graph()
    quantized = replace(qat.calibrate(graph, graph.initial_params(1), images, **settings), task=task)
    return qat.report(quantized, qat.Split(images, labels), backend=qat.backend("torch"))


# -- what the page says -------------------------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_library(folder: Path, page: Path) -> None:
    checkpoint = Checkpoint.load(folder / "lenet_quant.ckpt")
    text, test = plain(page.read_text()), qat.data.load("digits").resized((1, 32, 32)).test
    accuracy = qat.evaluate_metrics(qat.backend("torch"), checkpoint, test)["top-1"]
    assert f"{100 * accuracy:.2f} % accuracy of the integers" in text
    integers, target = qat.to_integer(checkpoint.graph, checkpoint.params), qat.target("C")
    storage = target.storage(integers)
    assert f"{sum(storage.values()):,} bytes of constants" in text
    for name, size in storage.items():
        assert re.search(rf"{name} [\d,]+ [\d,]+ 8/8 {size:,} ", text), name
    assert f"{target.arena_bytes(integers):,} bytes of arena, in C" in text
    assert f"{qat.metrics.total_macs(checkpoint.graph):,} MACs" in text
    assert f"Together they take {activation_memory(integers).size:,} bytes." in text
    certificate = json.loads(target.read_metadata(folder / "lenet.c")["certificate"])
    codes = sum(x["codes"] for x in certificate["comparisons"])
    assert f"0 differ of {codes:,} codes: 1 certificate" in text
    assert "lenet.c: all codes are equal" in text
    order = np.sort(np.random.default_rng(gather.SEED).permutation(len(test))[: gather.LAYER_SAMPLES])
    found = qat.diagnose(checkpoint.graph, checkpoint.params, test.images[order])
    for layer in found.layers:
        figures = rf"{layer.name} 8/8 {layer.sqnr:.1f} {layer.own:.1f} {layer.cosine:.4f} {sections._clipped(layer)}"
        assert re.search(figures, text.replace("\N{NO-BREAK SPACE}", " ")), layer.name
    assert "50.0 µs a sample, lenet.c" in text
    assert "Cortex-M4 4,000,000 70,000 9,000" in text


def test_the_confusion_matrices_add_up_to_the_samples(folder: Path) -> None:
    checkpoint = Checkpoint.load(folder / "lenet_4.ckpt")
    test = qat.data.load("digits").resized((1, 32, 32)).test
    facts = qat.report(checkpoint, test).facts
    of_float, of_integers = gather.confusions(facts) or (None, None)
    assert of_float is not None
    assert of_float.sum() == of_integers.sum() == len(test)
    assert np.trace(of_integers) == round(facts.metrics["top-1"] * len(test))
    assert np.trace(of_float) == round(facts.float_metrics["top-1"] * len(test))
    # Nearest codes: its own parameters in float are those of the float checkpoint.
    plain_network = Checkpoint.load(folder / "lenet.ckpt")
    assert facts.float_metrics == qat.evaluate_metrics(qat.backend("torch"), plain_network, test)
    again = qat.report(checkpoint, test, float_checkpoint=plain_network).facts
    assert again.own_float
    np.testing.assert_allclose(again.float_outputs[0], facts.float_outputs[0], rtol=0, atol=1e-4)
    which, words = gather.judged_differently(facts)
    assert set(which) == set(np.flatnonzero(facts.outputs[0].argmax(1) != facts.float_outputs[0].argmax(1)))
    assert f"{len(which)} of {len(test)} samples" in words
    assert len(which) > 0, "3 bits change nothing, so that nothing was compared"


def test_layers_of_a_trained_network_are_compared_with_its_own_parameters(folder: Path) -> None:
    """Training has moved the weights: against the float checkpoint every layer would look ruined."""
    checkpoint, plain_network = (Checkpoint.load(folder / f"{name}.ckpt") for name in ("lenet_quant", "lenet"))
    test = qat.data.load("digits").resized((1, 32, 32)).test
    alone, with_float = (
        qat.report(checkpoint, test, float_checkpoint=other, images=16) for other in (None, plain_network)
    )
    assert with_float.facts.diagnosis == alone.facts.diagnosis
    assert with_float.facts.float_metrics == qat.evaluate_metrics(qat.backend("torch"), plain_network, test)
    assert "Integers against its own parameters in float" in plain(with_float.html)
    calibrated = Checkpoint.load(folder / "lenet_4.ckpt")
    page = qat.report(calibrated, test, float_checkpoint=plain_network, images=16)
    assert "Integers against the float checkpoint" in plain(page.html)
    other = Residual().graph()
    with pytest.raises(QatError, match="these are not the float parameters"):
        qat.report(checkpoint, test, float_checkpoint=Checkpoint(other, other.initial_params()), images=16)


def test_histograms_count_every_weight_on_its_code(folder: Path) -> None:
    checkpoint = Checkpoint.load(folder / "lenet_4.ckpt")
    test = qat.data.load("digits").resized((1, 32, 32)).test
    found = qat.diagnose(checkpoint.graph, checkpoint.params, test.images[:20])
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    nodes = [node for node in integers.nodes if isinstance(node, IntegerLinear)]
    assert len(nodes) == 5
    for node in nodes:
        cell = next(x.cell for x in checkpoint.graph.nodes if x.name == node.belongs_to)
        own = {local: checkpoint.params[f"{node.belongs_to}.{local}"] for local in cell.params()}
        codes, steps = charts.codes_and_steps(node, cell, own)
        np.testing.assert_array_equal(codes, node.weight.reshape(-1))
        assert np.abs(codes).max() == 3
        assert steps is not None
        assert (np.abs(steps - codes) <= 0.5 + 1e-3).all(), "nearest codes of 3 bits, within the range"
        moved = charts.codes_and_steps(node, cell, own | {"weight": own["weight"][::-1]})[1]
        assert not (np.abs(moved - codes) <= 0.5 + 1e-3).all()
        with_floats, without = charts.weights_chart("x", codes, steps), charts.weights_chart("x", codes, None)
        assert with_floats.count("<path") == without.count("<path") + 1
    for name, codes in found.codes.items():
        assert codes.given.sum() == codes.made.sum() == codes.numbers
        layer = next(x for x in found.layers if x.name == name)
        assert layer.clipped == codes.clipped / codes.numbers
        assert (codes.high - codes.low + 1) == 2**6


@pytest.mark.parametrize("bn_fold", [True, False])
def test_float_numbers_stand_at_their_codes_whatever_is_folded(bn_fold: bool) -> None:
    """Without folding, a batch normalisation's negative factor turns the codes of its channel around."""
    graph = Residual().graph()
    params = graph.initial_params(2)
    for name in list(params):
        if name.endswith("gamma"):
            params[name] = params[name] * np.where(np.arange(len(params[name])) % 2, -1.5, 0.7).astype(np.float32)
    images = RNG.integers(0, 256, (16, 3, 8, 8), np.uint8)
    settings = {"rounding": "nearest", "bias_correction": False, "equalize": False}
    found = qat.calibrate(graph, params, images, bn_fold=bn_fold, **settings)
    integers, compared = qat.to_integer(found.graph, found.params), 0
    for node in integers.nodes:
        of = next((x for x in found.graph.nodes if x.name == node.belongs_to), None)
        if isinstance(node, IntegerLinear) and of is not None and "weight" in of.cell.float_params():
            own = {local: found.params[f"{of.cell_name}.{local}"] for local in of.cell.params()}
            codes, steps = charts.codes_and_steps(node, of.cell, own)
            np.testing.assert_allclose(steps, codes, rtol=0, atol=0.51)
            assert np.corrcoef(steps, codes)[0, 1] > 0.999
            compared += 1
    assert compared == 4


def test_the_arena_has_a_box_for_each_activation() -> None:
    graph = LeNet5().graph()
    quantized = qat.calibrate(graph, graph.initial_params(), RNG.integers(0, 256, (8, 1, 32, 32), np.uint8))
    integers = qat.to_integer(quantized.graph, quantized.params)
    markup, size = charts.arena_chart(integers)
    buffers = activation_buffers(integers, renamed_sources(integers))
    assert markup.count("<rect") == len(buffers)
    assert size == activation_memory(integers).size
    for buffer in buffers.values():
        assert f"{buffer.size:,} bytes from byte" in markup


def test_what_skips_layers_has_a_lane_of_its_own() -> None:
    graph = qat.calibrate(
        Residual(), Residual().graph().initial_params(), RNG.integers(0, 256, (8, 3, 8, 8), np.uint8)
    ).graph
    layers = qat.metrics.measure(graph)
    drawn = network.boxes(graph, layers, {})
    names = [box.name for box in drawn]
    reads = {box.name: [names[k] for k in box.reads] for box in drawn}
    assert reads["inner"] == ["second", "first"]
    assert reads["outer"] == ["third", "first"]
    beside = network.lanes(drawn)
    assert {names[k]: names[end] for k, (_, end) in beside.items()} == {"first": "outer"}
    overlapping = [
        network.Box(str(k), "", ("", ""), "c0", 0.0, reads)
        for k, reads in enumerate([(), (0,), (1, 0), (2, 1), (3, 0)])
    ]
    found = network.lanes(overlapping)
    assert found == {0: (0, 4), 1: (1, 3)}
    assert len({lane for lane, _ in found.values()}) == 2
    markup = network.network_drawing(graph, layers, {"fc": 20})
    assert markup.count('class="lanearrow') == 2
    for box in drawn:
        assert f">{box.name}</text>" in markup


def test_a_long_network_is_drawn_in_columns_that_no_lane_leaves() -> None:
    boxes = [network.Box(f"n{k}", "", ("", ""), "c0", 0.0, (k - 1,) if k else ()) for k in range(40)]
    boxes[30] = replace(boxes[30], reads=(29, 2))
    markup = [network._column("x", boxes, network.lanes(boxes), start, start + 10, 300.0) for start in (0, 10, 20, 30)]
    assert ["lane " in column for column in markup] == [True, True, True, True]
    assert [column.count("lanearrow") for column in markup] == [0, 0, 0, 1]


def test_names_and_texts_are_escaped(tmp_path: Path) -> None:
    graph = LeNet5().graph()
    quantized = qat.calibrate(graph, graph.initial_params(), RNG.integers(0, 256, (8, 1, 32, 32), np.uint8))
    record = {
        "backend": "torch",
        "epochs": 1,
        "data": HOSTILE,
        "command": f"qat train --data_path {HOSTILE}",
        "teacher": "a\x1b[31mb",
    }
    quantized = replace(quantized, history=(record, {HOSTILE: {HOSTILE: HOSTILE}}))
    split = qat.Split(RNG.integers(0, 256, (12, 1, 32, 32), np.uint8), np.arange(12) % 10)
    given: dict[str, Any] = {"name": HOSTILE, "data": HOSTILE, "class_names": [HOSTILE] * 10, "commands": [HOSTILE]}
    report = qat.report(quantized, split, images=4, **given)
    for text in (report.html, report.compared_with(report).html):
        assert "<script" not in text
        assert "&lt;script&gt;" in text
        assert "\x1b" not in text
    assert HOSTILE not in report._repr_html_()
    page = html_page(
        HOSTILE, [HOSTILE], [HOSTILE], [Section(HOSTILE, HOSTILE, (HOSTILE,), [(HOSTILE,)])], [Tile(HOSTILE, HOSTILE)]
    )
    assert "<script" not in page


# -- other tasks --------------------------------------------------------------------------------------------------------


def vectors(shape: tuple[int, ...] = (6,), count: int = 30) -> Any:
    return RNG.integers(0, 256, (count, *shape), np.uint8)


SEVERAL = Several((OutputTask("kind", Classification()), OutputTask("size", Regression())))
MAPS, CLASSES = RNG.integers(0, 3, (30, 4, 5)), RNG.integers(0, 4, 30)


@pytest.mark.parametrize(
    ("network", "images", "labels", "task", "there", "missing"),
    [
        (Numbers(), vectors(), RNG.normal(size=30), Regression(), "MAE", "taken for"),
        (Four(), vectors(), RNG.integers(0, 2, (30, 4)), Multilabel(), "F1 micro", "taken for"),
        (Pixels(), vectors((2, 4, 5)), MAPS, Segmentation(), "of the pixels get another class", "no classes"),
        (Two(), vectors(), (CLASSES, RNG.normal(size=30)), SEVERAL, "size MAE", "no metrics"),
        (Four(), vectors(), None, Classification(), "There are no metrics: ", "of the integers"),
    ],
    ids=["regression", "several labels", "segmentation", "two outputs", "no labels"],
)
def test_what_does_not_apply_is_left_out(
    network: qat.Network, images: Any, labels: Any, task: qat.Task, there: str, missing: str
) -> None:
    report = made(network, images, labels, task)
    text = plain(report.html)
    assert there in text
    assert missing not in text.replace("There is no confusion matrix", "")
    assert "<svg" in report.html
    has_classes = isinstance(task, (Classification, Segmentation, Several)) and labels is not None
    assert ("rows: true class" in text) == has_classes
    if labels is not None and not has_classes:
        assert f"There is no confusion matrix: {task.name} has no classes that exclude one another." in text
    assert "No training has kept its course" in text


def test_of_several_outputs_each_is_told_with_its_name() -> None:
    report = made(Two(), vectors(), (CLASSES, RNG.normal(size=30)), SEVERAL, num_bits=(3, 4))
    which, _ = gather.judged_differently(report.facts)
    number = int(which[0])
    kind, size = (x[number] for x in report.facts.outputs)
    text = plain(report.html)[plain(report.html).index(f"sample {number} ") :].partition(" sample ")[0]
    assert f"kind: is {CLASSES[number]} kind: float: " in text
    assert f"kind: integers: {int(kind.argmax())} size: is " in text
    assert f"size: integers: {float(size[0]) + 0.0:.4g}" in text


def test_a_reconstruction_has_a_report() -> None:
    class Same(Numbers):
        def __init__(self) -> None:
            super().__init__(6)

    report = made(Same(), vectors(), None, Reconstruction())
    assert report.facts.metrics
    assert "outputs differ by" in plain(report.html)


def test_of_many_layers_those_most_to_blame_have_their_charts_before_the_others() -> None:
    class Deep(qat.Network):
        def __init__(self) -> None:
            self.inputs = qat.Input((4,))
            self.own_dense_layers = [qat.DenseBnAct(4, 4, activation="relu") for _ in range(sections.CARDS + 3)]

        def construct(self, x):
            for dense in self.own_dense_layers:
                x = dense(x)
            return x

    report = made(Deep(), vectors((4,)), CLASSES % 4, Classification(), method="minmax")
    shown, _, folded = report.html.partition("<details>")
    most = max(report.facts.diagnosis.layers, key=lambda x: x.blame)
    heading = f"<h3>{svg.breakable(most.name)}</h3>"
    assert heading in shown
    assert "own_<wbr>dense_<wbr>layers.<wbr>" in heading
    assert [x.count('<div class="card"><h3>') for x in (shown, folded)] == [sections.CARDS, 3]
    assert "The other 3 layers" in plain(folded)
    assert ("percentile" in plain(report.html), "min" in plain(report.html)) == (False, True)


def test_few_numbers_beyond_the_grid_are_not_none() -> None:
    def clipped(share: float) -> str:
        return sections._clipped(SimpleNamespace(clipped=share))

    assert [clipped(x) for x in (0.0, 1e-6, 4e-5, 6e-5, 0.5)] == ["0.00 %", "< 0.01 %", "< 0.01 %", "0.01 %", "50.00 %"]


def test_several_inputs_are_all_drawn() -> None:
    class Pair(qat.Network):
        def __init__(self) -> None:
            self.inputs = (qat.Input((6,), mean=0.5, std=0.3), qat.Input((1, 5, 4), mean=0.5, std=0.3))
            self.flatten, self.concat, self.fc = qat.Flatten(), qat.Concat(), qat.DenseBnAct(26, 3)

        def construct(self, x, y):
            return self.fc(self.concat(x, self.flatten(y)))

    images = (vectors(count=40), RNG.integers(0, 256, (40, 1, 5, 4), np.uint8))
    report = made(Pair(), images, np.arange(40) % 3, Classification(), num_bits=(2, 2))
    which, _ = gather.judged_differently(report.facts)
    assert len(which), "2 bits change no class"
    samples = report.html[report.html.index('class="samples"') :]
    assert samples.count("<figure>") == min(len(which), 24)
    assert samples.count("<img") == samples.count("<svg") == samples.count("<figure>")
    assert "6 uint8 and 1 x 5 x 4 uint8" in plain(report.html)


# -- how it was trained -------------------------------------------------------------------------------------------------


def test_a_training_is_remembered_by_what_is_made_from_it(folder: Path, page: Path) -> None:
    first, second, third = (Checkpoint.load(folder / f"{name}.ckpt") for name in ("lenet", "lenet_quant", "lenet_4"))
    (own,) = first.courses
    assert [len(course) for course in second.courses] == [2, 2]
    assert second.courses[0] == own
    assert third.courses == (own,)
    assert all(epoch.validation_metric is not None for epoch in own)
    assert told.course_names(second) == ["float training", "quantization-aware training"]
    assert len(json.dumps(second.history)) < 4000
    lines = [record["command"] for record in reversed(second.history)]
    assert [shlex.split(line)[1] for line in lines] == ["train", "train-quant"]
    text = plain(page.read_text())
    for line in lines:
        assert re.sub(r"\s+", " ", line) in text
    assert page.read_text().index("1. Trained") < page.read_text().index("2. Trained")
    assert first.derived(first.graph, first.params).past == first.past


def test_a_damaged_course_is_refused() -> None:
    graph = LeNet5().graph()
    start = Checkpoint(graph, graph.initial_params(), history=({"lr": 1.0},), progress=Progress((Epoch(3, 0.5, 0.1),)))
    assert start.past == ({"lr": 1.0, COURSE: [{"step": 3, "loss": 0.5, "lr": 0.1}]},)
    assert start.derived(graph, start.params).courses == ((Epoch(3, 0.5, 0.1),),)
    for wrong in ("x", [1], [{"step": "3"}], [{"step": 3, "loss": 1.0, "lr": 1.0}] * 2):
        with pytest.raises(QatError, match="record of epochs is damaged"):
            _ = replace(start, history=({COURSE: wrong},)).courses


def test_going_on_with_a_training_does_not_depend_on_its_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["train", "--data_path", "digits", "--network", "mlp", "--epochs", "2", "--lr_schedule", "constant"]
    path = str(tmp_path / "a.ckpt")
    assert run(capsys, *given[:-3], "1", "--lr_schedule", "constant", "--save_path", path)[0] == 0
    assert run(capsys, *given, "--save_path", path, "--resume")[0] == 0
    saved = Checkpoint.load(path)
    assert saved.epoch == 2
    assert "--resume" not in saved.history[0]["command"]


# -- what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--ckpt_path", "lenet.ckpt"], "holds the float network LeNet5, which is not quantized yet"),
        (["--ckpt_path", "lenet_4.ckpt", "--certificates", "lenet.c"], "was exported from another network than"),
        (["--ckpt_path", "lenet_4.ckpt", "--bench", "lenet.c"], "the JSON of qat bench"),
        (["--ckpt_path", "lenet_4.ckpt", "--images", "0"], "--images 0: there are 360 test images"),
        (["--compare", "lenet_4.ckpt", "lenet_quant.ckpt", "--bench", "bench.json"], "--bench: is of one run"),
        (["--ckpt_path", "lenet_4.ckpt", "--compare", "lenet_4.ckpt", "lenet_4.ckpt"], "not allowed with"),
        (["--ckpt_path", "lenet_4.ckpt", "--out", "lenet.ckpt/x.html"], "lenet.ckpt"),
    ],
)  # fmt: skip
def test_wrong_uses_are_one_line(
    given: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(os.listdir(folder))
    status, _, error = run(capsys, "report", "--data_path", "digits", *given)
    assert status == 2
    assert message in error
    assert error.count("\n") == 1
    assert sorted(os.listdir(folder)) == before


def test_a_file_without_a_certificate_is_refused(folder: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.load(folder / "lenet_4.ckpt")
    path = tmp_path / "bare.c"
    qat.target("C").export(qat.to_integer(checkpoint.graph, checkpoint.params), path)
    with pytest.raises(QatError, match="holds no certificate"):
        gather.read_certificate(path, checkpoint)


def test_other_parameters_than_the_certified_ones_are_noticed(folder: Path) -> None:
    """The digest of a graph says nothing of its parameters."""
    checkpoint = Checkpoint.load(folder / "lenet_quant.ckpt")
    test = qat.data.load("digits").resized((1, 32, 32)).test
    certificates = [folder / "lenet.c"]
    assert (
        "the samples or the parameters are others" not in qat.report(checkpoint, test, certificates=certificates).html
    )
    other = {**checkpoint.params, "fc3.weight": -checkpoint.params["fc3.weight"]}
    page = qat.report(replace(checkpoint, params=other), test, certificates=certificates)
    assert "the samples or the parameters are others" in page.html


# -- drawings -----------------------------------------------------------------------------------------------------------


def test_ticks_are_round_and_few() -> None:
    assert svg.even_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert svg.even_ticks(-1, 1) == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert svg.log_ticks(0.001, 100) == [0.001, 0.01, 0.1, 1, 10, 100]
    for low, high in RNG.normal(size=(50, 2)).cumsum(axis=1) * 1000:
        ticks = svg.even_ticks(min(low, high), max(low, high))
        assert 1 < len(ticks) <= 6
        assert min(low, high) - 1e-6 <= ticks[0] <= ticks[-1] <= max(low, high) + 1e-6
    assert [svg.short(x) for x in (0, 0.05, 12, 999.9, 1234, 416520, 3e6, 2e-5)] == [
        "0",
        "0.05",
        "12",
        "1k",
        "1.23k",
        "417k",
        "3M",
        "2e-5",
    ]
    assert [svg.in_bytes(x) for x in (276, 63_123, 4_789_120)] == ["276 B", "63.1 kB", "4.79 MB"]
    assert [svg.shortened_name("blocks/1/conv", k) for k in (13, 8, 1)] == ["blocks/1/conv", "blo…conv", "…v"]


def test_a_report_takes_no_longer_than_a_diagnosis_of_its_usual_samples(folder: Path) -> None:
    """By what it does: of the layers, half as many samples as ``diagnose`` takes."""
    from qat.scripts.diagnose import IMAGES

    assert gather.LAYER_SAMPLES * 2 == IMAGES
    started = time.perf_counter()
    checkpoint = Checkpoint.load(folder / "lenet_4.ckpt")
    facts = qat.report(checkpoint, qat.data.load("digits").resized((1, 32, 32)).test).facts
    assert facts.diagnosis.samples == gather.LAYER_SAMPLES
    assert time.perf_counter() - started < 60
    assert all(not isinstance(node.cell, FakeQuant) or node.name not in facts.stored for node in checkpoint.graph.nodes)


# -- in a browser -------------------------------------------------------------------------------------------------------

FITS = """(() => {
  const outside = (own, all) =>
    own.left < all.left - 2 || own.right > all.right + 2 || own.top < all.top - 2 || own.bottom > all.bottom + 2;
  const cut = [...document.querySelectorAll('svg text')].filter(text => {
    const own = text.getBoundingClientRect();
    return own.width && outside(own, text.ownerSVGElement.getBoundingClientRect());
  }).map(text => text.textContent);
  const wide = [...document.querySelectorAll('body *')].filter(each => !each.closest('.wide') && !each.closest('svg')
    && each.getBoundingClientRect().right > innerWidth + 1).map(each => each.tagName);
  const style = getComputedStyle(document.body);
  return {
    scroll: document.documentElement.scrollWidth, width: innerWidth, cut, wide,
    svg: document.querySelectorAll('svg').length,
    headings: [...document.querySelectorAll('h2')].map(each => each.textContent),
    paper: style.backgroundColor, ink: style.color,
    anchors: [...document.querySelectorAll('nav a')].every(a => document.getElementById(a.getAttribute('href').slice(1))),
    images: [...document.querySelectorAll('img')].every(each => each.complete && each.naturalWidth > 0)};
})()"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_pages_fit_a_telephone_and_a_wide_screen_in_light_and_dark(page: Path, compared: Path, tmp_path: Path) -> None:
    with Browser(tmp_path) as browser:
        for path in (page, compared):
            text = path.read_text()
            assert not re.search(r'(src|href)="(?!#|data:image/)', text), "something is fetched from elsewhere"
            ids = re.findall(r'\bid="([^"]+)"', text)
            assert len(ids) == len(set(ids))
            for width in (1400, 400):
                papers = {}
                for scheme in ("light", "dark"):
                    browser.open(path, width, scheme)
                    found = browser.evaluate(FITS)
                    assert found["width"] == width
                    assert found["scroll"] <= width, f"{path.name} at {width}"
                    assert found["cut"] == []
                    assert found["wide"] == []
                    assert found["anchors"]
                    assert found["images"]
                    assert found["svg"] == text.count("<svg") >= 9
                    papers[scheme] = [sum(map(int, re.findall(r"\d+", found[x])[:3])) for x in ("paper", "ink")]
                assert papers["light"][0] > 700 > papers["light"][1] + 400, "dark letters on light paper"
                assert papers["dark"][0] < 150 < papers["dark"][1] - 400, "and the reverse"
        assert found["headings"][:2] == ["Figures", "What was trained on what"]
        browser.open(page, 1400)
        shown = browser.evaluate(FITS)["headings"]
        assert shown == [
            "What was trained on what",
            "Float and integers",
            "Loss and accuracy curves",
            "The network",
            "Where the bytes are",
            "Layer by layer",
            "Latency",
            "Certificates",
            "Samples judged differently",
        ]
        browser.printed(tmp_path / "page.pdf")
        assert (tmp_path / "page.pdf").read_bytes()[:5] == b"%PDF-"
        assert browser.messages == []
        assert {url.partition(":")[0] for url in browser.requests} <= {"file", "data"}


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_browser_notices_what_is_wrong(tmp_path: Path) -> None:
    """Or the test above could not fail."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!DOCTYPE html><body><pre style='width:900px'>x</pre>"
        "<svg viewBox='0 0 10 10' width=50><text x='8' y='5'>cut off</text></svg>"
        "<script src='http://example.com/x.js'></script><script>console.error('no')</script>"
    )
    with Browser(tmp_path) as browser:
        browser.open(bad, 400)
        found = browser.evaluate(FITS)
        assert found["scroll"] > 400
        assert found["cut"] == ["cut off"]
        assert "PRE" in found["wide"]
        assert browser.messages
        assert "http://example.com/x.js" in browser.requests


def test_the_study_and_a_report_have_one_style(compared: Path) -> None:
    page = html_page("t", [], ["x" * 300], [Section("a"), Section("a"), Section("<b>")])
    style = re.search(r"<style>.*?</style>", page, re.S)
    assert style is not None
    assert style[0] in compared.read_text()
    assert "overflow-wrap:anywhere" in style[0]
    rule = re.search(r"\.legend i\.rule\.limit[^{]*{([^}]*)}", style[0])
    assert rule is not None
    assert "repeating-linear-gradient" in rule[1], "a border of that length is drawn without gaps"
    assert len(set(re.findall(r'<section id="([^"]+)"', page))) == 3

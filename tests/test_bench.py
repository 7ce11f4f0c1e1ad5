"""``qat bench``: files timed in turn on this machine, C files counted on emulated processors, mistakes in one line."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import run
from sequential import Chain, calibrated
from test_c import emulated, macros

import qat
from qat.analysis.timing import alternate_timed
from qat.deploy.floats import export_float
from qat.deploy.measuring import IsTimed
from qat.extras import how_to_install
from qat.registry import TARGETS, installed
from qat.scripts import bench
from qat.targets.c import target as c_target

TIMED = [name for name in ("C", "ONNX", "TFLITE", "MINDIR") if installed(TARGETS[name])]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a small network's files, of int8 and float, which is the working directory."""
    network = Chain(
        qat.Input((2, 9, 7), mean=0.5, std=0.25),
        conv=qat.Conv2dBnAct(2, 6, 3, has_bias=True, activation="relu"),
        flatten=qat.Flatten(),
        fc=qat.DenseBnAct(6 * 9 * 7, 5),
    )
    setup = calibrated(network)
    for name in TIMED:
        target = qat.target(name)
        target.export(setup.integer, tmp_path / f"net{target.SUFFIX}")
    if "ONNX" in TIMED:
        graph = network.graph()
        export_float(qat.target("ONNX"), graph, graph.initial_params(), tmp_path / "float.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> Any:
    """What the command prints as JSON."""
    code, out, err = run(capsys, "bench", *arguments, "--json", "--trust", "--blocks", "2")
    assert (code, err) == (status, "")
    return json.loads(out)


def test_files_of_all_formats_are_timed_in_turn(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"net{qat.target(name).SUFFIX}" for name in TIMED] + ["float.onnx"] * ("ONNX" in TIMED) + ["net.c"]
    rows = found(capsys, "--model", *names)["here"]
    assert [row["file"] for row in rows] == names
    assert rows[0]["ratio"] == 1.0
    for row in rows:
        assert 0 < row["least"] <= row["quartiles"][0] <= row["seconds"] <= row["quartiles"][1] < 10
        assert row["bytes"] == (files / row["file"]).stat().st_size
        assert row["runtime"]
    assert "-O3 -march=native" in rows[0]["runtime"]


@emulated
def test_json_is_all_that_is_printed_however_slow_the_machine_is(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qat.console.SILENCE", 0.0)  # seconds after which commands say how far they are
    assert found(capsys, "--model", "net.c", "--cores", "m4")["machine"]


def test_the_table_has_a_line_for_each_file(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "bench", "--model", "net.c", "net.c", "--trust", "--blocks", "3")
    assert (status, err) == (0, "")
    assert out.count("│ net.c ") == 2
    assert "one thread" in out
    assert "emulated" not in out


@pytest.mark.parametrize("name", TIMED)
def test_so_many_inferences_take_about_so_many_times_as_long(name: str, files: Path) -> None:
    """What is timed does compute: the loop is neither empty nor does it compute one less."""
    target = qat.target(name)
    assert isinstance(target, IsTimed)
    path = files / f"net{target.SUFFIX}"
    sample = bench.random_sample(target.input_specs(path))
    few, many = (20, 400) if name == "MINDIR" else (2_000, 40_000) if name == "C" else (200, 4_000)
    least = [np.inf, np.inf]
    with target.timed(path, sample) as seconds:
        for _ in range(50):  # until a loaded machine has left the few undisturbed once
            least = [min(known, seconds(count)) for known, count in zip(least, (few, many), strict=True)]
            if least[1] > 5 * least[0]:
                return
    pytest.fail(f"{many} inferences take {least[1]:.2g} seconds, and {few} {least[0]:.2g}")


@emulated
def test_instructions_and_memory_on_emulated_cores(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--cores", "m55", "--layers", "--cflags=-O3")
    (row,) = found(capsys, "--model", "net.c", "net.onnx", *flags)["cores"]
    assert (row["file"], row["core"]) == ("net.c", "Cortex-M55")
    own = c_target.measure("net.c", bench.random_sample(c_target.input_specs("net.c")), "m55", options=["-O3"])
    assert row["instructions"] == own.instructions[0] > 6 * 9 * 7 * 18 / 16
    assert (row["flash"], row["ram"], row["stack"]) == (own.flash, own.ram, own.stack)
    assert row["arena"] == int(macros(files / "net.h")["NET_ARENA_BYTES"]) <= row["ram"]
    assert (row["differ"], row["ratio"]) == (0, 1.0)
    assert {"input", "conv", "fc"} <= set(row["layers"])


@emulated
def test_other_outputs_than_here_are_a_failure(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = c_target.predict
    monkeypatch.setattr(c_target, "predict", lambda path, x: predict(path, x) + np.eye(1, 5, dtype=np.float32))
    assert found(capsys, "--model", "net.c", "--cores", "m4", status=1)["cores"][0]["differ"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "none.c"], "none.c: there is no such file"),
        (["--model", "net.c"], "net.c: holds code"),
        (["--model", "net.h", "--trust"], "net.h: '.h' is no format that can be run"),
        (["--model", "net.c", "--trust", "--cores", "m5"], "core 'm5' is unknown, perhaps m"),
        (["--model", "net.onnx", "--cores", "m4"], "--cores m4: runs C files, and none is among --model"),
        (["--model", "net.c", "--trust", "--blocks", "0"], "--blocks 0"),
        (["--model", "net.c", "--trust", "--layers"], "--layers: is of emulated processors, and none is given"),
        (["--model", "net.c", "--trust", "--cflags=-O3"], "--cflags: is of emulated processors, and none is given"),
        (["--model", "other.air"], "other.air: AIR files run elsewhere"),
        (["--model", "net.c", "other.air", "--trust"], "other.air: AIR files run elsewhere"),
        (["--model", "broken.c", "--trust"], "broken.c: is no file of qat export"),
        ([], "the following arguments are required: --model"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "broken.c").write_text("int x;")
    (files / "broken.h").write_text("")
    network = Chain(qat.Input((3,), dtype="float32"), fc=qat.DenseBnAct(3, 2))
    qat.target("AIR").export(calibrated_for_ascend(network), files / "other.air")
    status, out, err = run(capsys, "bench", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def calibrated_for_ascend(network: qat.Network) -> qat.IntegerGraph:
    graph = qat.convert_quant_network(network, profile="ascend")
    return qat.to_integer(graph, graph.observed_params())


def test_what_has_to_be_installed_is_said(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(files))
    for flags, what in (
        ((), "install one (apt-get install gcc)"),
        (("--cores", "m4"), "apt-get install gcc-arm-none-eabi"),
    ):
        status, out, err = run(capsys, "bench", "--model", "net.c", "--trust", *flags)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert what in err


def test_the_doctor_says_it_below_its_table(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(files))
    status, out, err = run(capsys, "doctor", "--quick")
    assert (status, err) == (0, "")
    table, _, below = out.partition("\nformat C: cc: the C compiler is not found")
    assert max(map(len, table.splitlines())) < 130
    assert table.count("see below") == 2
    assert "\nC on emulated processors: an emulated Cortex-M needs arm-none-eabi-gcc" in below


def test_the_doctor_says_what_works_and_what_to_type_for_the_rest(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("keras", "ai_edge_litert"):
        monkeypatch.setitem(sys.modules, name, None)  # Python's own way to say: not installed
    status, out, _ = run(capsys, "doctor", "--quick")
    assert status == 0
    summary = out.rpartition("\n\n")[2]
    assert re.search(r"^trains and evaluates with: torch", summary, re.MULTILINE)
    assert "keras" not in summary.splitlines()[0]
    assert re.search(r"^not installed.*: backend keras, .*format TFLITE", summary, re.MULTILINE)
    line = next(line for line in summary.splitlines() if line.startswith("all of that at once: "))
    assert line.partition(": ")[2].startswith(how_to_install("keras", "tflite").rstrip("]'"))


def test_blocks_alternate() -> None:
    order = []

    def timed(name: str, each: float) -> Any:
        def seconds(count: int) -> float:
            order.append((name, count))
            return each * count

        return seconds

    times = alternate_timed({"a": timed("a", 1.0), "b": timed("b", 3.0)}, blocks=2, repeats={"a": 5, "b": 2}, warm_up=1)
    assert order == [("a", 5), ("b", 2)] * 3
    assert times["b"].over(times["a"]).median == 3.0
    assert len(times["a"].seconds) == 2

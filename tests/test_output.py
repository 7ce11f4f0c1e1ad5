"""What commands print: lines of 80 columns, one JSON document, results alone; what they would do; completion."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from command import run
from rich.cells import cell_len

import qat
from qat.cli import main
from qat.commands import COMMANDS
from qat.console import Column, Pulse, Report, note, print_table, print_whole, reporting, result, silent, width
from qat.tables import folded

CKPT, QUANT, FEW, FILE = "net.ckpt", "net_quant.ckpt", "few.ckpt", "net.onnx"
DATA, EPOCH = ["--data_path", "digits"], ["--epochs", "1"]
#: Commands whose output is measured, in an order in which each finds its files.
RUNS: dict[str, list[str]] = {
    "train": ["train", *DATA, *EPOCH, "--save_path", CKPT, "--validation", "100"],
    "train-quant": ["train-quant", *DATA, *EPOCH, "--ckpt_path", CKPT, "--save_path", QUANT],
    "few bits": ["train-quant", *DATA, *EPOCH, "--num_bits", "4", "4", "--ckpt_path", CKPT, "--save_path", FEW],
    "calibrate": ["calibrate", *DATA, "--ckpt_path", CKPT, "--images", "100", "--save_path", "cal.ckpt"],
    "eval": ["eval", *DATA, "--ckpt_path", CKPT, "--per_class", "--confusion", "confusion.csv"],
    "eval-quant": ["eval-quant", *DATA, "--ckpt_path", QUANT],
    "export": ["export", "--ckpt_path", QUANT, "--file_format", "ONNX", "--file_name", FILE],
    "verify": ["verify", "--model", FILE, "--ckpt_path", QUANT, *DATA],
    "compile": ["compile", "--input_path", QUANT, "--target", "c", "--output_path", "net", "--no_verify"],
    "compress": ["compress", "--input_path", CKPT, "--bits", "4"],
    "prune": ["prune", "--ckpt_path", CKPT, "--method", "l1", "--ratio", "0.3"],
    "summary": ["summary", "--ckpt_path", QUANT],
    "summary of a large network": ["summary", "--network", "mobilenet_v3", "--num_bits", "8", "8"],
    "diagnose": ["diagnose", "--ckpt_path", "cal.ckpt", *DATA, "--images", "64"],
    "sensitivity": ["sensitivity", "--ckpt_path", CKPT, *DATA, "--images", "50", "--bits", "8", "2"],
    "bench": ["bench", "--model", FILE, "--blocks", "1"],
    "score": ["score", "--reference", CKPT, "--model", QUANT, *DATA, "--blocks", "1"],
    "doctor": ["doctor", "--quick"],
    "zoo list": ["zoo", "list"],
    "zoo list ic01": ["zoo", "list", "ic01"],
    "create-data": ["create-data", *DATA, "--count", "8", "--out", "pictures"],
    "run": ["run", "--model", FILE, "--image", "pictures/images"],
    "run on one": ["run", "--model", FILE, "--image", "pictures/images/00000.png"],
    "evaluate": ["evaluate", "--input_path", FILE, "--test_path", "pictures/index.txt"],
}
#: Commands -> keys of their JSON documents, as docs/commands.md names them.
KEYS = {
    "train": {"network", "samples", "epochs", "steps", "metrics", "files"},
    "train-quant": {"network", "samples", "epochs", "steps", "arithmetic", "metrics", "files"},
    "calibrate": {"network", "samples", "decisions", "arithmetic", "metrics_before", "metrics", "files"},
    "eval": {"network", "task", "samples", "metrics", "per_class", "confusion", "files"},
    "eval-quant": {"network", "task", "samples", "arithmetic", "metrics"},
    "export": {"network", "quantized", "total", "layers", "arena_bytes", "certificate", "passed", "engines", "files"},
    "verify": {"certificate", "passed", "engines"},
    "summary": {"network", "quantized", "arithmetic", "total", "layers", "arena_bytes", "peak_bytes"},
    "diagnose": {"network", "samples", "outputs", "layers", "advice", "notes"},
    "sensitivity": {"network", "metric", "baseline", "samples", "layers"},
    "bench": {"machine", "here", "cores"},
    "score": {"models", "score", "worse"},
    "doctor": {"python", "parts"},
    "zoo list": {"networks"},
    "run": {"model", "task", "samples"},
    "evaluate": {"model", "task", "samples", "metrics"},
}
FIRST = {"command", "version", "exit_status"}


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    """Exit status, output and errors of each of ``RUNS``, in 80 columns."""
    import contextlib
    import io

    found, before, folder = {}, os.environ.get("COLUMNS"), tmp_path_factory.mktemp("output")
    os.environ["COLUMNS"] = "80"
    try:
        with contextlib.chdir(folder):
            for name, arguments in RUNS.items():
                out, err = io.StringIO(), io.StringIO()
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                    status = main(arguments)
                found[name] = (status, out.getvalue(), err.getvalue())
    finally:
        os.environ.pop("COLUMNS")
        os.environ.update({} if before is None else {"COLUMNS": before})
    found["folder"] = (0, str(folder), "")
    return found


@pytest.mark.parametrize("name", RUNS)
def test_no_line_is_wider_than_80_columns(name: str, printed: dict[str, tuple[int, str, str]]) -> None:
    status, out, err = printed[name]
    assert status == 0 or name == "score", err
    assert out
    assert [line for line in (out + err).splitlines() if cell_len(line) > 80] == []


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_no_line_of_help_is_wider_than_80_columns(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = run(capsys, *filter(None, [name]), "--help")
    assert status == 0
    assert [line for line in out.splitlines() if len(line) > 80] == []


def test_the_measure_finds_a_wide_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """At 200 columns, the same commands are wider."""
    monkeypatch.setenv("COLUMNS", "200")
    assert run(capsys, "summary", "--network", "lenet", "--quantized")[0] == 0
    monkeypatch.setenv("COLUMNS", "200")
    main(["summary", "--network", "lenet", "--quantized"])
    assert max(map(len, capsys.readouterr().out.splitlines())) > 80


def test_a_percentage_says_so(printed: dict[str, tuple[int, str, str]]) -> None:
    for name in ("train", "train-quant", "calibrate", "eval", "eval-quant", "evaluate"):
        figures = re.findall(r"^Accuracy\b.*", printed[name][1], re.MULTILINE)
        assert figures
        assert all(re.search(r"\d+\.\d\d %", figure) for figure in figures), figures
    assert all(name in printed["few bits"][1].replace("\n  ", " ") for name in ("4/4: learned scales", "(--edge_bits)"))


@pytest.mark.parametrize("name", KEYS)
def test_json_is_one_document_with_the_keys_of_the_docs(
    name: str,
    printed: dict[str, tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(printed["folder"][1])
    status, out, err = run(capsys, *RUNS[name], "--json")
    document = json.loads(out)
    assert document["command"] == RUNS[name][0]
    assert document["exit_status"] == status == printed[name][0] or name == "score"
    assert KEYS[name] | FIRST <= set(document), set(document)
    assert set(document) <= KEYS[name] | FIRST | {"notes", "peak_bytes", "arithmetic", "task", "worse"}
    assert "│" not in err
    text = (Path(qat.__file__).parents[1] / "docs" / "commands.md").read_text(encoding="utf-8")
    assert [key for key in KEYS[name] if f"`{key}`" not in text] == []


def test_json_has_the_values_of_the_table(
    printed: dict[str, tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(printed["folder"][1])
    document = json.loads(run(capsys, *RUNS["eval"], "--json")[1])
    assert f"Accuracy: {100 * document['metrics']['top-1']:.2f} %" in printed["eval"][1]
    assert sum(map(sum, document["confusion"]["counts"])) == document["samples"] == 360
    layers = json.loads(run(capsys, *RUNS["summary"], "--json")[1])["layers"]
    (conv,) = [x for x in layers if x["layer"] == "conv1"]
    assert (conv["parameters"], conv["output"]) == (156 - 6 * (conv["parameters"] == 150), [6, 28, 28])
    document = json.loads(run(capsys, *RUNS["verify"], "--json")[1])
    assert [x["differ"] for x in document["certificate"]["comparisons"]] == [0, 0]
    assert document["passed"] is True


def test_an_error_is_one_line_and_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["eval", "--ckpt_path", "none.ckpt", *DATA], ["eval", "--ckpth", "x"]):
        status, out, err = run(capsys, *arguments, "--json")
        document = json.loads(out)
        assert (status, err.count("\n"), document["exit_status"]) == (2, 1, 2)
        assert err == f"qat eval: error: {document['error']}\n"


@pytest.mark.parametrize("name", ["train", "eval", "summary", "calibrate"])
def test_quiet_prints_results_alone(
    name: str,
    printed: dict[str, tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(printed["folder"][1])
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = run(capsys, *RUNS[name], "--quiet")
    assert (status, err) == (0, "")
    lines = [
        x for x in printed[name][1].splitlines() if not re.search(r"^Epoch|^threads: |Validation|: takes|samples/s", x)
    ]
    assert out.splitlines() == lines


@pytest.mark.parametrize(("arguments", "key"), [([], "pages"), (["limits"], "markdown")])
def test_pages_of_the_documentation_are_results(
    arguments: list[str], key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(run(capsys, "help", *arguments, "--json")[1])
    assert document[key]
    assert run(capsys, "help", *arguments, "--quiet") == run(capsys, "help", *arguments)


def test_what_is_given_once_is_printed_or_kept(capsys: pytest.CaptureFixture[str]) -> None:
    columns = [Column("layer"), Column("share", form=lambda x: f"{100 * x:.1f} %"), Column("", "raw", None)]
    for report, expected in ((Report(), "62.5 %"), (Report(as_json=True), "")):
        with reporting(report):
            result("Accuracy: 1", metrics={"top-1": 0.5})
            result("Top 5: 2", metrics={"top-5": np.float32(0.75)})
            print_table("Title", columns, [("a", 0.625, [1]), ("b", None, float("inf"))], "rows")
            note("mind [this]")
            with silent():
                result("nothing", metrics={"top-1": 0.0})
        out, err = capsys.readouterr()
        assert (expected in out, "nothing" in out, err) == (bool(out) or expected == "", False, "note: mind [this]\n")
    assert json.loads(report.document(command="x")) == {
        "command": "x",
        "metrics": {"top-1": 0.5, "top-5": 0.75},
        "rows": [{"layer": "a", "share": 0.625, "raw": [1]}, {"layer": "b", "share": None, "raw": None}],
        "notes": ["mind [this]"],
    }


def test_a_quantized_network_prints_in_80_columns_with_whole_names() -> None:
    graph = qat.convert_quant_network(qat.networks.create("mobilenet_v3").graph())
    lines = str(graph).splitlines()
    assert max(map(len, lines)) <= 80
    assert {node.name for node in graph.nodes} <= {line.split()[0] for line in lines}


def test_what_is_printed_whole_has_no_effect_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_whole("a\x1b[2J" + "b" * 100 + "\nc")
    assert capsys.readouterr().out == "a\\x1b[2J" + "b" * 100 + "\nc\n"
    with reporting(Report(as_json=True)):
        print_whole("script")
    assert capsys.readouterr().out == ""


def test_lines_are_folded_at_spaces_and_paths_stay_whole() -> None:
    path = "/a" * 60
    lines = folded(f"wrote {path}, which repeats it", 40).split("\n")
    assert f"  {path}," in lines
    assert [line for line in lines if len(line) > 40] == [f"  {path},"]
    assert folded("  short", 40) == "  short"
    assert " ".join(folded("one two three " * 9, 30).split()) == ("one two three " * 9).strip()


@pytest.mark.parametrize("columns", [30, 50, 80])
def test_a_table_that_is_divided_shows_everything(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    headings = ["name", *(f"column {number}" for number in range(12))]
    print_table("Title", headings, [(f"layer.{row}", *(f"{row * 1000 + x:,}" for x in range(12))) for row in range(3)])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= columns
    assert all(f"{row * 1000 + x:,}" in out for row in range(3) for x in range(12))


def test_the_width_is_80_off_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    done = subprocess.run(
        ["qat-test", "-c", "from qat.console import width; print(width())"],
        executable=shutil.which("python3"),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, __import__("sys").path))},
    )
    assert done.stdout == "80\n"
    monkeypatch.setenv("COLUMNS", "123")
    assert width() == 123


@pytest.mark.parametrize(("no_color", "colours"), [("", True), ("1", False)])
def test_colours_are_for_terminals_and_no_color_is_heeded(
    no_color: str, colours: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("NO_COLOR", no_color)):
        monkeypatch.setenv(name, value)
    print_table("Title", ("a",), [("b",)])
    assert ("\x1b[" in capsys.readouterr().out) is colours
    monkeypatch.delenv("FORCE_COLOR")
    print_table("Title", ("a",), [("b",)])
    assert "\x1b[" not in capsys.readouterr().out


def test_progress_calls_blocks_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(0, 1000, 20))
    pulse = Pulse(lambda: float(next(clock)))
    assert [*pulse.watched(range(2), 2, lambda _: 1, "lenet, learned rounding", "blocks")] == [0, 1]
    assert "lenet, learned rounding: 1 of 2 blocks, 0.05 blocks/s" in capsys.readouterr().out

"""What commands print: tables cut nothing off and read no markup; output that cannot be written costs no work."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from qat.console import print_table
from qat.deploy.certificate import Certificate, Comparison
from qat.tables import Column, broken, counted, tables
from qat.training.checkpoint import Checkpoint

ROWS = [("[/red] pip install 'qat-engine[keras]'", "123,456,789"), ("conv", "26,657,280")]


@pytest.mark.parametrize("columns", ["30", "200"])
@pytest.mark.parametrize("terminal", ["", "xterm", "dumb"])
def test_a_table_shows_every_character(
    columns: str, terminal: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", terminal)
    print_table("What [it] is", ("layer [name]", "MACs"), ROWS)
    out = capsys.readouterr().out
    whole = re.sub(r"[\s┃│]", "", out)  # a word that is wider than its column goes on in the next line
    for text in ("What [it] is", "layer [name]", *(cell for row in ROWS for cell in row)):
        assert all(part in whole for word in text.split() for part in (word[:14], word[14:]))


def run(arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = f"{shlex.quote(sys.executable)} -m qat.cli {arguments}"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False, **options
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_where_output_can_take_no_more_the_work_is_done_and_one_line_says_so(tmp_path: Path) -> None:
    done = run("train --data_path digits --epochs 1 --save_path a.ckpt > /dev/full", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "what it prints cannot be written (No space left on device); its work is done" in done.stderr
    assert Checkpoint.load(tmp_path / "a.ckpt").epoch == 1


def test_without_a_standard_output_it_runs(tmp_path: Path) -> None:
    done = run("summary --network lenet >&-", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_has_gone_does_not_change_the_exit_status(tmp_path: Path) -> None:
    for arguments, status in (("summary --network lenet | true", 0), ("summary --ckpt_path none.ckpt | true", 2)):
        done = run(arguments, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (status, status // 2)


def test_a_name_that_no_file_can_have_is_one_line(tmp_path: Path) -> None:
    name = "a" * 300
    for arguments in (f"verify --model {name}.onnx --ckpt_path a", f"evaluate --input_path {name} --test_path b"):
        done = run(arguments, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def shown(columns: list[str], rows: list[list[str]], width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    for table in tables([Column(column) for column in columns], rows, width):
        console.print(table)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return text


def test_columns_keep_their_padding_where_a_text_can_take_two_lines() -> None:
    engine = "ONNX Runtime 1.31.1 (CPUExecutionProvider, default options)"
    text = shown(["engine", "codes compared", "differ", "top-1"], [[engine, "3,600", "0", "92.22 %"]], 72)
    assert "3,600 │      0 │ 92.22 %" in text
    assert "ONNX Runtime 1.31.1" in text, "broken at a space"


def test_many_columns_are_set_apart_by_spaces_and_those_that_say_nothing_are_left_out() -> None:
    """The table of ``diagnose``, at 80 columns: lines alone between columns would make one string of digits of a row."""
    columns = [
        "layer",
        "bits",
        "blame %",
        "SQNR dB",
        "own dB",
        "before dB",
        "cosine",
        "clip %",
        "codes %",
        "far",
        "dead",
    ]
    row = ["depthwise_conv2d_2", "8/8", "10.4", "27.8", "35.2", "28.4", "0.9992", "0.0", "97"]
    text = shown(columns, [[*row, "", ""], ["dense", *row[1:], "", ""]], 80)
    assert not set("│┃") & set(text)
    assert all(len(re.split(" {2,}", line.strip())) == len(row) for line in text.splitlines()[-2:])
    assert "dead" not in text
    assert "far" in shown(columns, [[*row, "3", ""]], 90), "it says something"
    assert "dead" in shown(columns, [[*row, "", ""]], 200), "nothing has to be left out"


def test_words_stand_at_the_left_and_numbers_at_the_right() -> None:
    text = shown(
        ["layer", "cell", "kind", "output"], [["a", "Dense", "1-D net", "6 x 28"], ["b", "Conv2d", "", "400"]], 72
    )
    assert "│ a     │ Dense  │ 1-D net │ 6 x 28 │" in text
    assert "│ b     │ Conv2d │         │    400 │" in text


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("keras 3.15.1, tensorflow 2.21.0", 30, ["keras 3.15.1, tensorflow", "2.21.0"]),
        ("block.conv1.weight", 12, ["block.conv1.", "weight"]),
        ("net.0.weight", 8, ["net.0.", "weight"]),
        ("12345678", 5, ["12345", "678"]),
    ],
)
def test_a_number_in_a_text_is_not_split(text: str, width: int, lines: list[str]) -> None:
    assert broken(text, width).split("\n") == lines


def test_one_is_no_plural() -> None:
    assert [counted(n, "test sample") for n in (0, 1, 2, 1000)] == [
        "0 test samples",
        "1 test sample",
        "2 test samples",
        "1,000 test samples",
    ]
    found = Comparison("NumPy", codes=1, differ=1, largest=2, metrics={}, divergence=None)
    certificate = Certificate("net.onnx", "Net", "data", 1, {}, (found,), ((0, 1), (1, 0)))
    assert repr(certificate).endswith("net.onnx, 1 sample, 1 code compared, 1 differs")
    assert "1 code compared in NumPy, 1 differs (by at most 2)" in str(certificate)

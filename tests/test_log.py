"""What long work prints: lines by the clock off a terminal, a bar on one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qat
from qat.console import SILENCE, Pulse
from qat.training.log import TrainingLog
from qat.vocabulary.rows import in_order, showing


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "150")):
        monkeypatch.setenv(name, value)


def run_log(clock: Clock, path: Path | None = None, seconds: float = 4.0, every: int = 0) -> None:
    """Two epochs of 8 steps."""
    with TrainingLog(2, 8, every, path, batch_size=50, clock=clock) as log:
        for epoch in (1, 2):
            for step in range(1, 9):
                clock.now += seconds
                log.step(epoch, step, 1.0 / step, 0.01)


def test_off_a_terminal_there_is_a_line_at_least_each_ten_seconds(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "log.csv"
    run_log(Clock(), path)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(", loss")[0] for line in lines] == [
        f"Epoch: [ {epoch}/  2], step: [   {step}/   8]" for epoch in (1, 2) for step in (3, 6, 8)
    ]
    assert lines[0].endswith("time: [4000.0ms]")
    assert "avg loss: [0.6111]" in lines[0], "of the epoch so far"
    rows = path.read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["1", "8"], ["2", "8"]], (
        "those by the clock are not in the file"
    )


@pytest.mark.parametrize(
    ("seconds", "every", "steps"), [(1.0, 0, [8]), (12.0, 0, [*range(1, 9)]), (4.0, 2, [2, 4, 6, 8])]
)
def test_lines_by_the_clock_come_where_no_other_has(
    seconds: float, every: int, steps: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    run_log(Clock(), seconds=seconds, every=every)
    found = [int(line.split("step: [")[1].split("/")[0]) for line in capsys.readouterr().out.splitlines()]
    assert found == steps * 2


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_a_bar_shows_samples_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    run_log(Clock())
    out = capsys.readouterr().out
    assert out.count("Epoch: [") == 2, "no lines by the clock"
    assert "12 samples/s" in out.replace("\x1b", ""), "50 in 4 seconds"


def work(clock: Clock, parts: int = 8, seconds: float = 4.0) -> list[int]:
    """Parts of 25 samples."""
    found = []
    for (part,) in in_order((np.arange(25 * parts),), 25, "lenet[1]"):
        clock.now += seconds
        found.append(int(part[0]) // 25)
    return found


def test_long_work_of_a_command_prints_lines(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    assert work(clock) == [*range(8)]
    assert capsys.readouterr().out == "", "a library prints nothing"
    with showing(Pulse(clock).watched):
        assert work(clock) == [*range(8)]
        assert capsys.readouterr().out.splitlines() == [
            "lenet[1]: 75 of 200 samples, 6 samples/s",
            "lenet[1]: 150 of 200 samples, 6 samples/s",
        ]
        work(clock, 1)  # many short pieces of work are long together: 8 seconds since the last line, then 12
        assert capsys.readouterr().out.splitlines() == ["lenet[1]: 25 of 25 samples, 6 samples/s"]
        work(clock, 2)
        assert capsys.readouterr().out == ""
    assert SILENCE == 10.0


def test_in_python_long_work_shows_itself_where_it_is_asked_to(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qat.console.SILENCE", 0.0)
    graph = qat.networks.LeNet5().graph()
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 32, 32), np.uint8)
    with qat.progress():
        qat.calibrate(graph, graph.initial_params(0), images, method="minmax")
    assert "LeNet5: 8 of 8 samples, " in capsys.readouterr().out
    qat.calibrate(graph, graph.initial_params(0), images, method="minmax")
    assert capsys.readouterr().out == ""


def test_work_after_a_line_of_a_training_is_no_long_work(capsys: pytest.CaptureFixture[str]) -> None:
    """Only after 10 seconds without a line."""
    clock = Clock()
    with showing(Pulse(clock).watched):
        clock.now += 60.0
        with TrainingLog(2, 1, clock=clock) as log:
            for epoch in (1, 2):
                clock.now += 60.0
                log.step(epoch, 1, 0.5, 0.1)
                work(clock, 1)
                assert capsys.readouterr().out.count("\n") == 1
            work(clock, 3)
            assert "of 75 samples" in capsys.readouterr().out
            clock.now += 60.0
            log.step(2, 1, 0.5, 0.1)
            assert capsys.readouterr().out.count("\n") == 1
        work(clock, 1)  # as the evaluation that follows
        assert capsys.readouterr().out == ""
    with TrainingLog(1, 1, clock=clock):
        work(clock)
    assert capsys.readouterr().out == "", "a library prints nothing"


@pytest.mark.usefixtures("terminal")
def test_long_work_has_a_bar_on_a_terminal_but_not_within_a_training(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with showing(Pulse(clock).watched):
        work(clock)
        assert "lenet[1]" in capsys.readouterr().out
        work(clock, seconds=0.01)
        assert "lenet" not in capsys.readouterr().out, "it is short"
        with TrainingLog(1, 1):
            work(clock)
        assert "lenet" not in capsys.readouterr().out, "there is the bar of the training"
        work(clock)
        assert "lenet[1]" in capsys.readouterr().out

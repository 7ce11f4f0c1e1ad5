"""The threads of a CPU that commands choose, and that a resumed training keeps."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import run

import qat
from qat.cli import _choose_threads
from qat.errors import QatError
from qat.training import devices
from qat.training.devices import available_cores, busy_cores, free_cores, threads_in_use, use_threads

TRAIN = ("train", "--data_path", "digits", "--epochs", 1, "--batch_size", 1024)


@pytest.mark.parametrize(
    ("machine", "available", "busy", "expected"),
    [(8, 8, 0, 8), (8, 8, 3, 5), (8, 8, 20, 1), (64, 4, 0, 4), (64, 4, 30, 4), (64, 4, 62, 2), (2, 2, 1, 1)],
)
def test_free_cores_are_those_that_others_leave(
    machine: int, available: int, busy: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: machine)
    monkeypatch.setattr(devices, "available_cores", lambda: available)
    monkeypatch.setattr(devices, "busy_cores", lambda: busy)
    assert free_cores() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity of processes")
def test_cores_are_those_of_the_affinity() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 16),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        ({}, 16),
    ],
)
def test_a_container_has_the_cores_of_its_quota(
    files: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    monkeypatch.setattr(devices, "Path", lambda name: tmp_path if name == "/sys/fs/cgroup" else Path(name))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert available_cores() == expected


def test_busy_cores_are_counted_now(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "loadavg").write_text("0.00 0.00 9.00 5/131 42\n", encoding="ascii")
    monkeypatch.setattr(devices, "Path", lambda _: tmp_path / "loadavg")
    assert busy_cores() == 4
    monkeypatch.setattr(devices, "Path", lambda _: tmp_path / "none")
    assert busy_cores() == 0


def test_threads_are_set_for_all_frameworks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in devices.THREAD_VARIABLES:
        monkeypatch.setenv(name, "7")
    use_threads(3)
    assert [os.environ[name] for name in devices.THREAD_VARIABLES] == ["3", "3"]
    assert threads_in_use() == 3
    with pytest.raises(QatError, match="threads is 0"):
        use_threads(0)


@pytest.mark.parametrize(
    ("given", "flag", "expected"),
    [(None, (), "1"), pytest.param("2", ("--threads", "1"), "1", marks=pytest.mark.sweep)],
)
def test_the_frameworks_see_what_was_chosen(
    given: str | None, flag: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    program = (
        "import sys\nfrom qat.training import devices\nimport qat.cli\nqat.cli.free_cores = lambda: 1\n"
        "status = qat.cli.main(sys.argv[1:])\nimport torch\nprint('torch has', torch.get_num_threads())\nsys.exit(status)"
    )
    environment = {name: value for name, value in os.environ.items() if name not in devices.THREAD_VARIABLES}
    if given is not None:
        environment["OMP_NUM_THREADS"] = given
    arguments = [*map(str, TRAIN), "--save_path", tmp_path / "a.ckpt", *flag]
    done = subprocess.run([sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"torch has {expected}\n" in done.stdout
    assert ("threads: 1 (of " in done.stdout) == (given is None)
    assert qat.Checkpoint.load(tmp_path / "a.ckpt").history[0]["threads"] == int(expected)


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr("qat.cli.free_cores", lambda: 1)
    assert _choose_threads(argparse.Namespace(threads=None)) is None
    assert os.environ["OMP_NUM_THREADS"] == "2"


def test_a_resumed_training_keeps_its_threads(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = (*TRAIN, "--save_path", tmp_path / "a.ckpt")
    assert run(capsys, *arguments, "--threads", 1)[0] == 0
    status, _, err = run(capsys, *arguments, "--resume", "--threads", 2)
    assert status == 2
    assert "trained with threads 1, now it is 2" in err
    for name in devices.THREAD_VARIABLES:
        monkeypatch.delenv(name)
    monkeypatch.setattr("qat.cli.free_cores", lambda: 5)
    status, out, _ = run(capsys, *arguments, "--resume")
    assert status == 0
    assert "threads: 1 (of" in out
    for name in devices.THREAD_VARIABLES:
        monkeypatch.setenv(name, "1")

"""Studies: one file says what is done, tasks run in processes or on Ray, and kills lose nothing."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from study_work import count, is_counted

from qat.errors import QatError
from qat.study import Study, Task, run_study
from qat.study.executors import LocalExecutor, RayExecutor
from qat.study.run import duration

HERE = Path(__file__).parent
CHAIN = [Task("a", {"to": 2}), Task("b", {"to": 3}, ("a",)), Task("c", {"to": 1}), Task("d", {"to": 1}, ("b", "c"))]


def run(folder: Path, tasks: list[Task], jobs: int = 2) -> dict[str, str]:
    """The states in which the tasks end."""
    with Study(folder) as study:
        return {
            row.task.name: row.state for row in run_study(study, tasks, LocalExecutor(count, folder, jobs), is_counted)
        }


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_tasks_run_after_what_they_need_and_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, CHAIN) == dict.fromkeys("abcd", "done")
    assert (tmp_path / "d.txt").read_text() == str(1 + (3 + 2) + 1)
    assert "[  4/  4] d: done" in capsys.readouterr().out
    assert lines(tmp_path / "logs" / "b.log") == ["counted to 3"]
    run(tmp_path, CHAIN)
    assert sorted(lines(tmp_path / "ended.log")) == ["a", "b", "c", "d"]


def test_tasks_may_be_added_and_a_lost_result_is_made_again(tmp_path: Path) -> None:
    run(tmp_path, CHAIN[:2])
    (tmp_path / "a.txt").unlink()
    assert run(tmp_path, CHAIN) == dict.fromkeys("abcd", "done")
    assert Counter(lines(tmp_path / "ended.log")) == Counter("aabcd")


def test_only_what_is_asked_for_and_what_it_needs_is_run(tmp_path: Path) -> None:
    with Study(tmp_path) as study:
        study.add(CHAIN)
        rows = run_study(study, [CHAIN[1]], LocalExecutor(count, tmp_path, 1), is_counted)
    assert [row.task.name for row in rows] == ["a", "b"]
    assert not (tmp_path / "c.txt").exists()


@pytest.mark.parametrize(
    ("kind", "message"), [("fails", "this task always fails"), ("breaks", "a framework's own error (see ")]
)
def test_a_task_that_fails_stops_only_what_comes_after_it(tmp_path: Path, kind: str, message: str) -> None:
    tasks = [Task("a", {"to": 1, kind: True}), Task("b", {"to": 1}, ("a",)), Task("c", {"to": 1})]
    with Study(tmp_path) as study:
        rows = run_study(study, tasks, LocalExecutor(count, tmp_path, 1), is_counted)
    assert [row.state for row in rows] == ["failed", "waiting", "done"]
    assert message in (rows[0].error or "")
    assert rows[0].attempts == 1


def test_a_task_whose_process_dies_is_begun_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, [Task("a", {"to": 1, "dies": True}), Task("b", {"to": 1})]) == {"a": "done", "b": "done"}
    assert "a: lost, begun again" in capsys.readouterr().out


def test_other_settings_for_a_known_task_are_refused(tmp_path: Path) -> None:
    run(tmp_path, CHAIN[:1])
    with pytest.raises(
        QatError, match="a was begun with to 2, now it is 3; give the same arguments, or another folder"
    ):
        run(tmp_path, [Task("a", {"to": 3})])
    with pytest.raises(QatError, match="x: needs 'y', which is not a task before it"):
        run(tmp_path, [Task("x", {}, ("y",))])


def test_one_process_runs_a_study_at_a_time(tmp_path: Path) -> None:
    with Study(tmp_path), pytest.raises(QatError, match="another process runs this study"):
        Study(tmp_path)
    Study(tmp_path).close()


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be looked at", b""])
def test_a_file_that_is_no_study_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "study.db").write_bytes(content * 30)
    if not content:
        Study(tmp_path).close()  # an empty file is an empty database
        return
    with pytest.raises(QatError, match=r"study\.db: cannot be read as a study"):
        Study(tmp_path)


def test_another_release_s_study_is_refused(tmp_path: Path) -> None:
    Study(tmp_path).close()
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute("UPDATE study SET format = 99")
    with pytest.raises(QatError, match="has format 99 where this release reads 1"):
        Study(tmp_path)


def test_no_process_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QatError, match="--jobs is 0"):
        LocalExecutor(count, tmp_path, 0)


RUN = """
import sys
from pathlib import Path
from study_work import count, is_counted
from qat.study import Study, Task, run_study
from qat.study.executors import LocalExecutor
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    tasks = []
    for fold in range(4):
        for width in range(3):
            after = (f"{fold}_{width - 1}",) if width else ()
            tasks.append(Task(f"{fold}_{width}", {"to": 6, "pause": 0.05}, after))
    with Study(folder) as study:
        run_study(study, tasks, LocalExecutor(count, folder, 2), is_counted)
"""


def test_killed_at_random_five_times_it_ends_with_everything_done_once(tmp_path: Path) -> None:
    """SIGKILL of the process that runs the study; its workers end with it, and what they were at is taken up."""
    script, folder = tmp_path / "run.py", tmp_path / "study"
    script.write_text(RUN)
    environment = os.environ | {"PYTHONPATH": f"{HERE}:{HERE.parent}"}
    generator = random.Random(0)
    kills = 0
    while True:
        before = len(lines(folder / "counted.log"))
        process = subprocess.Popen([sys.executable, script, folder], env=environment, stdout=subprocess.DEVNULL)
        if kills < 5:
            while process.poll() is None and len(lines(folder / "counted.log")) < before + 4:
                time.sleep(0.01)
            time.sleep(generator.uniform(0.0, 0.3))
            assert process.poll() is None, "it ended before it could be killed"
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        assert process.wait() == 0
        break
    for log, expected in (("counted.log", 12 * 6), ("ended.log", 12)):
        counted = Counter(lines(folder / log))
        assert set(counted.values()) == {1}, f"{log}: something was done twice"
        # Each of the two workers may be killed after it has done something and before it notes it.
        assert expected - 2 * kills <= len(counted) <= expected
    assert all((folder / f"{fold}_2.txt").read_text() == "18" for fold in range(4))


@pytest.mark.sweep
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
@pytest.mark.filterwarnings("ignore")  # Ray's, of itself
def test_on_ray_a_killed_worker_s_task_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{HERE}:{HERE.parent}")
    tasks = [*CHAIN, Task("e", {"to": 1, "dies": True}, ("a",)), Task("f", {"to": 1, "fails": True})]
    with Study(tmp_path) as study:
        rows = run_study(study, tasks, RayExecutor(count, tmp_path, 2), is_counted)
    assert {row.task.name: row.state for row in rows} == {**dict.fromkeys("abcde", "done"), "f": "failed"}
    assert "e: lost, begun again" in capsys.readouterr().out
    assert (tmp_path / "d.txt").read_text() == "7"


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(QatError, match=r"--ray needs Ray.*pip install .*ray"):
        RayExecutor(count, tmp_path, 1)


IN_A_FOLDER = """
import sys
from pathlib import Path
from study_work import count, is_counted
from qat.study import Study, Task, run_study
from qat.study.executors import LocalExecutor
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with Study(folder) as study:
        run_study(study, [Task("a", {"to": 1})], LocalExecutor(count, folder, 1), is_counted)
"""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no PYTHONSAFEPATH")
def test_workers_import_nothing_from_the_working_directory(tmp_path: Path) -> None:
    program, here = tmp_path / "elsewhere" / "program.py", tmp_path / "here"
    program.parent.mkdir()
    program.write_text(IN_A_FOLDER)
    here.mkdir()
    for name in ("multiprocessing", "runpy", "struct", "json", "numpy", "qat", "study_work"):
        (here / f"{name}.py").write_text(f"open({str(tmp_path / name)!r}, 'w')\n")
    environment = os.environ | {"PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"}
    subprocess.run([sys.executable, program, tmp_path / "study"], cwd=here, env=environment, check=True)
    assert (tmp_path / "study" / "a.txt").read_text() == "1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "here", "study"]


@pytest.mark.parametrize(("seconds", "text"), [(3.21, "3.2 s"), (245, "4 min 05 s"), (7620, "2 h 07 min")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text

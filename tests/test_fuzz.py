"""Damaged files: whatever is read gives a good result or a QatError of one line; nothing hangs, crashes, grows, runs anything
or writes files.

Each mutant is made from a good file by its seed alone, so that a failure names all that is needed to see it again:
``mutant(kind, seed)``. Files that are sealed by a digest are sealed anew, so that their parsers are reached. They are read in
a process of its own (fuzz_readers.py), since the libraries below may crash. ``make test-all`` tries 10,000 of them.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import fuzz_readers
import pytest
from fuzz_readers import KINDS, good, mutant, name_of

import qat
from qat.data.loading import own_readers

SECONDS = 10.0  #: for one case; the slowest takes less than one
OFTEN = [kind for kind, entry in KINDS.items() if entry.few]
ROOT = Path(__file__).parent.parent
#: What a library might start over a file; here each leaves a file behind.
CANARIES = ("sh", "bash", "cc", "gcc", "clang", "gs", "python", "python3", "convert", "tar", "unzip")


class Reader:
    """The reading process; started again after it died."""

    def __init__(self, folder: Path, seconds: float = SECONDS) -> None:
        self.folder, self.seconds = folder, seconds
        self.process: subprocess.Popen[bytes] | None = None
        self.errors = folder / "stderr"
        self.place = folder / "place"
        self.place.mkdir()
        for name in CANARIES:
            path = folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(
                f'#!/bin/sh\ntouch {self.place}/ran_{name}\nPATH=/usr/local/bin:/usr/bin:/bin exec {name} "$@"\n'
            )
            path.chmod(0o755)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, fuzz_readers.__file__]
        environment = os.environ | {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "CC": "/usr/bin/cc",
        }
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command, cwd=self.place, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        behave = self.place / "start"
        behave.touch()
        answer = self._ask("behave", behave, 60.0)
        behave.unlink()
        assert answer == ("read", "good"), f"{answer}\n{self.errors.read_text(errors='replace')}"
        return self.process

    def _ask(self, kind: str, path: Path, seconds: float) -> tuple[str, str]:
        process = self.process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([kind, str(path)]).encode() + b"\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], seconds)[0]:
            self.stop()
            return "hung", f"no answer in {seconds:g} s"
        answer = process.stdout.readline()
        if not answer:
            status = process.wait()
            said = self.errors.read_text(errors="replace")[-2000:]
            self.stop()
            return "crashed", f"exit status {status}: {said}"
        word, text = json.loads(answer)
        return word, text

    def read(self, kind: str, content: bytes, seconds: float | None = None) -> tuple[str, str]:
        """("read" or "refused", what), or what went wrong with its details."""
        if self.process is None:
            self.start()
            if kind in KINDS:
                self.read(kind, good(kind), 120.0)  # whatever is imported for it, and what that runs
        beside = KINDS[kind].beside() if kind in KINDS else {}
        for name, other in beside.items():
            (self.place / name).write_bytes(other)
        path = self.place / name_of(kind)
        path.write_bytes(content)
        result = self._ask(kind, path, seconds or self.seconds)
        own = {
            path.name,
            *beside,
            *(f"{path.name}{end}" for end in ("-wal", "-shm", "-journal")),
            "study.lock",
            "search.lock",
        }
        others = [p.name for p in self.place.iterdir() if p.name not in own]
        for left in self.place.iterdir():
            left.unlink()
        if others:
            return "wrote", f"{others}; {result}"
        return result


def complaint(kind: str, seed: int, content: bytes, word: str, text: str) -> str:
    shown = content.decode() if KINDS[kind].suffix in ("json", "txt", "yaml") and content.isascii() else content.hex()
    return f"mutant({kind!r}, {seed}) {word}: {text}\n{shown[:4000]}"


# -- the tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OFTEN)
def test_damaged_files_give_a_good_result_or_a_qaterror(kind: str, tmp_path: Path) -> None:
    try_mutants(kind, KINDS[kind].few, tmp_path)


@pytest.mark.sweep
@pytest.mark.parametrize("kind", sorted(KINDS, key=lambda kind: -KINDS[kind].many))
def test_many_damaged_files_give_a_good_result_or_a_qaterror(kind: str, tmp_path: Path) -> None:
    try_mutants(kind, KINDS[kind].many, tmp_path)


@pytest.mark.sweep
def test_the_sweep_tries_ten_thousand() -> None:
    assert sum(entry.many for entry in KINDS.values()) >= 10_000


def try_mutants(kind: str, count: int, tmp_path: Path) -> None:
    findings, words = [], Counter()
    with Reader(tmp_path) as reader:
        found = reader.read(kind, good(kind))
        assert found[0] == "read", found
        for seed in range(count):
            content = mutant(kind, seed)
            word, text = reader.read(kind, content)
            words[word] += 1
            if word not in ("read", "refused"):
                findings.append(complaint(kind, seed, content, word, text))
    assert not findings, f"{len(findings)} of {count}\n\n" + "\n\n".join(findings[:20])
    assert words["refused"] > 0, "no mutant was damaged enough"


def test_every_reader_has_a_kind() -> None:
    """A module that opens files, be it by ``qat.reading`` or by itself, and is none of KINDS, is in the list of those that read
    nothing that others made.
    """
    opens = re.compile(
        r"qat\.reading import.*(open_regular|read_file|read_text|read_unpacked)|\.read_bytes\(|\.read_text\(|[ .(]open\(|"
        r"read_together\(|open_file\(|json\.load\(|np\.load\(|Image\.open|safe_open|sqlite3\.connect|torch\.load\(|ms\.load|loadmat\("
    )
    own = {
        "qat/reading.py",  # what the readers share
        "qat/child.py",
        "qat/files.py",  # writes
        "qat/drafts.py",  # writes
        "qat/training/log.py",  # writes the log
        "qat/training/event_file.py",  # writes TensorBoard's logs
        "qat/study/executors.py",  # writes logs
        "qat/training/devices.py",  # /proc/loadavg, and the quota of a container
        "qat/training/distillation.py",  # the digest of a checkpoint that was read
        "qat/data/download.py",  # what it fetches is checked by checksum
        "qat/backends/keras/setup.py",  # /dev/null
        "qat/backends/mindspore/setup.py",  # /proc/cpuinfo
        "qat/targets/onnx/target.py",  # /proc/cpuinfo
        "qat/targets/c/cortex_m/measure.py",  # what the emulator has written
        "qat/targets/mindir/run.py",  # a copy of what was read and checked
        "qat/deploy/verify.py",  # what it has written itself
        "qat/deploy/c_array.py",  # whether it has written it itself
        "qat/targets/c/arduino.py",  # the same
        "qat/extras.py",  # whether setup.py lies beside the package
        "qat/scripts/help.py",  # the package's own pages
        "qat/scripts/common/steps.py",  # what it has written itself; what cannot be read counts for nothing
        "qat/zoo/places.py",  # the digest of a file that is then read elsewhere
        "qat/imports/model.py",  # calls the front end of a file's suffix
        "qat/imports/sources/keras_model.py",  # a model that keras_file.py has read
        "qat/imports/sources/mindspore_cell.py",  # a file that it has written itself
        "qat/imports/sources/onnx_file.py",  # a model that onnx_data.py has read
        "qat/imports/sources/torch_export.py",  # a program that pt2_file.py has read
    }
    readers = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "qat").rglob("*.py")
        if opens.search(path.read_text(encoding="utf-8"))
    }
    known = {entry.module for entry in KINDS.values()}
    assert readers - known - own == set()
    assert own - (readers - known) == set(), "these need not be listed"
    assert all((ROOT / module).exists() for module in known)


def test_every_reader_of_data_sets_is_used_by_load() -> None:
    """Each file of the folder registers itself, but for what several of them share."""
    folder = ROOT / "qat" / "data" / "readers"
    names = {path.stem for path in folder.glob("*.py")} - {"__init__", "base", "table"}
    assert len(names) >= 10
    found = {sys.modules[reader.read.__module__].__name__.rpartition(".")[2] for reader in own_readers()}
    assert found == names


@pytest.mark.parametrize(
    ("node", "field", "value"),
    [
        *(("conv.leaky_relu", "alpha", value) for value in ("x", True, [1, 2])),
        *(("conv", "freeze_bn", value) for value in ("x", None, [1])),
        *(("add.fake_quant", "shares", value) for value in (3, None, "x", [None], ["nowhere"], ["conv"])),
        ("conv", "dilation", 2**70),
        ("conv.fake_quant", "quantizer", {"type": "ActivationQuantizer", "narrow_range": "x"}),
        *(("conv", "has_bn", value) for value in (1, 0, "true", None)),
        *(("conv", "out_channels", value) for value in (3.0, "3", True, None)),
        *(("conv", "eps", value) for value in (float("nan"), float("inf"), True, "1e-5")),
        *(("input", "mean", value) for value in ([0.5], True, float("nan"))),
        ("drop", "rate", "0.3"),
    ],
    ids=str,
)
def test_a_field_of_a_wrong_type_gives_a_qaterror_when_the_graph_is_read(node: str, field: str, value: Any) -> None:
    """Found among the mutants, one by one."""
    data = json.loads(good("json"))
    (cell,) = (entry["cell"] for entry in data["nodes"] if entry["name"] == node)
    cell[field] = value
    with pytest.raises(qat.QatError, match="(?i)" + ("narrow_range" if field == "quantizer" else field)):
        qat.Graph.from_json(json.dumps(data))


@pytest.mark.parametrize("kind", OFTEN)
def test_mutants_differ_from_the_good_file_and_from_one_another(kind: str) -> None:
    """Or else the test above tries less than it says; the same seed gives the same mutant."""
    mutants = [mutant(kind, seed) for seed in range(40)]
    assert len({*mutants, good(kind)}) > 25
    assert mutant(kind, 7) == mutants[7]


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("abort", "crashed"),
        ("hang", "hung"),
        ("raise", "raised"),
        ("two lines", "not one line"),
        ("write beside", "wrote"),
        ("write into", "wrote"),
        ("grow", "grew"),
        ("run", "ran"),
    ],
)
def test_whatever_goes_wrong_is_noticed_and_the_next_case_is_read(kind: str, word: str, tmp_path: Path) -> None:
    with Reader(tmp_path, seconds=1.0 if kind == "hang" else SECONDS) as reader:
        assert reader.read(kind, b"content")[0] == word
        assert reader.read("behave", b"content") == ("read", "good")

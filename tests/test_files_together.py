"""Files that belong together are replaced as a whole, whatever kills or stops the process; drafts belong to living writers."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qat import drafts, files
from qat.cli import main
from qat.deploy.verify import export_verified
from qat.errors import NotFiniteError, QatError
from qat.files import read_together, write_atomically, write_together
from qat.integer import IntegerGraph
from qat.reading import read_file

fcntl = pytest.importorskip("fcntl", reason="Windows has no locks, and what a killed writer left stays")

OLD, NEW = (b"old source", b"old header"), (b"the new source" * 5000, b"the new header")

#: Forks a child for every call of the operating system in a writing, which is killed before that call, or after it; and
#: children that are killed at any time. Prints the pairs that are read afterwards, and the folder's files after one more
#: writing. ``prepare`` and ``write`` and ``read`` are defined by what goes before.
KILLER = """
import json, os, random, signal, time
CALLS = ("open", "close", "fsync", "chmod", "chown", "replace", "unlink", "mkdir", "listdir", "fstat")

def armed(at, before):
    count = 0
    def wrap(call):
        def wrapped(*args, **options):
            nonlocal count
            count += 1
            if count == at and before:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return call(*args, **options)
            finally:
                if count == at:
                    os.kill(os.getpid(), signal.SIGKILL)
        return wrapped
    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name)))

def child(work):
    pid = os.fork()
    if pid:
        return pid
    work()
    os._exit(0)

found = []
for before in (True, False):
    at, killed = 0, True
    while killed:
        at += 1
        prepare()
        pid = child(lambda: (armed(at, before), write()))
        killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        found.append((f"{'before' if before else 'after'} call {at}", read()))
aimed = len(found)
prepare()
start = time.monotonic()
os.waitpid(child(write), 0)
duration = time.monotonic() - start
rng = random.Random(0)
while len(found) < KILLS:
    prepare()
    pid = child(write)
    time.sleep(rng.uniform(0, 1.2 * duration))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    found.append(("at random", read()))
prepare()
write()
print(json.dumps([aimed, found, sorted(os.listdir(folder))]))
"""


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is such: a disk takes ten milliseconds for each of some thousand files."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path) as folder:
        yield Path(folder)


def kills(setting: str, folder: Path, count: int) -> tuple[int, list[tuple[str, str]], list[str]]:
    """What KILLER prints: how many kills were aimed, each kill with what was read after it, and the files at the end."""
    code = f"KILLS = {count}\nfrom pathlib import Path\nfolder = Path({str(folder)!r})\n{setting}\n{KILLER}"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    aimed, found, files = json.loads(done.stdout)
    return aimed, found, files


def assert_whole(aimed: int, found: list[tuple[str, str]]) -> None:
    """The old pair or the new one after every kill; and, of those that were aimed, the new one from some call on."""
    assert {what for _, what in found} == {"old", "new"}, found
    for when in ("before", "after"):
        order = [what for where, what in found[:aimed] if where.startswith(when)]
        assert order == sorted(order, reverse=True)
        assert {"old", "new"} == set(order)


def test_killed_at_any_call_or_time_the_old_files_or_the_new_ones_are_read(memory: Path) -> None:
    setting = f"""
from qat.files import read_together, write_together
OLD, NEW = {OLD!r}, {NEW!r}
paths = folder / "net.c", folder / "net.h"
def prepare():
    write_together(dict(zip(paths, OLD)))
def write():
    write_together(dict(zip(paths, NEW)))
def read():
    read = tuple(read_together(*paths))
    assert read == tuple(path.read_bytes() for path in paths), "reading finishes the work"
    return {{OLD: "old", NEW: "new"}}.get(read, "neither")
"""
    aimed, found, files = kills(setting, memory, 300)
    assert_whole(aimed, found)
    assert aimed > 60
    assert files == ["net.c", "net.h"]


def test_killed_while_a_file_and_its_c_array_are_renewed_whoever_reads_one_of_them_finishes_the_work(
    memory: Path,
) -> None:
    """As 'qat train-and-quantize' writes them, and as commands read them: one, by itself."""
    setting = """
import itertools
from qat.deploy.c_array import c_array
from qat.files import write_together
from qat.reading import read_file
paths = [folder / f"net.{ending}" for ending in ("tflite", "cc", "h")]
turns = itertools.cycle(paths)
def contents(model):
    header, source = c_array(model, "net.tflite", "net.h")
    return dict(zip(paths, (model, source.encode(), b"// " + model + header.encode())))
old, new = contents(b"the old model"), contents(b"the new one")
def prepare():
    write_together(old)
def write():
    write_together(new)
def read():
    read_file(next(turns), "")
    return {tuple(old.values()): "old", tuple(new.values()): "new"}.get(tuple(path.read_bytes() for path in paths), "neither")
"""
    aimed, found, files = kills(setting, memory, 250)
    assert_whole(aimed, found)
    assert aimed > 60
    assert files == ["net.cc", "net.h", "net.tflite"]


def test_killed_while_an_export_is_renewed_the_old_files_or_the_new_ones_are_read(memory: Path) -> None:
    setting = """
import numpy as np, qat
class Small(qat.Network):
    inputs = qat.Input((1, 3, 3))
    def __init__(self):
        self.flatten, self.fc = qat.Flatten(), qat.DenseBnAct(9, 2)
    def construct(self, x):
        return self.fc(self.flatten(x))
graph = qat.convert_quant_network(Small())
graphs = [qat.to_integer(graph, graph.observed_params(seed)) for seed in (0, 1)]
C, path = qat.target("C"), folder / "net.c"
def all_files():
    return [path.with_suffix(suffix).read_bytes() for suffix in (".c", ".h", ".bin")]
def prepare():
    C.export(graphs[0], path, weights_file="yes")
def write():
    C.export(graphs[1], path, weights_file="yes")
prepare()
old = all_files()
write()
new = all_files()
assert all(before != after for before, after in zip(old, new))
def read():
    assert {*C.read_metadata(path)} == {"ends", "arithmetic"}
    return "old" if all_files() == old else "new" if all_files() == new else "neither"
"""
    aimed, found, files = kills(setting, memory, 200)
    assert_whole(aimed, found)
    assert files == ["net.bin", "net.c", "net.h"]


def test_a_disk_that_is_full_at_any_call_leaves_what_was_there_or_all_of_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says which: nothing was replaced, or the rest follows."""
    paths = tmp_path / "net.c", tmp_path / "net.h"
    kept, at, raised = 0, 0, True
    while raised:
        write_together(dict(zip(paths, OLD, strict=True)))
        at, count, raised = at + 1, 0, False

        def full(call, at=at):
            def wrapped(*args, **options):
                nonlocal count, raised
                count += 1
                if count == at:
                    raised = True
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return call(*args, **options)

            return wrapped

        with monkeypatch.context() as patch:
            for name in ("open", "fsync", "chmod", "replace", "unlink", "mkdir", "listdir"):
                patch.setattr(os, name, full(getattr(os, name)))
            try:
                write_together(dict(zip(paths, NEW, strict=True)))
                message = None
            except QatError as error:
                message = str(error)
        there = tuple(path.read_bytes() for path in paths)
        if message is None:
            assert there == NEW
        elif "net.c, net.h are as they were" in message:
            kept += 1
            assert there == tuple(read_together(*paths)) == OLD
        else:
            assert "the next command that reads or writes them puts it in place" in message
            assert tuple(read_together(*paths)) == NEW
    assert kept > 5
    write_together(dict(zip(paths, OLD, strict=True)))
    assert sorted(os.listdir(tmp_path)) == ["net.c", "net.h"]


def test_a_disk_that_is_full_in_the_middle_of_a_file_leaves_all_files_as_they_were(tmp_path: Path) -> None:
    """A limit on the size of files is met in the middle of writing, as the end of a disk is: in the files or in the record."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from qat.files import *; from qat.errors import QatError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); limit = int(sys.argv[2]); folder = Path(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "try: write_together({folder / 'net.c': bytes(5000), folder / 'net.h': bytes(3000)})\n"
        "except QatError as error: print(error)"
    )
    paths = tmp_path / "net.c", tmp_path / "net.h"
    write_together(dict(zip(paths, OLD, strict=True)))
    for limit in (1000, 4000, 8000):
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path, str(limit)], capture_output=True, text=True, check=True
        )
        assert done.stdout == (
            f"{paths[0]}: cannot be written (File too large); net.c, net.h are as they were; free some space or choose another "
            "place\n"
        )
        assert tuple(path.read_bytes() for path in paths) == OLD
        assert sorted(os.listdir(tmp_path)) == ["net.c", "net.h"]


def test_two_writers_and_a_reader_never_meet_a_mixture(memory: Path) -> None:
    writer = (
        "import sys, time; from pathlib import Path; from qat.files import write_together; folder = Path(sys.argv[1])\n"
        "for number in range(150):\n"
        "    time.sleep(0.002)\n"  # the lock is for who comes first, which between two writings is the reader
        "    text = f'{sys.argv[2]} {number}'.encode()\n"
        "    write_together({folder / 'net.c': text, folder / 'net.h': text})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", writer, memory, name]) for name in "ab"]
    read = set()
    while any(process.poll() is None for process in writers):
        try:
            source, header = read_together(memory / "net.c", memory / "net.h")
        except OSError:  # none has written yet
            continue
        assert source == header
        read.add(source)
    assert [process.returncode for process in writers] == [0, 0]
    assert len(read) > 10
    assert sorted(os.listdir(memory)) == ["net.c", "net.h"]


# -- records ----------------------------------------------------------------------------------------------------------


def interrupted(paths: tuple[Path, Path]) -> Path:
    """Leave what a writing leaves that is killed between two files; returns its record."""
    write_together(dict(zip(paths, OLD, strict=True)))
    code = (
        "import os, sys; from pathlib import Path; from qat import files; a, b = map(Path, sys.argv[1:3])\n"
        "replace = os.replace\n"
        "def second(old, new):\n"
        "    replace(old, new)\n"
        "    if Path(new) == a: os._exit(9)\n"
        "os.replace = second\n"
        f"files.write_together({{a: {NEW[0]!r}, b: {NEW[1]!r}}})"
    )
    done = subprocess.run([sys.executable, "-c", code, *paths], check=False)
    assert done.returncode == 9
    assert (paths[0].read_bytes(), paths[1].read_bytes()) == (NEW[0], OLD[1])
    return paths[0].with_name(".net.pending")


def test_in_a_folder_that_may_only_be_read_the_new_files_are_read_from_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = tmp_path / "net.c", tmp_path / "net.h"
    record = interrupted(paths)

    def denied(*args: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", denied)
        assert tuple(read_together(*paths)) == NEW
        assert record.exists()
    assert tuple(read_together(*paths)) == NEW
    assert sorted(os.listdir(tmp_path)) == ["net.c", "net.h"]


def test_files_that_another_hand_has_changed_since_are_left_alone(tmp_path: Path) -> None:
    paths = tmp_path / "net.c", tmp_path / "net.h"
    record = interrupted(paths)
    mine = (b"from my backup", b"likewise")
    for path, content in zip(paths, mine, strict=True):
        path.write_bytes(content)
    assert tuple(read_together(*paths)) == mine
    assert not record.exists()


def test_a_record_that_is_damaged_or_of_other_files_changes_nothing(tmp_path: Path) -> None:
    paths = tmp_path / "net.c", tmp_path / "net.h"
    record = interrupted(paths)
    whole = record.read_bytes()
    there = tuple(path.read_bytes() for path in paths)
    outside = tmp_path / "outside"
    hostile = whole.partition(b"\n")[2].replace(b'"net.h"', b'"../outside"')

    for content in (
        whole[:-1],
        b"",
        b"\n",
        whole.replace(b"net.h", b"net.x"),
        hashlib.sha256(hostile).hexdigest().encode() + b"\n" + hostile,
        *(hashlib.sha256(body).hexdigest().encode() + b"\n" + body for body in (b"[]", b"[" * 10**5, b"{}", b"\xff")),
    ):
        record.write_bytes(content)
        assert tuple(read_together(*paths)) == there
        assert not record.exists()
    assert not outside.exists()
    os.mkfifo(record)  # would be waited for
    assert tuple(read_together(*paths)) == there


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "net.c").write_bytes(b"")
    os.mkfifo(tmp_path / "net.h")
    with pytest.raises(OSError, match="it is not a file but a device or a pipe"):
        read_together(tmp_path / "net.c", tmp_path / "net.h")


@pytest.mark.parametrize("number", [0, 1])
def test_whoever_writes_or_reads_one_of_the_files_finishes_the_work_first(tmp_path: Path, number: int) -> None:
    paths = tmp_path / "net.c", tmp_path / "net.h"
    interrupted(paths)
    assert read_file(paths[number], "") == NEW[number]
    assert tuple(path.read_bytes() for path in paths) == NEW
    interrupted(paths)
    write_atomically(paths[number], b"mine")
    assert paths[number].read_bytes() == b"mine"
    assert paths[1 - number].read_bytes() == NEW[1 - number]
    assert sorted(os.listdir(tmp_path)) == ["net.c", "net.h"]


def test_files_of_several_names_are_not_written_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="they have no common record"):
        write_together({tmp_path / "net.c": b"", tmp_path / "other.h": b""})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_in_a_folder_for_all_another_user_s_record_replaces_nothing(tmp_path: Path) -> None:
    """They may not replace a file that is not theirs there, so they may not have it replaced."""
    paths = tmp_path / "net.c", tmp_path / "net.h"
    record = interrupted(paths)
    os.chown(record, 1234, -1)
    tmp_path.chmod(0o1777)
    assert read_together(*paths) == [NEW[0], OLD[1]]
    assert record.exists()
    tmp_path.chmod(0o777)
    assert tuple(read_together(*paths)) == NEW


# -- locks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another holds the lock of the folder, as any user may in /tmp."""
    monkeypatch.setattr(drafts, "WAIT", 0.1)
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    given_up = threading.Timer(20, fcntl.flock, (handle, fcntl.LOCK_UN))
    given_up.start()
    yield
    given_up.cancel()
    os.close(handle)


def test_a_writer_that_another_keeps_out_says_so_in_one_line(tmp_path: Path, held: None) -> None:
    with pytest.raises(QatError) as caught:
        write_together({tmp_path / "net.c": b"", tmp_path / "net.h": b""})
    assert str(caught.value) == (
        f"{tmp_path / 'net.c'}: cannot be written, since another process keeps {tmp_path} locked, perhaps an export that was "
        f"stopped; continue or end it ('fuser {tmp_path}' shows which), then repeat the command"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_another_keeps_out_reads_what_is_recorded(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The other may be a writer that was stopped after its record was there."""
    paths = tmp_path / "net.c", tmp_path / "net.h"
    record = interrupted(paths)
    request.getfixturevalue("held")
    assert tuple(read_together(*paths)) == NEW
    assert read_file(paths[1], "") == OLD[1]
    assert record.exists()
    record.unlink()
    assert tuple(read_together(*paths)) == (NEW[0], OLD[1])


def test_a_process_that_was_forked_meanwhile_does_not_keep_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file, forked = os.open, []

    def opened(*args: Any, **options: Any) -> int:
        handle = open_file(*args, **options)
        forked.append(os.dup(handle))  # what a fork has
        return handle

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opened)
        write_together({tmp_path / "net.c": b"", tmp_path / "net.h": b""})
    fcntl.flock(open_file(tmp_path, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    for handle in forked:
        os.close(handle)


@pytest.mark.parametrize("stuck", [False, True])
def test_after_a_failure_the_record_goes_while_it_is_the_writer_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stuck: bool
) -> None:
    """Once the folder is another's, so is a record in it. One that cannot be removed is finished later, and said."""
    paths = tmp_path / "net.c", tmp_path / "net.h"
    record = tmp_path / ".net.pending"
    write_together(dict(zip(paths, OLD, strict=True)))
    replace, unlink, removed = os.replace, os.unlink, []

    def full(source: Any, target: Any) -> None:
        if Path(target) == paths[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    def watched(path: Any, **options: Any) -> None:
        if Path(path) == record:
            removed.append(path)
            handle = os.open(tmp_path, os.O_RDONLY)
            with pytest.raises(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(handle)
            if stuck:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        patch.setattr(os, "unlink", watched)
        with pytest.raises(QatError, match="puts it in place" if stuck else "net.c, net.h are as they were"):
            write_together(dict(zip(paths, NEW, strict=True)))
    assert len(removed) == 1
    assert tuple(path.read_bytes() for path in paths) == OLD
    assert tuple(read_together(*paths)) == (NEW if stuck else OLD)


def test_a_file_is_read_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 1000, raising=False)
    paths = tmp_path / "net.c", tmp_path / "net.h"
    paths[0].write_bytes(bytes(1000))
    paths[1].write_bytes(bytes(1001))
    with pytest.raises(OSError, match=r"it holds 1,001 bytes, but at most 1,000 are read.*net\.h"):
        read_together(*paths)
    with pytest.raises(QatError, match=r"cannot be written \(File too large\); net\.c, net\.h are as they were"):
        write_together({paths[0]: bytes(500), paths[1]: bytes(500)})  # with the record's first line more than that


# -- exports ----------------------------------------------------------------------------------------------------------


def exported(path: Path, export: Any) -> None:
    """``export_verified`` of a target of two files that cannot be run."""

    def run(*args: Any) -> None:
        pytest.fail("it is verified before it is known that it can be written")

    target: Any = SimpleNamespace(export=export, runtime=run, predict=run, trace=run, ARITHMETICS=("fixed",))
    backend: Any = SimpleNamespace(devices=run)
    anything: Any = None
    integers = IntegerGraph((), (), (), arithmetic="fixed")
    export_verified(path, target, backend, anything, anything, data="", integers=integers)


def test_what_stands_in_the_way_of_a_second_file_is_found_before_the_verification(tmp_path: Path) -> None:
    def export(graph: Any, path: Path) -> None:
        write_together({path: b"source", path.with_suffix(".h"): b"header"})

    (tmp_path / "net.h").mkdir()
    with pytest.raises(QatError, match=rf"^{tmp_path}/net\.h: is a folder, which is not overwritten"):
        exported(tmp_path / "net.c", export)
    assert [path.name for path in tmp_path.iterdir()] == ["net.h"]


@pytest.mark.parametrize("kind", [QatError, NotFiniteError])
def test_an_error_of_an_export_keeps_its_exit_status_and_names_the_file_to_be(
    tmp_path: Path, kind: type[QatError]
) -> None:
    def export(graph: Any, path: Path) -> None:
        raise kind(f"{path}: its scale is infinite")

    with pytest.raises(QatError) as caught:
        exported(tmp_path / "net.c", export)
    assert type(caught.value) is kind
    assert str(caught.value) == f"{tmp_path / 'net.c'}: its scale is infinite"


@pytest.mark.parametrize("ending", ["tflite", "cc", "h", "ckpt"])
def test_train_and_quantize_knows_before_it_trains_that_it_cannot_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    pytest.importorskip("ai_edge_litert")
    (tmp_path / f"net.{ending}").mkdir()
    assert main(["train-and-quantize", "--save-model-name", str(tmp_path / "net"), "--data_path", "digits"]) == 2
    out, err = capsys.readouterr()
    assert f"net.{ending}: is a folder" in err
    assert "epoch" not in out + err
    assert [path.name for path in tmp_path.iterdir()] == [f"net.{ending}"]

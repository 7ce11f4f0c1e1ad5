"""Files are written as a whole or not at all."""

import errno
import os
import stat
import subprocess
import sys
import tempfile

import pytest

from qat.errors import QatError
from qat.files import check_writable, write_atomically


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "net.ckpt"
    path.write_bytes(b"old")
    return path


def test_a_new_file_holds_exactly_the_content_and_missing_folders_are_made(tmp_path):
    content = bytes(range(256)) * 40 + b"\r\n\x00"
    write_atomically(tmp_path / "a" / "b" / "c.bin", content)
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == content
    assert os.listdir(tmp_path / "a" / "b") == ["c.bin"]


def test_an_old_file_is_replaced_and_nothing_else_is_left(target):
    write_atomically(str(target), b"")
    assert target.read_bytes() == b""
    assert os.listdir(target.parent) == ["net.ckpt"]


def test_a_relative_path_without_a_folder_is_written_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_atomically("net.ckpt", b"new")
    assert (tmp_path / "net.ckpt").read_bytes() == b"new"


def test_a_reader_that_has_the_old_file_open_keeps_the_old_content(target):
    """The new content is never written into the old file, so that a crash half way cannot have harmed it."""
    with target.open("rb") as reader:
        write_atomically(target, b"new and longer")
        assert reader.read() == b"old"


@pytest.mark.parametrize("function", ["replace", "fsync", "chmod"])
def test_a_failure_keeps_the_old_file_leaves_no_temporary_one_and_says_why(target, monkeypatch, function):
    with monkeypatch.context() as patch:
        patch.setattr(os, function, full_disk)
        with pytest.raises(QatError) as caught:
            write_atomically(target, b"new")
    assert str(caught.value) == (
        f"{target}: cannot be written (No space left on device); the file that was there is unharmed; free some space or "
        "choose another place"
    )
    assert target.read_bytes() == b"old"
    assert os.listdir(target.parent) == ["net.ckpt"]


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_failure_where_no_file_was_leaves_an_empty_folder_and_claims_no_old_file(tmp_path, monkeypatch, function):
    with monkeypatch.context() as patch:
        patch.setattr(os, function, full_disk)
        with pytest.raises(QatError, match=r"cannot be written \(No space left on device\)") as caught:
            write_atomically(tmp_path / "net.ckpt", b"new")
    assert "unharmed" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_an_interrupt_while_writing_keeps_the_old_file_and_leaves_no_temporary_one(target, monkeypatch):
    """Ctrl-C during a checkpoint is ordinary; it must not fill the folder with hidden files."""

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(target.parent) == ["net.ckpt"]


def test_the_content_is_on_the_disk_before_the_old_file_is_replaced(target, monkeypatch):
    """Renamed first, a power cut could leave an empty file under the good name."""
    calls, fsync, rename = [], os.fsync, os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: calls.append("fsync") or fsync(handle))
        patch.setattr(os, "replace", lambda old, new: calls.append("replace") or rename(old, new))
        write_atomically(target, b"new")
    assert calls[:2] == ["fsync", "replace"]
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o000, 0o666)])
def test_permissions_follow_the_umask_which_stays_as_it_was(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "net.ckpt", b"new")
        after = os.umask(umask)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "net.ckpt").stat().st_mode) == mode
    assert after == umask


def test_a_path_that_is_a_folder_is_refused_and_the_folder_stays(tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "inside").write_bytes(b"old")
    with pytest.raises(QatError, match=r"net: is a folder, which is not written over"):
        write_atomically(tmp_path / "net", b"new")
    assert os.listdir(tmp_path) == ["net"]
    assert (tmp_path / "net" / "inside").read_bytes() == b"old"


def test_a_pipe_or_a_device_is_refused_and_stays(tmp_path):
    """Replaced as a whole, /dev/null would become a file for everybody."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for use in (check_writable, lambda path: write_atomically(path, b"")):
        with pytest.raises(QatError, match="pipe: is no file but a device or a pipe, which is not written over"):
            use(pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_path_below_a_file_is_refused_and_the_file_stays(target):
    with pytest.raises(QatError, match=r"net\.ckpt/deeper/x: cannot be written") as caught:
        write_atomically(target / "deeper" / "x", b"new")
    assert "unharmed" not in str(caught.value)
    assert target.read_bytes() == b"old"


def test_a_name_that_is_too_long_is_refused_in_one_line(tmp_path):
    """Path.exists raises for such a name, and for a folder that may not be searched, instead of saying False."""
    with pytest.raises(QatError, match="cannot be written") as caught:
        write_atomically(tmp_path / ("x" * 300), b"new")
    assert "\n" not in str(caught.value)


def test_a_folder_that_may_not_be_searched_is_refused_in_one_line(target, monkeypatch):
    """Root may search every folder, so the system's answer is simulated: every look at the path is denied."""

    def denied(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        for function in ["open", "stat"]:
            patch.setattr(os, function, denied)
        with pytest.raises(QatError, match=r"net\.ckpt: cannot be written \(Permission denied\)"):
            write_atomically(target, b"new")
    assert target.read_bytes() == b"old"


# -- the system's own refusals ----------------------------------------------------------------------------------------


def test_a_disk_that_takes_no_more_keeps_the_old_file(target):
    """A limit on the size of files is met in the middle of writing, as the end of a disk is."""
    code = (
        "import resource, signal, sys; from qat.files import write_atomically; from qat.errors import QatError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_atomically(sys.argv[1], bytes(5000))\n"
        "except QatError as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-c", code, target], capture_output=True, text=True, check=True).stdout
    assert found == (
        f"{target}: cannot be written (File too large); the file that was there is unharmed; free some space or choose "
        "another place\n"
    )
    assert target.read_bytes() == b"old"
    assert os.listdir(target.parent) == ["net.ckpt"]


def test_a_folder_that_one_may_only_read_keeps_the_old_file():
    """Tried as an ordinary user: root may write everywhere."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "net.ckpt")
        write_atomically(path, b"old")
        os.chmod(folder, 0o555)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)
            for function in (check_writable, lambda path: write_atomically(path, b"new")):
                with pytest.raises(QatError, match=r"net\.ckpt: cannot be written .*\(Permission denied\)"):
                    function(path)
        finally:
            os.seteuid(user)
            os.chmod(folder, 0o755)
        with open(path, "rb") as file:
            assert file.read() == b"old"
        assert os.listdir(folder) == ["net.ckpt"]


def test_what_a_killed_process_has_left_is_cleared_by_the_next_save(target):
    """But not what another process may be writing at this moment."""
    old, new, other = (target.parent / name for name in (".net.ckpt.a.tmp", ".net.ckpt.b.tmp", ".net2.ckpt.a.tmp"))
    for path in (old, new, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (0, 0))
    write_atomically(target, b"new")
    assert sorted(os.listdir(target.parent)) == [".net.ckpt.b.tmp", ".net2.ckpt.a.tmp", "net.ckpt"]

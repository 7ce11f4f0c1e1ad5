"""Files are written as a whole or not at all."""

import errno
import os
import signal
import stat
import subprocess
import sys
import tempfile

import pytest

from qat import drafts, files
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
    assert calls == ["fsync", "replace", "fsync"], "the last one is the folder's"
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


def test_the_umask_is_not_touched(target, monkeypatch):
    """It belongs to the whole process: another thread's file would get none."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask is changed"))
    write_atomically(target, b"new")
    write_atomically(target.with_name("other"), b"new")


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o400])
def test_a_file_that_is_replaced_keeps_its_permissions(target, mode):
    target.chmod(mode)
    write_atomically(target, b"new")
    assert stat.S_IMODE(target.stat().st_mode) == mode
    assert target.read_bytes() == b"new"


def test_what_only_its_owner_may_read_nobody_else_can_read_while_it_is_written(target, monkeypatch):
    target.chmod(0o600)
    modes, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: modes.append(os.fstat(handle).st_mode & 0o077) or fsync(handle))
    opened, open_file = [], os.open
    monkeypatch.setattr(os, "open", lambda path, flags, mode=0o777: opened.append(mode) or open_file(path, flags, mode))
    write_atomically(target, b"new")
    assert modes[0] == 0
    assert opened[0] == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_file_that_is_replaced_keeps_its_owner(target):
    os.chown(target, 1234, 2345)
    target.chmod(0o640)
    write_atomically(target, b"new")
    found = target.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 2345, 0o640)


def test_what_a_group_may_do_is_not_given_to_another_group(target, monkeypatch):
    """An ordinary user may not give a file to a group that is not theirs."""

    def denied(*args, **kwargs):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    target.chmod(0o664)
    monkeypatch.setattr(os, "chown", denied)
    write_atomically(target, b"new")
    assert stat.S_IMODE(target.stat().st_mode) == 0o604


# -- symbolic links ---------------------------------------------------------------------------------------------------


def test_a_symbolic_link_stays_and_what_it_points_to_is_replaced(target, tmp_path):
    (tmp_path / "links" / "deeper").mkdir(parents=True)
    first, second = tmp_path / "links" / "latest", tmp_path / "links" / "deeper" / "best"
    first.symlink_to("../net.ckpt")
    second.symlink_to(first)
    target.chmod(0o600)
    for link, content in ((first, b"new"), (second, b"newer")):
        check_writable(link)
        write_atomically(link, content)
        assert target.read_bytes() == link.read_bytes() == content
    assert first.is_symlink()
    assert second.is_symlink()
    assert not target.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["links", "net.ckpt"]
    assert sorted(os.listdir(first.parent)) == ["deeper", "latest"]


def test_a_symbolic_link_to_nothing_gets_its_file(tmp_path):
    link = tmp_path / "latest"
    link.symlink_to("store/net.ckpt")
    check_writable(link)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "store" / "net.ckpt").read_bytes() == b"new"


def test_a_symbolic_link_that_leads_back_to_itself_is_refused(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.symlink_to(other)
    other.symlink_to(one)
    for use in (check_writable, lambda path: write_atomically(path, b"")):
        with pytest.raises(QatError, match=r"one: is a symbolic link that is not followed \(Too many levels"):
            use(one)
    assert one.is_symlink()


def test_another_user_s_link_in_a_folder_for_all_is_not_followed(target, tmp_path, monkeypatch):
    """As in /tmp: it could point to any file of ours. Not every system forbids it, so its answer is simulated."""
    link, follow = tmp_path / "link", os.stat
    link.symlink_to(target)

    def protected(path, **options):
        if path == link:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return follow(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", protected)
        with pytest.raises(QatError, match=r"link: is a symbolic link that is not followed \(Permission denied\)"):
            write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"old"


def test_a_symbolic_link_to_a_folder_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    with pytest.raises(QatError, match="link: is a folder"):
        write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()


def test_a_path_that_is_a_folder_is_refused_and_the_folder_stays(tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "inside").write_bytes(b"old")
    with pytest.raises(QatError, match=r"net: is a folder, which is not overwritten"):
        write_atomically(tmp_path / "net", b"new")
    assert os.listdir(tmp_path) == ["net"]
    assert (tmp_path / "net" / "inside").read_bytes() == b"old"


def test_a_pipe_or_a_device_is_refused_and_stays(tmp_path):
    """Replaced as a whole, /dev/null would become a file for everybody."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for use in (check_writable, lambda path: write_atomically(path, b"")):
        with pytest.raises(QatError, match="pipe: is not a file but a device or a pipe, which is not overwritten"):
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


# -- several writers --------------------------------------------------------------------------------------------------


def left_by_a_killed_writer(target):
    """The draft of a process that is killed before it replaces the target."""
    code = (
        "import os, signal, sys; from qat.files import write_atomically\n"
        "os.replace = lambda *args: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomically(sys.argv[1], b'half')"
    )
    done = subprocess.run([sys.executable, "-c", code, target], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = target.parent.glob(f".{target.name}.{'?' * 2 * drafts.RANDOM}.tmp")
    return left


def test_what_a_killed_process_has_left_is_cleared_by_the_next_save(target):
    """At once, and whatever the clock says; but nothing of another file's writers, and nobody else's files."""
    left_by_a_killed_writer(target)
    other = left_by_a_killed_writer(target.with_name("net"))
    future = left_by_a_killed_writer(target)  # the second writer has cleared what the first left
    os.utime(future, (1 << 32, 1 << 32))
    mine = target.with_name(".net.ckpt.mine.tmp")
    mine.write_bytes(b"")
    write_atomically(target, b"new")
    assert sorted(os.listdir(target.parent)) == sorted([other.name, mine.name, "net.ckpt"])
    assert target.read_bytes() == b"new"


def test_a_draft_whose_writer_lives_is_left_alone_however_old_it_looks(target):
    code = (
        "import os, sys; from qat.files import write_atomically; replace = os.replace\n"
        "def wait(*args): print('ready', flush=True); input(); replace(*args)\n"
        "os.replace = wait\n"
        "write_atomically(sys.argv[1], b'from the other')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "ready\n"
        (draft,) = (path for path in target.parent.iterdir() if path.suffix == ".tmp")
        os.utime(draft, (0, 0))
        write_atomically(target, b"from here")
        assert target.read_bytes() == b"from here"
        other.communicate("\n")
    assert other.returncode == 0
    assert target.read_bytes() == b"from the other"
    assert os.listdir(target.parent) == ["net.ckpt"]


def test_two_writers_whose_clocks_are_an_hour_apart_lose_no_save(tmp_path):
    """A thousand saves each, to one path; files of the one look an hour old to the other."""
    code = (
        "import os, sys, time; from qat.files import write_atomically\n"
        "ahead, now, fsync = float(sys.argv[2]), time.time, os.fsync\n"
        "time.time = lambda: now() + ahead\n"
        "def skewed(handle): os.utime(handle, (time.time(), time.time())); fsync(handle)\n"
        "os.fsync = skewed\n"
        "for number in range(1000): write_atomically(sys.argv[1], f'{ahead} {number} '.encode() * 1000)"
    )
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path) as folder:
        path = os.path.join(folder, "net.ckpt")
        command = [sys.executable, "-c", code, path]
        writers = [
            subprocess.Popen([*command, ahead], stderr=subprocess.PIPE, text=True) for ahead in ("0", "3600", "-3600")
        ]
        errors = [writer.communicate()[1] for writer in writers]
        assert errors == [""] * 3
        assert os.listdir(folder) == ["net.ckpt"]
        with open(path) as file:
            assert len(set(file.read().split(" 999 "))) == 2, "the last save of one of them, whole"


@pytest.mark.parametrize("times", [1, drafts.TRIES - 1])
def test_a_draft_that_something_else_removes_is_written_again(target, monkeypatch, times):
    removed, replace = [], os.replace

    def vanished(draft, path):
        if len(removed) < times:
            os.unlink(draft)
            removed.append(draft)
        replace(draft, path)

    monkeypatch.setattr(os, "replace", vanished)
    write_atomically(target, b"new")
    assert target.read_bytes() == b"new"
    assert os.listdir(target.parent) == ["net.ckpt"]


def test_a_draft_that_is_removed_again_and_again_is_given_up_in_one_line(target, monkeypatch):
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda draft, path: (os.unlink(draft), replace(draft, path)))
    with pytest.raises(QatError, match=r"cannot be written \(No such file or directory\); the file that was there is"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"


def test_where_there_are_no_locks_files_are_written_and_nothing_is_cleared(target, monkeypatch):
    left = left_by_a_killed_writer(target)
    monkeypatch.setattr(drafts, "fcntl", None)
    write_atomically(target, b"new")
    files.write_together({target: b"newer", target.with_name("net.other"): b"other"})
    assert sorted(os.listdir(target.parent)) == sorted([left.name, "net.ckpt", "net.other"])
    assert files.read_together(target, target.with_name("net.other")) == [b"newer", b"other"]

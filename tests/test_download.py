"""Downloads, against an HTTP server on this machine."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import qat
from qat.cli import main
from qat.data import download as module
from qat.data.download import Remote, Source, download


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def home(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server, and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", folder
        server.shutdown()
        thread.join()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def test_files_go_to_their_places_and_are_fetched_once(home: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = home
    (folder / "a.gz").write_bytes(b"one")
    source = Source(address, (Remote("a.gz", md5(b"one"), "train"),))
    out = tmp_path / "out"
    assert download(source, out) == [out / "train" / "a.gz"]
    assert (out / "train" / "a.gz").read_bytes() == b"one"
    (folder / "a.gz").unlink()
    assert download(source, out) == []  # not asked for again
    (out / "train" / "a.gz").write_bytes(b"damaged")
    with pytest.raises(qat.QatError, match=r"a\.gz: cannot be fetched"):
        download(source, out)


def test_an_archive_is_unpacked_by_bare_names(home: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = home
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in ("cifar/data_batch_1.bin", "../../outside.bin", "cifar/readme.html"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"1234"))
    (folder / "c.tar.gz").write_bytes(buffer.getvalue())
    source = Source(address, (Remote("c.tar.gz", md5(buffer.getvalue()), "."),))
    out = tmp_path / "deep" / "out"
    assert sorted(path.name for path in download(source, out)) == ["data_batch_1.bin", "outside.bin"]
    assert sorted(path.name for path in out.iterdir()) == ["data_batch_1.bin", "outside.bin"]
    assert not list(tmp_path.glob("*.bin"))


def test_a_wrong_checksum_leaves_nothing(home: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = home
    (folder / "a.gz").write_bytes(b"cut sho")
    with pytest.raises(qat.QatError, match=r"a\.gz: has MD5 .* is expected"):
        download(Source(address, (Remote("a.gz", md5(b"cut short"), "."),)), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command(home: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, folder = home
    (folder / "a.gz").write_bytes(b"one")
    source = Source("http://127.0.0.1:9/", (Remote("a.gz", md5(b"one"), "."),))
    monkeypatch.setitem(module.SOURCES, "mnist", source)
    assert main(["data", "mnist", "--out", str(tmp_path / "out"), "--home", address]) == 0
    assert main(["data", "mnist", "--out", str(tmp_path / "out")]) == 0  # all there: no server needed
    assert main(["data", "mnist", "--out", str(tmp_path / "other")]) == 2

"""Downloads, against an HTTP server on this machine."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import http.server
import io
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import qat
from qat.cli import main
from qat.data import download as module
from qat.data.download import Remote, Source, download


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Redirects /to/<address> to the address; /endless sends bytes until the other side has enough."""

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif self.path.startswith("/endless"):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(1 << 16))
        else:
            super().do_GET()

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


def remote(name: str, content: bytes, place: str = ".") -> Remote:
    """What a data set says of a file with that content."""
    return Remote(name, len(content), hashlib.sha256(content).hexdigest(), place)


def test_files_go_to_their_places_and_are_fetched_once(home: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = home
    (folder / "a.gz").write_bytes(b"one")
    source = Source(address, (remote("a.gz", b"one", "train"),))
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
    source = Source(address, (remote("c.tar.gz", buffer.getvalue()),))
    out = tmp_path / "deep" / "out"
    assert sorted(path.name for path in download(source, out)) == ["data_batch_1.bin", "outside.bin"]
    assert sorted(path.name for path in out.iterdir()) == ["data_batch_1.bin", "outside.bin"]
    assert not list(tmp_path.glob("*.bin"))


def test_a_wrong_checksum_leaves_nothing(home: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = home
    (folder / "a.gz").write_bytes(b"cut sho")
    with pytest.raises(qat.QatError, match=r"a\.gz: has 7 bytes and SHA-256 .* are expected"):
        download(Source(address, (remote("a.gz", b"cut short"),)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_longer_than_the_file_is_not_read_to_its_end(home: tuple[str, Path], tmp_path: Path) -> None:
    source = Source(f"{home[0]}endless/", (remote("a.gz", b"one"),))
    with pytest.raises(qat.QatError, match=r"has 4 bytes and SHA-256 .* where 3 and"):
        download(source, tmp_path / "out")


@pytest.mark.parametrize("address", ["http://example.org/", "file:///etc/", "ftp://127.0.0.1/", "example.org/", "//x/"])
def test_only_https_is_asked(address: str, tmp_path: Path) -> None:
    with pytest.raises(qat.QatError, match=r"only https is accepted"):
        download(Source(address, (remote("a.gz", b"one"),)), tmp_path / "out")


@pytest.mark.parametrize("to", ["http://example.org/", "file:///etc/", "ftp://127.0.0.1/"])
def test_a_redirect_that_leaves_https_is_not_followed(to: str, home: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(qat.QatError, match=r"only https is accepted|cannot be fetched .*not allowed"):
        download(Source(f"{home[0]}to/{to}", (remote("a.gz", b"one"),)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_https_is_not_left_for_this_machine(tmp_path: Path) -> None:
    request = urllib.request.Request("https://example.org/")
    with pytest.raises(qat.QatError, match="only https is accepted"):
        module._HttpsOnly().redirect_request(
            request, io.BytesIO(), 302, "", http.client.HTTPMessage(), "http://localhost/a"
        )


def test_every_source_is_https_with_sha256() -> None:
    for source in module.SOURCES.values():
        assert source.home.startswith("https://")
        assert all(len(bytes.fromhex(file.sha256)) == 32 and file.size > 0 for file in source.files)


def test_the_command(home: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, folder = home
    (folder / "a.gz").write_bytes(b"one")
    source = Source("http://127.0.0.1:9/", (remote("a.gz", b"one"),))
    monkeypatch.setitem(module.SOURCES, "mnist", source)
    assert main(["data", "mnist", "--out", str(tmp_path / "out"), "--home", address]) == 0
    assert main(["data", "mnist", "--out", str(tmp_path / "out")]) == 0  # all there: no server needed
    assert main(["data", "mnist", "--out", str(tmp_path / "other")]) == 2

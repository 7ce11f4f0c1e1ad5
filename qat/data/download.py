"""Downloads of data sets from their public homes, by https and checked by SHA-256."""

from __future__ import annotations

import hashlib
import http.client
import io
import tarfile
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from qat.errors import QatError
from qat.files import check_writable, write_atomically

TIMEOUT = 60.0  #: seconds to wait for an answer
LOCAL = ("localhost", "127.0.0.1", "::1")  #: hosts that may use http, because their traffic does not leave the machine


class Remote(NamedTuple):
    """A file of a data set on its home server.

    Attributes:
        name: of the file there.
        size: in bytes.
        sha256: its checksum, in hexadecimal.
        place: the folder that it goes into; a .tar.gz is unpacked there.
    """

    name: str
    size: int
    sha256: str
    place: str


@dataclass(frozen=True)
class Source:
    """The home of a data set.

    Attributes:
        home: what the address of every file starts with.
        files: the files there.
    """

    home: str
    files: tuple[Remote, ...]


SOURCES = {
    "mnist": Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (
            Remote(
                "train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "train",
            ),
            Remote(
                "train-labels-idx1-ubyte.gz",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "train",
            ),
            Remote(
                "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "test",
            ),
            Remote(
                "t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                "test",
            ),
        ),
    ),
    "svhn": Source(
        "https://ufldl.stanford.edu/housenumbers/",
        (
            Remote(
                "train_32x32.mat",
                182_040_794,
                "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
                ".",
            ),
            Remote(
                "test_32x32.mat",
                64_275_384,
                "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
                ".",
            ),
        ),
    ),
    "svhn-extra": Source(
        "https://ufldl.stanford.edu/housenumbers/",
        (
            Remote(
                "extra_32x32.mat",
                1_329_278_602,
                "a133a4beb38a00fcdda90c9489e0c04f900b660ce8a316a5e854838379a71eb3",
                ".",
            ),
        ),
    ),
    "cifar10": Source(
        "https://www.cs.toronto.edu/~kriz/",
        (
            Remote(
                "cifar-10-binary.tar.gz",
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                ".",
            ),
        ),
    ),
}


def download(source: Source, out: str | Path) -> list[Path]:
    """Fetch the files of a data set. A file that is there already with the right checksum is left alone.

    Args:
        source: one of ``SOURCES``.
        out: the folder to write to.

    Returns:
        The files that were written.

    Raises:
        QatError: where a file cannot be fetched by https, has another size or checksum, or cannot be written; nothing
            of that file is left behind.
    """
    written: list[Path] = []
    for remote in source.files:
        folder = Path(out) / remote.place
        path = folder / remote.name
        check_writable(path)
        if path.is_file() and path.stat().st_size == remote.size and _sha256(path.read_bytes()) == remote.sha256:
            continue
        content = _fetch(source.home + remote.name, remote.size)
        found = _sha256(content)
        if found != remote.sha256:
            raise QatError(
                f"{source.home}{remote.name}: has {len(content):,} bytes and SHA-256 {found} where {remote.size:,} and "
                f"{remote.sha256} are expected; it was cut short, or the file there has changed; try again, or take it from "
                "another place"
            )
        if remote.name.endswith(".tar.gz"):
            written += _unpack(content, folder)
        else:
            write_atomically(path, content)
            written.append(path)
    return written


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows no redirect that leaves https."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _check_https(newurl, local=req.type == "http")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_https(address: str, *, local: bool) -> None:
    """Raise QatError for any other address; local: except http from this machine itself."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "https" and not (local and parts.scheme == "http" and parts.hostname in LOCAL):
        raise QatError(
            f"{address}: uses {parts.scheme or 'no protocol'}, where the content can be changed on its way; only https "
            "is accepted (http from this machine only); give an https address, or fetch the file by hand"
        )


def _fetch(address: str, size: int) -> bytes:
    """The content at an address. Of an answer longer than ``size`` one more byte is read, enough to refuse it."""
    try:
        _check_https(address, local=True)
        with urllib.request.build_opener(_HttpsOnly).open(address, timeout=TIMEOUT) as answer:
            content: bytes = answer.read(size + 1)
            return content
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise QatError(f"{address}: cannot be fetched ({error}); check the network, or fetch it by hand") from None


def _unpack(content: bytes, folder: Path) -> list[Path]:
    """Write the .bin files of an archive, by their bare names. test_batch.bin comes last: without it there is no data set."""
    written = []
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            file = archive.extractfile(member) if member.isfile() and member.name.endswith(".bin") else None
            if file is not None:
                path = folder / Path(member.name).name
                write_atomically(path, file.read())
                written.append(path)
    return written

"""Fetch data sets from their public homes, checked by checksum."""

from __future__ import annotations

import hashlib
import io
import tarfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from qat.errors import QatError
from qat.files import check_writable, write_atomically

TIMEOUT = 60.0  #: seconds without an answer


class Remote(NamedTuple):
    """A file of a data set: its name at home, its MD5 there, and where it goes; a .tar.gz is unpacked there."""

    name: str
    md5: str
    place: str


@dataclass(frozen=True)
class Source:
    """A data set's home: the start of the addresses of its files."""

    home: str
    files: tuple[Remote, ...]


SOURCES = {
    "mnist": Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (
            Remote("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", "train"),
            Remote("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", "train"),
            Remote("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", "test"),
            Remote("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", "test"),
        ),
    ),
    "svhn": Source(
        "http://ufldl.stanford.edu/housenumbers/",
        (
            Remote("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", "."),
            Remote("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", "."),
        ),
    ),
    "svhn-extra": Source(
        "http://ufldl.stanford.edu/housenumbers/",
        (Remote("extra_32x32.mat", "a93ce644f1a588dc4d68dda5feec44a7", "."),),
    ),
    "cifar10": Source(
        "https://www.cs.toronto.edu/~kriz/",
        (Remote("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", "."),),
    ),
}


def download(source: Source, out: str | Path) -> list[Path]:
    """Fetch all files of a data set into ``out``; returns the files written.

    A file that is there already with the right checksum is left alone. Raises QatError where a file cannot be fetched,
    has another checksum, or cannot be written; then nothing of that file is left behind.
    """
    written: list[Path] = []
    for remote in source.files:
        folder = Path(out) / remote.place
        path = folder / remote.name
        check_writable(path)
        if path.is_file() and hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == remote.md5:
            continue
        content = _fetch(source.home + remote.name)
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != remote.md5:
            raise QatError(
                f"{source.home}{remote.name}: has MD5 {found} where {remote.md5} is expected; it was cut short, or the file "
                "there has changed; try again, or take it from another place"
            )
        if remote.name.endswith(".tar.gz"):
            written += _unpack(content, folder)
        else:
            write_atomically(path, content)
            written.append(path)
    return written


def _fetch(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            content: bytes = answer.read()
            return content
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise QatError(f"{address}: cannot be fetched ({error}); check the network, or fetch it by hand") from None


def _unpack(content: bytes, folder: Path) -> list[Path]:
    """The .bin files of an archive, by their bare names; test_batch.bin is the last, without which there is no data set."""
    written = []
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            file = archive.extractfile(member) if member.isfile() and member.name.endswith(".bin") else None
            if file is not None:
                path = folder / Path(member.name).name
                write_atomically(path, file.read())
                written.append(path)
    return written

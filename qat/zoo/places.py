"""Where the files of others lie that the zoo is made from: in folders that are given, or fetched from their public homes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qat import data
from qat.data import Dataset
from qat.data.download import SOURCES, Remote, Source, download
from qat.errors import QatError
from qat.reading import read_file

#: Of data sets of ``qat.data.download``: the folder that one is fetched into, and files by which it is known.
FOLDERS = {
    "mnist": ("MNIST_Data", "train/train-images*"),
    "cifar10": ("CIFAR10", "data_batch_1.bin*"),
}


@dataclass(frozen=True)
class Places:
    """Folders of files that others have published.

    Args:
        data: where samples are looked for, and in the folders in them. None at all, the default: data sets that have a public
            home are fetched.
        models: where published networks are looked for, before ``data``; likewise.
        store: the folder that is fetched into.

    Raises:
        QatError: what is no folder, before anything is fetched.
    """

    data: Sequence[str | Path] = ()
    models: Sequence[str | Path] = ()
    store: str | Path = "zoo"

    def __post_init__(self) -> None:
        for folder in (*self.data, *self.models):
            if not Path(folder).is_dir():
                raise QatError(f"{folder}: is no folder; give --data and --models folders")

    def samples(self, name: str) -> Path:
        """A file of samples that has no public home in this form.

        Args:
            name: of the file, as "ic01.npz".

        Returns:
            Its path.

        Raises:
            QatError: none of the folders has it.
        """
        for folder in _folders(self.data):
            if (folder / name).is_file():
                return folder / name
        where = f"is not in {_named(self.data)}" if self.data else "has no public home in this form"
        raise QatError(
            f"{name}: {where}, and the network is calibrated and evaluated on it; give --data the folder that holds it "
            "('qat help zoo' says what it is)"
        )

    def dataset(self, name: str) -> Dataset:
        """A data set with a public home.

        Args:
            name: one of ``FOLDERS``.

        Returns:
            It, from the folders that were given, or fetched where none was.

        Raises:
            QatError: none of the folders has it, or it cannot be fetched.
        """
        own, mark = FOLDERS[name]
        found = [folder for folder in _folders(self.data) if any(folder.glob(mark))]
        if not found and self.data:
            raise QatError(
                f"{own}: is not in {_named(self.data)}; 'qat data {name} --out {own}' fetches it, then give --data that folder "
                "too; without --data it is fetched here"
            )
        folder = found[0] if found else Path(self.store) / own
        if not found:
            download(SOURCES[name], folder)
        return data.load(str(folder))

    def model(self, remote: Remote, home: str) -> Path:
        """A published network.

        Args:
            remote: the file.
            home: what its address starts with.

        Returns:
            Its path, in a folder that was given, or fetched.

        Raises:
            QatError: the file that is there is another one; none of the folders of ``models`` has it; it cannot be fetched.
        """
        name = Path(remote.name).name
        for folder in _folders([*self.models, *self.data]):
            path = folder / name
            if path.is_file():
                found = hashlib.sha256(read_file(path, "give the published file")).hexdigest()
                if found != remote.sha256:
                    raise QatError(
                        f"{path}: has SHA-256 {found} where the published file has {remote.sha256}; it is another "
                        f"release of it or damaged; take it from {home}{remote.name}"
                    )
                return path
        if self.models:
            raise QatError(
                f"{name}: is not in {_named(self.models)}; leave --models out to fetch {home}{remote.name}, or give the folder "
                "that holds it"
            )
        stored = Path(self.store) / "models"
        start, _, last = remote.name.rpartition("/")
        download(Source(f"{home}{start}/", (remote._replace(name=last, place="."),)), stored)
        return stored / name


def _folders(given: Sequence[str | Path]) -> Iterator[Path]:
    """Folders, and the folders in them, two levels deep."""
    for name in given:
        folder = Path(name)
        yield folder
        for below in ("*/", "*/*/"):
            yield from sorted(path for path in folder.glob(below) if path.is_dir())


def _named(folders: Sequence[str | Path]) -> str:
    return " or ".join(map(str, folders))

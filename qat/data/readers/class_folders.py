"""Pictures in a folder for each class; such folders under train/, val/ and test/."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from qat.data.dataset import Dataset, Split
from qat.data.picture_rows import Paths, Pictures
from qat.data.pictures import SUFFIXES
from qat.data.readers.base import PARTS, Reader, name_of, named, of_parts
from qat.errors import QatError
from qat.reading import reading
from qat.vocabulary.ops import Array

LISTS = ("index.txt", "train.csv")  #: which say themselves what the pictures beside them show
PAIRED = {"images", "masks"}  #: what no classes are called where both are there: see ``masks.py``


def folders_in(path: str) -> list[str]:
    """The names of its subfolders, sorted, but for hidden ones. Raises OSError where there are none to list."""
    with os.scandir(path) as entries:
        return sorted(x.name for x in entries if not x.name.startswith((".", "__")) and x.is_dir())


def pictures_in(path: str) -> list[str]:
    """The names of the pictures in a folder, sorted, but for hidden ones. Raises OSError where there are none to list."""
    with os.scandir(path) as entries:
        return sorted(x.name for x in entries if x.name.lower().endswith(SUFFIXES) and not x.name.startswith("."))


def _has_pictures(path: str) -> bool:
    """Whether a picture lies in one of its subfolders."""
    return any(_has_picture(os.path.join(path, name)) for name in folders_in(path))


def _has_picture(path: str) -> bool:
    with os.scandir(path) as entries:  # which ends with the first one, however many there are
        return any(x.name.lower().endswith(SUFFIXES) and not x.name.startswith(".") for x in entries)


def _recognizes(path: str) -> bool:
    try:
        names = folders_in(path)
        if "train" in names and _has_pictures(os.path.join(path, "train")):
            return not set(folders_in(os.path.join(path, "train"))) >= PAIRED
        listed = any(os.path.isfile(os.path.join(path, name)) for name in LISTS)
        return not set(names) >= PAIRED and not listed and _has_pictures(path)
    except OSError:
        return False


def _read(path: str, for_folds: bool) -> Dataset:
    with reading(path, "folders of pictures", "give a folder with a folder for each class"):
        there = folders_in(path)
        parts = [part for part in PARTS if part in there] if "train" in there else []
        if parts and len(parts) < len(there):
            others = named(name for name in there if name not in parts)
            raise QatError(
                f"{path}: holds train/ and also {others}; put all classes into train/, val/ and test/, or leave train/ out"
            )
        names = folders_in(os.path.join(path, "train")) if parts else there
        _check_names(path, names)
        found = {part: _part(os.path.join(path, part), names) for part in parts} or {"train": _part(path, names)}
        rows = Pictures.listed(found["train"][0])
        splits = {
            part: Split(Pictures(paths, rows.shape[1:], rows.preparation), labels)
            for part, (paths, labels) in found.items()
        }
        words = f"{name_of(path)}, {len(names):,} classes of pictures"
        return of_parts(path, words, splits, for_folds, names)


def _check_names(path: str, names: Sequence[str]) -> None:
    """Raise QatError where two classes are one on other systems."""
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(name.casefold(), name)
        if other != name:
            raise QatError(
                f"{path}: the classes {other!r} and {name!r} differ in capitals alone, which is one folder on many systems; "
                "rename one, or put their pictures together"
            )


def _part(path: str, names: Sequence[str]) -> tuple[Paths, Array]:
    """The pictures of one part, listed but not opened, and their labels."""
    others = [name for name in folders_in(path) if name not in names]
    if others:
        raise QatError(f"{path}: class {others[0]!r} is not in train/; add training pictures of it, or remove it")
    files: list[str] = []
    counts = []
    for name in names:
        folder = os.path.join(path, name)
        own = pictures_in(folder) if os.path.isdir(folder) else []
        if not own and os.path.isdir(folder):
            inner = folders_in(folder)
            found = f"folders ({named(inner)}) but no pictures" if inner else "no pictures"
            raise QatError(
                f"{folder}: holds {found} ({', '.join(x[1:] for x in SUFFIXES)}), so that class {name!r} is empty; add some, "
                "or remove the folder"
            )
        files += [f"{name}/{file}" for file in own]
        counts.append(len(own))
    return Paths(path, files), np.repeat(np.arange(len(names)), counts)


READER = Reader("a folder of pictures for each class, or such folders in train/ and test/", _recognizes, _read)

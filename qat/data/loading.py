"""``load``: finds the reader of a data path, among our own files in ``qat.data.readers`` and those of other packages."""

from __future__ import annotations

import importlib
import os
import pkgutil
import warnings
from dataclasses import replace
from functools import cache

import numpy as np

from qat.data import readers
from qat.data.dataset import Dataset, Split
from qat.data.picture_rows import Masks, Pictures
from qat.data.pictures import SUFFIXES
from qat.data.readers.base import SHOWN, Reader, named
from qat.data.readers.digits import DIGITS
from qat.errors import QatError, QatWarning
from qat.hints import perhaps
from qat.plugins import Group
from qat.reading import kind_of
from qat.vocabulary.arrays import as_tuple

#: Readers of other packages: functions from the text after "name:" in a --data_path to a Dataset.
READERS = Group("qat.data", "data reader")
TAKES = (
    "the folder that holds MNIST, CIFAR-10 or SVHN, pictures in a folder for each class, images/ and masks/, or .npy files; "
    "a .npz, .npy or .csv file, package.module:function"
)


@cache
def own_readers() -> tuple[Reader, ...]:
    """The ``READER`` of each module in ``qat.data.readers``, in the order of their names."""
    names = sorted(module.name for module in pkgutil.iter_modules(readers.__path__))
    modules = [importlib.import_module(f"{readers.__name__}.{name}") for name in names]
    return tuple(module.READER for module in modules if hasattr(module, "READER"))


def load(data_path: str, *, for_folds: bool = False, skip_unreadable: bool = False) -> Dataset:
    """Read a data set from a folder or a file, or by a reader of another package.

    Args:
        data_path: a folder with a folder of pictures for each class, images/ and masks/, .npy arrays, or MNIST's, CIFAR-10's
            or SVHN's files; a .npz, .npy or .csv file; or "digits" for the 1,797 digits that come with scikit-learn;
            "package.module:function" for a function of yours, which is imported and called; or "name:..." for the reader that
            another package registers under this name in the entry point group ``qat.data``, which gets the text after the
            colon.
        for_folds: True: for cross-validation, which needs no test images; a data set without some then has an empty
            test split, where by default a part of the training images becomes the test split.
        skip_unreadable: True: pictures that cannot be read are looked for now, by reading all, and left out with a warning;
            by default the first one that is met is an error.

    Returns:
        The data set. Pictures in files are read when they are asked for.

    Raises:
        QatError: naming the file that is missing, damaged or does not belong to the others.

    >>> import qat
    >>> dataset = qat.data.load("digits")  # needs scikit-learn
    >>> dataset.train, dataset.test
    (Split of 1,437 samples of 1 x 8 x 8, Split of 360 samples of 1 x 8 x 8)
    >>> qat.data.load("MNIST_Data")
    Traceback (most recent call last):
        ...
    qat.errors.QatError: MNIST_Data: there is nothing here, but --data_path takes the folder that holds MNIST, ...
    """
    if not data_path:
        raise QatError("--data_path is empty; give the folder of a data set, or the word 'digits'")
    added = _added(data_path)
    if added is not None:
        dataset = _read_by(added, data_path)
    else:
        reader = _recognised(data_path)
        if reader is None:
            raise _unrecognised(data_path)
        dataset = reader.read(data_path, for_folds)
    return _readable(dataset) if skip_unreadable else dataset


def exists(data_path: str) -> bool:
    """Whether there is something for ``load`` to read."""
    return os.path.isdir(data_path) or _added(data_path) is not None or _recognised(data_path) is not None


def _recognised(data_path: str) -> Reader | None:
    return next((reader for reader in own_readers() if reader.recognizes(data_path)), None)


def _unrecognised(data_path: str) -> QatError:
    """The error for a path that nobody reads, with what is there and what would be read."""
    if os.path.isdir(data_path):
        try:
            names = sorted(os.listdir(data_path))
        except OSError as error:
            return QatError(f"{data_path}: cannot be read ({error.strerror}); choose another folder")
        folders = [f"{name}/" for name in names if os.path.isdir(os.path.join(data_path, name))]
        known = set(folders)
        files = [name for name in names if f"{name}/" not in known]
        found = named([*folders[:SHOWN], *files[:SHOWN], *folders[SHOWN:], *files[SHOWN:]]) or "nothing"
        kinds = "; ".join(reader.looks_for for reader in own_readers() if reader.looks_for)
        loose = any(name.lower().endswith(SUFFIXES) for name in files)
        advice = (
            "; pictures are put into a folder for each class, and the folder that holds those is given" if loose else ""
        )
        return QatError(
            f"{data_path}: holds {found}, but no data set, of which one of these would be read: {kinds}{advice}"
        )
    kind = kind_of(data_path) if os.path.isfile(data_path) else None
    found = (
        "there is a file here" if os.path.exists(data_path) else f"there is nothing here{perhaps(data_path, (DIGITS,))}"
    )
    others = "".join(f", or {name}:..." for name in READERS.names())
    what = found if kind is None else kind[0]
    return QatError(
        f"{data_path}: {what}, but --data_path takes {TAKES}, or the word {DIGITS!r}{others}; qat data mnist --out MNIST_Data "
        "downloads MNIST"
    )


def _added(data_path: str) -> str | None:
    """The other package's reader that a path names before its first colon; None where that is none, as in C:/data."""
    name, colon, _ = str(data_path).partition(":")
    return READERS.meant(name) if colon else None


def _read_by(reader: str, data_path: str) -> Dataset:
    """What a reader of another package makes of what follows the colon."""
    read = READERS.load(reader)
    try:
        dataset = read(data_path.partition(":")[2])
    except QatError:
        raise
    except Exception as error:  # whatever the code of another package may raise
        raise QatError(
            f"{data_path}: data reader {reader!r} of {READERS.version(reader)} failed ({type(error).__name__}: {error}); "
            "give it what it reads, or use another release of it"
        ) from error
    if not isinstance(dataset, Dataset):
        raise QatError(
            f"{data_path}: data reader {reader!r} of {READERS.version(reader)} gives a {type(dataset).__name__}, no "
            "qat.data.Dataset; use a release of it that does"
        )
    return replace(dataset, source=data_path)  # by which a checkpoint remembers what it was trained on


def _readable(dataset: Dataset) -> Dataset:
    """The data set without the pictures that cannot be read, which are counted in a warning."""
    found: list[str] = []
    train, test = (_readable_split(split, found) for split in (dataset.train, dataset.test))
    if not found:
        return dataset
    total = len(dataset.train) + len(dataset.test)
    warnings.warn(
        f"{dataset.source}: {len(found):,} of {total:,} pictures cannot be read and are left out: {'; '.join(found[:SHOWN])}",
        QatWarning,
        stacklevel=3,
    )
    return replace(dataset, name=f"{dataset.name}, {len(found):,} unreadable left out", train=train, test=test)


def _readable_split(split: Split, found: list[str]) -> Split:
    wrong: set[int] = set()
    for rows in (*as_tuple(split.images), *split.outputs):
        if isinstance(rows, (Pictures, Masks)):
            for number, text in rows.unreadable():
                found += [text] if number not in wrong else []
                wrong.add(number)
    return split.chosen(np.setdiff1d(np.arange(len(split)), sorted(wrong))) if wrong else split

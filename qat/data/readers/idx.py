"""MNIST's IDX format."""

from __future__ import annotations

import hashlib
import math
import os
import struct
from pathlib import Path

import numpy as np

from qat.data.dataset import Dataset, Split
from qat.data.readers.base import Reader, name_of
from qat.errors import QatError
from qat.files import LARGEST
from qat.reading import read_unpacked
from qat.vocabulary.ops import Array

DIGIT_NAMES = tuple("0123456789")
MNIST_LABELS = (
    "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13"  #: SHA-256 of its training labels, uint8
)
FILES = (("images", "idx3-ubyte"), ("labels", "idx1-ubyte"))
PREFIXES = {"train": "train", "test": "t10k"}  #: of a part's files


def find_idx(folder: Path, part: str, stem: str, suffix: str) -> Path:
    """The path of an IDX file, under any of its usual names, plain or .gz.

    Args:
        folder: of the data set.
        part: the folder within it that is looked at first, "train" or "test".
        stem: of the name, as "train-images".
        suffix: of the name, as "idx3-ubyte".

    Returns:
        The path.

    Raises:
        QatError: where there is none.
    """
    names = _names(stem, suffix)
    for place in (folder / part, folder):
        for name in names:
            if (place / name).is_file():
                return place / name
    raise QatError(
        f"{folder / part}: no file {names[0]} (or .idx, or .gz) here or in {folder}; download MNIST and put its four files "
        "into train/ and test/, as 'qat data mnist --out FOLDER' does"
    )


def read_idx(path: Path, rank: int) -> Array:
    """A uint8 array of that rank. Raises QatError where the file is unreadable, no IDX file of bytes, or cut short.

    Format: two zero bytes, the type (8: unsigned byte), the rank, one big-endian uint32 for each axis, the data
    (http://yann.lecun.com/exdb/mnist).
    """
    content = read_unpacked(path, "download it again")
    head = 4 + 4 * rank
    magic = bytes((0, 0, 8, rank))
    if content[:4] != magic:
        raise QatError(
            f"{path}: starts with {content[:4].hex() or 'nothing'} where an IDX file of {rank} axes starts with "
            f"{magic.hex()}; this is another file, or it is damaged"
        )
    if len(content) < head:
        raise QatError(f"{path}: ends within its header, after {len(content)} bytes; download it again")
    shape = struct.unpack(f">{rank}I", content[4:head])
    size = 1
    for axis in shape:
        size *= axis
    if len(content) - head != size or math.prod(max(axis, 1) for axis in shape) > LARGEST:
        raise QatError(
            f"{path}: its header announces {size:,} bytes of data {shape} but it holds {len(content) - head:,}; download "
            "it again"
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape).copy()


def _names(stem: str, suffix: str) -> list[str]:
    return [f"{stem}{dot}{suffix}{gz}" for dot in "-." for gz in ("", ".gz")]


def _recognizes(path: str) -> bool:
    return any(
        os.path.isfile(os.path.join(path, *place, name))
        for part, prefix in PREFIXES.items()
        for stem, suffix in FILES
        for name in _names(f"{prefix}-{stem}", suffix)
        for place in ((), (part,))
    )


def _read(path: str, for_folds: bool) -> Dataset:
    """MNIST, or another data set in files of its names, as Fashion-MNIST, which is then called as its folder."""
    train, test = (_read_split(Path(path), part, prefix) for part, prefix in PREFIXES.items())
    if hashlib.sha256(train.labels.astype(np.uint8).tobytes()).hexdigest() == MNIST_LABELS:
        return Dataset("MNIST", path, train, test, DIGIT_NAMES)
    return Dataset(f"{name_of(path)}, IDX files", path, train, test)


def _read_split(folder: Path, part: str, prefix: str) -> Split:
    images_file = find_idx(folder, part, f"{prefix}-images", "idx3-ubyte")
    labels_file = find_idx(folder, part, f"{prefix}-labels", "idx1-ubyte")
    images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
    if len(images) != len(labels):
        raise QatError(
            f"{labels_file}: holds {len(labels)} labels but {images_file.name} {len(images)} images; the two files do not "
            "belong together, download them again"
        )
    if not len(images) or not images.size:
        raise QatError(f"{images_file}: holds no images; download it again")
    return Split(images[:, np.newaxis], labels.astype(np.int64))


READER = Reader("MNIST's train-images-idx3-ubyte", _recognizes, _read)

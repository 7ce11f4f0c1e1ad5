"""SVHN's cropped digits (https://ufldl.stanford.edu/housenumbers): MATLAB files of X (32, 32, 3, N) and y (N, 1)."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from qat.data.dataset import Dataset, Split
from qat.data.readers.base import Reader
from qat.data.readers.idx import DIGIT_NAMES
from qat.errors import QatError
from qat.extras import how_to_install
from qat.reading import check_array, most_unpacked, open_regular, reading, without_warnings
from qat.vocabulary.ops import Array

PARTS = ("train", "extra", "test")
SHAPE = (32, 32, 3)  #: height, width, colours of one crop
COMPRESSED, PIECE = 15, 1 << 20  #: a type of element of MATLAB files; bytes that are unpacked at a time
TEN = 10  #: the label of the digit 0


def find_svhn(folder: Path) -> dict[str, Path]:
    """The files of a folder by part; empty where it holds no SVHN."""
    paths = {part: folder / f"{part}_32x32.mat" for part in PARTS}
    return {part: path for part, path in paths.items() if os.path.isfile(path)}


def read_svhn(path: Path) -> tuple[Array, Array]:
    """uint8 images (N, 3, 32, 32) and int64 labels (N,), 0 to 9, of one file.

    Raises QatError where it is unreadable, or holds anything else, and without SciPy.
    """
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError:
        raise QatError(
            f"{path}: reading SVHN's .mat files needs SciPy, which is not installed: {how_to_install('study')}"
        ) from None
    advice = "download it again"
    with open_regular(path, advice) as file, reading(path, "a .mat file", advice):
        _check_unpacked(path, file, advice)
        with without_warnings():
            content = loadmat(file, variable_names=["X", "y"], appendmat=False)
    images, labels = content.get("X"), content.get("y")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[:3] != SHAPE or images.ndim != 4:
        raise QatError(f"{path}: holds no X of uint8 (32, 32, 3, N), so it is not a file of SVHN's cropped digits")
    count = images.shape[3]
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "ui" or labels.shape != (count, 1) or not count:
        raise QatError(f"{path}: holds no y of one whole number for each of its {count} images; download it again")
    wrong = np.flatnonzero((labels < 1) | (labels > TEN))
    if len(wrong):
        raise QatError(
            f"{path}: image {wrong[0]} has label {labels[wrong[0], 0]}, but SVHN's are 1 to 10 (10 is the digit 0); it is "
            "damaged, download it again"
        )
    return np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels[:, 0].astype(np.int64) % TEN


def read_source_images(path: Path, count: int) -> Array | None:
    """int64 (N,): which photograph each crop of an SVHN file comes from, of ``<file without .mat>.source_image.npy``
    beside it; None where there is no such file. Raises QatError where it does not fit.
    """
    beside = path.with_name(f"{path.stem}.source_image.npy")
    if not beside.is_file():
        return None
    advice = "correct it or remove it"
    with open_regular(beside, advice) as file, reading(beside, "an array", advice), without_warnings():
        check_array(file)
        numbers = np.load(file, allow_pickle=False)
    if not isinstance(numbers, np.ndarray) or numbers.shape != (count,) or numbers.dtype.kind not in "ui":
        raise QatError(
            f"{beside}: holds no whole number for each of the {count} images of {path.name}; correct it or remove it"
        )
    return numbers.astype(np.int64)


def _check_unpacked(path: Path, file: IO[bytes], advice: str) -> None:
    """Raise QatError where the compressed elements of a MATLAB file of version 5 unpack to more than ``most_unpacked``.

    Format: 128 bytes, then elements of a type and a size (uint32 each) and so many bytes; type 15 is compressed by zlib.
    """
    header = file.read(128)
    order = {b"IM": "<", b"MI": ">"}.get(header[126:128])
    size = os.fstat(file.fileno()).st_size
    left = most_unpacked(size)
    while order is not None and len(tag := file.read(8)) == 8:
        kind, length = struct.unpack(f"{order}2I", tag)
        if kind != COMPRESSED:
            file.seek(length, os.SEEK_CUR)
            continue
        unpacker = zlib.decompressobj()
        while length and not unpacker.eof:
            piece = file.read(min(length, PIECE))
            if not piece:
                break
            length -= len(piece)
            while piece:
                left -= len(unpacker.decompress(piece, PIECE))
                piece = unpacker.unconsumed_tail
                if left < 0:
                    raise QatError(
                        f"{path}: unpacks to more than {most_unpacked(size):,} bytes, the limit for this file; {advice}"
                    )
        file.seek(length, os.SEEK_CUR)
    file.seek(0)


def _read(source: str, for_folds: bool) -> Dataset:
    """Train on the train file, and on extra where it exists. Without a test file a fifth of the training images is the test,
    unless it is for folds; the name says so.
    """
    parts = find_svhn(Path(source))
    if "train" not in parts:
        raise QatError(
            f"{source}: holds SVHN's {next(iter(parts.values())).name} but no train_32x32.mat; download it too"
        )
    splits = {}
    for part, path in parts.items():
        images, labels = read_svhn(path)
        splits[part] = Split(images, labels, read_source_images(path, len(labels)))
    train, name = splits["train"], "SVHN"
    if "extra" in splits:
        extra = splits["extra"]
        both = np.concatenate([train.images, extra.images])
        train = Split(both, np.concatenate([train.labels, extra.labels]))
        name = "SVHN with its extra images"
    if "test" in splits:
        return Dataset(name, source, train, splits["test"], DIGIT_NAMES)
    if for_folds:
        return Dataset(f"{name} without its test file", source, train, train.chosen(np.arange(0)), DIGIT_NAMES)
    whole = Dataset(f"{name} without its test file", source, train, train, DIGIT_NAMES)
    return whole.held_back(max(len(train) // 5, 1))


READER = Reader("SVHN's train_32x32.mat", lambda path: bool(find_svhn(Path(path))), _read)

"""MNIST's IDX format."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from qat.errors import QatError
from qat.files import LARGEST
from qat.reading import read_unpacked
from qat.vocabulary.ops import Array


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
    names = [f"{stem}{dot}{suffix}{gz}" for dot in "-." for gz in ("", ".gz")]
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

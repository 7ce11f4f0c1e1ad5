"""Names, numbers and comments as C has them, for the files of the C target."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qat.cells.base import Shape
from qat.integer import IntegerTensor
from qat.vocabulary.ops import Array

WIDTH = 116  #: of lines of numbers
MODEL, METADATA, DIGEST = "qat-model", "qat-metadata", "qat-sha256"  #: comments of one line at the end of the file
WRITTEN_BY = "Written by qat export; do not change it."  #: in the first line of a source and of a header


def comment(key: str, value: object) -> str:
    """JSON in a C comment that it cannot end."""
    text = json.dumps(value).replace("*", "\\u002a").replace("?", "\\u003f")
    return f"/* {key}: {text} */\n"


def plain(name: str) -> str:
    """A name as part of a C identifier: what goes before or behind makes it unique."""
    return re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "node"


def identifier(path: Path) -> str:
    """The name that the file's functions and constants begin with, from the file's own."""
    name = plain(path.stem).lower()
    return f"net_{name}" if re.match(r"\d|node\d", name) else name  # functions of nodes are called node0_...


def lines(values: Sequence[int] | Array, indent: str = "    ") -> str:
    """Numbers separated by commas, in lines."""
    lines, line = [], indent
    for value in np.asarray(values).ravel().tolist():
        text = f"{value},"
        if len(line) + len(text) > WIDTH:
            lines.append(line.rstrip())
            line = indent
        line += text + " "
    return "\n".join([*lines, line.rstrip()])


def stored_shape(shape: Shape) -> Shape:
    """(C, H, W) is stored as (H, W, C), (C, L) as (L, C)."""
    return (*shape[1:], shape[0])


def stored_axis(axis: int, rank: int) -> int:
    """Of an axis of a sample of that rank, the one in the file."""
    return (axis or rank) - 1


def ctype(stored: str) -> str:
    """The C type of what the caller gives or takes, from NumPy's name of it."""
    return "float" if stored == "float32" else f"{stored}_t"


def width(x: IntegerTensor) -> int:
    """The bytes of one of its codes."""
    return 2 if x.grid.wide else 1


def stored_type(x: IntegerTensor) -> str:
    """The C type of its codes in the arena, a code c being stored as c - qmin."""
    return "uint16_t" if x.grid.wide else "uint8_t"


def word_count(inputs: int) -> int:
    """Words of four that hold so many bytes."""
    return -(-inputs // 4)

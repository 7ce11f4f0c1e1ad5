"""MindSpore's own files of parameters: its checkpoints."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qat import wire
from qat.backends.mindspore.ops import Tensor
from qat.backends.mindspore.setup import ms
from qat.files import write_atomically
from qat.reading import read_file, reading
from qat.vocabulary.ops import Array

#: What a checkpoint calls its types.
TYPES = {f"{kind}{bits}": f"{kind.lower()}{bits}" for kind in ("Int", "UInt") for bits in (8, 16, 32, 64)}
TYPES |= {f"Float{bits}": f"float{bits}" for bits in (16, 32, 64)} | {"Bool": "bool"}


def load_params(path: str | Path) -> dict[str, Array]:
    """The arrays of a file that ``mindspore.save_checkpoint`` wrote, by name."""
    advice = "give what mindspore.save_checkpoint wrote"
    content = read_file(path, advice)
    with reading(path, "a checkpoint of MindSpore", advice):
        return _arrays(content)


def _arrays(content: bytes) -> dict[str, Array]:
    """The arrays of a checkpoint, read directly: over a damaged one MindSpore itself prints many lines, and may crash.
    Format (mindspore/train/checkpoint.proto): values (1) of a name (1) and a tensor (2) of sizes (1), a type as
    Float32 (2) and its bytes (3); a large one stands in several values that follow one another.
    """
    found: dict[str, tuple[list[int], str, list[bytes]]] = {}
    for value in wire.read(content)[1]:
        ((name,), (tensor,)) = (wire.read(_block(value))[number] for number in (1, 2))
        fields = wire.read(_block(tensor))
        sizes = [
            size for x in fields.get(1, []) for size in (wire.integers(x) if isinstance(x, bytes) else [wire.signed(x)])
        ]
        (kind,), (data,) = fields[2], fields[3]
        found.setdefault(_block(name).decode(), (sizes, _block(kind).decode(), []))[2].append(_block(data))
    return {
        name: np.frombuffer(b"".join(parts), TYPES[kind]).reshape(sizes).copy()
        for name, (sizes, kind, parts) in found.items()
    }


def _block(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number stands where text or a message is expected")
    return value


def save_params(params: Mapping[str, Array], path: str | Path) -> None:
    """The inverse of ``load_params``."""
    with tempfile.TemporaryDirectory() as folder:  # it leaves half a file where it fails
        file = Path(folder) / "params.ckpt"
        ms.save_checkpoint([{"name": name, "data": Tensor(array)} for name, array in params.items()], str(file))
        write_atomically(path, file.read_bytes())

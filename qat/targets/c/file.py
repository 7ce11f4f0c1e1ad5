"""The two files of an export, <name>.c and <name>.h: read, checked and written, with a digest and metadata."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qat.errors import QatError, shortened
from qat.files import read_together, write_together
from qat.integer import Grid, IntegerTensor
from qat.integer.ends import METADATA as ENDS
from qat.integer.ends import Ends
from qat.names import check_stored
from qat.reading import reading
from qat.targets.c.ends import own_codes, own_pixels
from qat.targets.c.text import DIGEST, METADATA, MODEL, comment
from qat.vocabulary.fields import check_type


class File(NamedTuple):
    """An exported file that was checked.

    Args:
        source: the .c file without the comments of metadata and digest.
        header_name: the name of the .h file.
        header: its bytes.
        model: the inputs, outputs and nodes, as ``Writer`` described them in a comment.
        metadata: texts by key.
    """

    source: str
    header_name: str
    header: bytes
    model: dict[str, Any]
    metadata: dict[str, str]

    @property
    def ends(self) -> Ends:
        """What it takes and gives: pixels and the network's own codes, where an older release wrote it."""
        if ENDS in self.metadata:
            return Ends.from_json(self.metadata[ENDS])
        inputs, outputs = self.tensors("inputs"), self.tensors("outputs")
        return Ends(tuple(map(own_pixels, inputs)), tuple(map(own_codes, outputs)))

    def tensors(self, key: str) -> list[IntegerTensor]:
        """Inputs, outputs or nodes."""
        return [
            IntegerTensor(x["name"], tuple(x["shape"]), Grid(np.float32(x["scale"]), *x["grid"]))
            for x in self.model[key]
        ]


def write(path: Path, source: str, header: bytes, metadata: Mapping[str, str]) -> None:
    """Replace both files together. source: without metadata and digest. header: its bytes, the same for all metadata."""
    write_together({path: _sealed(source, metadata, header), path.with_suffix(".h"): header})


def _sealed(source: str, metadata: Mapping[str, str], header: bytes) -> bytes:
    content = (source + comment(METADATA, dict(metadata))).encode()
    digest = hashlib.sha256(content + header).hexdigest()
    return content + comment(DIGEST, digest).encode()


def load(path: str | Path) -> File:
    """A file and its header, whose content is what was written."""
    path = Path(path)
    header_path = path.with_suffix(".h")
    try:
        content, header = read_together(path, header_path)
    except OSError as error:
        raise QatError(
            f"{error.filename}: cannot be read ({error.strerror}); give an exported .c file, with the .h file beside it"
        ) from None
    found = re.fullmatch(rb'(.*)(/\* qat-metadata: [^\n]*\n)/\* qat-sha256: "([0-9a-f]{64})" \*/\n', content, re.DOTALL)
    if found is None:
        raise QatError(
            f"{path}: is no file of qat export: it does not end with its metadata and digest; export it again"
        )
    source, metadata, digest = found.groups()
    if hashlib.sha256(source + metadata + header).hexdigest() != digest.decode():
        raise QatError(
            f"{path}: it and {header_path.name} are not what their digest says: one of them was changed or damaged; export "
            "them again"
        )
    with reading(path, "a file of qat export", "export it again"):
        model = source.splitlines()[-1]
        file = File(
            source.decode(), header_path.name, header, _parsed(model, MODEL), _parsed(metadata.strip(), METADATA)
        )
        entries = [entry for key in ("inputs", "outputs", "nodes") for entry in file.model[key]]
        for entry in entries:
            _check_entry(entry)
        check_stored(path, (file.model["name"], *(entry["name"] for entry in entries)))
        for key, ends in (("inputs", file.ends.inputs), ("outputs", file.ends.outputs)):
            if [end.shape for end in ends] != [x.shape for x in file.tensors(key)]:
                raise ValueError(f"its {key} are not those that it describes")
        return file


def _check_entry(entry: dict[str, Any]) -> None:
    """Raise an error, of any kind, unless an input, an output or a node is described as ``Writer`` does it."""
    sizes, stored, scale = tuple(entry["shape"]), tuple(entry["stored"]), entry["scale"]
    for name, value in (("shape", sizes), ("stored", stored)):
        check_type(name, value, tuple[int, ...])
        if not value or min(value) < 1:
            raise ValueError(f"{name} is {shortened(value)}")
    if prod(stored) != prod(sizes):
        raise ValueError(f"{shortened(stored)} is stored of {shortened(sizes)}")
    check_type("scale", scale, float)
    with np.errstate(over="ignore"):
        finite = 0.0 < np.float32(scale) < np.inf
    if not finite:
        raise ValueError(f"scale is {shortened(scale)}")
    check_type("grid", tuple(entry["grid"]), tuple[int, int, int])


def _parsed(line: bytes, key: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(line.decode().removeprefix(f"/* {key}: ").removesuffix(" */"))
    return parsed

"""The files of an export, <name>.c, <name>.h and perhaps <name>.bin: read, checked, written, with a digest and metadata."""

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
from qat.targets.c.constants import IN_FILE, WEIGHTS_SUFFIX
from qat.targets.c.ends import own_codes, own_pixels
from qat.targets.c.text import DIGEST, METADATA, MODEL, WRITTEN_BY, comment
from qat.vocabulary.fields import check_type


class File(NamedTuple):
    """An exported file that was checked.

    Args:
        source: the .c file without the comments of metadata and digest.
        header_name: the name of the .h file.
        header: its bytes.
        model: the inputs, outputs and nodes, as ``Writer`` described them in a comment.
        metadata: texts by key.
        weights: the bytes of the .bin file; None where it has none.
    """

    source: str
    header_name: str
    header: bytes
    model: dict[str, Any]
    metadata: dict[str, str]
    weights: bytes | None = None

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


def write(path: Path, source: str, header: bytes, metadata: Mapping[str, str], weights: bytes | None = None) -> None:
    """Replace the files together.

    source: without metadata and digest. header: its bytes, the same for all metadata. weights: those of a file of their own.
    """
    beside = {path.with_suffix(".h"): header}
    if weights is not None:
        beside[path.with_suffix(WEIGHTS_SUFFIX)] = weights
    content = (source + comment(METADATA, dict(metadata))).encode()
    write_together({path: content + comment(DIGEST, _digest(content, *beside.values())).encode(), **beside})


def wrote(path: Path) -> bool:
    """Whether a .c file, or what lies beside one, is what ``write`` wrote: the digest tells. A header that has lost its source
    says so in its first line.
    """
    source = path.with_suffix(".c")
    if path.suffix == ".h" and not source.exists():
        return WRITTEN_BY.encode() in path.read_bytes().partition(b"\n")[0]
    try:
        file = load(source)
    except QatError:
        return False
    return path.suffix != WEIGHTS_SUFFIX or file.weights is not None


def _digest(*contents: bytes) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def load(path: str | Path) -> File:
    """A file and what lies beside it, whose content is what was written."""
    path = Path(path)
    paths = [path, path.with_suffix(".h")]
    try:
        content, *beside = read_together(*paths)
        if IN_FILE.encode() in content:
            paths.append(path.with_suffix(WEIGHTS_SUFFIX))
            content, *beside = read_together(*paths)
    except OSError as error:
        raise QatError(
            f"{error.filename}: cannot be read ({error.strerror}); give an exported .c file, with "
            f"{' and '.join(f'the {own.suffix} file' for own in paths[1:])} beside it"
        ) from None
    found = re.fullmatch(rb'(.*)(/\* qat-metadata: [^\n]*\n)/\* qat-sha256: "([0-9a-f]{64})" \*/\n', content, re.DOTALL)
    if found is None:
        raise QatError(
            f"{path}: is no file of qat export: it does not end with its metadata and digest; export it again"
        )
    source, metadata, digest = found.groups()
    if _digest(source, metadata, *beside) != digest.decode():
        raise QatError(
            f"{path}: it and {' and '.join(own.name for own in paths[1:])} are not what their digest says: one of them was "
            "changed or damaged; export them again"
        )
    with reading(path, "a file of qat export", "export it again"):
        model = source[source.rindex(b"\n", 0, -1) + 1 :].strip()
        file = File(
            source.decode(),
            paths[1].name,
            beside[0],
            _parsed(model, MODEL),
            _parsed(metadata.strip(), METADATA),
            beside[1] if len(beside) > 1 else None,
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

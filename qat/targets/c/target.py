"""C: an integer graph as self-contained C99, two files <name>.c and <name>.h, for microcontrollers and any other machine.

It computes in the fixed arithmetic (docs/numerics.md) and nothing else: no floating point, no heap, no library. Weights
are constants, activations lie in one static arena whose bytes are shared (qat.memory). Activations are bytes in HWC order,
a code c of a grid [qmin, qmax] being stored as c - qmin. ``predict`` and ``trace`` take raw pixels, (N, C, H, W), as every
target does; the functions of the C file take them in HWC order, as cameras give them. Both compile the file with the
host's compiler ($CC, else cc, with $CFLAGS behind our own options) and run it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qat.cells.base import Shape
from qat.errors import QatError, shortened
from qat.files import read_together, write_together
from qat.integer import Grid, IntegerGraph, IntegerTensor, require_integers
from qat.integer.widths import check_packing
from qat.names import check_stored
from qat.reading import reading
from qat.registry import TARGETS
from qat.targets.c.text import DIGEST, METADATA, MODEL, comment, identifier
from qat.targets.c.writer import Writer
from qat.vocabulary.arrays import Arrays, as_arrays, in_batches
from qat.vocabulary.fields import check_type
from qat.vocabulary.ops import Array

NAME = "C"  #: under which ``qat.target`` knows it
SUFFIX, OPTIONS = TARGETS[NAME].suffix, TARGETS[NAME].options
ARITHMETICS: tuple[str, ...] = ("fixed",)
RUNS_CODE = True  #: to run a file is to compile it and to run whatever it says (qat.deploy.interfaces.Target)
COMPILER_OPTIONS = ("-std=c99", "-O2")  #: of the host's compiler; no warnings, since newer compilers have others
BATCH = 1000  #: samples in one run of the compiled program


def export(graph: IntegerGraph, path: str | Path, *, packing: str = "packed") -> None:
    """Write <name>.c and, beside it, <name>.h. Raises QatError for what the fixed arithmetic cannot compute.

    packing: "packed" stores the weights of a layer that has at most 16, 4 or 2 different ones in 4, 2 or 1 bits; "bytes"
    in one byte each.
    """
    require_integers(graph)
    packed = check_packing(packing)
    path = Path(path)
    source, header = Writer(graph, identifier(path), packed).files(path.with_suffix(".h").name)
    _write(path, source, header.encode(), {})


def storage(graph: IntegerGraph, *, packing: str = "packed") -> dict[str, int]:
    """Bytes of the constants of each node that has any: weights, biases, multipliers, shifts, tables. No code."""
    writer = Writer(graph, "net", check_packing(packing))
    writer.files("net.h")
    return writer.node_bytes


def arena_bytes(graph: IntegerGraph, *, packing: str = "packed") -> int:
    """The static memory of the file, <NAME>_ARENA_BYTES of its header: activations and scratch memory, of which those share
    bytes that are never needed together. Images and codes in buffers of the caller's are not among it.
    """
    require_integers(graph)
    return Writer(graph, "net", check_packing(packing)).arena_bytes


def write_metadata(path: str | Path, metadata: Mapping[str, str]) -> None:
    """Set entries of the comment with metadata; nothing that is compiled changes."""
    file = _load(path)
    _write(Path(path), file.source, file.header, file.metadata | dict(metadata))


def read_metadata(path: str | Path) -> dict[str, str]:
    """What ``write_metadata`` wrote."""
    return _load(path).metadata


def input_shapes(path: str | Path) -> list[Shape]:
    """The shapes of its inputs, (C, H, W) or (F,)."""
    return [x.shape for x in _load(path).tensors("inputs")]


def predict(path: str | Path, pixels: Arrays) -> Arrays:
    """Real outputs (N, ...), float32, of raw pixels (N, C, H, W), computed by the compiled file.

    A network with several inputs takes a tuple of arrays, one with several outputs returns a tuple. The file is compiled and
    run, whatever its C does: its digest tells damage, but not who wrote it. So give it files of your own only.
    """
    file = _load(path)
    outputs = file.tensors("outputs")
    found = _compute(path, file, pixels, [np.dtype(x.grid.dtype) for x in outputs], outputs)
    return as_arrays(tuple(x.grid.dequantize(found[i]) for i, x in enumerate(outputs)))


def trace(path: str | Path, pixels: Arrays, tensors: Collection[IntegerTensor]) -> dict[str, Array]:
    """Codes of the named tensors, from the same file compiled so that it writes those of every node (see ``predict``)."""
    file = _load(path)
    nodes = file.tensors("nodes")
    kinds = [np.uint16 if x.grid.wide else np.uint8 for x in nodes]
    found = _compute(path, file, pixels, kinds, nodes, f"-D{file.model['name'].upper()}_TRACE")
    result = {}
    for i, (x, entry) in enumerate(zip(nodes, file.model["nodes"], strict=True)):
        stored = found[i].reshape(-1, *entry["stored"])
        codes = stored.transpose(0, 3, 1, 2) if stored.ndim == 4 else stored
        result[x.name] = codes.reshape(-1, *x.shape).astype(np.int32) + x.grid.qmin
    return {x.name: result[x.name] for x in tensors if x.name in result}


def runtime() -> str:
    """The compiler that ``predict`` uses, with its version and options. Raises QatError where there is none."""
    command = _compiler()
    said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout
    version = said.splitlines()[0] if said else command[0]
    return f"C, {version} ({' '.join(_options())})"


# -- files ------------------------------------------------------------------------------------------------------------


class _File(NamedTuple):
    """source: without the comments of metadata and digest. model: what ``_Writer`` wrote of the graph."""

    source: str
    header_name: str
    header: bytes
    model: dict[str, Any]
    metadata: dict[str, str]

    def tensors(self, key: str) -> list[IntegerTensor]:
        """Inputs, outputs or nodes."""
        return [
            IntegerTensor(x["name"], tuple(x["shape"]), Grid(np.float32(x["scale"]), *x["grid"]))
            for x in self.model[key]
        ]


def _write(path: Path, source: str, header: bytes, metadata: Mapping[str, str]) -> None:
    write_together({path: _sealed(source, metadata, header), path.with_suffix(".h"): header})


def _sealed(source: str, metadata: Mapping[str, str], header: bytes) -> bytes:
    content = (source + comment(METADATA, dict(metadata))).encode()
    digest = hashlib.sha256(content + header).hexdigest()
    return content + comment(DIGEST, digest).encode()


def _load(path: str | Path) -> _File:
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
        file = _File(
            source.decode(), header_path.name, header, _parsed(model, MODEL), _parsed(metadata.strip(), METADATA)
        )
        entries = [entry for key in ("inputs", "outputs", "nodes") for entry in file.model[key]]
        for entry in entries:
            _check_entry(entry)
        check_stored(path, (file.model["name"], *(entry["name"] for entry in entries)))
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


# -- running ----------------------------------------------------------------------------------------------------------


def _compiler() -> list[str]:
    command = _words("CC") or ["cc"]
    if shutil.which(command[0]) is None:
        where = "$CC" if os.environ.get("CC") else "the C compiler"
        raise QatError(
            f"{command[0]}: {where} is not found, which compiles an exported .c file to run it here; install one (apt-get "
            "install gcc) or set CC to one, or export with --no_verify"
        )
    return command


def _options() -> list[str]:
    return [*COMPILER_OPTIONS, *_words("CFLAGS")]


def _words(variable: str) -> list[str]:
    """An environment variable as a shell would part it."""
    value = os.environ.get(variable, "")
    try:
        return shlex.split(value)
    except ValueError as error:
        raise QatError(
            f"${variable} {value!r}: is no list of words ({str(error).lower()}), so that the C file cannot be compiled; close "
            "its quotation"
        ) from None


def _compute(
    path: str | Path,
    file: _File,
    pixels: Arrays,
    dtypes: Sequence[Any],
    tensors: Sequence[IntegerTensor],
    *define: str,
) -> dict[int, Array]:
    """What the compiled program writes, (N, ...) for each of the tensors by position."""
    path = Path(path)
    with tempfile.TemporaryDirectory() as folder:
        # What is compiled is what was read and checked, whatever is written at the path meanwhile.
        source, program = Path(folder) / path.name, Path(folder) / "program"
        source.write_bytes(file.source.encode())
        # Under the name that the source includes, whatever the two are called by now.
        included = re.search(r'^#include "([^"/\n]+)"$', file.source, re.MULTILINE)
        (Path(folder) / (included.group(1) if included else file.header_name)).write_bytes(file.header)
        main = f"-D{file.model['name'].upper()}_MAIN"
        command = [*_compiler(), *_options(), main, *define, "-x", "c", str(source), "-o", str(program)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or [""]
            reason = lines[0].strip().replace(f"{folder}{os.sep}", "") or f"it ended with status {done.returncode}"
            raise QatError(
                f"{path}: {command[0]} cannot compile it ({reason}); look at $CC and $CFLAGS, or export it anew"
            )

        def run(batch: tuple[Array, ...]) -> dict[int, Array]:
            stored = [x.transpose(0, 2, 3, 1) if x.ndim == 4 else x for x in batch]
            samples = np.concatenate([x.reshape(len(x), -1) for x in stored], axis=1).tobytes()
            try:
                done = subprocess.run([program], input=samples, capture_output=True, check=False)
            except OSError as error:
                raise QatError(
                    f"{path}: what {command[0]} made of it does not run here ({error.strerror}); look at "
                    "$CC and $CFLAGS, which are to make a program for this machine"
                ) from None
            of_one = [prod(x.shape) * np.dtype(kind).itemsize for x, kind in zip(tensors, dtypes, strict=True)]
            sizes = [size * len(batch[0]) for size in of_one]
            if done.returncode or len(done.stdout) != sum(sizes):
                said = done.stderr.decode(errors="replace").splitlines() or [""]
                raise QatError(
                    f"{path}: the compiled program ended with status {done.returncode} and {len(done.stdout)} bytes where "
                    f"{sum(sizes)} were due ({said[0]}); export it anew"
                )
            codes = np.frombuffer(done.stdout, np.uint8).reshape(len(batch[0]), -1)
            ends = np.cumsum(of_one)[:-1]
            parts = np.split(codes, ends, axis=1)
            return {
                i: np.ascontiguousarray(part).view(dtype).reshape(-1, *x.shape)
                for i, (part, dtype, x) in enumerate(zip(parts, dtypes, tensors, strict=True))
            }

        return in_batches(run, pixels, [x.shape for x in file.tensors("inputs")], BATCH, str(path))

"""Compiles an exported C file with the host's compiler, and runs it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from qat.errors import QatError
from qat.integer import IntegerTensor
from qat.targets.c.constants import WEIGHTS_SUFFIX
from qat.targets.c.file import File
from qat.targets.common import to_hwc
from qat.vocabulary.arrays import Arrays, in_batches
from qat.vocabulary.ops import Array

COMPILER_OPTIONS = ("-std=c99", "-O2")  #: of the host's compiler; no warnings, since newer compilers have others
BATCH = 1000  #: samples in one run of the compiled program


def compiler() -> list[str]:
    """The command of the compiler: $CC, else cc. Raises QatError where there is none."""
    command = words("CC") or ["cc"]
    if shutil.which(command[0]) is None:
        where = "$CC" if os.environ.get("CC") else "the C compiler"
        raise QatError(
            f"{command[0]}: {where} is not found, which compiles an exported .c file to run it here; install one (apt-get "
            "install gcc) or set CC to one; 'qat export --no_verify' needs none"
        )
    return command


def options() -> list[str]:
    """Its options: our own, then the user's $CFLAGS."""
    return [*COMPILER_OPTIONS, *words("CFLAGS")]


def words(variable: str) -> list[str]:
    """An environment variable as a shell would part it."""
    value = os.environ.get(variable, "")
    try:
        return shlex.split(value)
    except ValueError as error:
        raise QatError(
            f"${variable} {value!r}: is no list of words ({str(error).lower()}), so that the C file cannot be compiled; close "
            "its quotation"
        ) from None


def lay_out(file: File, folder: Path, name: str) -> str:
    """Write a checked file under a name, with what lies beside it: what is compiled is what was read, whatever is written at
    its path meanwhile. Returns the header's name.
    """
    # Under the names that the source includes, whatever they are called by now.
    included = re.search(r'^#include "([^"/\n]+)"$', file.source, re.MULTILINE)
    header = included.group(1) if included else file.header_name
    (folder / name).write_bytes(file.source.encode())
    (folder / header).write_bytes(file.header)
    if file.weights is not None:
        taken_in = re.search(r'\.incbin \\"([^"/\\]+)\\"', file.source)
        (folder / (taken_in.group(1) if taken_in else f"{Path(name).stem}{WEIGHTS_SUFFIX}")).write_bytes(file.weights)
    return header


def build(path: Path, file: File, folder: Path, flags: Sequence[str], *more: str) -> Path:
    """Compile a file into a program.

    Args:
        path: where the file was read.
        file: its content.
        folder: for the program.
        flags: of the compiler.
        more: names of further sources in the folder.
    """
    program = folder / "program"
    lay_out(file, folder, path.name)
    sources = [str(folder / name) for name in (path.name, *more)]
    command = [*compiler(), *flags, f"-I{folder}", "-x", "c", *sources, "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or [""]
        reason = lines[0].strip().replace(f"{folder}{os.sep}", "") or f"it ended with status {done.returncode}"
        raise QatError(f"{path}: {command[0]} cannot compile it ({reason}); look at $CC and $CFLAGS, or export it anew")
    return program


def compute(
    path: str | Path,
    file: File,
    samples: Arrays,
    dtypes: Sequence[Any],
    tensors: Sequence[IntegerTensor],
    *define: str,
) -> dict[int, Array]:
    """What the compiled program writes, (N, ...) for each of the tensors by position."""
    path = Path(path)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = build(path, file, folder, [*options(), f"-D{file.model['name'].upper()}_MAIN", *define])

        def run(batch: tuple[Array, ...]) -> dict[int, Array]:
            given = [to_hwc(x).reshape(len(x), -1).view(np.uint8) for x in file.ends.encode(batch)]
            try:
                done = subprocess.run(
                    [program], input=np.concatenate(given, axis=1).tobytes(), capture_output=True, check=False
                )
            except OSError as error:
                raise QatError(
                    f"{path}: what {compiler()[0]} made of it does not run here ({error.strerror}); look at "
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

        return in_batches(run, samples, file.ends.specs, BATCH, str(path))

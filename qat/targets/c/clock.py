"""How long an exported C file takes on this machine: its own program, which computes one sample again and again."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import numpy as np

from qat.errors import QatError
from qat.targets.c.file import File
from qat.targets.c.run import build, compiler, lay_out, words
from qat.targets.c.text import ctype
from qat.targets.common import to_hwc
from qat.vocabulary.arrays import Arrays, batches_of

OPTIONS = ("-std=c99", "-O3", "-march=native")  #: of the compiler, before $CFLAGS: as whoever wants speed compiles
SOURCE = "qat-clock.c"  #: beside the exported one
PROGRAM = """
#define _POSIX_C_SOURCE 199309L
#include "{header}"
#include <stdio.h>
#include <time.h>

{buffers}

/* Reads the sample, then how often it is to be computed, and writes the seconds, again and again. */
int main(void)
{{
    long count, i;
{read}
    while (scanf("%ld", &count) == 1) {{
        struct timespec from, to;
        clock_gettime(CLOCK_MONOTONIC, &from);
        for (i = 0; i < count; i++)
            {name}_run({arguments});
        clock_gettime(CLOCK_MONOTONIC, &to);
        printf("%.9f\\n", (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec));
        fflush(stdout);
    }}
    return 0;
}}
"""


def timed_options() -> list[str]:
    """Of the compiler: our own, then the user's $CFLAGS."""
    return [*OPTIONS, *words("CFLAGS")]


@contextlib.contextmanager
def clocked(path: str | Path, file: File, sample: Arrays) -> Iterator[Callable[[int], float]]:
    """The seconds of so many inferences of one sample.

    Args:
        path: where the file was read.
        file: its content.
        sample: (1, ...), as the network takes it; a tuple for several inputs.
    """
    path = Path(path)
    (batch,) = batches_of(sample, file.ends.specs, 1, str(path))
    given = b"".join(to_hwc(x).tobytes() for x in file.ends.encode(batch))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / SOURCE).write_text(_program(file, lay_out(file, folder, path.name)), encoding="utf-8")
        program = build(path, file, folder, timed_options(), SOURCE)
        try:
            process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            raise QatError(
                f"{path}: what {compiler()[0]} made of it does not run here ({error.strerror}); look at $CC and $CFLAGS, which "
                "are to make a program for this machine"
            ) from None
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            to, said = process.stdin, process.stdout

            def seconds(count: int) -> float:
                line = b""
                with contextlib.suppress(BrokenPipeError):  # it has ended: reading says so
                    to.write(f"{count}\n".encode())
                    to.flush()
                    line = said.readline()
                if not line:
                    raise QatError(f"{path}: the compiled program ended with status {process.wait()}; export it anew")
                return float(line)

            with contextlib.suppress(BrokenPipeError):
                to.write(given)
                to.flush()  # what is left would be written when it is closed, though the program has ended then
            try:
                yield seconds
            finally:
                process.kill()


def _program(file: File, header: str) -> str:
    names, buffers, read = [], [], []
    for i, end in enumerate(file.ends.inputs):
        names.append(f"input{i}")
        buffers.append(f"static {ctype(end.stored)} input{i}[{prod(end.shape)}];")
        read.append(f"    if (fread(input{i}, 1, sizeof input{i}, stdin) != sizeof input{i})\n        return 2;")
    for i, (given, x) in enumerate(zip(file.ends.outputs, file.tensors("outputs"), strict=True)):
        names.append(f"output{i}")
        buffers.append(f"static {ctype(np.dtype(given.stored).name)} output{i}[{prod(x.shape)}];")
    return PROGRAM.format(
        header=header,
        name=file.model["name"],
        buffers="\n".join(buffers),
        read="\n".join(read),
        arguments=", ".join(names),
    )

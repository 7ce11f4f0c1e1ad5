"""Say what an inference of exported files costs: its time on this machine, and of C files what it takes on emulated processors:
instructions, flash, RAM and stack.

Each file computes one random sample on one thread, in blocks that alternate between the files. Exit status 1 where a C file
gives other outputs on an emulated processor than here.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from qat.analysis.timing import Times, alternate_timed
from qat.cli import run_script
from qat.console import print_table, result
from qat.deploy.interfaces import Target
from qat.deploy.measuring import IsEmulated, IsTimed, Measured
from qat.errors import QatError
from qat.scripts.common.files import check_file, trusted_target
from qat.scripts.common.flags import add_trust_argument
from qat.training.devices import use_threads
from qat.vocabulary.arrays import Arrays, ArraySpec, as_arrays, as_tuple
from qat.vocabulary.rows import showing

BLOCK = 2e-3  #: seconds that one block takes at least, so that the clock's own time does not matter
MOST = 100_000  #: inferences in a block


class File(NamedTuple):
    """A file that was given, with the target that runs it, and a sample of what its network takes."""

    path: str
    target: Target
    sample: Arrays


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--model", nargs="+", required=True, metavar="FILE", help="exported files; ratios are to the first of them"
    )
    parser.add_argument(
        "--cores",
        nargs="+",
        default=[],
        metavar="CORE",
        help="also count the instructions of C files on emulated processors: m3, m4, m4f (with its floating-point unit), m7, "
        "m33, m33f, m55",
    )
    parser.add_argument("--layers", action="store_true", help="with --cores: the instructions of each layer too")
    parser.add_argument("--cflags", default="", help="of the compiler for --cores, after -std=c99 -O2: --cflags=-O3")
    parser.add_argument("--blocks", type=int, default=100, help="how often each file's turn comes")
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command. Returns the exit status."""
    if args.blocks < 1:
        raise QatError(f"--blocks {args.blocks}: give how often each file's turn comes, at least once")
    for flag, given in (("--layers", args.layers), ("--cflags", args.cflags)):
        if given and not args.cores:
            raise QatError(f"{flag}: is of emulated processors, and none is given; name some with --cores, as m4 m55")
    use_threads(1)
    for model in args.model:
        check_file(model, "give --model what export wrote")
    files = []
    for model in args.model:
        target = trusted_target(args, model)
        files.append(File(model, target, random_sample(target.input_specs(model))))
    if args.cores and not any(isinstance(file.target, IsEmulated) for file in files):
        raise QatError(
            f"--cores {args.cores[0]}: runs C files, and none is among --model; export one with --file_format C"
        )
    with showing(None):  # how far one sample is would be no news, and no JSON
        emulated = [
            measure(file, core, args)  # before anything is timed, since a core's name may be wrong
            for core in dict.fromkeys(args.cores)
            for file in files
            if isinstance(file.target, IsEmulated)
        ]
        times = alternated(files, args.blocks)
    found = {
        "machine": f"{platform.system()} {platform.machine()}",
        "here": [_row(file, own, times[0]) for file, own in zip(files, times, strict=True)],
        "cores": _with_ratios(emulated),
    }
    _print(found)
    return int(any(row["differ"] for row in emulated))


def random_sample(specs: Sequence[ArraySpec]) -> Arrays:
    """One sample of what a network takes: any codes that there are, or normally distributed real numbers."""
    rng, arrays = np.random.default_rng(0), []
    for shape, dtype in specs:
        if dtype == "float32":
            arrays.append(rng.standard_normal((1, *shape)).astype(np.float32))
        else:
            limits = np.iinfo(dtype)
            arrays.append(rng.integers(limits.min, limits.max, (1, *shape), endpoint=True).astype(dtype))
    return as_arrays(tuple(arrays))


def alternated(files: Sequence[File], blocks: int) -> list[Times]:
    """How long an inference of each file takes on this machine, in one alternated run."""
    with ExitStack() as stack:
        timed: dict[str, Callable[[int], float]] = {}
        for index, file in enumerate(files):
            if not isinstance(file.target, IsTimed):
                raise QatError(
                    f"{file.path}: {file.target.NAME} files run elsewhere, and nothing here takes the time that they do there; "
                    "leave it out"
                )
            timed[str(index)] = stack.enter_context(file.target.timed(file.path, file.sample))
        repeats = {name: _repeats(seconds) for name, seconds in timed.items()}
        return list(alternate_timed(timed, blocks=blocks, repeats=repeats).values())


def _repeats(seconds: Callable[[int], float]) -> int:
    """How many inferences take ``BLOCK`` seconds."""
    seconds(1)  # the first one may allocate
    count = 1
    while count < MOST and (taken := seconds(count)) < BLOCK:
        count = min(MOST, max(2 * count, int(count * BLOCK / max(taken, 1e-9))))
    return count


def _row(file: File, times: Times, first: Times) -> dict[str, Any]:
    assert isinstance(file.target, IsTimed)
    return {
        "file": file.path,
        "runtime": file.target.timed_runtime(),
        "bytes": os.path.getsize(file.path),
        "seconds": times.median,
        "quartiles": times.quartiles,
        "least": float(times.seconds.min()),
        "ratio": times.over(first).median,
    }


def measure(file: File, core: str, args: argparse.Namespace) -> dict[str, Any]:
    """What an inference of a file costs on an emulated processor."""
    assert isinstance(file.target, IsEmulated)
    found: Measured = file.target.measure(file.path, file.sample, core, options=args.cflags.split(), layers=args.layers)
    here = as_tuple(file.target.predict(file.path, file.sample))
    return {
        "file": file.path,
        "core": file.target.cores()[core],
        "instructions": found.instructions[0],
        "flash": found.flash,
        "ram": found.ram,
        "arena": found.arena,
        "stack": found.stack,
        "differ": sum(int(np.count_nonzero(x != y)) for x, y in zip(found.reals, here, strict=True)),
        **({"layers": dict(found.layers)} if args.layers else {}),
    }


def _with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With the ratio of the instructions to those of the first file on the same core."""
    first: dict[str, int] = {}
    for row in rows:
        row["ratio"] = row["instructions"] / first.setdefault(row["core"], row["instructions"])
    return rows


def _print(found: Mapping[str, Any]) -> None:
    result(**found)
    columns = ("file", "runs in", "bytes", "median us", "quartiles", "least", "ratio")
    print_table(
        f"An inference on this machine, {found['machine']}, one thread",
        columns,
        [
            (
                row["file"],
                row["runtime"],
                f"{row['bytes']:,}",
                f"{1e6 * row['seconds']:,.1f}",
                "{:,.1f} to {:,.1f}".format(*(1e6 * x for x in row["quartiles"])),
                f"{1e6 * row['least']:,.1f}",
                f"{row['ratio']:.2f}",
            )
            for row in found["here"]
        ],
        None,
    )
    if not found["cores"]:
        return
    keys = ("instructions", "flash", "ram", "arena", "stack")
    print_table(
        "An inference on emulated processors; flash, RAM and stack in bytes",
        ("file", "core", "instructions", "flash", "RAM", "of it arena", "stack", "ratio", "outputs that differ"),
        [
            (row["file"], row["core"], *(f"{row[key]:,}" for key in keys), f"{row['ratio']:.2f}", f"{row['differ']:,}")
            for row in found["cores"]
        ],
        None,
    )
    for row in found["cores"]:
        if "layers" in row:
            layers = [(name, f"{n:,}", f"{100 * n / row['instructions']:.1f} %") for name, n in row["layers"].items()]
            print_table(f"{row['file']} on a {row['core']}", ("layer", "instructions", "share"), layers, None)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

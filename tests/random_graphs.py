"""Codes of many random networks in every engine: networks of tests/test_zoo.py, every code of every node.

``python tests/random_graphs.py --graphs 1000`` draws them and compares PyTorch, ONNX Runtime, LiteRT with XNNPACK, its
reference kernels and C (gcc) with NumPy's integers, each in its own arithmetic: that of training backends is ``--arithmetic``.
``--engines`` adds or leaves out engines; ``--first_seed`` draws others. What an engine refuses by name is counted by its
reason. Exit status 1 where a code differs.
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import test_c_sweep
from every_cell import cell_classes
from hypothesis import HealthCheck, Phase, given, seed, settings
from test_zoo import Setup, setups

import qat
from qat.cli import INTERRUPTED, run_script
from qat.deploy.engine import Engine
from qat.deploy.verify import backend_engine, file_engine
from qat.integer import IntegerGraph, IntegerInput, evaluate, trace_codes
from qat.integer.fixed_point import ARITHMETICS
from qat.registry import BACKENDS
from qat.vocabulary.arrays import as_tuple
from qat.vocabulary.rows import showing

CHUNK = 20  #: networks of one seed, which are alike, and whose C files are one program
FILES: dict[str, tuple[str, dict[str, str]]] = {
    "onnx": ("ONNX", {}),
    "onnx-uint8": ("ONNX", {"weights": "uint8"}),
    "tflite": ("TFLITE", {"arithmetic": "float"}),
    "tflite-fixed": ("TFLITE", {"arithmetic": "fixed"}),
    "mindir": ("MINDIR", {}),
}
OF_C = {"c": "float", "c-fixed": "fixed"}  #: whose files are compiled together, by arithmetic
ENGINES = (*BACKENDS, *FILES, *OF_C)
USUAL = ("torch", "onnx", "onnx-uint8", "tflite", "tflite-fixed", *OF_C)


class Found:
    """What was drawn, compared, refused, and what differs."""

    def __init__(self) -> None:
        self.graphs: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.cells: Counter[str] = Counter()
        self.refused: dict[str, Counter[str]] = {}
        self.different: list[str] = []

    def refuse(self, engine: str, error: qat.QatError) -> None:
        """By its reason, without the node's name, the file's and numbers."""
        message = re.sub(r"^[\w./@ -]+: ", "", str(error))
        reason = re.sub(r"-?\d+([.,]\d+)*(e[+-]?\d+)?", "#", message).partition(";")[0]
        self.refused.setdefault(engine, Counter())[reason] += 1

    def compare(self, name: str, engine: Engine, setup: Setup, graph: IntegerGraph) -> None:
        tensors = [node.output for node in graph.nodes]
        expected = trace_codes(graph, setup.pixels, [x.name for x in tensors], arithmetic=engine.arithmetic)
        outputs = as_tuple(evaluate(graph, setup.pixels, arithmetic=engine.arithmetic))
        traced = engine.trace(setup.pixels, tensors)
        missing = {node.name for node in graph.nodes if not isinstance(node, IntegerInput)} - set(traced)
        assert not missing, f"{name} gives no codes of {missing}\n{setup.note}"
        pairs = [(node, codes, expected[node]) for node, codes in traced.items()]
        pairs += [
            (f"output {x.name}", codes, own)
            for x, codes, own in zip(graph.outputs, engine.codes(setup.pixels), outputs, strict=True)
        ]
        self.graphs[name] += 1
        for node, codes, own in pairs:
            assert codes.shape == own.shape, f"{name}, {node}: {codes.shape}, not {own.shape}\n{setup.note}"
            self.codes[name] += own.size
            off = np.abs(codes.astype(np.int64) - own)
            if off.any():
                self.different.append(f"{name}, {node}: {(off != 0).sum()} of {off.size}, by {off.max()}\n{setup.note}")


def chunk(number: int, count: int, engines: list[str], found: Found, arithmetic: str = "float") -> None:
    """Draw and compare the networks of one seed; arithmetic: of the training backends."""
    of_c: list[tuple[str, test_c_sweep.Drawn]] = []

    def check(setup: Setup) -> None:
        found.graphs["drawn"] += 1
        try:
            graph = setup.integer
        except qat.QatError as error:  # as of weights whose scales no float32 holds
            found.refuse("to_integer", error)
            return
        found.cells.update({type(node.cell).__name__ for node in setup.graph.nodes} | setup.features)
        with tempfile.TemporaryDirectory() as folder:
            for name in engines:
                try:
                    if name in OF_C:
                        one = replace(graph, arithmetic=OF_C[name])
                        test_c_sweep.C.export(one, Path(folder) / "net.c")
                        of_c.append((name, test_c_sweep.Drawn(one, setup.pixels)))
                    else:
                        found.compare(name, made(name, setup, graph, Path(folder), arithmetic), setup, graph)
                except qat.QatError as error:
                    found.refuse(name, error)

    limits = settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    seed(number)(limits(given(setups())(check)))()
    if of_c:
        with tempfile.TemporaryDirectory() as folder:
            files = test_c_sweep.files_of([one for _, one in of_c], Path(folder))
            machine = test_c_sweep.SETTINGS["gcc, small"]
            found.different += [
                f"c, seed {number}, {each}"
                for each in test_c_sweep.computed(files, machine, Path(folder), Path(folder))
            ]
    for name, one in of_c:
        tensors = (*(node.output for node in one.graph.nodes), *one.graph.outputs)
        found.graphs[name] += 1
        found.codes[name] += sum(len(one.pixels[0]) * math.prod(x.shape) for x in tensors)


def made(name: str, setup: Setup, graph: IntegerGraph, folder: Path, arithmetic: str) -> Engine:
    """The engine of a network."""
    if name in BACKENDS:
        network = replace(setup.graph, arithmetic=arithmetic)
        return backend_engine(qat.backend(name), qat.Checkpoint(network, setup.params), "CPU")
    target, options = FILES[name]
    module: Any = qat.target(target)
    path = folder / f"{name}{module.SUFFIX}"
    module.export(graph, path, **options)
    return file_engine(path, module, graph, options.get("arithmetic"))


def report(found: Found, engines: list[str], say: Callable[[str], None] = print) -> None:
    say(f"{found.graphs['drawn']} graphs")
    for reason, times in found.refused.get("to_integer", Counter()).most_common():
        say(f"  without integers {times}: {reason}")
    for name in engines:
        say(f"{name}: {found.codes[name]:,} codes of {found.graphs[name]} graphs")
        for reason, times in found.refused.get(name, Counter()).most_common():
            say(f"  refused {times}: {reason}")
    kinds = {*(cls.__name__ for cls in cell_classes()), "GRU", "LSTM"} - {"Dequantize"}  # of layers left in float
    say("cells: " + ", ".join(f"{name} {found.cells[name]}" for name in sorted(kinds) if found.cells[name]))
    say("never drawn: " + (", ".join(sorted(kinds - set(found.cells))) or "none"))
    say(f"{len(found.different)} nodes or outputs differ")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--graphs", type=int, default=1000, help=f"how many, {CHUNK} of a seed")
    parser.add_argument("--first_seed", type=int, default=0, help="of the first networks; each later seed is one more")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(USUAL), help="what is compared")
    parser.add_argument("--arithmetic", choices=ARITHMETICS, default="float", help="of the training backends")


def check_installed(engines: list[str]) -> None:
    """Raise QatError where an engine is not here: it refuses no network."""
    for name in engines:
        if name in BACKENDS:
            qat.backend(name)
        elif name in FILES:
            qat.target(FILES[name][0])
        elif shutil.which("gcc") is None:
            raise qat.QatError(
                "c: gcc is not installed, and compiles the files; install it, or name --engines without c"
            )


def run(args: argparse.Namespace) -> int:
    check_installed(args.engines)
    found, number, status = Found(), args.first_seed, 0
    try:
        while found.graphs["drawn"] < args.graphs:
            before = len(found.different)
            with showing(None):  # the progress of a few samples is none
                chunk(number, min(CHUNK, args.graphs - found.graphs["drawn"]), args.engines, found, args.arithmetic)
            differ = "\n".join(found.different[before:]) or f"seed {number}: {found.graphs['drawn']} graphs, 0 differ"
            print(differ, flush=True)
            number += 1
    except KeyboardInterrupt:
        print(f"interrupted in seed {number}; until then:")
        status = INTERRUPTED
    report(found, args.engines)
    return 1 if found.different else status


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

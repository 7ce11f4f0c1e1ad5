"""C: an integer graph as self-contained C99, <name>.c and <name>.h, for microcontrollers and any other machine.

It computes in either arithmetic (docs/numerics.md), with no heap and no library; in the fixed one there is no floating point
but where real numbers enter or leave. Weights are constants, activations lie in one static arena whose bytes are shared
(``qat.integer.memory``). Activations are bytes in HWC order, a code c of a grid [qmin, qmax] being stored as c - qmin.
``predict`` and ``trace`` take (N, C, H, W), as every target does; the functions of the C file take HWC order, as cameras give
it. Both compile the file with the host's compiler ($CC, else cc, with $CFLAGS after our own options) and run it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from qat.deploy.interfaces import NO, check_switch
from qat.deploy.recipe import RECIPE
from qat.errors import QatError
from qat.integer import IntegerGraph, IntegerTensor, require_integers
from qat.integer.ends import METADATA, OWN, FileTensors
from qat.integer.fixed_point import check_arithmetic
from qat.integer.widths import check_packing
from qat.registry import TARGETS
from qat.targets.c import arduino
from qat.targets.c import file as c_file
from qat.targets.c.arduino import arduino_library as arduino_library  # of qat.deploy.interfaces.MakesArduinoLibrary
from qat.targets.c.arduino import library_files as library_files
from qat.targets.c.clock import clocked, timed_options
from qat.targets.c.constants import WEIGHTS_SUFFIX
from qat.targets.c.cortex_m.cores import CORES
from qat.targets.c.cortex_m.cores import emulator as emulator  # of qat.deploy.measuring.IsEmulated
from qat.targets.c.cortex_m.measure import measure as measure  # of qat.deploy.measuring.IsEmulated
from qat.targets.c.described import described
from qat.targets.c.ends import ends_in_c
from qat.targets.c.file import File, load, write
from qat.targets.c.layout import Layout
from qat.targets.c.run import compiler, compute, options
from qat.targets.c.text import identifier
from qat.targets.c.writer import Writer
from qat.targets.common import to_chw
from qat.training.checkpoint import names_of_classes
from qat.vocabulary.arrays import Arrays, ArraySpec, as_arrays
from qat.vocabulary.ops import Array

NAME = "C"  #: under which ``qat.target`` knows it
SUFFIX, OPTIONS = TARGETS[NAME].suffix, TARGETS[NAME].options
ARITHMETICS: tuple[str, ...] = ("float", "fixed")
ARITHMETIC = "arithmetic"  #: the key of a file's metadata
RUNS_CODE = True  #: to run a file is to compile it and to run whatever it says (qat.deploy.interfaces.Target)


def export(
    graph: IntegerGraph,
    path: str | Path,
    *,
    arithmetic: str | None = None,
    packing: str = "packed",
    input_type: str = OWN,
    output_type: str = OWN,
    weights_file: str = NO,
) -> None:
    """Write <name>.c and, beside it, <name>.h.

    Args:
        graph: the integers, as ``qat.to_integer`` gives them.
        path: the .c file; all appear or are replaced together.
        arithmetic: "float" or "fixed"; None, the default: that in which the network was trained.
        packing: "packed" stores the weights of a layer that has at most 16, 4 or 2 different ones in 4, 2 or 1 bits; "bytes"
            stores each in a byte.
        input_type: "own": what the network takes. "float32", "int8", "uint8" or "int16": real numbers, or codes of that type.
        output_type: "own": the codes that the network has, in the smallest type that holds them. Else as for the input.
        weights_file: "yes" puts the weights into a file of their own, <name>.bin, which GCC and Clang take in; "no": none.

    Raises:
        QatError: the arithmetic cannot compute a node, which the message names, or an option is unknown; a type does not hold
            the codes.
    """
    own_file = check_switch("weights_file", weights_file)
    require_integers(graph)
    packed, ends = check_packing(packing), ends_in_c(graph, input_type, output_type)
    arithmetic, path = _arithmetic(graph, arithmetic), Path(path)
    writer = Writer(graph, identifier(path), packed, ends, arithmetic, weights_file=own_file)
    source, header = writer.files(path.with_suffix(".h").name)
    weights = None if writer.weights_file is None else bytes(writer.weights_file)
    write(path, source, header.encode(), {METADATA: ends.to_json(), ARITHMETIC: arithmetic}, weights)


def files(path: str | Path, *, weights_file: str = NO, **options: str) -> list[Path]:
    """The source, its header, and with ``weights_file`` the weights: what ``export`` writes."""
    path, own_file = Path(path), check_switch("weights_file", weights_file)
    return [path, path.with_suffix(".h"), *([path.with_suffix(WEIGHTS_SUFFIX)] if own_file else [])]


def wrote(path: Path) -> bool:
    """Whether a file, of an export or of a library for Arduino, is what was written."""
    of_library = path.name == arduino.LIBRARY or path.suffix == arduino.EXAMPLE
    return arduino.wrote(path) if of_library else c_file.wrote(path)


def _arithmetic(graph: IntegerGraph, arithmetic: str | None) -> str:
    """That of a file. Raises QatError for an unknown one."""
    arithmetic = graph.arithmetic if arithmetic is None else arithmetic
    check_arithmetic(arithmetic, graph.name)
    return arithmetic


def arithmetic_of(path: str | Path) -> str:
    """The arithmetic that a file was exported for; files that do not say it are of releases that had the fixed one alone."""
    return _exported_for(load(path))


def _exported_for(file: File) -> str:
    return file.metadata.get(ARITHMETIC, "fixed")


def storage(graph: IntegerGraph, *, arithmetic: str | None = None, packing: str = "packed") -> dict[str, int]:
    """The bytes of each node's constants: weights, biases, multipliers, shifts and tables, without code.

    Args:
        graph: the integers, as ``qat.to_integer`` gives them.
        arithmetic: as in ``export``: the float one has no shifts.
        packing: as in ``export``.

    Returns:
        Bytes by the name of the node; nodes without constants are left out.
    """
    writer = Writer(graph, "net", check_packing(packing), ends_in_c(graph, OWN, OWN), _arithmetic(graph, arithmetic))
    writer.files("net.h")
    return writer.node_bytes


def arena_bytes(graph: IntegerGraph, *, packing: str = "packed", input_type: str = OWN) -> int:
    """The static memory of the file, <NAME>_ARENA_BYTES of its header: activations and scratch memory, in either arithmetic.

    Buffers that are never needed together share bytes. The caller's buffers are not counted; the codes of an input are, unless
    they are read where the caller has them: uint8 is.

    Args:
        graph: the integers, as ``qat.to_integer`` gives them.
        packing: as in ``export``.
        input_type: as in ``export``.
    """
    require_integers(graph)
    return Layout(graph, check_packing(packing), ends_in_c(graph, input_type, OWN)).arena_bytes


def write_metadata(path: str | Path, metadata: Mapping[str, str]) -> None:
    """Set entries of the comment with metadata; a recipe, with the names of classes, is told in the header too. Nothing that is
    compiled changes.
    """
    file = load(path)
    merged, header = file.metadata | dict(metadata), file.header
    if RECIPE in metadata:
        names = names_of_classes(metadata.get("class_names"))
        header = described(header.decode(), file.model["name"], json.loads(metadata[RECIPE]), names).encode()
    write(Path(path), file.source, header, merged, file.weights)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The entries that ``write_metadata`` wrote."""
    return load(path).metadata


def tensors(path: str | Path) -> FileTensors:
    """The inputs and outputs of a file as it has them: inputs (H, W, C), outputs (C, H, W)."""
    file = load(path)
    inputs, outputs = (tuple(x["name"] for x in file.model[key]) for key in ("inputs", "outputs"))
    return FileTensors(file.ends, inputs, outputs, channels_last=True, outputs_first=True)


def input_specs(path: str | Path) -> list[ArraySpec]:
    """What the network takes, whatever the file does."""
    return load(path).ends.specs


def predict(path: str | Path, pixels: Arrays, *, arithmetic: str | None = None) -> Arrays:
    """Real outputs, computed by the compiled file, which has to be of the arithmetic that is given.

    Whatever its C does is run: the digest shows damage, but not who wrote the file. So give it files of your own only.
    """
    file = _loaded(path, arithmetic)
    kinds = [np.dtype(end.stored) for end in file.ends.outputs]
    found = compute(path, file, pixels, kinds, file.tensors("outputs"))
    return as_arrays(file.ends.decode([found[i] for i in range(len(kinds))]))


def trace(
    path: str | Path, pixels: Arrays, tensors: Collection[IntegerTensor], *, arithmetic: str | None = None
) -> dict[str, Array]:
    """Codes of single tensors, from the same file compiled so that it writes those of every node (see ``predict``)."""
    file = _loaded(path, arithmetic)
    nodes = file.tensors("nodes")
    kinds = [np.uint16 if x.grid.wide else np.uint8 for x in nodes]
    found = compute(path, file, pixels, kinds, nodes, f"-D{file.model['name'].upper()}_TRACE")
    result = {}
    for i, (x, entry) in enumerate(zip(nodes, file.model["nodes"], strict=True)):
        stored = found[i].reshape(-1, *entry["stored"])
        result[x.name] = to_chw(stored).reshape(-1, *x.shape).astype(np.int32) + x.grid.qmin
    return {x.name: result[x.name] for x in tensors if x.name in result}


def _loaded(path: str | Path, arithmetic: str | None) -> File:
    """A file that computes in that arithmetic, or with None in any. Raises QatError for another one."""
    file = load(path)
    own = _exported_for(file)
    if arithmetic not in (None, own):
        raise QatError(
            f"{path}: was exported for the {own} arithmetic and computes no other; leave --arithmetic {arithmetic} out, or "
            "export it with that"
        )
    return file


@contextlib.contextmanager
def timed(path: str | Path, samples: Arrays) -> Iterator[Callable[[int], float]]:
    """Seconds of so many inferences on this machine (``qat.deploy.measuring.IsTimed``), of the file compiled for its own
    processor, by ``clock.OPTIONS`` and $CFLAGS. What the file says is run (see ``predict``).
    """
    with clocked(path, load(path), samples) as seconds:
        yield seconds


def cores() -> dict[str, str]:
    """The processors that ``measure`` emulates: "Cortex-M4" by "m4"."""
    return {name: core.name for name, core in CORES.items()}


def runtime(arithmetic: str | None = None) -> str:
    """The compiler that ``predict`` uses, with its version and options. Raises QatError where there is none."""
    return _compiled_by(options())


def timed_runtime() -> str:
    """As ``runtime``, of what ``timed`` runs."""
    return _compiled_by(timed_options())


def _compiled_by(options: list[str]) -> str:
    command = compiler()
    said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout
    version = said.splitlines()[0] if said else command[0]
    return f"C, {version} ({' '.join(options)})"

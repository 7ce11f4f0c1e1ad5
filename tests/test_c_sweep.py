"""C files of random networks, every code of every node equal however they are compiled: compilers, options, machines.

The files of all networks are compiled one by one and linked into one program for each setting, which computes them all.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sequential import setups as chains
from test_zoo import DEGENERATE, FOLDS, PAIR_OF_BOOLEANS, Array, after_numpy_step, networks, random_params, samples_for

import qat
from qat.errors import QatWarning
from qat.integer import IntegerGraph, trace_codes
from qat.integer.ends import OWN, TYPES, Ends
from qat.targets.c.ends import ends_in_c
from qat.targets.c.text import ctype, identifier

C = qat.target("C")
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all"


class Machine(NamedTuple):
    """What compiles, what runs the program (nothing: it runs here), how uint16 lie there, and what to install."""

    compilers: tuple[str, ...]  #: commands; the first that makes a program
    options: str
    package: str
    emulator: str = ""
    big_endian: bool = False


NATIVE = "-O3 -march=native"
#: Where gcc has no libraries of 32 bits, a cross compiler: Debian installs either the one or the other.
OF_32_BITS, MULTILIB = (
    ("gcc -m32", "i686-linux-gnu-gcc -static"),
    "gcc-multilib, or gcc-i686-linux-gnu libc6-dev-i386-cross",
)
SETTINGS = {
    "gcc, no optimization": Machine(("gcc",), "-O0", "gcc"),
    "gcc, native": Machine(("gcc",), NATIVE, "gcc"),
    "gcc, small": Machine(("gcc",), "-Os", "gcc"),
    "gcc, AVX2": Machine(("gcc",), "-O3 -march=haswell", "gcc"),
    "gcc, sanitizers": Machine(("gcc",), f"-O1 {SANITIZERS}", "gcc"),
    "gcc, sanitizers, native": Machine(("gcc",), f"-O1 -march=native {SANITIZERS}", "gcc"),
    "clang, no optimization": Machine(("clang",), "-O0", "clang"),
    "clang, native": Machine(("clang",), NATIVE, "clang"),
    "clang, small": Machine(("clang",), "-Os", "clang"),
    "clang, sanitizers": Machine(("clang",), f"-O1 {SANITIZERS}", "clang libclang-rt-14-dev"),
    "32 bits, native": Machine(OF_32_BITS, NATIVE, MULTILIB),
    "32 bits, x87": Machine(OF_32_BITS, "-O2 -mno-sse -mfpmath=387", MULTILIB),
    "s390x, big-endian": Machine(
        ("s390x-linux-gnu-gcc -static",),
        "-O2",
        "gcc-s390x-linux-gnu libc6-dev-s390x-cross qemu-user",
        "qemu-s390x",
        True,
    ),
    "Cortex-A7": Machine(
        ("arm-linux-gnueabihf-gcc -static",),
        "-O2 -mcpu=cortex-a7",
        "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross qemu-user",
        "qemu-arm",
    ),
    "Cortex-M55": Machine(
        ("arm-none-eabi-gcc --specs=rdimon.specs",),
        "-O2 -mcpu=cortex-m55 -mthumb -mfloat-abi=hard -T FOLDER/bare.ld",
        "gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm",
        "qemu-system-arm -machine mps3-an547 -nographic -monitor none -serial none "
        "-semihosting-config enable=on,target=native -kernel",
    ),
    **{
        f"aarch64{name}": Machine(
            ("aarch64-linux-gnu-gcc -static",),
            f"-O3{march}",
            "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user",
            "qemu-aarch64 -cpu max",
        )
        for name, march in {
            "": "",
            ", dot products": " -march=armv8.2-a+dotprod",
            ", products of bytes": " -march=armv8.6-a",
        }.items()
    },
}
GRAPHS, MOST = 160, 40  #: in all; of a setting that is not among these
ALL = ("gcc, native", "clang, native")
FEW, QUICK = 12, ("gcc, native", "clang, native", "s390x, big-endian")


#: Of a board without an operating system, whose processor begins at what address 4 says. Standard input and output are the
#: emulator's (newlib's rdimon).
BARE = """
MEMORY { VECTORS (rx) : ORIGIN = 0, LENGTH = 1K  RAM (rwx) : ORIGIN = 0x60000000, LENGTH = 30M }
ENTRY(_start)
SECTIONS {
    .vectors : { LONG(0x61f00000) LONG(_start | 1) } > VECTORS
    .text : { *(.text*) KEEP(*(.init)) KEEP(*(.fini)) *(.rodata*) } > RAM
    .ARM.exidx : { __exidx_start = .; *(.ARM.exidx*) __exidx_end = .; } > RAM
    .init_array : {
        __preinit_array_start = .; KEEP(*(.preinit_array*)) __preinit_array_end = .;
        __init_array_start = .; KEEP(*(.init_array*)) __init_array_end = .;
        __fini_array_start = .; KEEP(*(.fini_array*)) __fini_array_end = .;
    } > RAM
    .data : ALIGN(8) { *(.data*) } > RAM
    .bss : ALIGN(8) { __bss_start__ = .; *(.bss*) *(COMMON) __bss_end__ = .; } > RAM
    end = .; __end__ = .;
}
"""


def command(machine: Machine, folder: Path) -> list[str]:
    """The command that compiles and links. Skips the test where there is none, or nothing that runs what it makes."""
    (folder / "bare.ld").write_text(BARE, encoding="utf-8")
    (folder / "nothing.c").write_text("#include <stdio.h>\nint main(void) { return 0; }\n", encoding="utf-8")
    for compiler in machine.compilers:
        words = [*compiler.split(), "-std=c99", "-w", *machine.options.replace("FOLDER", str(folder)).split()]
        if shutil.which(words[0]) is None or (machine.emulator and shutil.which(machine.emulator.split()[0]) is None):
            continue
        if subprocess.run([*words, "nothing.c"], cwd=folder, capture_output=True, check=False).returncode == 0:
            return words
    pytest.skip(f"{machine.compilers[0]} {machine.options} makes no program here (apt-get install {machine.package})")


# -- networks ---------------------------------------------------------------------------------------------------------

SIZES = (-30, -12, -3, 0, 0, 0, 3, 12, 30)  #: powers of ten of a layer's weights


class Drawn(NamedTuple):
    """An integer graph, samples, and what its file takes and gives."""

    graph: IntegerGraph
    pixels: tuple[Array, ...]
    types: tuple[str, str] = (OWN, OWN)

    @property
    def ends(self) -> Ends:
        return ends_in_c(self.graph, *self.types)


def extreme(params: dict[str, Array], rng: np.random.Generator) -> dict[str, Array]:
    """Weights of any size, of few different values, of one sign, of channels of unlike sizes."""
    for name, array in params.items():
        if not name.endswith(".weight"):
            continue
        kind = rng.integers(6)
        if kind == 0:
            array[:] = rng.choice([-300.0, -1.2, 0.0, 0.5], array.shape)
        elif kind == 1:
            array[:] = np.abs(array) * rng.choice([-1.0, 1.0])
        elif kind == 2:
            array *= 10.0 ** rng.uniform(-5, 5, (len(array),) + (1,) * (array.ndim - 1)).astype(np.float32)
        elif kind == 3:
            array *= np.float32(10.0 ** rng.choice(SIZES))
    return params


@st.composite
def any_of_all(draw: st.DrawFn) -> tuple[qat.Graph, dict[str, Array], tuple[Array, ...]]:
    """A network of any cells, quantized in any way, to 2 to 16 bits, with parameters of any kind."""
    if draw(st.integers(0, 4)) == 0:
        chain = draw(chains(most=16))
        return chain.graph, chain.params, (chain.pixels,)
    zoo = draw(networks())
    bits = st.sampled_from([2, 3, 4, 5, 8, 8, 8, 9, 12, 16])
    options: dict[str, Any] = {
        "num_bits": (draw(bits), draw(bits)),
        "per_channel": (draw(st.booleans()), False),
        "symmetric": draw(PAIR_OF_BOOLEANS),
        "narrow_range": draw(PAIR_OF_BOOLEANS),
    } | draw(st.sampled_from(list(FOLDS.values())))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QatWarning)  # a normalisation that becomes a layer
        graph = qat.convert_quant_network(zoo, **options)
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    params = random_params(graph, rng, draw(st.frozensets(st.sampled_from(DEGENERATE))))
    if draw(st.booleans()):
        params = extreme(params, rng)
    pixels = tuple(samples_for(x, 3, rng) for x in zoo.inputs)
    with np.errstate(all="ignore"):
        return graph, after_numpy_step(graph, params, pixels), pixels


def fitting(graph: IntegerGraph, number: int) -> tuple[str, str]:
    """What the file takes and gives: in turn each type that holds the codes, and the network's own."""
    types = TYPES[number % len(TYPES)], TYPES[number // len(TYPES) % len(TYPES)]
    try:
        ends_in_c(graph, *types)
    except qat.QatError:
        return OWN, OWN
    return types


@cache
def drawn(count: int) -> list[Drawn]:
    """So many networks, by turns of either arithmetic; what the fixed one cannot compute is refused by name, before a file is
    written.
    """
    found: list[Drawn] = []
    seen: Counter[str] = Counter()

    @settings(
        max_examples=2 * count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(any_of_all())
    def collect(case: tuple[qat.Graph, dict[str, Array], tuple[Array, ...]]) -> None:
        if len(found) == count:
            return
        graph, params, pixels = case
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", QatWarning)  # ranges that are unlike
                integers = qat.to_integer(graph, params)
            number = len(found)
            integers = replace(integers, arithmetic=C.ARITHMETICS[(number + number // 4) % 2])  # of those swept, too
            C.storage(integers)
        except qat.QatError:
            seen["refused"] += 1
        else:
            found.append(Drawn(integers, pixels, fitting(integers, len(found))))
            seen["taken"] += 1

    collect()
    assert len(found) == count, seen
    assert seen["refused"] < 0.5 * seen.total(), seen
    return found


# -- one program of many files ----------------------------------------------------------------------------------------

ENABLE = """\
#ifdef __ARM_FEATURE_MVE
static void __attribute__((constructor)) enable(void)
{
    *(volatile unsigned *)0xE000ED88 |= 0xF00000; /* CPACR: the floating-point unit and Helium are on */
    __asm__ volatile("dsb; isb");
}
#endif
"""
MAIN = """\
#include <stdio.h>
{INCLUDES}

{ENABLE}
int main(void)
{{
{RUNS}
    return 0;
}}
"""


class Files(NamedTuple):
    """A network's file, what it says of itself, and its graph."""

    name: str
    model: dict[str, Any]
    drawn: Drawn


@cache
def exported(count: int, folder: Path) -> list[Files]:
    """The files of the drawn networks."""
    return files_of(drawn(count), folder)


def files_of(networks: list[Drawn], folder: Path) -> list[Files]:
    """Their files; bytes in every third."""
    files = []
    for i, one in enumerate(networks):
        path = folder / f"net{i}.c"
        packing = "bytes" if i % 3 == 0 else "packed"
        C.export(one.graph, path, packing=packing, input_type=one.types[0], output_type=one.types[1])
        found = re.search(r"/\* qat-model: (.*) \*/", path.read_text(encoding="utf-8"))
        assert found
        files.append(Files(identifier(path), json.loads(found[1]), one))
    return files


def program(files: list[Files], command: list[str], sources: Path, folder: Path) -> Path:
    """Compiled and linked; it reads all pixels and writes the codes of all nodes, then of the outputs, sample by sample."""
    runs = []
    for name, _, one in files:
        sizes = [
            f"{ctype(end.stored)} {kind}{i}[{int(np.prod(end.shape))}]"
            for kind, ends in (("in", one.ends.inputs), ("out", one.ends.outputs))
            for i, end in enumerate(ends)
        ]
        variables = [re.sub(r"\w+ (\w+)\[.*", r"\1", size) for size in sizes]
        read = [f"if (fread({x}, 1, sizeof {x}, stdin) != sizeof {x}) return 1;" for x in variables if x[0] == "i"]
        write = [f"fwrite({x}, 1, sizeof {x}, stdout);" for x in variables if x[0] == "o"]
        declared = " ".join(f"static {size};" for size in sizes)
        samples = len(one.pixels[0])
        runs.append(
            f"    {{ {declared} int n; for (n = 0; n < {samples}; n++) {{ {' '.join(read)} "
            f"{name}_run({', '.join(variables)}); {' '.join(write)} }} }}"
        )
    text = MAIN.format(ENABLE=ENABLE, INCLUDES="\n".join(f'#include "{f.name}.h"' for f in files), RUNS="\n".join(runs))
    (folder / "main.c").write_text(text, encoding="utf-8")

    def compile_one(name: str) -> None:
        define = [] if name == "main" else [f"-D{name.upper()}_TRACE"]
        source = folder / "main.c" if name == "main" else sources / f"{name}.c"
        subprocess.run([*command, *define, f"-I{sources}", "-c", source, "-o", folder / f"{name}.o"], check=True)

    names = [*(f.name for f in files), "main"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, names))
    subprocess.run([*command, *(folder / f"{name}.o" for name in names), "-o", folder / "program"], check=True)
    return folder / "program"


def differing(files: list[Files], machine: Machine, output: bytes) -> list[str]:
    """Nodes and outputs whose codes are not NumPy's, with how many."""
    wrong, at = [], 0
    for name, model, one in files:
        graph = one.graph
        reference = trace_codes(
            graph,
            one.pixels if len(one.pixels) > 1 else one.pixels[0],
            [n.name for n in graph.nodes],
            arithmetic=graph.arithmetic,
        )
        for sample in range(len(one.pixels[0])):
            for node, entry in zip(graph.nodes, model["nodes"], strict=True):
                wide = node.output.grid.wide
                kind = np.dtype(np.uint16 if wide else np.uint8).newbyteorder(">" if machine.big_endian else "<")
                stored = np.frombuffer(output, kind, int(np.prod(entry["stored"])), at).reshape(entry["stored"])
                at += stored.nbytes
                codes = np.moveaxis(stored, -1, 0).astype(np.int64) + node.output.grid.qmin
                differ = np.count_nonzero(codes.ravel() != reference[node.name][sample].ravel())
                wrong += [f"{name}, {type(node).__name__} {node.name}: {differ} of {codes.size}"] if differ else []
            for x, end in zip(graph.outputs, one.ends.outputs, strict=True):
                kind = np.dtype(end.stored).newbyteorder(">" if machine.big_endian else "<")
                left = np.frombuffer(output, kind, int(np.prod(x.shape)), at)
                at += left.nbytes
                expected = x.grid.dequantize(reference[x.name][sample].ravel())
                differ = np.count_nonzero(end.decode(left) != expected)
                wrong += [f"{name}, output {x.name}: {differ} of {left.size}"] if differ else []
    assert at == len(output)
    return wrong


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources")


def stored(x: Array, machine: Machine) -> bytes:
    """One sample as the machine reads it, channels last."""
    x = np.moveaxis(x, 0, -1)
    return x.astype(x.dtype.newbyteorder(">" if machine.big_endian else "<")).tobytes()


def computed(files: list[Files], machine: Machine, sources: Path, folder: Path) -> list[str]:
    """What differs where one program computes all files."""
    made = program(files, command(machine, folder), sources, folder)
    pixels = [
        stored(x[sample], machine)
        for f in files
        for sample in range(len(f.drawn.pixels[0]))
        for x in f.drawn.ends.encode(f.drawn.pixels)
    ]
    run = [*machine.emulator.split(), made]
    done = subprocess.run(run, input=b"".join(pixels), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return differing(files, machine, done.stdout)


def check(setting: str, files: list[Files], sources: Path, folder: Path) -> None:
    assert computed(files, SETTINGS[setting], sources, folder) == []


@pytest.mark.parametrize("setting", QUICK)
def test_a_few_random_networks_however_they_are_compiled(setting: str, sources: Path, tmp_path: Path) -> None:
    check(setting, exported(FEW, sources), sources, tmp_path)


@pytest.mark.sweep
@pytest.mark.parametrize("setting", SETTINGS)
def test_random_networks_however_they_are_compiled(
    setting: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    folder = tmp_path_factory.getbasetemp() / "all sources"
    folder.mkdir(exist_ok=True)
    files = exported(GRAPHS, folder)
    check(setting, files if setting in ALL else files[:: GRAPHS // MOST], folder, tmp_path)

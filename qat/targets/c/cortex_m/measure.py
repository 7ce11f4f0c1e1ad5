"""Runs an exported C file on an emulated Cortex-M: the codes that it computes, and what an inference costs.

Instructions are those that the processor executes from the first one of <name>_run to its return, in the file and in what it
calls of the compiler's libraries. They are counted, not estimated, and the same in every run. A processor's cycles are another
number: they depend on its pipeline, on caches, and on how fast its flash is.
"""

from __future__ import annotations

import bisect
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np

from qat.deploy.measuring import Measured
from qat.errors import QatError
from qat.targets.c.cortex_m.board import EXCLUDED, LINKER, MAIN, PLUGIN, RESERVED, START
from qat.targets.c.cortex_m.cores import GCC, HOST, NM, QEMU, SIZE, Core, core_named, missing_tools
from qat.targets.c.file import File, load
from qat.targets.c.run import lay_out
from qat.targets.c.text import ctype
from qat.targets.common import to_hwc
from qat.vocabulary.arrays import Arrays, as_tuple, batches_of
from qat.vocabulary.ops import Array

OPTIONS = ("-std=c99", "-O2")  #: of the compiler, beside those of the core
TIMEOUT = 300  #: seconds, of the emulator


def measure(
    path: str | Path,
    samples: Arrays,
    core: str = "m4",
    *,
    options: Sequence[str] = (),
    layers: bool = False,
    libraries: Sequence[Path] = (),
) -> Measured:
    """Run an exported file on an emulated core.

    Args:
        path: The .c file, with its header beside it.
        samples: What the network takes, (N, C, H, W) or (N, F); a tuple of arrays for several inputs.
        core: As "m4" (``qat.targets.c.cortex_m.cores.CORES``).
        options: Of arm-none-eabi-gcc, after -std=c99 -O2 and those of the core.
        layers: Count each node by itself too, in a second run of the first sample.
        libraries: Files of compiled functions that it calls, for the same core.

    Returns:
        What it computed, and what that took; the outputs as the file gives them.

    Raises:
        QatError: A tool is not installed, the file is none of ``export``, or it cannot be compiled or run there.
    """
    processor, file = core_named(core), load(path)
    missing = missing_tools()
    if missing:
        raise QatError(f"{path}: to run it on an emulated {processor.name} {missing}")
    count = max(len(as_tuple(samples)[0]), 1)
    (batch,) = batches_of(samples, file.ends.specs, count, str(path))
    inputs = [to_hwc(x).reshape(count, -1) for x in file.ends.encode(batch)]
    every = [*OPTIONS, *processor.options, *options]
    with tempfile.TemporaryDirectory() as name:
        program = _Program(Path(path), file, processor, Path(name), libraries)
        flash, ram = program.compile(every)
        said, records = program.run(inputs)
        linked = program.linked()
        by_node: dict[str, int] = {}
        if layers:
            program.compile([*every, f"-D{file.model['name'].upper()}_TRACE"])
            _, parts = program.run([x[:1] for x in inputs])
            names = [*(node["name"] for node in file.model["nodes"]), "outputs"]
            by_node = {name: sum(part.values()) for name, part in zip(names, parts, strict=True)}
    outputs, stack = _parted(file, said)
    arena = re.search(rb"^#define \w+_ARENA_BYTES (\d+)", file.header, re.MULTILINE)
    return Measured(
        outputs=outputs,
        reals=tuple(file.ends.decode(outputs)),
        instructions=tuple(sum(record.values()) for record in records),
        functions=dict(records[0].most_common()),
        layers=by_node,
        flash=flash,
        linked=linked,
        ram=ram,
        arena=int(arena[1]) if arena else 0,
        stack=stack,
    )


def _parted(file: File, said: Array) -> tuple[tuple[Array, ...], int]:
    """What each output is, and the largest stack, from the bytes (N, B) that the program wrote: stack, outputs."""
    stacks, begin, outputs = np.ascontiguousarray(said[:, :4]).view("<u4"), 4, []
    for end, x in zip(file.ends.outputs, file.tensors("outputs"), strict=True):
        kind = np.dtype(end.stored)
        size = prod(x.shape) * kind.itemsize
        part = np.ascontiguousarray(said[:, begin : begin + size]).view(kind)
        outputs.append(part.reshape(-1, *x.shape))
        begin += size
    return tuple(outputs), int(stacks.max())


class _Program:
    """An exported file, compiled and linked for a core in a folder."""

    def __init__(self, path: Path, file: File, core: Core, folder: Path, libraries: Sequence[Path]) -> None:
        self._libraries = [str(x.resolve()) for x in libraries]
        self._path, self._file, self._core, self._folder = path, file, core, folder
        self._header = lay_out(file, folder, "network.c")
        self._write("start.c", START)
        places = {"vectors": core.vectors, "flash": core.flash, "ram": core.ram}
        self._write("flash.ld", LINKER.format(**places, reserved=RESERVED))
        self._write("plugin.c", PLUGIN)
        self._do(HOST, "-O2", "-shared", "-fPIC", "plugin.c", "-o", "plugin.so")

    def compile(self, options: Sequence[str]) -> tuple[int, int]:
        """Compile the file. Returns the bytes of flash and RAM of the object."""
        self._options = options
        self._do(GCC, *options, "-c", "network.c", "-o", "network.o")
        text, data, bss = self._sizes("network.o")
        return text + data, data + bss

    def linked(self) -> int:
        """The bytes of flash of what was run last, without our own program around it."""
        whole, *own = (sum(self._sizes(name)[:2]) for name in ("image.elf", "main.o", "start.o"))
        return whole - sum(own)

    def _sizes(self, name: str) -> list[int]:
        """Of code with constants, of initialised data, and of other data, in bytes."""
        return list(map(int, self._do(SIZE, name).splitlines()[1].split()[:3]))

    def run(self, inputs: Sequence[Array]) -> tuple[Array, list[Counter[str]]]:
        """Run it on samples, (N, I) for each input.

        Returns:
            The bytes that the program wrote, (N, B), and for each stretch that the plugin told of its instructions by function.
        """
        count = len(inputs[0])
        together = np.concatenate([x.view(np.uint8) for x in inputs], axis=1)
        (self._folder / "samples.bin").write_bytes(together.tobytes())
        self._write("main.c", self._main(count))
        for source in ("main", "start"):
            self._do(GCC, *self._options, "-c", f"{source}.c", "-o", f"{source}.o")
        objects = ("start.o", "main.o", "network.o", *self._libraries)
        link = ("-nostartfiles", "-Wl,--gc-sections", "-T", "flash.ld")
        self._do(GCC, *self._options, *link, *objects, "-o", "image.elf")
        symbols = self._symbols()
        base, size = symbols["code_begin"], symbols["code_end"] - symbols["code_begin"]
        numbers = {
            "base": base,
            "size": size,
            "begin": symbols[f"{self._file.model['name']}_run"],
            "end": symbols["finished"],
            "mark": symbols["fwrite"],
        }
        plugin = ",".join(["./plugin.so", "out=counts", *(f"{key}={value}" for key, value in numbers.items())])
        output = ("-nographic", "-semihosting-config", "enable=on,target=native")
        said = self._do(QEMU, "-machine", self._core.machine, *output, "-plugin", plugin, "-kernel", "image.elf")
        digits = "".join(re.findall(r"^[0-9a-f]+$", said, re.MULTILINE))
        if "fault" in said or not digits:
            end = said.strip()[-80:] or "without a word"
            raise QatError(
                f"{self._path}: on an emulated {self._core.name} it ended before its outputs were written ({end}); look at "
                "what it does there, or export it anew"
            )
        return np.frombuffer(bytes.fromhex(digits), np.uint8).reshape(count, -1), self._records(symbols)

    def _main(self, count: int) -> str:
        ends, buffers, read, write = self._file.ends, [], [], []
        shapes = [x.shape for x in self._file.tensors("outputs")]
        inputs = [(f"input{i}", end.stored, end.shape, True) for i, end in enumerate(ends.inputs)]
        outputs = [(f"output{i}", end.stored, shapes[i], False) for i, end in enumerate(ends.outputs)]
        for name, stored, shape, is_input in (*inputs, *outputs):
            buffers.append(f"static {ctype(stored)} {name}[{prod(shape)}];")
            if is_input:
                read.append(f"        memcpy({name}, from, sizeof {name});\n        from += sizeof {name};")
            else:
                write.append(f"        write({name}, sizeof {name});")
        return MAIN.format(
            header=self._header,
            name=self._file.model["name"],
            painted=RESERVED // 2,
            buffers="\n".join(buffers),
            arguments=", ".join(name for name, *_ in (*inputs, *outputs)),
            count=count,
            read="\n".join(read),
            write="\n".join(write),
        )

    def _symbols(self) -> dict[str, int]:
        """Addresses of functions, and of what the linker script names."""
        found = {}
        for line in self._do(NM, "image.elf").splitlines():
            address, kind, name = line.split()
            if kind in "tTwWdDbBrRA" and not name.startswith("$"):
                found[name] = int(address, 16)
        return found

    def _records(self, symbols: Mapping[str, int]) -> list[Counter[str]]:
        functions = sorted((address, name) for name, address in symbols.items())
        starts = [address for address, _ in functions]
        records: list[Counter[str]] = []
        found: Counter[str] = Counter()
        for line in reversed((self._folder / "counts").read_text().splitlines()):
            if line[0].isalpha():
                records.insert(0, found)
                found = Counter()
                continue
            address, count = map(int, line.split())
            name = functions[bisect.bisect_right(starts, address) - 1][1]
            if name not in EXCLUDED:
                found[name] += count
        return records

    def _write(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text, encoding="utf-8")

    def _do(self, *command: str) -> str:
        """What a command writes that must succeed."""
        where = f"{self._path}: {command[0]}"
        try:
            done = subprocess.run(
                command,
                cwd=self._folder,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            raise QatError(
                f"{where} took more than {TIMEOUT} seconds for a {self._core.name}; measure a smaller network, or fewer samples"
            ) from None
        if done.returncode:
            said = done.stderr.splitlines() or [""]
            reason = next((line for line in said if "error" in line or "overflowed" in line), said[0])
            raise QatError(f"{where} failed for a {self._core.name} ({reason.strip()})")
        return done.stdout + done.stderr

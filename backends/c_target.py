"""C: an integer graph as self-contained C99, two files <name>.c and <name>.h, for microcontrollers and any other machine.

The arithmetic is that of the fixed profile (docs/numerics.md) and nothing else: no floating point, no heap, no library. Weights
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
from functools import singledispatchmethod
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qat.arrays import Arrays, as_arrays, in_batches
from qat.backends import c_kernels
from qat.backends.c_kernels import BLOCK
from qat.cells.base import Shape
from qat.errors import QatError
from qat.files import write_atomically
from qat.fixed_point import ADD_SHIFT
from qat.graph import Graph
from qat.integer import (
    Grid,
    IntegerAdd,
    IntegerConcat,
    IntegerConv2d,
    IntegerDense,
    IntegerFlatten,
    IntegerGraph,
    IntegerInput,
    IntegerLinear,
    IntegerMaxPool2d,
    IntegerNode,
    IntegerSoftmax,
    IntegerTable,
    IntegerTensor,
)
from qat.memory import Buffer, MemoryPlan, activation_buffers, plan_memory
from qat.ops import Array
from qat.widths import require_bytes

PROFILES = ("fixed",)
OPTIONS = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror")  #: of the host's compiler
BATCH = 1000  #: samples in one run of the compiled program
WIDTH = 116  #: of lines of numbers
MODEL, METADATA, DIGEST = "qat-model", "qat-metadata", "qat-sha256"  #: comments of one line at the end of the file


def export(graph: IntegerGraph, path: str | Path) -> None:
    """Write <name>.c and, beside it, <name>.h. Raises QatError for what the fixed profile cannot compute."""
    require_bytes(graph, "the C target")
    path = Path(path)
    source, header = _Writer(graph, _identifier(path)).files(path.with_suffix(".h").name)
    write_atomically(path.with_suffix(".h"), header.encode())
    write_atomically(path, _sealed(source, {}, header.encode()))


def export_float(graph: Graph, params: Mapping[str, Array], path: str | Path) -> None:
    """Raises QatError: the file is one of integers."""
    raise QatError(f"{graph.name}: C holds integers only; export the float network to ONNX or TFLITE")


def write_metadata(path: str | Path, metadata: Mapping[str, str]) -> None:
    """Set entries of the comment with metadata; nothing that is compiled changes."""
    file = _load(path)
    write_atomically(path, _sealed(file.source, file.metadata | dict(metadata), file.header))


def read_metadata(path: str | Path) -> dict[str, str]:
    """What ``write_metadata`` wrote."""
    return _load(path).metadata


def input_shapes(path: str | Path) -> list[Shape]:
    """The shapes of its inputs, (C, H, W) or (F,)."""
    return [x.shape for x in _load(path).tensors("inputs")]


def predict(path: str | Path, pixels: Arrays) -> Arrays:
    """Real outputs (N, ...), float32, of raw pixels (N, C, H, W), computed by the compiled file.

    A network with several inputs takes a tuple of arrays, one with several outputs returns a tuple.
    """
    outputs = _load(path).tensors("outputs")
    found = _compute(path, pixels, [np.dtype(x.grid.dtype) for x in outputs], outputs)
    return as_arrays(tuple(x.grid.dequantize(found[i]) for i, x in enumerate(outputs)))


def trace(path: str | Path, pixels: Arrays, tensors: Collection[IntegerTensor]) -> dict[str, Array]:
    """Codes of the named tensors, from the same file compiled so that it writes those of every node."""
    file = _load(path)
    nodes = file.tensors("nodes")
    found = _compute(path, pixels, [np.dtype(np.uint8)] * len(nodes), nodes, f"-D{file.model['name'].upper()}_TRACE")
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
    header: bytes
    model: dict[str, Any]
    metadata: dict[str, str]

    def tensors(self, key: str) -> list[IntegerTensor]:
        """Inputs, outputs or nodes."""
        return [
            IntegerTensor(x["name"], tuple(x["shape"]), Grid(np.float32(x["scale"]), *x["grid"]))
            for x in self.model[key]
        ]


def _comment(key: str, value: object) -> str:
    """JSON in a C comment that it cannot end."""
    text = json.dumps(value).replace("*", "\\u002a").replace("?", "\\u003f")
    return f"/* {key}: {text} */\n"


def _sealed(source: str, metadata: Mapping[str, str], header: bytes) -> bytes:
    content = (source + _comment(METADATA, dict(metadata))).encode()
    digest = hashlib.sha256(content + header).hexdigest()
    return content + _comment(DIGEST, digest).encode()


def _load(path: str | Path) -> _File:
    """A file and its header, whose content is what was written."""
    path = Path(path)
    header_path = path.with_suffix(".h")
    contents = []
    for one in (path, header_path):
        try:
            contents.append(one.read_bytes())
        except OSError as error:
            raise QatError(
                f"{one}: cannot be read ({error.strerror}); give an exported .c file, with the .h file beside it"
            ) from None
    content, header = contents
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
    model = source.splitlines()[-1]
    return _File(source.decode(), header, _parsed(model, MODEL), _parsed(metadata.strip(), METADATA))


def _parsed(line: bytes, key: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(line.decode().removeprefix(f"/* {key}: ").removesuffix(" */"))
    return parsed


# -- running ----------------------------------------------------------------------------------------------------------


def _compiler() -> list[str]:
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(command[0]) is None:
        where = "$CC" if os.environ.get("CC") else "the C compiler"
        raise QatError(
            f"{command[0]}: {where} is not found, which compiles an exported .c file to run it here; install one (apt-get "
            "install gcc) or set CC to one, or export with --no_verify"
        )
    return command


def _options() -> list[str]:
    return [*OPTIONS, *shlex.split(os.environ.get("CFLAGS", ""))]


def _compute(
    path: str | Path, pixels: Arrays, dtypes: Sequence[Any], tensors: Sequence[IntegerTensor], *define: str
) -> dict[int, Array]:
    """What the compiled program writes, (N, ...) for each of the tensors by position."""
    path = Path(path).resolve()
    file = _load(path)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program"
        main = f"-D{file.model['name'].upper()}_MAIN"
        command = [*_compiler(), *_options(), main, *define, "-x", "c", str(path), "-o", str(program)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or [""]
            raise QatError(
                f"{path}: {command[0]} cannot compile it ({lines[0].strip()}); look at $CC and $CFLAGS, or export it anew"
            )

        def run(batch: tuple[Array, ...]) -> dict[int, Array]:
            stored = [x.transpose(0, 2, 3, 1) if x.ndim == 4 else x for x in batch]
            samples = np.concatenate([x.reshape(len(x), -1) for x in stored], axis=1).tobytes()
            try:
                done = subprocess.run([program], input=samples, capture_output=True, check=False)
            except OSError as error:
                raise QatError(
                    f"{path}: what {command[0]} made of it does not run here ({error.strerror}); set CC to a compiler for this "
                    "machine"
                ) from None
            sizes = [prod(x.shape) * len(batch[0]) for x in tensors]
            if done.returncode or len(done.stdout) != sum(sizes):
                said = done.stderr.decode(errors="replace").splitlines() or [""]
                raise QatError(
                    f"{path}: the compiled program ended with status {done.returncode} and {len(done.stdout)} bytes where "
                    f"{sum(sizes)} were due ({said[0]}); export it anew"
                )
            codes = np.frombuffer(done.stdout, np.uint8).reshape(len(batch[0]), -1)
            ends = np.cumsum([prod(x.shape) for x in tensors])[:-1]
            parts = np.split(codes, ends, axis=1)
            return {
                i: np.ascontiguousarray(part).view(dtype).reshape(-1, *x.shape)
                for i, (part, dtype, x) in enumerate(zip(parts, dtypes, tensors, strict=True))
            }

        return in_batches(run, pixels, [x.shape for x in file.tensors("inputs")], BATCH, str(path))


# -- names and numbers ------------------------------------------------------------------------------------------------


def _plain(name: str) -> str:
    """A name as part of a C identifier."""
    return re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "node"


def _identifier(path: Path) -> str:
    """The name that the file's functions and constants begin with, from the file's own."""
    name = _plain(path.stem).lower()
    return f"net_{name}" if name[0].isdigit() else name


def _lines(values: Sequence[int] | Array, indent: str = "    ") -> str:
    """Numbers separated by commas, in lines."""
    lines, line = [], indent
    for value in np.asarray(values).ravel().tolist():
        text = f"{value},"
        if len(line) + len(text) > WIDTH:
            lines.append(line.rstrip())
            line = indent
        line += text + " "
    return "\n".join([*lines, line.rstrip()])


def _dimensions(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def _stored_shape(shape: Shape) -> Shape:
    """(C, H, W) is stored as (H, W, C)."""
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


# -- writing ----------------------------------------------------------------------------------------------------------


class _Writer:
    """Writes the nodes of a graph one after another, as one function each.

    sources, steps: the functions, and the calls of ``run``. buffers: what the arena holds; the scratch memory of a node is
    "<node> scratch". A Flatten whose users are all dense layers only renames its input, whose HWC order those layers'
    weights follow.
    """

    def __init__(self, graph: IntegerGraph, name: str) -> None:
        self.graph, self.name, self.upper = graph, name, name.upper()
        self.used: set[str] = set()
        self.constant_bytes = 0
        self.sources: list[str] = []
        self.index = {node.name: i for i, node in enumerate(graph.nodes)}
        users: dict[str, list[IntegerNode]] = {node.name: [] for node in graph.nodes}
        for node in graph.nodes:
            for x in node.inputs:
                users[x.name].append(node)
        outputs = {x.name for x in graph.outputs}
        #: Flattens that only rename: their source, and the (C, H, W) in whose HWC order they are.
        self.renamed: dict[str, str] = {}
        self.hwc: dict[str, Shape] = {}
        for node in graph.nodes:
            if not isinstance(node, IntegerFlatten):
                continue
            (x,) = node.inputs
            same = len(x.shape) < 3 or x.shape[0] == 1 or x.shape[1:] == (1, 1)
            dense = node.name not in outputs and all(isinstance(user, IntegerDense) for user in users[node.name])
            if x.name in self.hwc and not dense:
                continue
            if same or dense:
                self.renamed[node.name] = self.renamed.get(x.name, x.name)
                if x.name in self.hwc:
                    self.hwc[node.name] = self.hwc[x.name]
                elif not same:
                    self.hwc[node.name] = x.shape
        #: Inputs whose codes are what the caller gives, so that they are read where they lie.
        self.direct = {x.name for x in graph.inputs if x.grid.qmin == 0}
        self.plan = self._plan()

    # -- memory

    def _plan(self) -> MemoryPlan:
        """Places of all buffers.

        Words are read past the end of rows, which the arena has room for and a caller's image may not. So an image whose
        reader would do so is copied into the arena, where that makes the arena no larger, and is gathered elsewhere.
        """
        linear = [node for node in self.graph.nodes if isinstance(node, IntegerLinear)]
        read = {self._source(node) for node in linear if self._in_rows(node) and not self._reads_rows(node)}
        overread = read & self.direct
        direct = self.direct
        plain = plan_memory(self._buffers())
        if overread:
            self.direct = direct - overread
            copied = plan_memory(self._buffers())
            if copied.size <= plain.size:
                return copied
            self.direct = direct
        return plain

    def _buffers(self) -> list[Buffer]:
        activations = activation_buffers(self.graph, self.renamed)
        buffers = [buffer for name, buffer in activations.items() if name not in self.direct]
        for i, node in enumerate(self.graph.nodes):
            size = self._scratch(node)
            if size:
                buffers.append(Buffer(f"{node.name} scratch", size, i, i))
        return buffers

    def _scratch(self, node: IntegerNode) -> int:
        """Bytes that a node needs while it runs."""
        if isinstance(node, IntegerMaxPool2d):
            return node.inputs[0].shape[0] * node.inputs[0].shape[2]
        if isinstance(node, IntegerConv2d) and not self._depthwise(node) and not self._reads_rows(node):
            if self._has_rows(node):
                return node.weight.shape[2] * self._padded_row(node)
            return self._together(node) * _quads(prod(node.weight.shape[1:])) * 4
        if isinstance(node, IntegerDense) and not self._reads_rows(node):
            return _quads(node.weight.shape[1]) * 4
        return 0

    @staticmethod
    def _depthwise(node: IntegerConv2d) -> bool:
        return node.group == node.inputs[0].shape[0] == len(node.weight) > 1

    @staticmethod
    def _has_rows(node: IntegerLinear) -> bool:
        """True where a window has the bytes of each of its rows beside one another."""
        if isinstance(node, IntegerConv2d):
            return node.group == 1 and (node.dilation[1] == 1 or node.weight.shape[3] == 1)
        return True

    @staticmethod
    def _run(node: IntegerLinear) -> int:
        """How many bytes these are."""
        return node.weight.shape[1] * (node.weight.shape[3] if isinstance(node, IntegerConv2d) else 1)

    @staticmethod
    def _padded_row(node: IntegerConv2d) -> int:
        """Bytes of a row of the input between its padding."""
        channels, _, width = node.inputs[0].shape
        return (node.padding[2] + width + node.padding[3]) * channels

    def _in_rows(self, node: IntegerLinear) -> bool:
        """True where the weights could meet the input where it lies."""
        return self._has_rows(node) and not (isinstance(node, IntegerConv2d) and any(node.padding))

    def _reads_rows(self, node: IntegerLinear) -> bool:
        """True where they do: not a single byte past a caller's image is read."""
        return self._in_rows(node) and (self._run(node) % 4 == 0 or self._source(node) not in self.direct)

    def _source(self, node: IntegerNode) -> str:
        """The tensor where a node's first input lies."""
        name = node.inputs[0].name
        return self.renamed.get(name, name)

    def _together(self, node: IntegerConv2d) -> int:
        """How many neighbouring outputs are computed at once."""
        return min(4, self._outputs(node)[1])

    def _outputs(self, node: IntegerConv2d) -> tuple[int, int]:
        """Rows and columns of the output; a point-wise convolution sees one row of all pixels."""
        _, height, width = node.output.shape
        point = node.weight.shape[2:] == (1, 1) and node.stride == (1, 1) and self._reads_rows(node)
        return (1, height * width) if point else (height, width)

    def place(self, name: str) -> str:
        """The C expression of where a tensor, or scratch memory, lies."""
        name = self.renamed.get(name, name)
        if name in self.direct:
            return self._input_name(name)
        return f"arena + {self.plan.offsets[name]}"

    def _input_name(self, name: str) -> str:
        return "pixels" if len(self.graph.inputs) == 1 else f"pixels_{_plain(name)}"

    def _output_names(self) -> list[str]:
        if len(self.graph.outputs) == 1:
            return ["codes"]
        return [f"codes{i}_{_plain(x.name)}" for i, x in enumerate(self.graph.outputs)]

    # -- text

    def function(self, node: IntegerNode) -> str:
        """The name of a node's function."""
        return f"node{self.index[node.name]}_{_plain(node.name)}"

    def array(self, kind: str, name: str, values: Array) -> str:
        """A constant."""
        self.constant_bytes += values.size * {"int8_t": 1, "uint8_t": 1, "int16_t": 2}.get(kind, 4)
        return f"static const {kind} {name}[{values.size}] = {{\n{_lines(values)}\n}};\n"

    def define(self, node: IntegerNode, what: str, constants: Sequence[str], body: str, *, inputs: int = 1) -> None:
        """Append the function of a node."""
        xs = ["x"] if inputs == 1 else [f"x{i}" for i in range(inputs)]
        parameters = [f"const uint8_t *{x}" for x in xs] + ["uint8_t *restrict y"]
        if self._scratch(node):
            parameters.append("uint8_t *restrict scratch")
        head = f"/* {node.name}: {what} */\n".replace("?", "_")
        function = f"static void {self.function(node)}({', '.join(parameters)})\n{{\n{body.rstrip()}\n}}\n"
        self.sources.append(head + "".join(constants) + function)

    def call(self, node: IntegerNode) -> list[str]:
        """The statements of ``run`` that compute a node."""
        place = self.place(node.name)
        size = prod(node.output.shape)
        lines = []
        if isinstance(node, IntegerInput):
            source = self._input_name(node.name)
            if node.name not in self.direct:
                shift = node.output.grid.qmin
                copy = f"for (i = 0; i < {size}; i++)\n        (arena + {self.plan.offsets[node.name]})[i] = "
                copy += f"(uint8_t)({source}[i] - ({shift}));"
                plain = f"memcpy({place}, {source}, {size});"
                lines.append(plain if shift == 0 else copy)
        elif node.name not in self.renamed:
            arguments = [*(self.place(x.name) for x in node.inputs), place]
            if self._scratch(node):
                arguments.append(self.place(f"{node.name} scratch"))
            lines.append(f"{self.function(node)}({', '.join(arguments)});")
        return [*lines, f"TRACED({place}, {size});"]

    def leave(self, x: IntegerTensor, name: str) -> list[str]:
        """The statements of ``run`` that hand an output over, in canonical (CHW) order."""
        place, size, kind = self.place(x.name), prod(x.shape), _ctype(x)
        add = f" + ({x.grid.qmin})" if x.grid.qmin else ""
        if len(x.shape) == 3 and x.shape[0] > 1 and x.shape[1:] != (1, 1):
            pixels = prod(x.shape[1:])
            return [
                f"for (c = 0; c < {x.shape[0]}; c++)",
                f"    for (i = 0; i < {pixels}; i++)",
                f"        {name}[c * {pixels} + i] = ({kind})(({place})[i * {x.shape[0]} + c]{add});",
            ]
        if not add:
            return [f"memcpy({name}, {place}, {size});"]
        return [f"for (i = 0; i < {size}; i++)", f"    {name}[i] = ({kind})(({place})[i]{add});"]

    def files(self, header_name: str) -> tuple[str, str]:
        """The text of the .c file, up to its metadata, and that of the .h file."""
        for node in self.graph.nodes:
            if not isinstance(node, IntegerInput) and node.name not in self.renamed:
                self.add(node)
        parameters = [f"const {_ctype(x)} *{self._input_name(x.name)}" for x in self.graph.inputs]
        names = self._output_names()
        parameters += [f"{_ctype(x)} *{name}" for x, name in zip(self.graph.outputs, names, strict=True)]
        signature = f"void {self.name}_run({', '.join(parameters)})"
        steps = [line for node in self.graph.nodes for line in self.call(node)]
        for x, name in zip(self.graph.outputs, names, strict=True):
            steps += self.leave(x, name)
        arena = self.plan.size + 4  # words are read up to three bytes past a buffer's end
        text = [
            f"/* {self._title()}: see {header_name}. Written by qat export; do not change it. */\n",
            f'#include "{header_name}"\n',
            c_kernels.HEAD,
            f"#ifdef {self.upper}_TRACE\n#include <stdio.h>\n#define TRACED(codes, bytes) fwrite(codes, 1, bytes, stdout)\n"
            "#else\n#define TRACED(codes, bytes) ((void)0)\n#endif\n",
            "/* All activations; those that are never needed together share their bytes. An int32_t for its alignment. */\n"
            f"static int32_t memory[{self.upper}_ARENA_BYTES / 4];\n",
        ]
        kernels = ["REQUANTIZE", "FINISH", "MULTIPLY", "CORRECT", "SOFTMAX"]
        text += [getattr(c_kernels, kernel) for kernel in kernels if kernel in self.used]
        text += self.sources
        used = "\n".join(line for line in steps if not line.startswith("TRACED"))
        unused = [name for x in self.graph.inputs if not re.search(rf"\b{(name := self._input_name(x.name))}\b", used)]
        body = [f"    {line}\n" for line in [*(f"(void){name};" for name in unused), *steps]]
        counters = [x for x in "ic" if any(f"for ({x} =" in line for line in steps)]
        counter = f"    int32_t {', '.join(counters)};\n" if counters else ""
        uses_arena = any("arena" in line for line in steps)
        start = "    uint8_t *const arena = (uint8_t *)memory;\n" if uses_arena else "    (void)memory;\n"
        text.append(f"{signature}\n{{\n{start}{counter}{''.join(body)}}}\n")
        text.append(self._main(names))
        model = {
            "name": self.name,
            "inputs": [self._described(x) for x in self.graph.inputs],
            "outputs": [self._described(x) for x in self.graph.outputs],
            "nodes": [self._described(node.output) for node in self.graph.nodes],
        }
        return "\n".join(text) + _comment(MODEL, model), self._header(signature, arena)

    def _title(self) -> str:
        return f"{_plain(self.graph.name)}, quantized"

    def _described(self, x: IntegerTensor) -> dict[str, Any]:
        grid = x.grid
        stored = _stored_shape(self.hwc.get(x.name, x.shape))
        return {
            "name": x.name,
            "shape": x.shape,
            "stored": stored,
            "scale": float(grid.scale),
            "grid": [grid.zero_point, grid.qmin, grid.qmax],
        }

    def _header(self, signature: str, arena: int) -> str:
        guard = f"{self.upper}_H"
        lines = []
        several = {"INPUT": len(self.graph.inputs) > 1, "OUTPUT": len(self.graph.outputs) > 1}
        for kind, tensors in (("INPUT", self.graph.inputs), ("OUTPUT", self.graph.outputs)):
            for i, x in enumerate(tensors):
                key = f"{self.upper}_{kind}{i if several[kind] else ''}"
                lines.append(f"/* {x.name}: {_dimensions(x.shape)} */".replace("?", "_"))
                sides = zip(("CHANNELS", "HEIGHT", "WIDTH"), x.shape, strict=False)
                lines += [f"#define {key}_{side} {n}" for side, n in sides] if len(x.shape) == 3 else []
                lines.append(f"#define {key}_SIZE {prod(x.shape)} /* bytes */")
                lines.append(f"#define {key}_SCALE {float(x.grid.scale)!r}f")
                lines.append(f"#define {key}_ZERO_POINT ({x.grid.zero_point})")
        image = "rows from the top, the channels of a pixel beside one another (HWC)"
        return f"""\
/* {self._title()}. Written by qat export; do not change it.
 *
 * {self.name}_run computes one sample. Inputs: raw pixels, {image}.
 * Outputs: codes, the number (code - ZERO_POINT) * SCALE each, in the order of channels, rows, columns (CHW).
 * It uses static memory and a little stack, no heap and no floating point; only one call may run at a time.
 */
#ifndef {guard}
#define {guard}

#include <stdint.h>

{chr(10).join(lines)}

#define {self.upper}_CONSTANT_BYTES {self.constant_bytes} /* weights and tables, in flash; code comes on top */
#define {self.upper}_ARENA_BYTES {arena} /* activations, in RAM, static */

#ifdef __cplusplus
extern "C" {{
#endif

{signature};

#ifdef __cplusplus
}}
#endif

#endif
"""

    def _main(self, outputs: Sequence[str]) -> str:
        buffers, read, write = [], [], []
        names = [self._input_name(x.name) for x in self.graph.inputs]
        for name, x in zip(names, self.graph.inputs, strict=True):
            buffers.append(f"    static {_ctype(x)} {name}[{prod(x.shape)}];")
            read += [f"        if (fread({name}, 1, sizeof {name}, from) != sizeof {name})", "            break;"]
        for name, x in zip(outputs, self.graph.outputs, strict=True):
            buffers.append(f"    static {_ctype(x)} {name}[{prod(x.shape)}];")
            write.append(f"        fwrite({name}, 1, sizeof {name}, to);")
        return c_kernels.MAIN.format(
            NAME=self.upper,
            NAME_LOWER=self.name,
            BUFFERS="\n".join(buffers),
            READ="\n".join(read),
            WRITE="\n".join(write),
            ARGUMENTS=", ".join([*names, *outputs]),
        )

    # -- nodes

    @singledispatchmethod
    def add(self, node: IntegerNode) -> None:
        """Append what computes a node."""
        raise QatError(f"{node.name}: the C target has no form of {type(node).__name__}")

    def _scaling(self, node: IntegerLinear, bias: Array) -> tuple[list[str], str]:
        """The constants that make codes of a layer's sums, and their name."""
        self.used |= {"REQUANTIZE", "FINISH"}
        name, grid, fixed = self.function(node), node.output.grid, node.fixed
        outputs = len(bias)
        multiplier, shift = (np.broadcast_to(x, outputs).astype(np.int64) for x in fixed)
        wrapped = (bias & 0xFFFFFFFF).astype(np.uint32).view(np.int32)  # sums are formed modulo 2^32
        constants = [
            self.array("int32_t", f"{name}_bias", wrapped).replace("-2147483648,", "-2147483647 - 1,"),
            self.array("int32_t", f"{name}_multiplier", multiplier),
            self.array("uint8_t", f"{name}_right", np.maximum(-shift, 0)),
        ]
        left = "0"
        if (shift > 0).any():
            left = f"{name}_left"
            constants.append(self.array("uint8_t", left, np.maximum(shift, 0)))
        zero = grid.zero_point - grid.qmin
        low, high = node.requantize.low + zero, node.requantize.high + zero
        constants.append(
            f"static const Scaling {name}_scaling = {{\n    {name}_bias, {name}_multiplier, {left}, {name}_right, "
            f"{zero}, {low}, {high},\n}};\n"
        )
        return constants, f"&{name}_scaling"

    def _weights(self, node: IntegerLinear, weight: Array, groups: int) -> tuple[list[str], Array, bool]:
        """The weights as bytes in blocks, and the correction of those that do not fit.

        weight: centred, (O, R, K): R rows of K inputs. Returns the constants, the folded bias, and whether sums need
        the correction.
        """
        self.used.add("MULTIPLY")
        name, grid = self.function(node), node.inputs[0].grid
        outputs, rows, inputs = weight.shape
        off = _excess(weight.reshape(outputs, -1))
        stored = np.zeros((outputs, rows, _quads(inputs) * 4), np.int64)
        stored[:, :, :inputs] = weight - off[:, None, None]
        quads = stored.reshape(outputs, -1, 4)
        per_group = outputs // groups
        blocks = [
            quads[group * per_group + first : group * per_group + min(first + BLOCK, per_group)]
            .transpose(1, 0, 2)
            .ravel()
            for group in range(groups)
            for first in range(0, per_group, BLOCK)
        ]
        constants = [self.array("int8_t", f"{name}_weight", np.concatenate(blocks))]
        if off.any():
            self.used.add("CORRECT")
            constants.append(self.array("int16_t", f"{name}_excess", off))
        zero = grid.zero_point - grid.qmin
        bias = node.bias.astype(np.int64) - zero * weight.reshape(outputs, -1).sum(axis=1, dtype=np.int64)
        return constants, bias, bool(off.any())

    @add.register
    def _(self, node: IntegerConv2d) -> None:
        if self._depthwise(node):
            self._add_depthwise(node)
        else:
            self._add_convolution(node)

    def _add_convolution(self, node: IntegerConv2d) -> None:
        channels, height, width = node.inputs[0].shape
        outputs, _, kh, _ = node.weight.shape
        (sh, sw), dh = node.stride, node.dilation[0]
        top, _, left, _ = node.padding
        weight = node.centred_weight.transpose(0, 2, 3, 1)  # to (O, kh, kw, I)
        in_place, by_rows = self._reads_rows(node), self._has_rows(node)
        weight = weight.reshape(outputs, kh, -1) if by_rows else weight.reshape(outputs, 1, -1)
        constants, bias, corrected = self._weights(node, weight, node.group)
        scaling_constants, scaling = self._scaling(node, bias)
        name, per_group = self.function(node), outputs // node.group
        rows, columns = self._outputs(node)
        if rows == 1 and columns > node.output.shape[2]:
            height, width = 1, height * width
        together = self._together(node)
        run = weight.shape[2]
        quads = _quads(run)
        stride, pitch = (sw * channels, dh * width * channels) if by_rows else (quads * 4, 0)
        body = ["    int32_t sums[4 * BLOCK];", "    int32_t row, column, first, p;"]
        indent = "    "
        if node.group > 1:
            body[-1] = "    int32_t group, row, column, first, p;"
            body.append(f"    for (group = 0; group < {node.group}; group++)")
            indent += "    "
        body.append(f"{indent}for (row = 0; row < {rows}; row++) {{")
        if by_rows and not in_place:
            pitch = self._padded_row(node)
            body += [f"{indent}    {line}" for line in self._band(node)]
        body.append(f"{indent}    for (column = 0; column < {columns}; column += {together}) {{")
        i = indent + "        "
        if columns % together:
            body.append(f"{i}/* The last ones overlap those before them. */")
            body.append(f"{i}const int32_t begin = column < {columns - together} ? column : {columns - together};")
        else:
            body.append(f"{i}const int32_t begin = column;")
        group = f"group * {per_group} + " if node.group > 1 else ""
        if in_place:
            body.append(f"{i}const uint8_t *from = x + row * {sh * width * channels} + begin * {stride};")
        elif by_rows:
            body.append(f"{i}const uint8_t *from = scratch + begin * {stride};")
        else:
            body.append(f"{i}const uint8_t *from = scratch;")
            body += [i + line for line in self._gather(node, (height, width), (top, left), quads * 4)]
        base = f"{name}_weight"
        if node.group > 1:
            base += f" + group * {per_group * weight.shape[1] * quads * 4}"
        body.append(f"{i}for (first = 0; first < {per_group}; first += BLOCK) {{")
        if per_group % BLOCK == 0 or per_group < BLOCK:
            count = str(min(BLOCK, per_group))
        else:
            body.append(f"{i}    const int32_t outputs = {per_group} - first < BLOCK ? {per_group} - first : BLOCK;")
            count = "outputs"
        rows_of = weight.shape[1]
        body.append(
            f"{i}    multiply(from, {stride}, {together}, {rows_of}, {pitch}, {quads}, "
            f"{base} + first * {rows_of * quads * 4}, {count}, sums);"
        )
        body.append(f"{i}    for (p = 0; p < {together}; p++) {{")
        if corrected:
            body.append(
                f"{i}        correct(from + p * {stride}, {rows_of}, {pitch}, {run}, "
                f"{name}_excess + {group}first, {count}, sums + p * BLOCK);"
            )
        body.append(
            f"{i}        finish(sums + p * BLOCK, {scaling}, {group}first, {count}, "
            f"y + (row * {columns} + begin + p) * {outputs} + {group}first);"
        )
        body += [f"{i}    }}", f"{i}}}", f"{indent}    }}", f"{indent}}}"]
        self.define(node, self._kind(node), [*constants, *scaling_constants], "\n".join(body))

    def _kind(self, node: IntegerConv2d) -> str:
        """What a convolution is, in words."""
        words = [f"convolution {_dimensions(node.weight.shape[2:])}"]
        words += [f"stride {_dimensions(node.stride)}"] if node.stride != (1, 1) else []
        words += [f"dilation {_dimensions(node.dilation)}"] if node.dilation != (1, 1) else []
        words += [f"padding {node.padding}"] if any(node.padding) else []
        words += [f"{node.group} groups"] if node.group > 1 else []
        return f"{_dimensions(node.inputs[0].shape)} to {_dimensions(node.output.shape)}, {', '.join(words)}"

    def _band(self, node: IntegerConv2d) -> list[str]:
        """Statements that copy the rows below the windows of one row of outputs into scratch memory, padding around."""
        channels, height, width = node.inputs[0].shape
        top, bottom, left, right = node.padding
        pitch = self._padded_row(node)
        zero = node.inputs[0].grid.zero_point - node.inputs[0].grid.qmin
        copy = [f"memset(to, {zero}, {left * channels});"] if left else []
        to = f"to + {left * channels}" if left else "to"
        copy.append(f"memcpy({to}, x + yi * {width * channels}, {width * channels});")
        copy += [f"memset(to + {(left + width) * channels}, {zero}, {right * channels});"] if right else []
        lines = [
            "int32_t i;",
            f"for (i = 0; i < {node.weight.shape[2]}; i++) {{",
            f"    const int32_t yi = row * {node.stride[0]} - {top} + i * {node.dilation[0]};",
            f"    uint8_t *to = scratch + i * {pitch};",
        ]
        if top or bottom:
            lines.append(f"    if (yi < 0 || yi >= {height}) {{")
            lines += [f"        memset(to, {zero}, {pitch});", "        continue;", "    }"]
        return [*lines, *(f"    {line}" for line in copy), "}"]

    def _gather(self, node: IntegerConv2d, size: tuple[int, int], corner: tuple[int, int], pitch: int) -> list[str]:
        """Statements that copy the windows of the neighbouring outputs into scratch memory, one after another."""
        (height, width), (top, left) = size, corner
        channels = node.inputs[0].shape[0]
        _, own, kh, kw = node.weight.shape
        (sh, sw), (dh, dw) = node.stride, node.dilation
        zero = node.inputs[0].grid.zero_point - node.inputs[0].grid.qmin
        channel = f" + group * {own}" if node.group > 1 else ""
        lines = [
            f"for (p = 0; p < {self._together(node)}; p++) {{",
            f"    const int32_t y0 = row * {sh} - {top}, x0 = (begin + p) * {sw} - {left};",
            f"    uint8_t *to = scratch + p * {pitch};",
            "    int32_t i, j;",
        ]
        inside = [
            f"for (i = 0; i < {kh}; i++)",
            f"    for (j = 0; j < {kw}; j++, to += {own})",
            f"        memcpy(to, x + ((y0 + i * {dh}) * {width} + x0 + j * {dw}) * {channels}{channel}, {own});",
        ]
        if not any(node.padding):
            return [*lines, *(f"    {line}" for line in inside), "}"]
        reach_y, reach_x = dh * (kh - 1) + 1, dw * (kw - 1) + 1
        lines.append(
            f"    if (y0 >= 0 && y0 <= {height - reach_y} && x0 >= 0 && x0 <= {width - reach_x}) {{ /* no padding */"
        )
        lines += [f"        {line}" for line in inside]
        lines += [
            "        continue;",
            "    }",
            f"    for (i = 0; i < {kh}; i++)",
            f"        for (j = 0; j < {kw}; j++, to += {own}) {{",
            f"            const int32_t yi = y0 + i * {dh}, xj = x0 + j * {dw};",
            f"            if (yi >= 0 && yi < {height} && xj >= 0 && xj < {width})",
            f"                memcpy(to, x + (yi * {width} + xj) * {channels}{channel}, {own});",
            "            else",
            f"                memset(to, {zero}, {own});",
            "        }",
            "}",
        ]
        return lines

    def _add_depthwise(self, node: IntegerConv2d) -> None:
        """Channel by channel; products of centred codes, so that padding is left out."""
        channels, height, width = node.inputs[0].shape
        _, out_height, out_width = node.output.shape
        _, _, kh, kw = node.weight.shape
        (sh, sw), (dh, dw) = node.stride, node.dilation
        top, _, left, _ = node.padding
        name, weight = self.function(node), node.centred_weight
        off = _excess(weight.reshape(channels, -1))
        stored = (weight.reshape(channels, -1) - off[:, None]).T
        constants = [self.array("int8_t", f"{name}_weight", stored)]
        if off.any():
            constants.append(self.array("int16_t", f"{name}_excess", off))
        scaling_constants, scaling = self._scaling(node, node.bias.astype(np.int64))
        zero = node.inputs[0].grid.zero_point - node.inputs[0].grid.qmin
        count = str(min(BLOCK, channels))
        blocks = []
        if channels > BLOCK and channels % BLOCK:
            blocks = [f"const int32_t outputs = {channels} - first < BLOCK ? {channels} - first : BLOCK;"]
            count = "outputs"
        factor = f"(w[c] + {name}_excess[first + c])" if off.any() else "w[c]"
        skip_row, skip_column = [], []
        if any(node.padding):
            skip_row = [f"                if (yi < 0 || yi >= {height})", "                    continue;"]
            skip_column = [f"                    if (xj < 0 || xj >= {width})", "                        continue;"]
        body = [
            "    int32_t row, column, first, i, j, c;",
            f"    for (row = 0; row < {out_height}; row++)",
            f"        for (column = 0; column < {out_width}; column++, y += {channels})",
            f"            for (first = 0; first < {channels}; first += BLOCK) {{",
            *(f"                {line}" for line in blocks),
            "                int32_t sums[BLOCK] = {0};",
            f"                for (i = 0; i < {kh}; i++) {{",
            f"                const int32_t yi = row * {sh} - {top} + i * {dh};",
            *skip_row,
            f"                for (j = 0; j < {kw}; j++) {{",
            f"                    const int32_t xj = column * {sw} - {left} + j * {dw};",
            f"                    const uint8_t *from = x + (yi * {width} + xj) * {channels} + first;",
            f"                    const int8_t *w = {name}_weight + (i * {kw} + j) * {channels} + first;",
            *skip_column,
            f"                    for (c = 0; c < {count}; c++)",
            f"                        sums[c] += (from[c] - {zero}) * {factor};",
            "                }",
            "                }",
            f"                finish(sums, {scaling}, first, {count}, y + first);",
            "            }",
        ]
        self.define(node, self._kind(node), [*constants, *scaling_constants], "\n".join(body))

    @add.register
    def _(self, node: IntegerDense) -> None:
        weight = node.centred_weight
        shape = self.hwc.get(node.inputs[0].name)
        if shape is not None:
            weight = weight.reshape(-1, *shape).transpose(0, 2, 3, 1)
        outputs, inputs = len(weight), node.weight.shape[1]
        constants, bias, corrected = self._weights(node, weight.reshape(outputs, 1, inputs), 1)
        scaling_constants, scaling = self._scaling(node, bias)
        name, quads = self.function(node), _quads(inputs)
        body = ["    int32_t sums[BLOCK];", "    int32_t first;"]
        source = "x"
        if self._scratch(node):
            source = "scratch"
            body.append(f"    memcpy(scratch, x, {inputs});")
        body.append(f"    for (first = 0; first < {outputs}; first += BLOCK) {{")
        count = str(min(BLOCK, outputs))
        if outputs > BLOCK and outputs % BLOCK:
            body.append(f"        const int32_t outputs = {outputs} - first < BLOCK ? {outputs} - first : BLOCK;")
            count = "outputs"
        body.append(
            f"        multiply({source}, 0, 1, 1, 0, {quads}, {name}_weight + first * {quads * 4}, {count}, sums);"
        )
        if corrected:
            body.append(f"        correct({source}, 1, 0, {inputs}, {name}_excess + first, {count}, sums);")
        body += [f"        finish(sums, {scaling}, first, {count}, y + first);", "    }"]
        self.define(node, f"dense, {inputs} to {outputs}", [*constants, *scaling_constants], "\n".join(body))

    @add.register
    def _(self, node: IntegerMaxPool2d) -> None:
        """The largest of each column of a window first: whole rows, which compilers vectorise; then of these."""
        channels, height, width = node.inputs[0].shape
        _, out_height, out_width = node.output.shape
        (kh, kw), (sh, sw), (top, bottom, left, right) = node.kernel, node.stride, node.padding
        line = width * channels
        end_y, end_x = str(kh), str(kw)
        begin = {"y": f"row * {sh}", "x": f"column * {sw}"}
        clipped = []
        if top or bottom or left or right:
            clipped = [
                f"const int32_t above = row * {sh} - {top}, y0 = above < 0 ? 0 : above;",
                f"const int32_t rows = (above + {kh} > {height} ? {height} : above + {kh}) - y0;",
            ]
            begin, end_y, end_x = {"y": "y0", "x": "x0"}, "rows", "columns"
        body = ["    int32_t row, column, i, j;", f"    for (row = 0; row < {out_height}; row++) {{"]
        body += [f"        {x}" for x in clipped]
        body += [
            f"        const uint8_t *from = x + {begin['y']} * {line};",
            f"        memcpy(scratch, from, {line});",
            f"        for (i = 1; i < {end_y}; i++) {{",
            f"            from += {line};",
            f"            for (j = 0; j < {line}; j++)",
            "                scratch[j] = from[j] > scratch[j] ? from[j] : scratch[j];",
            "        }",
            f"        for (column = 0; column < {out_width}; column++, y += {channels}) {{",
        ]
        if clipped:
            body += [
                f"            const int32_t before = column * {sw} - {left}, x0 = before < 0 ? 0 : before;",
                f"            const int32_t columns = (before + {kw} > {width} ? {width} : before + {kw}) - x0;",
            ]
        body += [
            f"            const uint8_t *at = scratch + {begin['x']} * {channels};",
            f"            for (j = 0; j < {channels}; j++) {{",
            "                uint8_t largest = at[j];",
            f"                for (i = 1; i < {end_x}; i++)",
            f"                    largest = at[i * {channels} + j] > largest ? at[i * {channels} + j] : largest;",
            "                y[j] = largest;",
            "            }",
            "        }",
            "    }",
        ]
        what = f"{_dimensions(node.inputs[0].shape)} to {_dimensions(node.output.shape)}, max pooling {kh} x {kw}"
        self.define(node, what, [], "\n".join(body))

    @add.register
    def _(self, node: IntegerFlatten) -> None:
        channels, height, width = node.inputs[0].shape
        pixels = height * width
        body = f"""\
    int32_t c, i;
    for (c = 0; c < {channels}; c++)
        for (i = 0; i < {pixels}; i++)
            y[c * {pixels} + i] = x[i * {channels} + c];"""
        self.define(node, "to the order of channels, rows, columns", [], body)

    @add.register
    def _(self, node: IntegerAdd) -> None:
        self.used.add("REQUANTIZE")
        source, grid, size = node.inputs[0].grid, node.output.grid, prod(node.output.shape)
        (mx, rx), (my, ry) = ((int(x.multiplier[0]), -int(x.shift[0])) for x in node.fixed)
        zero = grid.zero_point - grid.qmin
        centre = source.zero_point - source.qmin
        low, high = node.requantize.low + zero, node.requantize.high + zero
        body = f"""\
    int32_t i;
    for (i = 0; i < {size}; i++) {{
        const int32_t a = requantize((x0[i] - {centre}) * ((int32_t)1 << {ADD_SHIFT}), {mx}, {rx});
        const int32_t b = requantize((x1[i] - {centre}) * ((int32_t)1 << {ADD_SHIFT}), {mx}, {rx});
        y[i] = clip(requantize(a + b, {my}, {ry}) + {zero}, {low}, {high});
    }}"""
        self.define(node, f"addition, {_dimensions(node.output.shape)}", [], body, inputs=2)

    @add.register
    def _(self, node: IntegerConcat) -> None:
        channels, pixels = node.output.shape[0], prod(node.output.shape[1:])
        body = ["    int32_t i;", f"    for (i = 0; i < {pixels}; i++, y += {channels}) {{"]
        first = 0
        for k, x in enumerate(node.inputs):
            body.append(f"        memcpy(y + {first}, x{k} + i * {x.shape[0]}, {x.shape[0]});")
            first += x.shape[0]
        what = f"concatenation to {_dimensions(node.output.shape)}"
        xs = len(node.inputs)
        text = "\n".join([*body, "    }"])
        if xs == 1:
            text = text.replace("x0 +", "x +")
        self.define(node, what, [], text, inputs=xs)

    @add.register
    def _(self, node: IntegerTable) -> None:
        name, grid = self.function(node), node.output.grid
        table = self.array("uint8_t", f"{name}_table", node.table + (grid.zero_point - grid.qmin))
        body = f"""\
    int32_t i;
    for (i = 0; i < {prod(node.output.shape)}; i++)
        y[i] = {name}_table[x[i]];"""
        self.define(node, f"a table for {_dimensions(node.output.shape)} codes", [table], body)

    @add.register
    def _(self, node: IntegerSoftmax) -> None:
        self.used.add("SOFTMAX")
        name, channels, pixels = self.function(node), node.output.shape[0], prod(node.output.shape[1:])
        table = self.array("uint32_t", f"{name}_table", node.table.astype(np.int64))
        body = f"""\
    int32_t i;
    for (i = 0; i < {pixels}; i++)
        softmax(x + i * {channels}, {channels}, {name}_table, y + i * {channels});"""
        self.define(node, f"softmax over {channels} channels", [table], body)


def _ctype(x: IntegerTensor) -> str:
    return f"{np.dtype(x.grid.dtype).name}_t"


def _quads(inputs: int) -> int:
    """Words of four that hold so many bytes."""
    return -(-inputs // 4)


def _excess(weight: Array) -> Array:
    """What has to be subtracted from each row of centred weights to make it fit into int8, (O,); mostly 0."""
    high, low = weight.max(axis=1), weight.min(axis=1)
    off: Array = np.maximum(high - 127, 0) + np.minimum(low + 128, 0)
    return off

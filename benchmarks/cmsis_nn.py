"""Our C beside CMSIS-NN on emulated Cortex-M processors: the same integers, compiler, options; instructions, counted exactly.

    git clone https://github.com/ARM-software/CMSIS-NN
    python benchmarks/cmsis_nn.py --cmsis CMSIS-NN

CMSIS-NN's program calls its functions one layer after another, with the weights, biases, multipliers and shifts of our file, as
TensorFlow Lite Micro would, but without an interpreter. What may be computed before the first inference, the sums of weights of
dense layers, are constants. It is given codes of int8, into which pixels were converted before. Exit status 1 where a code of
either differs from the fixed arithmetic's.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from cortex_m import add_network_arguments, networks

import qat
from qat.cli import run_script
from qat.console import print_table
from qat.errors import QatError
from qat.integer import (
    IntegerAdd,
    IntegerConv2d,
    IntegerDense,
    IntegerGraph,
    IntegerInput,
    IntegerLinear,
    IntegerMaxPool2d,
    IntegerNode,
    IntegerTensor,
)
from qat.integer.ends import METADATA, ends_of
from qat.integer.memory import MemoryPlan, activation_buffers, plan_memory
from qat.targets.c import file as c_file
from qat.targets.c.cortex_m.cores import CORES
from qat.targets.c.cortex_m.measure import OPTIONS, Measured, measure
from qat.targets.c.layout import Layout
from qat.targets.c.text import MODEL, comment, lines, plain, stored_shape
from qat.vocabulary.ops import Array

HEADER = """\
#include <stdint.h>
void network_run(const int8_t *input, int8_t *codes);
"""

#: {UNIT}: which of CMSIS-NN's kernels a processor has, which says how much memory they need. That is asked on the host.
SOURCE = """\
#include "network.h"
#include "arm_nnfunctions.h"
#include <stdio.h>
#ifdef NETWORK_TRACE
#define TRACED fwrite("", 1, 0, stdout)
#else
#define TRACED ((void)0)
#endif
#ifndef SCRATCH
#define SCRATCH 1
#endif
static int8_t arena[{ARENA}] __attribute__((aligned(16)));
static int8_t scratch[SCRATCH] __attribute__((aligned(16)));

{CONSTANTS}

void network_run(const int8_t *input, int8_t *codes)
{{
    cmsis_nn_context context = {{scratch, SCRATCH}};
    (void)context;
{CALLS}
}}

#ifdef UNIT
int main(void)
{{
    int32_t size, most = 1;
{SIZES}
    printf("%d\\n", (int)most);
    return 0;
}}
#endif
"""


class CmsisWriter:
    """The C of a graph that calls CMSIS-NN. A code c of a grid from qmin on is stored as the int8 c - qmin - 128."""

    def __init__(self, graph: IntegerGraph) -> None:
        self.graph, self.ends = graph, ends_of(graph, "int8", "int8")
        self.layout = Layout(graph, False, self.ends)
        (x,), (y,) = graph.inputs, graph.outputs
        self.plan = self._plan(x, y)
        self.places = {name: f"arena + {offset}" for name, offset in self.plan.offsets.items()}
        self.places |= {x.name: "input", self._root(y): "codes"}
        self.constants: list[str] = []
        self.calls: list[str] = []
        self.sizes: list[str] = []

    def _root(self, x: IntegerTensor) -> str:
        return self.layout.renamed.get(x.name, x.name)

    def _plan(self, x: IntegerTensor, y: IntegerTensor) -> MemoryPlan:
        buffers = activation_buffers(self.graph, self.layout.renamed)
        return plan_memory([b for name, b in buffers.items() if name not in (x.name, self._root(y))])

    def write(self, path: Path) -> None:
        """The file and its header, as ``export`` writes them."""
        for index, node in enumerate(self.graph.nodes):
            if node.name not in self.layout.renamed and not isinstance(node, IntegerInput):
                self._add(node, f"layer{index}_{plain(node.name)}")
            self.calls.append("    TRACED;")
        source = SOURCE.format(
            ARENA=max(self.plan.size, 1),
            CONSTANTS="\n".join(self.constants),
            CALLS="\n".join(self.calls),
            SIZES="\n".join(self.sizes),
        )
        tensors = {"inputs": self.graph.inputs, "outputs": self.graph.outputs}
        model = {key: [self._described(x) for x in own] for key, own in tensors.items()}
        nodes = [self._described(node.output) for node in self.graph.nodes]
        text = source + "\n" + comment(MODEL, {"name": "network", **model, "nodes": nodes})
        c_file.write(path, text, HEADER.encode(), {METADATA: self.ends.to_json()})

    @staticmethod
    def _described(x: IntegerTensor) -> dict[str, object]:
        grid = [x.grid.zero_point, x.grid.qmin, x.grid.qmax]
        return {
            "name": x.name,
            "shape": x.shape,
            "stored": stored_shape(x.shape),
            "scale": float(x.grid.scale),
            "grid": grid,
        }

    @staticmethod
    def _zero(x: IntegerTensor) -> int:
        return x.grid.zero_point - x.grid.qmin - 128

    def _constant(self, kind: str, name: str, *fields: object) -> str:
        """A structure of CMSIS-NN; fields that have several parts are tuples. Returns its address."""
        parts = (f"{{{', '.join(map(str, x))}}}" if isinstance(x, tuple) else str(x) for x in fields)
        self.constants.append(f"static const cmsis_nn_{kind} {name} = {{{', '.join(parts)}}};")
        return f"&{name}"

    def _array(self, name: str, values: Array, kind: str = "int32_t") -> str:
        self.constants.append(f"static const {kind} {name}[{values.size}] = {{\n{lines(values)}\n}};")
        return name

    def _image(self, name: str, x: IntegerTensor) -> str:
        channels, height, width = x.shape
        return self._constant("dims", name, 1, height, width, channels)

    def _bounds(self, node: Any) -> tuple[int, int]:
        zero = self._zero(node.output)
        return node.requantize.low + zero, node.requantize.high + zero

    def _add(self, node: IntegerNode, name: str) -> None:
        x, *others, y = (self.places[self._root(x)] for x in (*node.inputs, node.output))
        if isinstance(node, IntegerDense):
            call = self._dense(node, name, x, y)
        elif isinstance(node, IntegerConv2d):
            call = self._convolution(node, name, x, y)
        elif isinstance(node, IntegerMaxPool2d):
            (kh, kw), (sh, sw), (top, _, left, _) = node.kernel, node.stride, node.padding
            params = self._constant("pool_params", f"{name}_params", (sw, sh), (left, top), (-128, 127))
            window = self._constant("dims", f"{name}_window", 1, kh, kw, 1)
            dims = self._image(f"{name}_x", node.inputs[0]), self._image(f"{name}_y", node.output)
            call = f"arm_max_pool_s8(&context, {params}, {dims[0]}, {x}, {window}, {dims[1]}, {y})"
        elif isinstance(node, IntegerAdd) and len({x.shape for x in node.inputs}) == 1:
            one = (-self._zero(node.inputs[0]), *(x[0] for x in node.fixed.operand))
            total = (self._zero(node.output), *(x[0] for x in node.fixed.result))
            end = (y, *total, *self._bounds(node), prod(node.output.shape))
            call = f"arm_elementwise_add_s8({', '.join(map(str, (x, others[0], *one, *one, node.fixed.left, *end)))})"
        else:
            raise QatError(
                f"{node.name}: {node.kind} is computed here by no function of CMSIS-NN; leave this network out"
            )
        self.calls.append(f"    (void){call};")

    def _scaling(self, kind: str, node: IntegerLinear, name: str, *more: int) -> str:
        keys = ("multiplier", "shift")
        arrays = (np.broadcast_to(getattr(node.fixed, key), len(node.weight)) for key in keys)
        names = (self._array(f"{name}_{key}", values) for key, values in zip(keys, arrays, strict=True))
        return self._constant(kind, f"{name}_scaling", *(f"(int32_t *){array}" for array in names), *more)

    def _weight(self, node: IntegerLinear, name: str, values: Array) -> tuple[str, str, str]:
        """The arrays of weights and biases, and the biases' dimensions."""
        if values.min() < -128 or values.max() > 127:
            raise QatError(f"{node.name}: its weights are no int8, as CMSIS-NN needs them; leave this network out")
        arrays = self._array(f"{name}_weight", values, "int8_t"), self._array(f"{name}_bias", node.bias)
        return *arrays, self._constant("dims", f"{name}_biases", 1, 1, 1, len(node.bias))

    def _dense(self, node: IntegerDense, name: str, x: str, y: str) -> str:
        weight, offset = self.layout.ordered(node), -self._zero(node.inputs[0])
        outputs, inputs = weight.shape
        params = self._constant("fc_params", f"{name}_params", offset, 0, self._zero(node.output), self._bounds(node))
        scaling = self._scaling("quant_params", node, name, int(len(node.fixed.multiplier) > 1))
        kernel, bias, biases = self._weight(node, name, weight)
        self.calls.append(
            f"    context.buf = (void *){self._array(f'{name}_sums', weight.sum(axis=1) * offset + node.bias)};"
        )
        dims = [
            self._constant("dims", f"{name}_{key}", n, 1, 1, c)
            for key, n, c in (("x", 1, inputs), ("kernel", inputs, outputs), ("y", 1, outputs))
        ]
        arguments = (params, scaling, dims[0], x, dims[1], kernel, biases, bias, dims[2], y)
        return f"arm_fully_connected_wrapper_s8(&context, {', '.join(arguments)})"

    def _convolution(self, node: IntegerConv2d, name: str, x: str, y: str) -> str:
        (sh, sw), (top, _, left, _), (dh, dw) = node.stride, node.padding, node.dilation
        (channels, depth, kh, kw), weight = node.weight.shape, self.layout.ordered(node)
        depthwise = node.group == channels == node.inputs[0].shape[0] > 1
        kind, more = ("dw_conv_params", (1,)) if depthwise else ("conv_params", ())
        tiles = (sw, sh), (left, top), (dw, dh)
        offsets = -self._zero(node.inputs[0]), self._zero(node.output)
        params = self._constant(kind, f"{name}_params", *offsets, *more, *tiles, self._bounds(node))
        scaling = self._scaling("per_channel_quant_params", node, name)
        kernel, bias, biases = self._weight(node, name, weight.transpose(3, 1, 2, 0) if depthwise else weight)
        sides = (1, kh, kw, channels) if depthwise else (channels, kh, kw, depth)
        dims = [
            self._image(f"{name}_x", node.inputs[0]),
            self._constant("dims", f"{name}_kernel", *sides),
            self._image(f"{name}_y", node.output),
        ]
        function = f"arm_{'depthwise_conv' if depthwise else 'convolve'}_wrapper_s8"
        self.sizes += [
            f"    size = UNIT({function})({params}, {', '.join(dims)});",
            "    most = size > most ? size : most;",
        ]
        self.calls.append("    context.buf = scratch;")
        arguments = (params, scaling, dims[0], x, dims[1], kernel, biases, bias, dims[2], y)
        return f"{function}(&context, {', '.join(arguments)})"


class Cmsis:
    """CMSIS-NN, compiled for each core into a library once."""

    def __init__(self, folder: Path, built: Path) -> None:
        self.folder, self.built = folder.resolve(), built
        self.include = f"-I{self.folder / 'Include'}"
        source = self.folder / "Source"
        found = {*source.rglob("*_s8*.c"), *(source / "NNSupportFunctions").glob("*.c")}
        self.sources = sorted(x for x in found if not x.stem.endswith(("_f16", "_f32")))
        if not self.sources:
            raise QatError(
                f"{folder}: has no Source/ of CMSIS-NN; give --cmsis a clone of github.com/ARM-software/CMSIS-NN"
            )

    def library(self, core: str, options: Sequence[str]) -> Path:
        """The functions that our programs call, for a core."""
        path = self.built / core / "libcmsis-nn.a"
        if not path.exists():
            path.parent.mkdir()
            sections = ("-ffunction-sections", "-fdata-sections")
            command = [
                "arm-none-eabi-gcc",
                *OPTIONS,
                *CORES[core].options,
                *options,
                *sections,
                self.include,
                "-c",
                *self.sources,
            ]
            subprocess.run(command, cwd=path.parent, check=True)
            subprocess.run(["arm-none-eabi-ar", "rcs", path, *path.parent.glob("*.o")], check=True)
        return path

    def scratch(self, source: Path, core: str) -> int:
        """Bytes of scratch memory that the layers of a file need at most, as CMSIS-NN itself says."""
        program, unit = self.built / "sizes", "mve" if core == "m55" else "dsp"
        sizes = [x for x in self.sources if "get_buffer_sizes_s8" in x.stem]
        unit = f"-DUNIT(f)=f##_get_buffer_size_{unit}"
        command = ["cc", "-O1", "-w", self.include, f"-I{source.parent}", unit, source, *sizes]
        gone = ["-ffunction-sections", "-Wl,--gc-sections", "-Dnetwork_run=__attribute__((unused)) static network_run"]
        done = subprocess.run([*command, *gone, "-o", program], check=False, capture_output=True, text=True)
        if done.returncode:
            raise QatError(f"{source}: cc cannot compile it with CMSIS-NN ({done.stderr.splitlines()[0]})")
        return int(subprocess.run([program], check=True, capture_output=True, text=True).stdout)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cmsis", required=True, help="a clone of github.com/ARM-software/CMSIS-NN")
    add_network_arguments(parser)


def run(args: argparse.Namespace) -> int:
    rows, wrong = [], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cmsis = Cmsis(Path(args.cmsis), folder)
        for _, integers, x in networks(args):
            expected = qat.evaluate(integers, x)
            qat.target("C").export(integers, folder / "ours.c", arithmetic="fixed")
            writer = CmsisWriter(integers)
            writer.write(folder / "network.c")
            offset = integers.output.grid.zero_point - writer.ends.outputs[0].zero_point
            for core in args.cores:
                options = args.cflags.split()
                scratch = f"-DSCRATCH={cmsis.scratch(folder / 'network.c', core)}"
                ours = measure(folder / "ours.c", x, core, options=options, layers=args.layers)
                theirs = measure(
                    folder / "network.c",
                    x,
                    core,
                    options=[*options, cmsis.include, scratch],
                    layers=args.layers,
                    libraries=[cmsis.library(core, options)],
                )
                differ = [
                    int(np.count_nonzero(found.outputs[0].astype(np.int32) + add != expected))
                    for found, add in ((ours, 0), (theirs, offset))
                ]
                wrong += sum(differ)
                rows.append((integers.name, CORES[core].name, *compared(ours, theirs), *(f"{n:,}" for n in differ)))
                if args.layers:
                    print_layers(f"{integers.name} on a {CORES[core].name}", integers, ours, theirs)
    columns = (
        *(
            "network",
            "core",
            "instructions",
            "CMSIS-NN",
            "ratio",
            "flash",
            "CMSIS-NN",
            "RAM",
            "CMSIS-NN",
            "stack",
            "CMSIS-NN",
        ),
        *("codes that differ", "CMSIS-NN"),
    )
    print_table(f"C beside CMSIS-NN, arm-none-eabi-gcc {' '.join(['-O2', args.cflags]).strip()}; bytes", columns, rows)
    return int(wrong > 0)


def compared(ours: Measured, theirs: Measured) -> list[str]:
    """Instructions, their ratio, flash with what is called, RAM, stack."""
    one, two = ours.instructions[0], theirs.instructions[0]
    sizes: list[Callable[[Measured], int]] = [lambda m: m.linked, lambda m: m.ram, lambda m: m.stack]
    return [f"{one:,}", f"{two:,}", f"{one / two:.3f}", *(f"{size(m):,}" for size in sizes for m in (ours, theirs))]


def print_layers(title: str, integers: IntegerGraph, ours: Measured, theirs: Measured) -> None:
    rows = []
    for (layer, one), two in zip(ours.layers.items(), theirs.layers.values(), strict=True):
        rows.append((layer, f"{one:,}", f"{two:,}", f"{one / two:.3f}" if two > 100 else ""))
    print_table(title, ("layer", "instructions", "CMSIS-NN", "ratio"), rows)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

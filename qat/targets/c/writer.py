"""Writes an integer graph as C: the functions of all nodes that are not linear, the one that runs them, and the header."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import singledispatchmethod
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from qat.integer import (
    IntegerChannelTable,
    IntegerConcat,
    IntegerConv2d,
    IntegerDense,
    IntegerFlatten,
    IntegerGraph,
    IntegerInput,
    IntegerMatMul,
    IntegerMaximum,
    IntegerMaxPool2d,
    IntegerMeans,
    IntegerMinimum,
    IntegerMul,
    IntegerNode,
    IntegerNorm,
    IntegerPad,
    IntegerPick,
    IntegerRearrange,
    IntegerSoftmax,
    IntegerSum,
    IntegerTable,
    IntegerTensor,
)
from qat.integer.ends import REAL, Ends, FileInput, FileOutput
from qat.names import check_included, harmless
from qat.targets.c import constants as c_constants
from qat.targets.c import elementwise as c_elementwise
from qat.targets.c import ends as c_ends
from qat.targets.c import kernels as c_kernels
from qat.targets.c import moves as c_moves
from qat.targets.c import products as c_products
from qat.targets.c import wide as c_wide
from qat.targets.c.codes import check_codes
from qat.targets.c.constants import WEIGHTS_SUFFIX
from qat.targets.c.ends import enter, leave, macros, uses_floats
from qat.targets.c.kernels import softmax as c_softmax
from qat.targets.c.kernels.head import HEAD
from qat.targets.c.kernels.main import MAIN
from qat.targets.c.layout import scratch
from qat.targets.c.linear import LinearWriter
from qat.targets.c.means import add_means
from qat.targets.c.text import MODEL, WRITTEN_BY, comment, ctype, plain, stored_axis, stored_shape, stored_type, width
from qat.targets.common import no_form
from qat.vocabulary.listing import dimensions

SOFTMAX = {"SOFTMAX": "uint8_t", "SOFTMAX_WIDE": "uint16_t"}  #: its kernels, and the codes that they take


class Writer(LinearWriter):
    """Writes the nodes of a graph one after another, as one function each.

    Attributes:
        name: what the names of everything public begin with.
        upper: the same in capitals.
    """

    def __init__(
        self,
        graph: IntegerGraph,
        name: str,
        packed: bool,
        ends: Ends,
        arithmetic: str,
        *,
        weights_file: bool = False,
    ) -> None:
        super().__init__(graph, packed, ends, arithmetic, weights_file=weights_file)
        self.name, self.upper = name, name.upper()

    def call(self, node: IntegerNode) -> list[str]:
        """The statements of ``run`` that compute a node."""
        place = self.place(node.name)
        size = prod(node.output.shape) * width(node.output)
        lines: list[str] = []
        if isinstance(node, IntegerInput):
            if node.name not in self.direct:
                end, source = self.entries[node.name], self._input_name(node.name)
                lines, used = enter(end, node.output.grid, source, place)
                self.used |= used
        elif node.name not in self.renamed:
            arguments = [*(self.place(x.name) for x in node.inputs), place]
            if self._scratch(node):
                place_of_it = self.place(scratch(node))
                wide = self.scratch_type(node) != "uint8_t"
                arguments.append(f"(uint16_t *)(void *)({place_of_it})" if wide else place_of_it)
            lines.append(f"{self.function(node)}({', '.join(arguments)});")
        return [*lines, f"TRACED({place}, {size});"]

    def files(self, header_name: str) -> tuple[str, str]:
        """The text of the .c file, up to its metadata, and that of the .h file; ``weights_file`` is complete then.

        Raises QatError also where the text does not hold the constants that it has to hold.
        """
        check_included(header_name)
        check_codes(self.graph)
        for node in self.graph.nodes:
            if node.name not in self.renamed:
                before = self.constant_bytes
                self.add(node)
                if node.name in self._same:
                    self.constant_bytes = before
                if self.constant_bytes > before:
                    of_node = self.node_bytes.get(node.belongs_to, 0)
                    self.node_bytes[node.belongs_to] = of_node + self.constant_bytes - before
        parameters = [f"const {ctype(end.stored)} *{self._input_name(x)}" for x, end in self.entries.items()]
        names = self._output_names()
        parameters += [f"{ctype(end.stored)} *{name}" for end, name in zip(self.ends.outputs, names, strict=True)]
        signature = f"void {self.name}_run({', '.join(parameters)})"
        steps = [line for node in self.graph.nodes for line in self.call(node)]
        for x, end, name in zip(self.graph.outputs, self.ends.outputs, names, strict=True):
            lines, used = leave(end, x, self.place(x.name), name)
            steps += lines
            self.used |= used
        text = [
            f"/* {self._title()}: see {header_name}. {WRITTEN_BY} */\n",
            f'#include "{header_name}"\n',
            HEAD,
            f"#ifdef {self.upper}_TRACE\n#include <stdio.h>\n#define TRACED(codes, bytes) fwrite(codes, 1, bytes, stdout)\n"
            "#else\n#define TRACED(codes, bytes) ((void)0)\n#endif\n",
            "/* All activations; those that are never needed together share their bytes. An int32_t for its alignment. */\n"
            f"static int32_t memory[{self.upper}_ARENA_BYTES / 4];\n",
        ]
        text += c_constants.before(self.used, self.name, Path(header_name).with_suffix(WEIGHTS_SUFFIX).name)
        text += [f"#define MOST_TAPS {self.most_taps}\n"] if self.most_taps else []
        text += c_kernels.kernels(self.used, self.arithmetic)
        text += [c_products.ROOT] if "ROOT" in self.used else []
        text += [c_softmax.softmax(codes) for name, codes in SOFTMAX.items() if name in self.used]
        kernels = ["REQUANTIZE_LONG", "REQUANTIZE_SUM", "CLIP_WIDE"]
        text += [getattr(c_wide, kernel) for kernel in kernels if kernel in self.used]
        text += [getattr(c_ends, kernel) for kernel in ("PRODUCT", "QUANTIZE") if kernel in self.used]
        text += self.sources
        done = "\n".join(line for line in steps if not line.startswith("TRACED"))
        unused = [name for x in self.graph.inputs if not re.search(rf"\b{(name := self._input_name(x.name))}\b", done)]
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
        text[-1] += "\n" + comment(MODEL, model)
        # The header says of which export it is, and the source is not compiled with the header of another one.
        digest = hashlib.sha256("".join(text).encode() + bytes(self.weights_file or b""))
        export = f"0x{digest.hexdigest()[:8]}"
        error = '#error "this file and its header are of two exports: export again"'
        text.insert(2, f"#if {self.upper}_EXPORT != {export}\n{error}\n#endif\n")
        source = "\n".join(text)
        c_constants.check(self.graph.name, source, bytes(self.weights_file or b""), self.constants)
        return source, self._header(signature, export)

    def _title(self) -> str:
        return f"{plain(self.graph.name)}, quantized"

    def _described(self, x: IntegerTensor) -> dict[str, Any]:
        grid = x.grid
        stored = stored_shape(self.hwc.get(x.name, x.shape))
        return {
            "name": x.name,
            "shape": x.shape,
            "stored": stored,
            "scale": float(grid.scale),
            "grid": [grid.zero_point, grid.qmin, grid.qmax],
        }

    def _header(self, signature: str, export: str) -> str:
        guard = f"{self.upper}_H"
        lines = []
        several = {"INPUT": len(self.graph.inputs) > 1, "OUTPUT": len(self.graph.outputs) > 1}
        tensors: list[tuple[str, int, IntegerTensor, FileInput | FileOutput]] = [
            *(("INPUT", i, x, end) for i, (x, end) in enumerate(zip(self.graph.inputs, self.ends.inputs, strict=True))),
            *(
                ("OUTPUT", i, x, end)
                for i, (x, end) in enumerate(zip(self.graph.outputs, self.ends.outputs, strict=True))
            ),
        ]
        for kind, i, x, end in tensors:
            key = f"{self.upper}_{kind}{i if several[kind] else ''}"
            lines.append(f"/* {harmless(x.name)}: {dimensions(x.shape)} */")
            sides = zip(("CHANNELS", "HEIGHT", "WIDTH"), x.shape, strict=False)
            lines += [f"#define {key}_{side} {n}" for side, n in sides] if len(x.shape) == 3 else []
            lines += macros(key, end)
        image = "rows from the top, the channels of a pixel beside one another (HWC)"
        if any(len(x.shape) == 2 for x in (*self.graph.inputs, *self.graph.outputs)):
            image += ", likewise of series (LC)"
        pixels = all(self._input_name(name).startswith("pixels") for name in self.entries)
        inputs = "raw pixels" if pixels else "as below; of images"
        real = any(end.stored == REAL for end in self.ends.outputs)
        outputs = "real numbers" if real else "codes, the number (code - ZERO_POINT) * SCALE each"
        floats = "no heap and no floating point"
        if self.arithmetic == "float":
            floats = "no heap, and floating point of one multiplication a code"
        elif uses_floats(self.ends):
            floats = "no heap, and floating point only to make codes of inputs or real numbers of codes"
        return f"""\
/* {self._title()}. {WRITTEN_BY}
 *
 * {self.name}_run computes one sample. Inputs: {inputs}, {image}.
 * Outputs: {outputs}, in the order of channels, rows, columns (CHW).
 * It uses static memory and a little stack, {floats}; only one call may run at a time.
 */
#ifndef {guard}
#define {guard}

#include <stdint.h>

{chr(10).join(lines)}

#define {self.upper}_EXPORT {export} /* as {self.name}.c has it */
#define {self.upper}_CONSTANT_BYTES {self.constant_bytes} /* weights and tables, in flash; code comes on top */
#define {self.upper}_ARENA_BYTES {self.arena_bytes} /* activations, in RAM, static */

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
        names = [self._input_name(name) for name in self.entries]
        for name, end in zip(names, self.ends.inputs, strict=True):
            buffers.append(f"    static {ctype(end.stored)} {name}[{prod(end.shape)}];")
            read += [f"        if (fread({name}, 1, sizeof {name}, from) != sizeof {name})", "            break;"]
        for name, given in zip(outputs, self.ends.outputs, strict=True):
            buffers.append(f"    static {ctype(given.stored)} {name}[{prod(given.shape)}];")
            write.append(f"        fwrite({name}, 1, sizeof {name}, to);")
        return MAIN.format(
            NAME=self.upper,
            NAME_LOWER=self.name,
            BUFFERS="\n".join(buffers),
            READ="\n".join(read),
            WRITE="\n".join(write),
            ARGUMENTS=", ".join([*names, *outputs]),
        )

    @singledispatchmethod
    def add(self, node: IntegerNode) -> None:
        """Append what computes a node."""
        raise no_form(node, "C")

    @add.register
    def _(self, node: IntegerInput) -> None:
        """Nothing: ``call`` makes its codes where they are not read as they lie."""

    @add.register
    def _(self, node: IntegerConv2d) -> None:
        if self.wide(node):
            c_wide.add_wide(self, node)
        elif self._depthwise(node):
            self._add_depthwise(node)
        else:
            self._add_convolution(node)

    @add.register
    def _(self, node: IntegerDense) -> None:
        if self.wide(node):
            c_wide.add_wide(self, node)
        else:
            self._add_dense(node)

    @add.register
    def _(self, node: IntegerMeans) -> None:
        add_means(self, node)

    @add.register
    def _(self, node: IntegerMaxPool2d) -> None:
        """The largest of each column of a window first: whole rows, of which vectors hold many; then of these."""
        channels, height, columns = node.inputs[0].shape
        _, out_height, out_width = node.output.shape
        (kh, kw), (sh, sw), (top, bottom, left, right) = node.kernel, node.stride, node.padding
        line, kind = columns * channels, stored_type(node.output)
        larger = "larger_wide" if node.output.grid.wide else "larger"
        self.used.add(larger.upper())
        end_y, end_x = str(kh), str(kw)
        begin = {"y": f"row * {sh}", "x": f"column * {sw}"}
        rows, pixels = [], []
        if top or bottom or left or right:
            rows = [
                f"const int32_t above = row * {sh} - {top}, y0 = above < 0 ? 0 : above;",
                f"const int32_t rows = (above + {kh} > {height} ? {height} : above + {kh}) - y0;",
            ]
            pixels = [
                f"const int32_t before = column * {sw} - {left}, x0 = before < 0 ? 0 : before;",
                f"const int32_t columns = (before + {kw} > {columns} ? {columns} : before + {kw}) - x0;",
            ]
            begin, end_y, end_x = {"y": "y0", "x": "x0"}, "rows", "columns"
        body = [
            "    int32_t row, column, i;",
            f"    for (row = 0; row < {out_height}; row++) {{",
            *(f"        {text}" for text in rows),
            f"        const {kind} *from = x + {begin['y']} * {line};",
            f"        memcpy(scratch, from, {line * width(node.output)});",
            f"        for (i = 1; i < {end_y}; i++)",
            f"            {larger}(from + i * {line}, scratch, {line});",
            f"        for (column = 0; column < {out_width}; column++, y += {channels}) {{",
            *(f"            {text}" for text in pixels),
            f"            const {kind} *at = scratch + {begin['x']} * {channels};",
            f"            memcpy(y, at, {channels * width(node.output)});",
            f"            for (i = 1; i < {end_x}; i++)",
            f"                {larger}(at + i * {channels}, y, {channels});",
            "        }",
            "    }",
        ]
        what = f"{dimensions(node.inputs[0].shape)} to {dimensions(node.output.shape)}, max pooling {kh} x {kw}"
        self.define(node, what, [], "\n".join(body))

    @add.register
    def _(self, node: IntegerFlatten) -> None:
        channels, pixels = node.inputs[0].shape[0], prod(node.inputs[0].shape[1:])
        body = f"""\
    int32_t c, i;
    for (c = 0; c < {channels}; c++)
        for (i = 0; i < {pixels}; i++)
            y[c * {pixels} + i] = x[i * {channels} + c];"""
        self.define(node, "to the order of channels, rows, columns", [], body)

    @add.register
    def _(self, node: IntegerSum) -> None:
        c_elementwise.add_sum(self, node)

    @add.register
    def _(self, node: IntegerMaximum) -> None:
        c_elementwise.add_extreme(self, node, ">")

    @add.register
    def _(self, node: IntegerMinimum) -> None:
        c_elementwise.add_extreme(self, node, "<")

    @add.register
    def _(self, node: IntegerMatMul) -> None:
        c_products.add_matmul(self, node)

    @add.register
    def _(self, node: IntegerMul) -> None:
        c_elementwise.add_mul(self, node)

    @add.register
    def _(self, node: IntegerConcat) -> None:
        """Runs of each input in turn: of its numbers from the joined axis on, in the order of the file."""
        axis = stored_axis(node.axis, len(node.output.shape))
        count = prod(stored_shape(node.output.shape)[:axis])
        runs = [prod(stored_shape(x.shape)[axis:]) for x in node.inputs]
        body = ["    int32_t i;", f"    for (i = 0; i < {count}; i++, y += {sum(runs)}) {{"]
        for k, (x, run) in enumerate(zip(node.inputs, runs, strict=True)):
            body.append(f"        memcpy(y + {sum(runs[:k])}, x{k} + i * {run}, {run * width(x)});")
        what = f"concatenation to {dimensions(node.output.shape)}"
        self.define(node, what, [], "\n".join([*body, "    }"]), inputs=len(runs))

    @add.register
    def _(self, node: IntegerPad) -> None:
        c_moves.add_pad(self, node)

    @add.register
    def _(self, node: IntegerRearrange) -> None:
        c_moves.add_rearrangement(self, node)

    @add.register
    def _(self, node: IntegerPick) -> None:
        c_moves.add_pick(self, node)

    @add.register
    def _(self, node: IntegerTable) -> None:
        name, grid = self.function(node), node.output.grid
        table = self.array(stored_type(node.output), f"{name}_table", node.table + (grid.zero_point - grid.qmin))
        body = f"""\
    int32_t i;
    for (i = 0; i < {prod(node.output.shape)}; i++)
        y[i] = {name}_table[x[i]];"""
        self.define(node, f"a table for {dimensions(node.output.shape)} codes", [table], body)

    @add.register
    def _(self, node: IntegerChannelTable) -> None:
        c_elementwise.add_channel_table(self, node)

    @add.register
    def _(self, node: IntegerNorm) -> None:
        c_products.add_norm(self, node)

    @add.register
    def _(self, node: IntegerSoftmax) -> None:
        wide = node.inputs[0].grid.wide
        self.used |= {"ROUND", "SOFTMAX_WIDE" if wide else "SOFTMAX"}
        name, channels, pixels = self.function(node), node.output.shape[0], prod(node.output.shape[1:])
        table = self.array("uint32_t", f"{name}_table", node.table.astype(np.int64))
        body = f"""\
    int32_t i;
    for (i = 0; i < {pixels}; i++)
        softmax{16 if wide else 8}(x + i * {channels}, {channels}, {name}_table, y + i * {channels});"""
        self.define(node, f"softmax over {channels} channels", [table], body)

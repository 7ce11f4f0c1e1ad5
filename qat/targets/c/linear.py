"""The convolutions and dense layers of a C file: their constants, and the functions that compute them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qat.errors import QatError
from qat.integer import (
    IntegerConv2d,
    IntegerDense,
    IntegerGraph,
    IntegerLinear,
    IntegerMaxPool2d,
    IntegerNode,
    IntegerTensor,
)
from qat.integer.ends import Ends
from qat.integer.widths import pack
from qat.names import harmless
from qat.targets.c.constants import FEW, TYPES, Constant, as_literals, as_numbers, fits
from qat.targets.c.kernels import BLOCK
from qat.targets.c.layout import Layout
from qat.targets.c.text import dimensions, plain, stored_type, word_count
from qat.targets.c.weights import BYTES, StoredWeights, block_bytes, blocks, stored_weights
from qat.vocabulary.ops import Array


def small_type(values: Array) -> str:
    """The smallest signed C type that holds them; int32_t where none does, which ``array`` refuses."""
    return next((kind for kind in ("int8_t", "int16_t") if fits(kind, values)), "int32_t")


def shared(values: Array) -> Array:
    """One for all outputs where they are equal."""
    return values[:1] if (values == values[0]).all() else values


class LinearWriter(Layout):
    """Writes linear nodes, one function each.

    Attributes:
        used: the names of the kernels that the functions call.
        constant_bytes: of weights and tables, in all.
        node_bytes: the same by node.
        sources: the functions.
        constants: what the constants of these have to be, by name.
        weights_file: what is to lie in a file of its own; None where there is none.
    """

    def __init__(self, graph: IntegerGraph, packed: bool, ends: Ends, *, weights_file: bool = False) -> None:
        super().__init__(graph, packed, ends)
        self.used: set[str] = set()
        self.constants: dict[str, Constant] = {}
        self.weights_file = bytearray() if weights_file else None
        self._places: dict[bytes, int] = {}  # in that file
        self._undefined: dict[str, Constant] = {}  # of a function that is not yet defined
        self.constant_bytes = 0
        self.node_bytes: dict[str, int] = {}
        self.sources: list[str] = []
        self._written: dict[str, str] = {}  # what a function says, without its name -> its name
        self._same: dict[str, str] = {}  # node -> the function of an earlier one that computes the same

    @staticmethod
    def scratch_type(node: IntegerNode) -> str:
        """Of its scratch memory's elements, which are codes."""
        return stored_type(node.output) if isinstance(node, IntegerMaxPool2d) else "uint8_t"

    def function(self, node: IntegerNode) -> str:
        """The name of a node's function; with the same constants, as in the steps of a recurrence, that of an earlier node."""
        return self._same.get(node.name) or f"node{self.index[node.name]}_{plain(node.name)}"

    def array(self, kind: str, name: str, values: Array, *, weights: bool = False) -> str:
        """A constant. Raises QatError where a value is beyond its type, so that no file is written that computes with others.

        kind: what its reader takes, or ``small_type`` of the values where any will do. weights: of bytes, begin at a line of
        the cache, and lie in the weights' own file where there is one.
        """
        if not fits(kind, values):
            raise QatError(
                f"{self.graph.name}: {name} has values from {values.min()} to {values.max()}, which {kind} does not hold, so "
                "that the C file would compute other codes; export to ONNX or TFLITE, and report it with the checkpoint"
            )
        self._undefined[name] = Constant(kind, values)
        size = values.size * TYPES[kind].itemsize
        if TYPES[kind].itemsize > 1 or (not weights and size <= FEW):
            self.constant_bytes += size
            return as_numbers(kind, name, values)
        data = values.astype(TYPES[kind]).tobytes()
        if weights and self.weights_file is not None:
            self.constant_bytes += size
            self.used.add("FROM_FILE")
            place = self._places.setdefault(data, len(self.weights_file))
            if place == len(self.weights_file):
                self.weights_file += data
            return f"FROM_FILE({kind}, {name}, {place}, {size});\n"
        self.used |= {"LITERALS", "ALIGNED"} if weights else {"LITERALS"}
        text, size = as_literals(kind, name, data, "ALIGNED " if weights else "")
        self.constant_bytes += size
        return text

    def define(self, node: IntegerNode, what: str, constants: Sequence[str], body: str, *, inputs: int = 1) -> None:
        """Append the function of a node."""
        xs = ["x"] if inputs == 1 else [f"x{i}" for i in range(inputs)]
        parameters = [f"const {stored_type(x)} *{name}" for x, name in zip(node.inputs, xs, strict=True)]
        parameters.append(f"{stored_type(node.output)} *restrict y")
        if self._scratch(node):
            parameters.append(f"{self.scratch_type(node)} *restrict scratch")
        head = f"/* {harmless(node.name)}: {what} */\n"
        function = f"static void {self.function(node)}({', '.join(parameters)})\n{{\n{body.rstrip()}\n}}\n"
        name, text = self.function(node), "".join(constants) + function
        first = self._written.setdefault(text.replace(name, "@"), name)
        if first == name:
            self.sources.append(head + text)
            self.constants |= self._undefined
        else:
            self._same[node.name] = first
        self._undefined.clear()

    def clip(self, y: IntegerTensor) -> str:
        """The kernel that clips to the codes of ``y``."""
        self.used.add("CLIP_WIDE" if y.grid.wide else "CLIP")
        return "clip_wide" if y.grid.wide else "clip"

    def _scaling(self, node: IntegerLinear, bias: Array) -> tuple[list[str], str]:
        """The constants that make codes of a layer's sums, and their name."""
        self.used |= {"REQUANTIZE", "CLIP", "FINISH"}
        name, grid, fixed = self.function(node), node.output.grid, node.fixed
        wrapped = (bias & 0xFFFFFFFF).astype(np.uint32).view(np.int32)  # sums are formed modulo 2^32
        kind = small_type(wrapped)
        multiplier, shift = (shared(np.broadcast_to(x, len(bias)).astype(np.int64)) for x in fixed)
        constants = [
            self.array(kind, f"{name}_bias", wrapped),
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
            f"{zero}, {low}, {high}, {TYPES[kind].itemsize}, {int(multiplier.size > 1)}, {int(shift.size > 1)},\n}};\n"
        )
        return constants, f"&{name}_scaling"

    def _weights(self, node: IntegerLinear, rows: int, groups: int) -> tuple[list[str], Array, bool]:
        """The weights in blocks, and the correction of those that do not fit.

        rows: of inputs that lie beside one another. Returns the constants, the folded bias, and whether sums need the
        correction.
        """
        stored, name = self.weights[node.name], self.function(node)
        outputs = len(stored.codes)
        bias = node.bias.astype(np.int64) - self._zero(node) * (
            stored.codes.reshape(outputs, -1).sum(axis=1) + stored.excess * (stored.codes.size // outputs)
        )
        inputs = stored.codes.size // outputs // rows
        data = blocks(stored, rows, inputs, groups)
        self.used |= {"MULTIPLY"} if stored.bits == BYTES else {"PACKED", f"PACKED_{stored.bits}"}
        constants = self._weight_arrays(stored, name, data)
        if stored.excess.any():
            self.used.add("CORRECT")
            constants.append(self.array("int16_t", f"{name}_excess", stored.excess))
        return constants, bias, bool(stored.excess.any())

    def _weight_arrays(self, stored: StoredWeights, name: str, data: Array) -> list[str]:
        """The constants of weights. data: bytes, of codes or of packed indices."""
        if stored.bits == BYTES:
            return [self.array("int8_t", f"{name}_weight", data, weights=True)]
        values = self.array("int8_t", f"{name}_values", stored.values)
        return [self.array("uint8_t", f"{name}_weight", data, weights=True), values]

    @staticmethod
    def _zero(node: IntegerLinear) -> int:
        """What an input code of 0 is stored as."""
        grid = node.inputs[0].grid
        return grid.zero_point - grid.qmin

    def _multiply(self, node: IntegerLinear, arguments: str, words: int, base: str, count: str) -> str:
        """The call that adds the products of a block; words: of one output; base: what lies before it in the array."""
        stored, name = self.weights[node.name], self.function(node)
        if stored.bits == BYTES:
            return f"multiply({arguments}, {name}_weight{base} + first * {words * 4}, {count}, sums);"
        place = f"{base} + first / BLOCK * {block_bytes(BLOCK, words, stored.bits)}"
        return f"multiply{stored.bits}({arguments}, {name}_weight{place}, {name}_values, {count}, sums);"

    def _group_bytes(self, node: IntegerLinear, outputs: int, words: int) -> int:
        """Of the weights of one group."""
        bits = self.weights[node.name].bits
        return sum(block_bytes(min(BLOCK, outputs - first), words, bits) for first in range(0, outputs, BLOCK))

    def _add_convolution(self, node: IntegerConv2d) -> None:
        channels, height, width = node.inputs[0].shape
        outputs, _, kh, _ = node.weight.shape
        (sh, sw), dh = node.stride, node.dilation[0]
        top, _, left, _ = node.padding
        in_place, by_rows = self._reads_rows(node), self._has_rows(node)
        rows_of = kh if by_rows else 1
        constants, bias, corrected = self._weights(node, rows_of, node.group)
        scaling_constants, scaling = self._scaling(node, bias)
        name, per_group = self.function(node), outputs // node.group
        rows, columns = self._outputs(node)
        if rows == 1 and columns > node.output.shape[2]:
            height, width = 1, height * width
        together = self._together(node)
        run = node.weight.size // outputs // rows_of
        quads = word_count(run)
        stride, pitch = (sw * channels, dh * width * channels) if by_rows else (quads * 4, 0)
        body = ["    uint32_t sums[4 * BLOCK];", "    int32_t row, column, first, p;"]
        fill = [f"    memset(scratch, 0, {self._scratch(node)});"] if self.weights[node.name].filled else []
        indent = "    "
        if node.group > 1:
            body[-1] = "    int32_t group, row, column, first, p;"
            body.append(f"    for (group = 0; group < {node.group}; group++)")
            indent += "    "
        body[2:2] = fill
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
        base = f" + group * {self._group_bytes(node, per_group, rows_of * quads)}" if node.group > 1 else ""
        body.append(f"{i}for (first = 0; first < {per_group}; first += BLOCK) {{")
        if per_group % BLOCK == 0 or per_group < BLOCK:
            count = str(min(BLOCK, per_group))
        else:
            body.append(f"{i}    const int32_t outputs = {per_group} - first < BLOCK ? {per_group} - first : BLOCK;")
            count = "outputs"
        arguments = f"from, {stride}, {together}, {rows_of}, {pitch}, {quads}"
        body.append(f"{i}    {self._multiply(node, arguments, rows_of * quads, base, count)}")
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
        words = [f"convolution {dimensions(node.weight.shape[2:])}"]
        words += [f"stride {dimensions(node.stride)}"] if node.stride != (1, 1) else []
        words += [f"dilation {dimensions(node.dilation)}"] if node.dilation != (1, 1) else []
        words += [f"padding {node.padding}"] if any(node.padding) else []
        words += [f"{node.group} groups"] if node.group > 1 else []
        return f"{dimensions(node.inputs[0].shape)} to {dimensions(node.output.shape)}, {', '.join(words)}"

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
        if reach_y <= height and reach_x <= width:
            lines.append(
                f"    if (y0 >= 0 && y0 <= {height - reach_y} && x0 >= 0 && x0 <= {width - reach_x}) {{ /* no padding */"
            )
            lines += [*(f"        {line}" for line in inside), "        continue;", "    }"]
        lines += [
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
        """Channel by channel, in blocks; the input's zero point is part of the bias, as in every layer.

        Products of an unsigned and a signed byte. Of centred codes, (from[c] - 128) * w[c], GCC 12 makes a wrong sum with
        AVX-512 VNNI. A tap in the padding meets the stored code of 0, so that every output has the same bias.
        """
        channels, height, width = node.inputs[0].shape
        _, out_height, out_width = node.output.shape
        _, _, kh, kw = node.weight.shape
        (sh, sw), (dh, dw) = node.stride, node.dilation
        top, _, left, _ = node.padding
        name = self.function(node)
        # Packed weights are unpacked a block at a time, so that words of four do not matter.
        centred = node.centred_weight.reshape(channels, -1)
        depth = stored_weights(centred, node.weight_zero_point, 4, packed=self.packed)
        one = depth.codes.min() == depth.codes.max()  # as of an average pooling: nothing is to be stored
        constants, weights = ([], []) if one else self._depthwise_weights(depth, name)
        off = depth.excess
        if off.any():
            constants.append(self.array("int16_t", f"{name}_excess", off))
        zero = self._zero(node)
        scaling_constants, scaling = self._scaling(node, node.bias - zero * centred.sum(axis=1, dtype=np.int64))
        count = str(min(BLOCK, channels))
        if channels > BLOCK and channels % BLOCK:
            weights.insert(0, f"const int32_t outputs = {channels} - first < BLOCK ? {channels} - first : BLOCK;")
            count = "outputs"
        factor = str(int(depth.codes.min())) if one else "w[c]"
        factor = f"({factor} + {name}_excess[first + c])" if off.any() else factor
        skip_row, skip_column, inside, place, code = [], [], [], f"(yi * {width} + xj)", "from[c]"
        if any(node.padding) and zero == 0:
            skip_row = [f"            if (yi < 0 || yi >= {height})", "                continue;"]
            skip_column = [f"                if (xj < 0 || xj >= {width})", "                    continue;"]
        elif any(node.padding):
            inside = [
                f"                const int32_t inside = yi >= 0 && yi < {height} && xj >= 0 && xj < {width};",
                f"                const uint8_t keep = inside ? 255 : 0, fill = inside ? 0 : {zero};",
            ]
            place, code = f"(inside ? yi * {width} + xj : 0)", "((from[c] & keep) | fill)"
        body = [
            "    int32_t row, column, first, i, j, c;",
            f"    for (first = 0; first < {channels}; first += BLOCK) {{",
            *(f"    {line.replace('@COUNT', count)}" for line in weights),
            f"    for (row = 0; row < {out_height}; row++)",
            f"    for (column = 0; column < {out_width}; column++) {{",
            "        uint32_t sums[BLOCK] = {0};",
            f"        for (i = 0; i < {kh}; i++) {{",
            f"            const int32_t yi = row * {sh} - {top} + i * {dh};",
            *skip_row,
            f"            for (j = 0; j < {kw}; j++) {{",
            f"                const int32_t xj = column * {sw} - {left} + j * {dw};",
            *inside,
            *([] if one else [f"                const int8_t *w = weight + (i * {kw} + j) * {count};"]),
            "                const uint8_t *from;",
            *skip_column,
            f"                from = x + {place} * {channels} + first;",
            f"                for (c = 0; c < {count}; c++)",
            f"                    sums[c] += (uint32_t)({code} * {factor});",
            "            }",
            "        }",
            f"        finish(sums, {scaling}, first, {count}, y + (row * {out_width} + column) * {channels} + first);",
            "    }",
            "    }",
        ]
        self.define(node, self._kind(node), [*constants, *scaling_constants], "\n".join(body))

    def _depthwise_weights(self, depth: StoredWeights, name: str) -> tuple[list[str], list[str]]:
        """The constants, block by block and tap by tap; and the lines that make of them ``weight`` of a block, where @COUNT
        stands for the number of its channels.
        """
        taps = depth.codes.shape[1]
        indices = depth.indices(depth.codes)
        parts = [indices[first : first + BLOCK].T.ravel() for first in range(0, len(indices), BLOCK)]
        if depth.bits == BYTES:
            constants = self._weight_arrays(depth, name, np.concatenate(parts))
            return constants, [f"const int8_t *weight = {name}_weight + first * {taps};"]
        self.used.add("UNPACK")
        packed = b"".join(pack(part, depth.bits) for part in parts)
        constants = self._weight_arrays(depth, name, np.frombuffer(packed, np.uint8))
        whole = taps * BLOCK * depth.bits // 8  # bytes of a block: no index is parted
        lines = [
            f"int8_t weight[{taps * min(BLOCK, len(indices))}];",
            f"unpack({name}_weight + first / BLOCK * {whole}, {depth.bits}, {name}_values, {taps} * @COUNT, weight);",
        ]
        return constants, lines

    def _add_dense(self, node: IntegerDense) -> None:
        outputs, inputs = node.weight.shape
        constants, bias, corrected = self._weights(node, 1, 1)
        scaling_constants, scaling = self._scaling(node, bias)
        name, quads = self.function(node), word_count(inputs)
        body = ["    uint32_t sums[BLOCK];", "    int32_t first;"]
        source = "x"
        if self._scratch(node):
            source = "scratch"
            body.append(f"    memcpy(scratch, x, {inputs});")
            if self.weights[node.name].filled:
                body.append(f"    memset(scratch + {inputs}, 0, {4 * quads - inputs});")
        body.append(f"    for (first = 0; first < {outputs}; first += BLOCK) {{")
        count = str(min(BLOCK, outputs))
        if outputs > BLOCK and outputs % BLOCK:
            body.append(f"        const int32_t outputs = {outputs} - first < BLOCK ? {outputs} - first : BLOCK;")
            count = "outputs"
        body.append(f"        {self._multiply(node, f'{source}, 0, 1, 1, 0, {quads}', quads, '', count)}")
        if corrected:
            body.append(f"        correct({source}, 1, 0, {inputs}, {name}_excess + first, {count}, sums);")
        body += [f"        finish(sums, {scaling}, first, {count}, y + first);", "    }"]
        self.define(node, f"dense, {inputs} to {outputs}", [*constants, *scaling_constants], "\n".join(body))

"""The convolutions and dense layers of a C file: their constants, and the functions that compute them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np

from qat.errors import QatError
from qat.integer import (
    IntegerConv2d,
    IntegerDense,
    IntegerGraph,
    IntegerLinear,
    IntegerMatMul,
    IntegerMaxPool2d,
    IntegerMul,
    IntegerNode,
    IntegerTensor,
    Requantize,
)
from qat.integer.ends import Ends
from qat.integer.widths import pack
from qat.names import harmless
from qat.targets.c.constants import FEW, TYPES, Constant, as_literals, as_numbers, fits
from qat.targets.c.kernels.head import BLOCK
from qat.targets.c.layout import Layout
from qat.targets.c.text import WIDTH, plain, stored_type
from qat.targets.c.weights import BYTES, StoredWeights, blocks, in_blocks, in_taps, stored_weights
from qat.vocabulary.listing import dimensions
from qat.vocabulary.ops import Array


def small_type(values: Array) -> str:
    """The smallest signed C type that holds them; int32_t where none does, which ``array`` refuses."""
    return next((kind for kind in ("int8_t", "int16_t") if fits(kind, values)), "int32_t")


def shared(values: Array) -> Array:
    """One for all outputs where they are equal."""
    return values[:1] if (values == values[0]).all() else values


def float_bits(requantize: Requantize) -> Array:
    """The multipliers of the float arithmetic, as the integers that have their bits; int64, of the same shape.

    Where every sum but 0 becomes a bound, by h + 1/2 and more where bounds are up to h, h + 3/4 does the same: so none is above
    2^17, and no product is infinite.
    """
    most = np.float32(max(abs(requantize.low), abs(requantize.high)) + 0.75)
    bits: Array = np.minimum(requantize.multiplier.astype(np.float32), most).view(np.int32).astype(np.int64)
    return bits


class LinearWriter(Layout):
    """Writes linear nodes, one function each.

    Attributes:
        arithmetic: "float" or "fixed".
        used: the names of the kernels that the functions call.
        constant_bytes: of weights and tables, in all.
        node_bytes: the same by node.
        sources: the functions.
        constants: what the constants of these have to be, by name.
        weights_file: what is to lie in a file of its own; None where there is none.
    """

    def __init__(
        self, graph: IntegerGraph, packed: bool, ends: Ends, arithmetic: str, *, weights_file: bool = False
    ) -> None:
        super().__init__(graph, packed, ends)
        self.arithmetic = arithmetic
        self.used: set[str] = {"FROM_FILE"} if weights_file else set()  # also where a network has no weights
        self.constants: dict[str, Constant] = {}
        self.weights_file = bytearray() if weights_file else None
        self._places: dict[bytes, int] = {}  # in that file
        self._undefined: dict[str, Constant] = {}  # of a function that is not yet defined
        self.constant_bytes = 0
        self.node_bytes: dict[str, int] = {}
        self.sources: list[str] = []
        self.most_taps = 0  # of the depthwise layers whose weights are packed
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

    def code(self, node: IntegerNode, requantize: Requantize, scaled: str) -> str:
        """The C expression of a stored code. scaled: that of the centred one, not clipped yet.

        A sum in the float arithmetic may be as large as int32, so that the zero point is added to what was clipped.
        """
        zero, clip = node.output.grid.zero_point - node.output.grid.qmin, self.clip(node.output)
        low, high = requantize.low, requantize.high
        if self.arithmetic == "fixed":
            return f"{clip}({scaled} + {zero}, {low + zero}, {high + zero})"
        return f"({stored_type(node.output)})({clip}({scaled}, {low}, {high}) + {zero})"

    def rounded(self, total: str, multiplier: str | int, *, long: bool = False) -> str:
        """The C expression of a sum times a float32, which is given by its bits. long: of an int64, not of an int32."""
        self.used.add("ROUNDED_LONG" if long else "ROUNDED")
        return f"{'rounded_long' if long else 'rounded'}({total}, {multiplier})"

    def scaled(self, node: IntegerMul | IntegerMatMul, total: str, *, long: bool) -> str:
        """The C expression of a centred code, not clipped yet, of a sum of products. long: it is an int64, in the float
        arithmetic.
        """
        if self.arithmetic == "float":
            return self.rounded(total, int(float_bits(node.requantize)[0]), long=long)
        self.used.add("REQUANTIZE")
        shift = int(node.fixed.shift[0])
        left = f" * ((int32_t)1 << {shift})" if shift > 0 else ""
        return f"requantize({total}{left}, {int(node.fixed.multiplier[0])}, {max(-shift, 0)})"

    def _bias(self, name: str, bias: Array) -> tuple[str, int]:
        """The constant of a bias, and the bytes of each."""
        wrapped = (bias & 0xFFFFFFFF).astype(np.uint32).view(np.int32)  # sums are formed modulo 2^32
        kind = small_type(wrapped)
        return self.array(kind, name, wrapped), TYPES[kind].itemsize

    def _scaling(self, node: IntegerLinear, bias: Array, flipped: Array | None) -> tuple[list[str], str]:
        """The constants that make codes of a layer's sums, and the value of the struct that has them.

        flipped: the bias where codes less 128 are multiplied; None where none are.
        """
        name, grid = self.function(node), node.output.grid
        zero, left, right = grid.zero_point - grid.qmin, "0", "no_shift"
        low, high = node.requantize.low, node.requantize.high
        text, size = self._bias(f"{name}_bias", bias)
        width = str(size)
        if flipped is not None:
            before = self.constant_bytes
            other, _ = self._bias(f"{name}_bias_less_128", flipped)
            define = f"#define {name}_bias {name}_bias_less_128\n"
            text = f"#ifdef USE_HELIUM /* where codes less 128 are multiplied */\n{other}{define}#else\n{text}#endif\n"
            self.constant_bytes = before  # only one of the two is compiled
            width = f"sizeof {name}_bias[0]"
        constants = [text]
        shift = np.zeros(1, np.int64)
        if self.arithmetic == "float":
            multiplier = shared(np.broadcast_to(float_bits(node.requantize), len(bias)))
            constants.append(self.array("int32_t", f"{name}_multiplier", multiplier))
        else:
            multiplier, shift = (shared(np.broadcast_to(x, len(bias)).astype(np.int64)) for x in node.fixed)
            right, low, high = f"{name}_right", low + zero, high + zero
            constants.append(self.array("int32_t", f"{name}_multiplier", multiplier))
            constants.append(self.array("uint8_t", right, np.maximum(-shift, 0)))
            if (shift > 0).any():
                left = f"{name}_left"
                constants.append(self.array("uint8_t", left, np.maximum(shift, 0)))
        quick = self.arithmetic == "fixed" and shift.min() >= -20 and shift.max() <= -1 and (low, high) == (0, 255)
        value = (
            f"{{{name}_bias, {name}_multiplier, {left}, {right}, {zero}, {low}, {high}, {width}, "
            f"{int(multiplier.size > 1)}, {int(shift.size > 1)}, {int(quick)}}}"
        )
        return constants, value

    def _weights(self, node: IntegerLinear, rows: int, groups: int) -> tuple[list[str], Array, dict[str, object]]:
        """The weights in blocks: their constants, the folded bias, and the fields of the layer that say how they are stored.

        rows: of inputs that lie beside one another.
        """
        stored, name = self.weights[node.name], self.function(node)
        outputs = len(stored.codes)
        bias = node.bias.astype(np.int64) - self._zero(node) * (
            stored.codes.reshape(outputs, -1).sum(axis=1) + stored.excess * (stored.codes.size // outputs)
        )
        inputs = stored.codes.size // outputs // rows
        data = blocks(stored, rows, inputs, groups)
        self._require_same(name, self.ordered(node), lambda: in_blocks(stored, data, rows, inputs, groups))
        constants, fields = self._stored(stored, name, data)
        return constants, bias, fields | {"group_bytes": data.size // groups, "filled": int(stored.filled)}

    def _stored(self, stored: StoredWeights, name: str, data: Array) -> tuple[list[str], dict[str, object]]:
        """The constants of weights, and the fields of the layer that name them. data: bytes, of codes or of packed indices."""
        self.used.add(f"WEIGHTS_{stored.bits}")
        constants = self._weight_arrays(stored, name, data)
        fields: dict[str, object] = {"weight": f"{name}_weight", "bits": stored.bits}
        if stored.bits < BYTES:
            fields["values"] = f"{name}_values"
            if stored.step:
                fields |= {"step": stored.step, "base": int(stored.values[0])}
        if stored.excess.any():
            constants.append(self.array("int16_t", f"{name}_excess", stored.excess))
            fields["excess"] = f"{name}_excess"
        return constants, fields

    def _weight_arrays(self, stored: StoredWeights, name: str, data: Array) -> list[str]:
        """The constants of weights. data: bytes, of codes or of packed indices."""
        if stored.bits == BYTES:
            return [self.array("int8_t", f"{name}_weight", data, weights=True)]
        values = self.array("int8_t", f"{name}_values", stored.values)
        return [self.array("uint8_t", f"{name}_weight", data, weights=True), values]

    def _require_same(self, name: str, weight: Array, read: Callable[[], Array]) -> None:
        """Raise QatError unless what kernels read are the centred weights of a layer."""
        try:
            same = np.array_equal(read().ravel(), weight.ravel())
        except ValueError:  # there are too many bytes, or too few
            same = False
        if not same:
            raise QatError(
                f"{self.graph.name}: the C file is not written, since {name} would meet other weights in it than the "
                "layer's; export to ONNX or TFLITE, and report it with the checkpoint"
            )

    @staticmethod
    def _zero(node: IntegerLinear) -> int:
        """What an input code of 0 is stored as."""
        grid = node.inputs[0].grid
        return grid.zero_point - grid.qmin

    def _add_convolution(self, node: IntegerConv2d) -> None:
        kernel_height = node.weight.shape[2]
        by_rows = self._has_rows(node)
        constants, bias, fields = self._weights(node, kernel_height if by_rows else 1, node.group)
        reads = "IN_PLACE" if self._reads_rows(node) else "BANDS" if by_rows else "WINDOWS"
        fields |= self._geometry(node) | {"reads": reads}
        self._add_layer(node, self._kind(node), constants, bias, fields, "convolve")

    def _geometry(self, node: IntegerConv2d) -> dict[str, object]:
        """The fields of a layer that are not of its weights."""
        channels, height, width = node.inputs[0].shape
        out_height, out_width = self._outputs(node)
        if out_height == 1 and out_width > node.output.shape[2]:
            height, width = 1, height * width
        top, _, left, right = node.padding
        return {
            "channels": channels,
            "height": height,
            "width": width,
            "padded_width": left + width + right,
            "outputs": len(node.weight),
            "out_height": out_height,
            "out_width": out_width,
            "kernel_height": node.weight.shape[2],
            "kernel_width": node.weight.shape[3],
            "stride_y": node.stride[0],
            "stride_x": node.stride[1],
            "dilation_y": node.dilation[0],
            "dilation_x": node.dilation[1],
            "top": top,
            "left": left,
            "groups": node.group,
            "zero": self._zero(node),
        }

    def _add_layer(
        self, node: IntegerLinear, what: str, constants: list[str], bias: Array, fields: dict[str, object], kernel: str
    ) -> None:
        """The constants of a layer, its description, and the function that gives both to a kernel.

        bias: as the sums of stored codes want it. fields: of ``Layer``; those that are 0 are left out.
        """
        self.used.add("LAYER" if kernel == "convolve" else "DEPTHWISE")
        flipped = bias + 128 * node.centred_weight.reshape(len(bias), -1).sum(axis=1, dtype=np.int64)
        scaling_constants, scaling = self._scaling(node, bias, flipped if kernel == "convolve" else None)
        ties = node.output.grid.zero_point > node.output.grid.qmin
        self._note(fields, depthwise=kernel == "depthwise", quick=scaling.endswith("1}"), ties=ties)
        name = self.function(node)
        fields = {"scaling": scaling} | {key: value for key, value in fields.items() if value not in (0, "IN_PLACE")}
        items = [f".{key} = {value}," for key, value in fields.items()]
        # Wrapped as with a short name, so that layers of the same numbers have the same lines, and are written once.
        short = " ".join(items).replace(name, "@")
        text = textwrap.indent("\n".join(textwrap.wrap(short, WIDTH - 4, break_on_hyphens=False)), "    ").replace(
            "@", name
        )
        layer = f"static const Layer {name}_layer = {{\n{text}\n}};\n"
        body = f"    {kernel}(&{name}_layer, x, y, {'scratch' if self._scratch(node) else '0'});"
        self.define(node, what, [*constants, *scaling_constants, layer], body)

    def _note(self, fields: Mapping[str, object], *, depthwise: bool, quick: bool, ties: bool) -> None:
        """Note which rare cases a file has, so that kernels leave the others out. ties: there are codes of negative ones."""
        average = "weight" not in fields
        pixels = prod(int(str(fields[key])) for key in ("out_height", "out_width"))
        shape = tuple(fields[key] for key in ("kernel_height", "kernel_width", "dilation_y", "dilation_x"))
        cases = {
            "ANY_WINDOWS": fields.get("reads") == "WINDOWS",
            "ANY_INCOMPLETE": bool(fields.get("excess")) or fields.get("step", 0) not in (0, 1),
            "ANY_SLOW": not quick,
            "ANY_TIES": quick and ties and not average and (depthwise or pixels >= 4),
            "ANY_AVERAGE": average,
            "ANY_KERNEL": depthwise and not average and shape != (3, 3, 1, 1),
        }
        self.used |= {case for case, there in cases.items() if there}

    def _kind(self, node: IntegerConv2d) -> str:
        """What a convolution is, in words."""
        words = [f"convolution {dimensions(node.weight.shape[2:])}"]
        words += [f"stride {dimensions(node.stride)}"] if node.stride != (1, 1) else []
        words += [f"dilation {dimensions(node.dilation)}"] if node.dilation != (1, 1) else []
        words += [f"padding {node.padding}"] if any(node.padding) else []
        words += [f"{node.group} groups"] if node.group > 1 else []
        return f"{dimensions(node.inputs[0].shape)} to {dimensions(node.output.shape)}, {', '.join(words)}"

    def _add_depthwise(self, node: IntegerConv2d) -> None:
        """In blocks of channels; the input's zero point is part of the bias, as in every layer."""
        channels = len(node.weight)
        centred = node.centred_weight.reshape(channels, -1)
        # Packed weights are unpacked a block at a time, so that words of four do not matter.
        depth = stored_weights(centred, node.weight_zero_point, 4, packed=self.packed)
        constants: list[str] = []
        every = int(centred.min())
        if every == centred.max():  # as of an average pooling: nothing is to be stored
            fields: dict[str, object] = {"every": every, "bits": BYTES}
        else:
            constants, fields = self._depthwise_weights(depth, centred, self.function(node))
        bias = node.bias - self._zero(node) * centred.sum(axis=1, dtype=np.int64)
        self._add_layer(node, self._kind(node), constants, bias, fields | self._geometry(node), "depthwise")

    def _depthwise_weights(
        self, depth: StoredWeights, centred: Array, name: str
    ) -> tuple[list[str], dict[str, object]]:
        """The constants, block by block and tap by tap, and the fields of the layer that name them."""
        taps = depth.codes.shape[1]
        indices = depth.indices(depth.codes)
        parts = [indices[first : first + BLOCK].T.ravel() for first in range(0, len(indices), BLOCK)]
        if depth.bits == BYTES:
            data = np.concatenate(parts)
        else:
            self.used.add("UNPACK")
            self.most_taps = max(self.most_taps, taps)
            data = np.frombuffer(b"".join(pack(part, depth.bits) for part in parts), np.uint8)
        self._require_same(name, centred, lambda: in_taps(depth, data))
        return self._stored(depth, name, data)

    def _add_dense(self, node: IntegerDense) -> None:
        outputs, inputs = node.weight.shape
        constants, bias, fields = self._weights(node, 1, 1)
        ones = (
            "height",
            "width",
            "padded_width",
            "out_height",
            "out_width",
            "kernel_height",
            "kernel_width",
            "stride_y",
        )
        fields |= dict.fromkeys((*ones, "stride_x", "dilation_y", "dilation_x", "groups"), 1)
        fields |= {"channels": inputs, "outputs": outputs, "reads": "IN_PLACE" if self._reads_rows(node) else "WINDOWS"}
        self._add_layer(node, f"dense, {inputs} to {outputs}", constants, bias, fields, "convolve")

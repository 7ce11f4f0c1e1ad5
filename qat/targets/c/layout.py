"""Where everything of a network lies in its C file's memory, and in what order its layers read it."""

from __future__ import annotations

from math import prod

from qat.cells.base import Shape
from qat.integer import (
    IntegerConv2d,
    IntegerDense,
    IntegerFlatten,
    IntegerGraph,
    IntegerLinear,
    IntegerMaxPool2d,
    IntegerNode,
    IntegerRearrange,
)
from qat.integer.ends import REAL, Ends
from qat.integer.memory import ALIGNMENT, Buffer, MemoryPlan, activation_buffers, plan_memory
from qat.targets.c.ends import read_in_place
from qat.targets.c.kernels.dsp_depthwise import STRIP
from qat.targets.c.kernels.head import BLOCK
from qat.targets.c.text import plain, width, word_count
from qat.targets.c.weights import BYTES, stored_weights
from qat.targets.common import columns_in_hwc, same_in_hwc, used_only_by
from qat.vocabulary.ops import Array


def scratch(node: IntegerNode) -> str:
    """What the plan calls a node's scratch memory: no node's own name has an @."""
    return f"{node.name}@scratch"


class Layout:
    """Where the tensors and weights of a graph lie, for the functions of its nodes.

    A Flatten whose users are all dense layers only renames its input, whose HWC order those layers' weights follow.

    Attributes:
        graph: the integers.
        packed: whether weights of few values are stored in fewer bits than bytes.
        ends: what the caller gives and gets.
        index: the number of each node by name.
        renamed: Flattens and reshapings that only rename: their source.
        hwc: of these the (C, H, W) in whose HWC order they are.
        entries: the inputs' ends by name.
        direct: inputs whose codes are what the caller gives, so that they are read where they lie.
        weights: the weights by layer, of those that ``multiply`` computes.
        plan: what the arena holds; the scratch memory of a node is ``scratch(node)``.
    """

    def __init__(self, graph: IntegerGraph, packed: bool, ends: Ends) -> None:
        self.graph = graph
        self.packed = packed
        self.ends = ends
        self.entries = {x.name: end for x, end in zip(graph.inputs, ends.inputs, strict=True)}
        self.index = {node.name: i for i, node in enumerate(graph.nodes)}
        before_dense = used_only_by(graph, IntegerDense)
        self.renamed: dict[str, str] = {}
        self.hwc: dict[str, Shape] = {}
        for node in graph.nodes:
            if isinstance(node, IntegerRearrange) and node.renames:
                source = node.inputs[0].name
                self.renamed[node.name] = self.renamed.get(source, source)
            if not isinstance(node, IntegerFlatten):
                continue
            (x,) = node.inputs
            same, dense = same_in_hwc(x.shape), node.name in before_dense
            if x.name in self.hwc and not dense:
                continue
            if same or dense:
                self.renamed[node.name] = self.renamed.get(x.name, x.name)
                if x.name in self.hwc:
                    self.hwc[node.name] = self.hwc[x.name]
                elif not same:
                    self.hwc[node.name] = x.shape
        self.direct = {name for name, end in self.entries.items() if read_in_place(end)}
        self.weights = {
            node.name: stored_weights(self.ordered(node), node.weight_zero_point, self._run(node), packed=packed)
            for node in graph.nodes
            if isinstance(node, IntegerLinear) and not self.wide(node) and not self._depthwise(node)
        }
        self.plan = self._plan()

    def ordered(self, node: IntegerLinear) -> Array:
        """The centred weight with its inputs in the order of the file: (O, kh, kw, I) or (O, I)."""
        weight = node.centred_weight
        if isinstance(node, IntegerConv2d):
            return weight.transpose(0, 2, 3, 1)
        shape = self.hwc.get(node.inputs[0].name)
        return weight if shape is None else columns_in_hwc(weight, shape)

    @staticmethod
    def wide(node: IntegerNode) -> bool:
        """True for a layer that computes with more than bytes (wide.py)."""
        if not isinstance(node, IntegerLinear):
            return False
        return node.wide_codes or node.output.grid.wide

    # -- memory

    @property
    def arena_bytes(self) -> int:
        """The static memory of the file: words are read up to three bytes past a buffer's end."""
        return self.plan.size + ALIGNMENT

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
                buffers.append(Buffer(scratch(node), size, i, i))
        return buffers

    def _scratch(self, node: IntegerNode) -> int:
        """Bytes that a node needs while it runs, on whatever processor."""
        if self.wide(node):
            return 0
        if isinstance(node, IntegerMaxPool2d):
            return node.inputs[0].shape[0] * node.inputs[0].shape[2] * width(node.output)
        if not isinstance(node, IntegerConv2d | IntegerDense):
            return 0
        if isinstance(node, IntegerConv2d) and self._depthwise(node):
            return self._rows_of_dsp(node)
        of_helium = self._scratch_of_helium(node) if isinstance(node, IntegerConv2d) else 0
        return max(self._scratch_of_any(node), self._scratch_of_dsp(node), of_helium)

    def _scratch_of_any(self, node: IntegerConv2d | IntegerDense) -> int:
        """Of the plain form, which x86 shares: padded rows, or windows."""
        if self._reads_rows(node):
            return 0
        if isinstance(node, IntegerConv2d):
            if self._has_rows(node):
                return node.weight.shape[2] * self._padded_row(node)
            return self._together(node) * prod(self._window(node))
        return prod(self._window(node))

    def _scratch_of_dsp(self, node: IntegerConv2d | IntegerDense) -> int:
        """With the DSP extension: the windows of four outputs in halves, and the bytes of a row or of a window."""
        outputs = prod(node.output.shape[1:])
        rows, row = self._window(node)
        return (8 if outputs >= 4 else 2) * row * rows + row

    def _window(self, node: IntegerConv2d | IntegerDense) -> tuple[int, int]:
        """The rows of a window each of which fills words, and the bytes of these; one row where a window is gathered."""
        if not self._has_rows(node):
            return 1, word_count(prod(node.weight.shape[1:])) * 4
        return node.weight.shape[2] if isinstance(node, IntegerConv2d) else 1, word_count(self._run(node)) * 4

    @staticmethod
    def _rows_of_dsp(node: IntegerConv2d) -> int:
        """Of a depthwise convolution with the DSP extension: the rows of four channels, and their weights as halves."""
        weight = node.centred_weight
        if weight.min() == weight.max():
            return 0
        height, width = weight.shape[2:]
        columns = (min(node.output.shape[2], STRIP) - 1) * node.stride[1] + (width - 1) * node.dilation[1] + 1
        return 4 * height * columns + 8 * height * width

    def _scratch_of_helium(self, node: IntegerConv2d) -> int:
        """With Helium: the windows of three outputs, and a block of weights that are unpacked."""
        outputs = prod(node.output.shape[1:])
        packed = self.weights[node.name].bits < BYTES and outputs >= 3 if node.name in self.weights else False
        unpacked = min(BLOCK, len(node.weight) // node.group) if packed else 0
        return ((3 if outputs >= 3 else 1) + unpacked) * prod(self._window(node))

    @staticmethod
    def _depthwise(node: IntegerLinear) -> bool:
        return isinstance(node, IntegerConv2d) and node.group == node.inputs[0].shape[0] == len(node.weight) > 1

    def _has_rows(self, node: IntegerLinear) -> bool:
        """True where a window has the bytes of each of its rows beside one another, and may be read past their end."""
        if node.name in self.weights and self.weights[node.name].filled:
            return False
        if isinstance(node, IntegerConv2d):
            return node.group == 1 and (node.dilation[1] == 1 or node.weight.shape[3] == 1)
        return True

    @staticmethod
    def _run(node: IntegerLinear) -> int:
        """How many bytes these are, or as many as a window has in all where it is gathered."""
        if isinstance(node, IntegerConv2d) and (node.group > 1 or (node.dilation[1] > 1 and node.weight.shape[3] > 1)):
            return prod(node.weight.shape[1:])
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
        place = f"arena + {self.plan.offsets[name]}"
        if name in self.index and self.graph.nodes[self.index[name]].output.grid.wide:
            return f"(uint16_t *)(void *)({place})"  # the arena is aligned for words
        return place

    def _input_name(self, name: str) -> str:
        end = self.entries[name]
        word = "pixels" if end.stored == end.dtype == "uint8" else "input"
        return word if len(self.graph.inputs) == 1 else f"{word}{self.index[name]}_{plain(name)}"

    def _output_names(self) -> list[str]:
        words = ["output" if end.stored == REAL else "codes" for end in self.ends.outputs]
        if len(words) == 1:
            return words
        return [f"{word}{i}_{plain(x.name)}" for i, (word, x) in enumerate(zip(words, self.graph.outputs, strict=True))]

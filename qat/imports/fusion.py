"""What the makers of cells share: the graph as it grows, and what is put off until something takes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qat.cells import Input, Pad, Slice, Stack
from qat.cells.base import Cell, Shape
from qat.cells.shape import LARGEST_RANK
from qat.cells.window import overhang
from qat.errors import QatError
from qat.graph import Graph, Node, Params
from qat.imports.activations import called
from qat.imports.activations import fused as fused_activation
from qat.imports.imported import Imported
from qat.imports.layer import Layer, Use, unlike
from qat.imports.movement import Movement
from qat.imports.program import LostError, Operation, Program, RefusedError, refusal
from qat.imports.windows import around, resolved
from qat.names import is_name
from qat.vocabulary.activations import FUSED
from qat.vocabulary.ops import Padding


class Fusion:
    """A graph that is made of a program.

    Paddings, moves, and the constants of a vector before a dense layer become cells only where something takes their values
    that has no place for them.
    """

    def __init__(self, program: Program, inputs: Sequence[Input]) -> None:
        self.program, self.inputs = program, inputs
        self.nodes: list[Node] = []
        self.names: set[str] = set()
        self.params: Params = {}
        self.sources: dict[str, str] = {}
        self.values: dict[str, str] = {}
        self.shapes: dict[str, Shape] = dict(program.shapes)
        self.node_of: dict[str, str] = {}  #: value -> the node that gives it
        self.used: set[str] = set()  #: outputs of operations that a cell has taken
        self.lost: set[str] = set()  #: values that nothing computes, because an operation is refused
        self.refused: list[tuple[Operation, str]] = []
        self.non_negative: set[str] = set()  #: nodes
        self.pads: dict[str, Operation] = {}  #: value -> the padding that gives it
        self.moves: dict[str, tuple[Operation, Movement]] = {}  #: value -> what it is of another one, and what moved it
        self.moved: dict[Hashable, str] = {}  #: what is moved, how and to which shape -> the value whose cells do it
        self.stacks: dict[
            str, tuple[Operation, int, tuple[str, ...]]
        ] = {}  #: value -> the values along which axis it is
        self.blocks: dict[Hashable, str] = {}  #: a recurrent layer's arrays in the source -> the name of its block
        self.affine: dict[str, Operation] = {}  #: value -> the factor or shift of a vector that gives it
        self.flattened: dict[str, Shape] = {}  #: value of a flatten in the order of HWC -> (C, H, W)
        self.uses: dict[str, Use] = {}  #: name of an array in the source -> the first layer that has it
        self.alone = program.single_consumers()

    def result(self, makers: Callable[[Operation], None]) -> Imported:
        """The network, once ``makers`` has made the cells of each operation."""
        program = self.program
        for number, (name, cell) in enumerate(zip(program.inputs, self.inputs, strict=True)):
            node = self._name("input" if len(program.inputs) == 1 else f"input{number}")
            self.nodes.append(Node(node, cell, (), node))
            self.shapes[name] = cell.shape
            self._gives(name, node)
        for each in program.operations:
            if each.output not in self.used:
                self._attempt(each, makers)
        made = {each.output: each for each in program.operations}
        outputs: list[str] = []
        for name in program.outputs:
            if name not in made:
                outputs.append(self.node_of[name])  # an input
            elif name not in self.lost:
                self._attempt(made[name], lambda each: outputs.append(self._leaving(each)))
        if self.refused:
            raise refusal(program.name, self.refused)
        return Imported(Graph(tuple(self.nodes), tuple(outputs), program.name), self.params, self.sources, self.values)

    def _leaving(self, each: Operation) -> str:
        """The node of an output."""
        node = self.given(each, self.in_order(each, each.output))
        self.values.setdefault(node, each.output)
        return node

    def _attempt(self, each: Operation, make: Callable[[Operation], None]) -> None:
        """Make the cell of an operation, or note why there is none."""
        before = set(self.used)
        try:
            make(each)
        except LostError:
            pass
        except RefusedError as refused:
            if all(refused.each is not other for other, _ in self.refused):
                self.refused.append((refused.each, refused.what))
        except QatError as error:  # a cell's own checks
            self.refused.append((each, str(error)))
        else:
            return
        self.lost |= {each.output} | (self.used - before)

    # -- values -------------------------------------------------------------------------------------------------------

    def shape(self, value: str) -> Shape:
        """Of one sample. Raises LostError where nothing computes the value."""
        if value in self.lost:  # it may have no known shape
            raise LostError
        return self.shapes[value]

    def rank(self, each: Operation) -> int:
        """Axes of what an operation takes first, with that of the samples."""
        return len(self.shape(each.inputs[0])) + 1

    def given(self, each: Operation, value: str) -> str:
        """The node that gives what an operation takes; what was put off becomes cells."""
        if value in self.lost:
            raise LostError
        if value not in self.node_of:
            if value in self.pads:
                self._padded(value)
            elif value in self.moves:
                self._moved(value)
            elif value in self.stacks:
                stack, axis, values = self.stacks[value]
                self.node(stack, Stack(axis), *values, value=value)
        return self.node_of[value]

    def _padded(self, value: str) -> None:
        pad, padding, source = self.pads[value], (0, 0, 0, 0), value
        number = pad.attributes["value"]
        while (before := self.pads.get(source)) is not None and before.attributes["value"] == number:
            padding = widened(padding, around(before))
            source = before.inputs[0]
        if not math.isfinite(number):
            raise RefusedError(pad, f"a padding with {number:g} that is before no max pooling")
        self.node(pad, Pad(padding, value=number), source, value=value)

    def _moved(self, value: str) -> None:
        each, movement = self.moves[value]
        source = movement.source
        cells = movement.cells(self.shape(source))
        if cells is None:
            raise RefusedError(each, f"{called(each)} giving {self.shape(value)}, which has more axes than cells know")
        key = (source, movement.parts, movement.shape)
        if key in self.moved:
            self.node_of[value] = self.node_of[self.moved[key]]
        elif cells:
            self.chain(each, cells, source, value=value)
            self.moved[key] = value
        else:
            self.same(each, source, value)

    def same(self, each: Operation, source: str, value: str) -> None:
        """Let a value be another one."""
        node = self.node_of[value] = self.given(each, source)
        if value in self.program.shapes:
            self.values.setdefault(node, value)
        if source in self.flattened:
            self.flattened[value] = self.flattened[source]

    def in_order(self, each: Operation, value: str) -> str:
        """The value; one that was flattened with channels last, as it is in the source."""
        if value not in self.flattened:
            return value
        ordered = f"{value} in the source's order"
        if ordered not in self.shapes:
            image = self.flattened[value]
            plain = f"{value} channels first"
            self.node_of[plain], self.shapes[plain] = self.given(each, value), self.shape(value)
            self.move(each, plain, lambda it: it.reshaped(image), f"{ordered}@image")
            self.move(each, f"{ordered}@image", lambda it: it.transposed((1, 2, 0)), f"{ordered}@turned")
            self.move(each, f"{ordered}@turned", lambda it: it.reshaped((math.prod(image),)), ordered)
        return ordered

    # -- what is put off ----------------------------------------------------------------------------------------------

    def move(self, each: Operation, source: str, change: Callable[[Movement], Movement | None], value: str) -> str:
        """Put off a move: the value is the source, changed. Returns the value."""
        shape = self.shape(source)
        if source in self.pads:
            self.given(each, source)
        if source in self.flattened:
            source = self.in_order(each, source)
        put_off = source in self.moves and source not in self.node_of
        before = self.moves[source][1] if put_off else Movement.none(source, shape)
        after = change(before)
        if after is None:  # it cuts across what was moved before, which becomes cells
            self.given(each, source)
            after = change(Movement.none(source, shape))
            assert after is not None
        self.moves[value] = (each, after)
        self.shapes[value] = after.shape
        return value

    def reshaped(self, each: Operation, source: str, shape: Shape, value: str) -> str:
        """Put off a reshape."""
        if math.prod(shape) != math.prod(self.shape(source)):
            raise RefusedError(each, f"{called(each)} of {self.shape(source)} to {shape}, which holds other numbers")
        return self.move(each, source, lambda it: it.reshaped(shape), value)

    def transposed(self, each: Operation, source: str, axes: Sequence[int], value: str) -> str:
        """Put off a transposition of the axes of a sample."""
        return self.move(each, source, lambda it: it.transposed(axes), value)

    def through(self, sources: Sequence[str], make: Callable[..., Any], value: str, each: Operation) -> None:
        """Let ``make(*values, value)`` compute number by number what is moved alike, before it is moved; cells know three axes.

        A transposition that is put off stays so, until something undoes it.
        """
        shape, inner = self.shape(sources[0]), f"{value}@inner"
        put_off = [self.turned(it) for it in sources]
        kinds = {it and (it.parts, it.shape, self.shape(it.source)) for it in put_off}
        if len(kinds) == 1 and (first := put_off[0]) is not None:
            make(*(it.source for it in put_off if it is not None), inner)
            self.moves[value] = (each, replace(first, source=inner))
            self.shapes[value] = shape
        elif len(shape) > LARGEST_RANK:
            folded = (*shape[: LARGEST_RANK - 1], math.prod(shape[LARGEST_RANK - 1 :]))
            some = [self.reshaped(each, it, folded, f"{it} folded for {value}") for it in sources]
            make(*some, inner)
            self.reshaped(each, inner, shape, value)
        else:
            make(*sources, value)

    def turned(self, value: str) -> Movement | None:
        """The move that gives a value, where it is put off, and costs more than what is computed before it."""
        if value not in self.moves or value in self.node_of:
            return None
        movement = self.moves[value][1]
        given = self.shape(movement.source)
        if len(given) > LARGEST_RANK or not (len(movement.shape) > LARGEST_RANK or movement.turns(given)):
            return None
        return movement

    def part(self, each: Operation, source: str, axis: int, places: range, value: str, name: str = "") -> None:
        """Some places along an axis: of what is moved and has more axes than cells know, before it is moved."""
        shape = self.shape(source)
        if len(shape) <= LARGEST_RANK:
            self.node(each, Slice(axis, places.start, places.stop, places.step), source, value=value, name=name)
            return
        if source in self.node_of:  # such a value is put off, always
            raise RefusedError(each, f"a part of {shape}")
        movement = self.moves[source][1]
        cut = movement.part(axis, len(places))
        if cut is None:
            raise RefusedError(each, f"a part of {shape}, which is more than one part of what it was moved from")
        around_it, after = cut
        inner = self.reshaped(each, movement.source, around_it, f"{value}@parts")
        made = f"{value}@part"
        self.node(each, Slice(1, places.start, places.stop, places.step), inner, value=made, name=name)
        self.moves[value] = (each, replace(after, source=made))
        self.shapes[value] = after.shape

    def image(self, each: Operation, source: str) -> str:
        """A row as the channels of one pixel, a series as an image of one row; an image as it is."""
        shape = self.shape(source)
        if len(shape) == 3:
            return source
        if len(shape) > 3:
            raise RefusedError(each, f"{called(each)} of {len(shape) + 1} axes")
        return self.reshaped(
            each, source, (shape[0], 1, shape[1] if len(shape) == 2 else 1), f"{source} for {each.output}"
        )

    def back(self, each: Operation, value: str) -> str:
        """The name under which a cell gives an image where the source has a row or a series, which ``value`` becomes."""
        return self.back_of(value, self.shape(value))

    @staticmethod
    def back_of(value: str, shape: Shape) -> str:
        """Likewise, of a value that has that shape in the source."""
        return value if len(shape) == 3 else f"{value} as an image"

    def restored(self, each: Operation, value: str) -> None:
        """Let ``value`` be what ``back`` named."""
        if (image := self.back(each, value)) != value:
            self.reshaped(each, image, self.shapes[value], value)

    def unpadded(self, each: Operation, padding: Any) -> tuple[str, Any]:
        """What an operation takes before the paddings that it can take too, and all their widths."""
        value = each.inputs[0]
        while (pad := self.pads.get(value)) is not None and self.pads_for(each, pad, padding):
            padding = widened(around(pad), self.resolved(each, padding))
            value = pad.inputs[0]
        return value, padding

    def pads_for(self, each: Operation, pad: Operation, padding: Any) -> bool:
        """Whether an operation can pad by itself as a padding does before it."""
        number = pad.attributes["value"]
        if each.attributes.get("ceil") and not self._windows_stay(each, pad, padding):
            return False
        if each.kind == "max_pool2d":
            begins = pad.inputs[0]
            while begins in self.pads:
                begins = self.pads[begins].inputs[0]
            positive = number == 0.0 and self.given(each, begins) in self.non_negative  # else zeros may be the largest
            return positive or number == -math.inf
        counts = (
            each.kind != "avg_pool2d" or each.attributes.get("counts_padding") or not any(self.resolved(each, padding))
        )
        return bool(number == 0.0 and counts)

    def _windows_stay(self, each: Operation, pad: Operation, padding: Any) -> bool:
        """Whether a pooling with ceil_mode has as many windows where a padding is its own: none may start in that."""
        kernel, stride = each.attributes["kernel"], each.attributes["stride"]
        own, all_of_it = (
            self.resolved(each, each.attributes["padding"]),
            widened(around(pad), self.resolved(each, padding)),
        )
        sizes = (1, 1, *self.shape(each.inputs[0])[1:])[-2:]
        for axis, size in enumerate(sizes):
            (before, after), (first, last) = (some[2 * axis : 2 * axis + 2] for some in (own, all_of_it))
            inside = size - (first - before) - (last - after)
            found = overhang(size, kernel[axis], stride[axis], before, after)
            if overhang(inside, kernel[axis], stride[axis], first, last) != found:
                return False
        return True

    def resolved(self, each: Operation, padding: Any) -> Padding:
        """A padding in pixels, around what an operation takes."""
        return resolved(each, self.shape(each.inputs[0]), padding)

    # -- nodes --------------------------------------------------------------------------------------------------------

    def taken(self, each: Operation) -> str:
        """Note that a cell takes an operation. Returns the operation's value."""
        self.used.add(each.output)
        return each.output

    def activated(self, value: str, functions: Container[str] = FUSED) -> tuple[str, dict[str, Any]]:
        """The value behind an activation that follows alone, and the cell's fields for it."""
        after = self.alone.get(value)
        fields = None if after is None else fused_activation(after)
        if after is None or fields is None or fields["activation"] not in functions:
            return value, {}
        return self.taken(after), fields

    def node(
        self, each: Operation, cell: Cell, *inputs: str, value: str | None = None, name: str = "", cell_name: str = ""
    ) -> str:
        """Append a node, and return its name."""
        value = value or each.output
        keeps = each.kind in ("activation", "clip") and len(inputs) == 1 and inputs[0] in self.flattened
        if keeps:
            self.flattened[value] = self.flattened[inputs[0]]
        elif each.kind != "dense":
            inputs = tuple(self.in_order(each, given) for given in inputs)
        nodes = tuple(self.given(each, given) for given in inputs)
        shape = cell.output_shape(*(self.shapes[given] for given in inputs))
        name = self._name(name or self.named(each))
        self.nodes.append(Node(name, cell, nodes, cell_name or name))
        self.shapes[value] = shape
        self._gives(value, name)
        if cell.non_negative or (cell.keeps_sign and all(node in self.non_negative for node in nodes)):
            self.non_negative.add(name)
        return name

    def chain(
        self, each: Operation, cells: Sequence[Cell], *inputs: str, value: str | None = None, main: int = 0
    ) -> str:
        """Append nodes one after another, of which the first takes the inputs and the last gives the value.

        main: which of them has the operation's name; the others have their cells' kinds behind it. Returns its name.
        """
        value, found, name = value or each.output, "", self.named(each)
        for number, cell in enumerate(cells):
            free = number == main and name not in self.names
            own = name if free else f"{name}.{type(cell).__name__.lower()}"
            last = number == len(cells) - 1
            node = self.node(each, cell, *inputs, value=value if last else f"{value}@{number}", name=own)
            found = node if number == main else found
            inputs = (f"{value}@{number}",)
        return found

    def layer(self, each: Operation, cell: Cell, source: str, layer: Layer, value: str) -> None:
        """The node of a layer with parameters: of one that was used before, a second node."""
        use = Use("", cell, layer)
        for local, name in layer.origin.items():
            earlier = self.uses.get(name)
            if earlier is not None and earlier.is_same(use):
                self.node(each, cell, source, value=value, cell_name=earlier.node)
                return
            if earlier is not None and self.program.ties:
                raise RefusedError(
                    each,
                    f"a layer that shares {name} with {earlier.node}, but has another {unlike(earlier, use)}, so that they are "
                    f"no one cell; make them equal, or give it a {local} of its own",
                )
        use.node = self.node(each, cell, source, value=value)
        for name in layer.origin.values():
            self.uses.setdefault(name, use)
        for local, array in layer.own.items():
            self.params[f"{use.node}.{local}"] = np.array(array, np.float32, order="C")  # a copy
            if source_name := layer.sources.get(local):
                self.sources[f"{use.node}.{local}"] = source_name

    @staticmethod
    def named(each: Operation) -> str:
        """The name of the operation's node."""
        return each.name if is_name(each.name) else each.output if is_name(each.output) else each.kind

    def _gives(self, value: str, node: str) -> None:
        self.node_of[value] = node
        if value in self.program.shapes:
            self.values[node] = value

    def _name(self, wanted: str) -> str:
        """A name that no node has yet."""
        name, number = wanted, 1
        while name in self.names:
            number += 1
            name = f"{wanted}_{number}"
        self.names.add(name)
        return name


def widened(a: Padding, b: Padding) -> Padding:
    """Both paddings."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]

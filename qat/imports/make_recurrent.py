"""The cells of GRU and LSTM: each step's, which share their parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from qat.cells import Input, Slice
from qat.cells.base import Shape
from qat.cells.tracing import Traced
from qat.graph import GRU, LSTM, Network, Node
from qat.graph.recurrent import Recurrent
from qat.imports.fusion import Fusion
from qat.imports.program import Operation, RefusedError
from qat.imports.stacks import put_off, rows_of

MOST_STEPS = 1000  #: of one layer


class _Steps(Network):
    """A block over steps that are given one by one, from the first to the last that it computes."""

    def __init__(self, block: Recurrent, shape: Shape, count: int) -> None:
        self.block = block
        self.inputs = tuple(Input(shape, dtype="float32") for _ in range(count))

    def construct(self, *steps: Traced) -> tuple[Traced, ...]:
        """The states h after each step."""
        state = tuple(start(steps[0]) for start in self.block.start)
        found = []
        for x in steps:
            state = self.block.step(x, *state)
            found.append(state[0])
        return tuple(found)


def recurrent(fusion: Fusion, each: Operation) -> None:
    """A GRU or LSTM over the steps; the states of all of them are a stack that is put off."""
    options, constants, source = each.attributes, each.constants, each.inputs[0]
    axis = options["axis"]
    shape = fusion.shape(source)
    if len(shape) != 2:
        raise RefusedError(each, f"a {each.kind.upper()} of {len(shape) + 1} axes, not of a series")
    if shape[axis] > MOST_STEPS:
        raise RefusedError(each, f"a {each.kind.upper()} of {shape[axis]} steps, more than {MOST_STEPS}")
    units = options["units"]
    biases = tuple(constants.get(local) for local in ("input_bias", "state_bias"))
    fields = {"bias": any(bias is not None for bias in biases)}
    block: Recurrent
    if each.kind == "gru":
        block = GRU(shape[1 - axis], units, reset_after=options["reset_after"], **fields)
    else:
        block = LSTM(shape[1 - axis], units, **fields)
    name = _named(fusion, each)
    shared = _shared(fusion, each, name)
    params = block.params_of(
        shared, constants["input_weight"], constants["state_weight"], *biases, layout=options["layout"]
    )
    fusion.params |= params
    steps = _steps(fusion, each, source, axis)
    places = range(len(steps))[:: -1 if options["reverse"] else 1]
    graph = _Steps(block, (shape[1 - axis],), len(steps)).graph()
    entering = [node.name for node in graph.nodes if isinstance(node.cell, Input)]
    nodes = {node: fusion.given(each, steps[place]) for node, place in zip(entering, places, strict=True)}
    for node in graph.nodes:
        if not isinstance(node.cell, Input):
            own, cell = name + node.name.removeprefix("block"), shared + node.cell_name.removeprefix("block")
            inputs = tuple(nodes[given] for given in node.inputs)
            _append(fusion, replace(node, name=own, inputs=inputs, cell_name=cell), graph.shapes[node.name])
            nodes[node.name] = own
    states = {place: nodes[node] for place, node in zip(places, graph.outputs, strict=True)}
    values = tuple(f"{each.output}@{place}" for place in range(len(steps)))
    for place, value in enumerate(values):
        fusion.node_of[value], fusion.shapes[value] = states[place], (units,)
    put_off(fusion, each, values, axis)


def _shared(fusion: Fusion, each: Operation, name: str) -> str:
    """The name of the block that has these parameters: its own, or of a layer that is used again."""
    sources = tuple(sorted(each.sources.items()))
    if not sources or not fusion.program.ties:
        return name
    return fusion.blocks.setdefault((each.kind, sources), name)


def _steps(fusion: Fusion, each: Operation, source: str, axis: int) -> list[str]:
    """The values of a series' steps."""
    if (stack := rows_of(fusion, source)) is not None and stack[0] == axis:
        return list(stack[1])
    shape, found = fusion.shape(source), []
    for place in range(shape[axis]):
        part, value = source, f"{each.output}@step{place}"
        if shape[axis] > 1:
            part = f"{value}@part"
            name = f"{fusion.named(each)}.step{place}"
            fusion.node(each, Slice(axis, place, place + 1), source, value=part, name=name)
        found.append(fusion.reshaped(each, part, (shape[1 - axis],), value))
    return found


def _named(fusion: Fusion, each: Operation) -> str:
    """A name for the cells of a block, that none has."""
    name, number = fusion.named(each), 1
    while any(other == name or other.startswith(f"{name}.") for other in fusion.names):
        number += 1
        name = f"{fusion.named(each)}_{number}"
    fusion.names.add(name)
    return name


def _append(fusion: Fusion, node: Node, shape: Shape) -> None:
    """A node that is made already."""
    fusion.nodes.append(node)
    fusion.names.add(node.name)
    fusion.shapes[node.name] = shape
    if node.cell.non_negative or (node.cell.keeps_sign and all(name in fusion.non_negative for name in node.inputs)):
        fusion.non_negative.add(node.name)


MAKERS: Mapping[str, Callable[[Fusion, Operation], None]] = {"gru": recurrent, "lstm": recurrent}

"""Let codes that are added or concatenated have one scale and zero point."""

from __future__ import annotations

from dataclasses import fields, replace

from qat.cells.fake_quant import FakeQuant
from qat.cells.input import Input
from qat.errors import QatError
from qat.graph import Graph, Node
from qat.quantizers import ActivationQuantizer, BaseActivationQuantizer

OF_ONE = (
    "quant_delay",
    "ema_decay",
    "initial_alpha",
    "clip",
)  #: settings of a quantizer that its grid does not depend on


def share_grids(graph: Graph, quantizer: BaseActivationQuantizer) -> Graph:
    """Tell the fake quantizers of one another whose codes a cell takes that needs one grid, as Add and Concat do.

    1. They are looked for through cells that keep a grid: max poolings, flattenings, dropouts and concatenations.
    2. Where the network's input arrives, whose grid is fixed or, of real numbers, has other bits than the others, a fake
       quantizer of its own (``<node>.input<i>_fake_quant``) brings it to the common one; likewise where one and the same grid
       would have to serve both as a fixed and a free one.
    3. Two groups that have a member in common become one.
    4. Cells that are left in float take real numbers and need no grid.

    Args:
        graph: with a fake quantizer after every cell that needs one.
        quantizer: of the fake quantizers that are added.

    Raises:
        QatError: quantizers of different classes, bits and the like would have to share.
    """
    nodes: list[Node] = []
    origins_of: dict[
        str, set[str | None]
    ] = {}  # the fake quantizers, by cell, that gave a node's output its grid; None: something else
    entries = {node.name for node in graph.nodes if isinstance(node.cell, Input)}
    group: dict[str, set[str]] = {}  # fake quantizer -> all that share with it, itself included
    for node in graph.nodes:
        if len(node.inputs) > 1 and node.cell.one_grid and node.name not in graph.in_float:
            inputs, members = [], set()
            for position, name in enumerate(node.inputs):
                origins = origins_of[name]
                if None in origins:
                    between = node.follower(f"input{position}_fake_quant", FakeQuant(quantizer), name)
                    nodes.append(between)
                    origins = origins_of[between.name] = {between.cell_name}
                    name = between.name
                inputs.append(name)
                members |= {origin for origin in origins if origin is not None}
            node = replace(node, inputs=tuple(inputs))
            joined = set().union(*(group.get(member, {member}) for member in members))
            for member in joined:
                group[member] = joined
        nodes.append(node)
        if isinstance(node.cell, FakeQuant):
            own = node.inputs[0] in entries and _difference(node.cell.quantizer, quantizer) is not None
            origins_of[node.name] = {None} if own else {node.cell_name}
        elif node.cell.keeps_grid:
            origins_of[node.name] = set().union(*(origins_of[source] for source in node.inputs))
        else:
            origins_of[node.name] = {None}
    cells: dict[str, FakeQuant] = {node.cell_name: node.cell for node in nodes if isinstance(node.cell, FakeQuant)}
    shared = []
    for node in nodes:
        others = tuple(sorted(group.get(node.cell_name, set()) - {node.cell_name}))
        if others and isinstance(node.cell, FakeQuant):
            node = replace(node, cell=_shared(node.cell_name, cells, others))
        shared.append(node)
    return replace(graph, nodes=tuple(shared))


def grid_groups(graph: Graph) -> list[tuple[str, ...]]:
    """The fake quantizers of a quantized graph, by cell, those that share a grid together, in the order of the graph."""
    groups: dict[frozenset[str], dict[str, None]] = {}
    for node in graph.nodes:
        if isinstance(node.cell, FakeQuant):
            groups.setdefault(frozenset((node.cell_name, *node.cell.shares)), {})[node.cell_name] = None
    return [tuple(names) for names in groups.values()]


def _shared(name: str, cells: dict[str, FakeQuant], others: tuple[str, ...]) -> FakeQuant:
    """A fake quantizer that knows of those it shares with."""
    cell = cells[name]
    for other in others:
        one, two = (cells[each].quantizer for each in (name, other))
        if type(one) is not type(two):
            raise QatError(
                f"{name}: shares its grid with {other}, but one has a {type(one).__name__} and the other a "
                f"{type(two).__name__}; give both the same quantizer"
            )
        field = _difference(one, two)
        if field is not None:
            raise QatError(
                f"{name}: shares its grid with {other}, but one has {field} {getattr(one, field)!r} and the other "
                f"{getattr(two, field)!r}; give both the same"
            )
    if not isinstance(cell.quantizer, ActivationQuantizer):  # its zero point would not follow from the range
        cell = replace(cell, non_negative=all(cells[each].non_negative for each in (name, *others)))
    return replace(cell, shares=others)


def _difference(one: BaseActivationQuantizer, two: BaseActivationQuantizer) -> str | None:
    """A setting of the grid in which two quantizers differ, "type" where they are of different classes; None: in none."""
    if type(one) is not type(two):
        return "type"
    names = (field.name for field in fields(one) if field.name not in OF_ONE)
    return next((name for name in names if getattr(one, name) != getattr(two, name)), None)

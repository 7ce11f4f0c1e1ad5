"""Say where a number is put beside codes that do not reach it, before ``to_integer`` refuses it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from qat.cells.fake_quant import FakeQuant
from qat.cells.input import Input
from qat.errors import QatError, QatWarning
from qat.graph import Graph
from qat.integer import Grid, IntegerTensor, code_of
from qat.vocabulary.ops import Array


def warn_of_unreached_numbers(graph: Graph, params: Mapping[str, Array]) -> None:
    """One QatWarning for each number that a cell, as a Pad, puts beside codes whose range does not reach it.

    Args:
        graph: a network; a float one has no codes.
        params: its parameters and state, ranges observed.
    """
    for text in unreached_numbers(graph, params):
        warnings.warn(text, QatWarning, stacklevel=3)


def unreached_numbers(graph: Graph, params: Mapping[str, Array]) -> list[str]:
    """What ``warn_of_unreached_numbers`` says, in the order of the graph.

    1. Codes that enter have a grid that is known without parameters.
    2. A fake quantizer without parameters, or one that has never seen data, has none yet.
    3. A cell that keeps a grid gives it on.
    """
    grids: dict[str, tuple[str, Grid]] = {}  # node -> where its codes are from, and their grid
    found = []
    for node in graph.nodes:
        cell = node.cell
        if isinstance(cell, Input):
            if cell.output_numbers == "coded":
                grids[node.name] = (node.name, cell.grid)
        elif isinstance(cell, FakeQuant):
            own = {local: params[f"{node.cell_name}.{local}"] for local in cell.params() if params}
            if params and not cell.quantizer.unseen(own):
                grids[node.name] = (node.name, cell.grid(node.name, own, params))
        elif cell.keeps_grid and node.inputs and node.inputs[0] in grids:
            source, grid = grids[node.name] = grids[node.inputs[0]]
            for value in cell.constants:
                try:
                    code_of(node.name, value, IntegerTensor(source, (), grid))
                except QatError as error:
                    found.append(str(error))
    return found

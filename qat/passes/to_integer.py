"""From a trained quantization-aware graph to the integer graph that is deployed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qat.cells.fake_quant import FakeQuant
from qat.errors import QatError
from qat.graph import Graph
from qat.integer import IntegerBuilder, IntegerGraph, IntegerTensor
from qat.ops import Array


def to_integer(graph: Graph, params: Mapping[str, Array]) -> IntegerGraph:
    """Derive every integer and multiplier once, in NumPy; each cell gives its own integer form.

    Raises QatError where a cell has no quantizer or never saw data.
    """
    if not any(isinstance(node.cell, FakeQuant) for node in graph.nodes):
        raise QatError(
            f"{graph.name} is a float network, it has no integers: convert it with convert_quant_network and train it "
            "(train_quant.py) first"
        )
    graph.check_params(params)
    builder = IntegerBuilder()
    values: dict[str, Any] = {}
    for node in graph.nodes:
        prefix = f"{node.cell_name}."
        own = {local: params[prefix + local] for local in node.cell.params()}
        values[node.name] = node.cell.to_integer(builder, node.name, own, *(values[name] for name in node.inputs))
    (output,) = graph.outputs
    if not isinstance(values[output], IntegerTensor):
        raise QatError(f"{output}: the output of {graph.name} has no fake quantizer; keep after_fake=True on that cell")
    return IntegerGraph(tuple(builder.nodes), graph.name)

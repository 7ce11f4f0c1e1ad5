"""When quantization sets in, and when batch normalisation is frozen: other steps for a graph that is quantized already."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from qat.cells.linear import LinearCell
from qat.graph import Graph
from qat.quantizers import Quantizer


def with_delays(graph: Graph, *, quant_delay: int | None = None, freeze_bn: int | None = None) -> Graph:
    """The same network, whose training changes its form at other steps. What is deployed does not depend on them.

    Args:
        graph: a graph, of whose fields nothing else changes.
        quant_delay: the training steps before its quantizers quantize; None, the default: as it is.
        freeze_bn: the step from which on its batch normalisations use their running statistics; None likewise.

    Returns:
        The graph.

    >>> import qat
    >>> from qat.networks import LeNet5
    >>> from qat.passes.delays import with_delays
    >>> with_delays(qat.convert_quant_network(LeNet5()), quant_delay=900).quant_delay
    900
    """
    nodes = []
    for node in graph.nodes:
        cell: Any = node.cell
        if quant_delay is not None:
            own = {field.name: getattr(cell, field.name) for field in fields(cell)}
            changed = {name: replace(q, quant_delay=quant_delay) for name, q in own.items() if isinstance(q, Quantizer)}
            cell = replace(cell, **changed) if changed else cell
        if freeze_bn is not None and isinstance(cell, LinearCell) and cell.has_bn:
            cell = replace(cell, freeze_bn=freeze_bn)  # type: ignore[type-var]
        nodes.append(replace(node, cell=cell))
    return replace(graph, nodes=tuple(nodes))

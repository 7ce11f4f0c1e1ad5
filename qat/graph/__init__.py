"""Graphs of cells, and the networks that are traced to them."""

from qat.graph.graph import FORMAT, Graph, Node, Params
from qat.graph.network import Network, Symbol, Trace, as_float_graph, as_graph

__all__ = [
    "FORMAT",
    "Graph",
    "Network",
    "Node",
    "Params",
    "Symbol",
    "Trace",
    "as_float_graph",
    "as_graph",
]

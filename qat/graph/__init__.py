"""Graphs of cells, and the networks that are traced to them."""

from qat.graph.graph import FORMAT, Graph, Node, Params
from qat.graph.network import Network, Symbol, Trace, as_float_graph, as_graph
from qat.graph.recurrent import GRU, LSTM

__all__ = [
    "FORMAT",
    "GRU",
    "LSTM",
    "Graph",
    "Network",
    "Node",
    "Params",
    "Symbol",
    "Trace",
    "as_float_graph",
    "as_graph",
]

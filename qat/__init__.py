"""Quantization-aware training whose integers are the integers of deployment."""

from qat.cells import Cell, Conv2dBnAct, DenseBnAct, FakeQuant, Flatten, Input, MaxPool2d
from qat.errors import QatError
from qat.graph import Graph, Node
from qat.integer import IntegerGraph, evaluate
from qat.network import Network
from qat.passes.convert_quant_network import convert_quant_network
from qat.passes.to_integer import to_integer
from qat.quantizers import ActivationQuantizer, WeightQuantizer
from qat.registry import backend, target

__version__ = "0.1.0"
__all__ = [
    "ActivationQuantizer",
    "Cell",
    "Conv2dBnAct",
    "DenseBnAct",
    "FakeQuant",
    "Flatten",
    "Graph",
    "Input",
    "IntegerGraph",
    "MaxPool2d",
    "Network",
    "Node",
    "QatError",
    "WeightQuantizer",
    "backend",
    "convert_quant_network",
    "evaluate",
    "target",
    "to_integer",
]

"""The cells that networks are made of."""

from qat.cells.base import Cell, Context, Param, Scope
from qat.cells.fake_quant import FakeQuant
from qat.cells.input import Input
from qat.cells.linear import Conv2dBnAct, DenseBnAct, LinearCell
from qat.cells.shape import Flatten, MaxPool2d

__all__ = [
    "Cell",
    "Context",
    "Conv2dBnAct",
    "DenseBnAct",
    "FakeQuant",
    "Flatten",
    "Input",
    "LinearCell",
    "MaxPool2d",
    "Param",
    "Scope",
]

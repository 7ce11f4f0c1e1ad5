"""The cells that networks are made of."""

from qat.cells.base import Cell, Context, Param, Scope
from qat.cells.batch_norm import BatchNorm
from qat.cells.conv2d import Conv2dBnAct
from qat.cells.dense import DenseBnAct
from qat.cells.elementwise import Activation, Add
from qat.cells.fake_quant import FakeQuant
from qat.cells.input import Input
from qat.cells.linear import LinearCell, WeightedCell
from qat.cells.pooling import AvgPool2d, GlobalAvgPool2d, MaxPool2d
from qat.cells.shape import Concat, Dropout, Flatten
from qat.cells.softmax import Softmax

__all__ = [
    "Activation",
    "Add",
    "AvgPool2d",
    "BatchNorm",
    "Cell",
    "Concat",
    "Context",
    "Conv2dBnAct",
    "DenseBnAct",
    "Dropout",
    "FakeQuant",
    "Flatten",
    "GlobalAvgPool2d",
    "Input",
    "LinearCell",
    "MaxPool2d",
    "Param",
    "Scope",
    "Softmax",
    "WeightedCell",
]

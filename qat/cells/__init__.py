"""The cells that networks are made of.

A network is written with cells in ``__init__`` and their calls in ``construct``:

>>> import qat
>>> class Net(qat.Network):
...     def __init__(self):
...         self.inputs = qat.Input((3, 32, 32), mean=0.5, std=0.25)
...         self.norm = qat.BatchNorm(3)
...         self.first = qat.Conv2dBnAct(3, 8, 3, has_bn=True, activation="relu")
...         self.second = qat.Conv2dBnAct(8, 8, 3, has_bn=True)
...         self.add, self.concat = qat.Add("relu"), qat.Concat()
...         self.max_pool, self.avg_pool = qat.MaxPool2d(2, 2), qat.AvgPool2d(2, 2)
...         self.tanh, self.dropout = qat.Activation("tanh"), qat.Dropout(0.5)
...         self.pool, self.flatten = qat.GlobalAvgPool2d(), qat.Flatten()
...         self.fc, self.softmax = qat.DenseBnAct(16, 10), qat.Softmax()
...     def construct(self, x):
...         x = self.first(self.norm(x))
...         x = self.add(x, self.second(x))
...         x = self.concat(self.max_pool(x), self.avg_pool(x))
...         x = self.flatten(self.pool(self.dropout(self.tanh(x))))
...         return self.softmax(self.fc(x))
>>> graph = Net().graph()
>>> isinstance(graph, qat.Graph), isinstance(graph.nodes[0], qat.Node), isinstance(graph.nodes[0].cell, qat.Cell)
(True, True, True)
>>> graph.shapes["concat"]
(16, 16, 16)
>>> quantized = qat.convert_quant_network(graph)
>>> sum(isinstance(node.cell, qat.FakeQuant) for node in quantized.nodes) > 5
True
>>> integers = qat.to_integer(quantized, quantized.observed_params())
>>> isinstance(integers, qat.IntegerGraph)
True
"""

from qat.cells.adaptive import AdaptiveAvgPool2d
from qat.cells.arithmetic import Maximum, Minimum, Mul, Sub
from qat.cells.base import Cell, Context, Param, Scope
from qat.cells.batch_norm import BatchNorm
from qat.cells.bilinear import UpsampleBilinear
from qat.cells.channel_norm import GroupNorm, LayerNorm, RMSNorm
from qat.cells.conv1d import Conv1dBnAct
from qat.cells.conv2d import Conv2dBnAct
from qat.cells.conv_transpose2d import ConvTranspose2dBnAct
from qat.cells.dense import DenseBnAct
from qat.cells.dequantize import Dequantize
from qat.cells.elementwise import Activation, Add
from qat.cells.fake_quant import FakeQuant
from qat.cells.input import Input
from qat.cells.linear import LinearCell, WeightedCell
from qat.cells.matmul import MatMul
from qat.cells.normalize import Normalize
from qat.cells.pad import Pad
from qat.cells.part import Slice
from qat.cells.pooling import AvgPool1d, AvgPool2d, GlobalAvgPool1d, GlobalAvgPool2d, MaxPool1d, MaxPool2d
from qat.cells.prelu import PReLU
from qat.cells.rearrange import (
    ChannelShuffle,
    PixelShuffle,
    PixelUnshuffle,
    Reshape,
    Stack,
    Transpose,
    Upsample,
)
from qat.cells.recurrence import OneGrid, ZeroState
from qat.cells.reduce import GlobalMaxPool1d, GlobalMaxPool2d, Max, Mean
from qat.cells.shape import Concat, ConstantChannel, Dropout, Flatten
from qat.cells.softmax import Softmax

__all__ = [
    "Activation",
    "AdaptiveAvgPool2d",
    "Add",
    "AvgPool1d",
    "AvgPool2d",
    "BatchNorm",
    "Cell",
    "ChannelShuffle",
    "Concat",
    "ConstantChannel",
    "Context",
    "Conv1dBnAct",
    "Conv2dBnAct",
    "ConvTranspose2dBnAct",
    "DenseBnAct",
    "Dequantize",
    "Dropout",
    "FakeQuant",
    "Flatten",
    "GlobalAvgPool1d",
    "GlobalAvgPool2d",
    "GlobalMaxPool1d",
    "GlobalMaxPool2d",
    "GroupNorm",
    "Input",
    "LayerNorm",
    "LinearCell",
    "MatMul",
    "Max",
    "MaxPool1d",
    "MaxPool2d",
    "Maximum",
    "Mean",
    "Minimum",
    "Mul",
    "Normalize",
    "OneGrid",
    "PReLU",
    "Pad",
    "Param",
    "PixelShuffle",
    "PixelUnshuffle",
    "RMSNorm",
    "Reshape",
    "Scope",
    "Slice",
    "Softmax",
    "Stack",
    "Sub",
    "Transpose",
    "Upsample",
    "UpsampleBilinear",
    "WeightedCell",
    "ZeroState",
]

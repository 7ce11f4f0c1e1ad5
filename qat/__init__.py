"""Quantization-aware training whose integers are the integers of deployment."""

from qat import data, pruning
from qat.analysis import metrics
from qat.analysis.calibration import calibrate
from qat.cells import (
    Activation,
    Add,
    AvgPool2d,
    BatchNorm,
    Cell,
    Concat,
    Conv2dBnAct,
    DenseBnAct,
    Dropout,
    FakeQuant,
    Flatten,
    GlobalAvgPool2d,
    Input,
    MaxPool2d,
    Softmax,
)
from qat.deploy import verify
from qat.errors import QatError
from qat.graph import Graph, Network, Node
from qat.integer import IntegerGraph, evaluate, memory
from qat.passes.convert_quant_network import convert_quant_network
from qat.passes.to_integer import to_integer
from qat.quantizers import (
    ActivationQuantizer,
    BinaryActivationQuantizer,
    BinaryWeightQuantizer,
    DoReFaActivationQuantizer,
    DoReFaWeightQuantizer,
    GTCActivationQuantizer,
    GTCWeightQuantizer,
    LearnedWidthActivationQuantizer,
    LearnedWidthWeightQuantizer,
    LSQActivationQuantizer,
    LSQWeightQuantizer,
    PACTActivationQuantizer,
    QKerasBinaryWeightQuantizer,
    QKerasBitsActivationQuantizer,
    QKerasBitsWeightQuantizer,
    QKerasReLUActivationQuantizer,
    QKerasTernaryWeightQuantizer,
    TernaryWeightQuantizer,
    WeightQuantizer,
)
from qat.registry import backend, backend_names, target, target_names
from qat.training.checkpoint import Checkpoint

__version__ = "0.1.0"
__all__ = [
    "Activation",
    "ActivationQuantizer",
    "Add",
    "AvgPool2d",
    "BatchNorm",
    "BinaryActivationQuantizer",
    "BinaryWeightQuantizer",
    "Cell",
    "Checkpoint",
    "Concat",
    "Conv2dBnAct",
    "DenseBnAct",
    "DoReFaActivationQuantizer",
    "DoReFaWeightQuantizer",
    "Dropout",
    "FakeQuant",
    "Flatten",
    "GTCActivationQuantizer",
    "GTCWeightQuantizer",
    "GlobalAvgPool2d",
    "Graph",
    "Input",
    "IntegerGraph",
    "LSQActivationQuantizer",
    "LSQWeightQuantizer",
    "LearnedWidthActivationQuantizer",
    "LearnedWidthWeightQuantizer",
    "MaxPool2d",
    "Network",
    "Node",
    "PACTActivationQuantizer",
    "QKerasBinaryWeightQuantizer",
    "QKerasBitsActivationQuantizer",
    "QKerasBitsWeightQuantizer",
    "QKerasReLUActivationQuantizer",
    "QKerasTernaryWeightQuantizer",
    "QatError",
    "Softmax",
    "TernaryWeightQuantizer",
    "WeightQuantizer",
    "backend",
    "backend_names",
    "calibrate",
    "convert_quant_network",
    "data",
    "evaluate",
    "memory",
    "metrics",
    "pruning",
    "target",
    "target_names",
    "to_integer",
    "verify",
]

"""Quantization-aware training whose integers are the integers of deployment.

>>> import numpy as np
>>> import qat
>>> class Net(qat.Network):
...     def __init__(self):
...         self.inputs = qat.Input((1, 8, 8), mean=0.5, std=0.25)
...         self.flatten = qat.Flatten()
...         self.fc = qat.DenseBnAct(64, 10)
...     def construct(self, x):
...         return self.fc(self.flatten(x))
>>> images = np.random.default_rng(0).integers(0, 256, (100, 1, 8, 8), np.uint8)
>>> graph = Net().graph()
>>> checkpoint = qat.calibrate(graph, graph.initial_params(seed=0), images)
>>> integers = qat.to_integer(checkpoint.graph, checkpoint.params)
>>> qat.evaluate(integers, images).shape
(100, 10)
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from qat import data, quantizers, tasks
from qat.analysis import metrics
from qat.analysis.calibration import calibrate
from qat.analysis.rounding import LearnedRounding
from qat.cells import (
    Activation,
    AdaptiveAvgPool2d,
    Add,
    AvgPool1d,
    AvgPool2d,
    BatchNorm,
    Cell,
    ChannelShuffle,
    Concat,
    ConstantChannel,
    Conv1dBnAct,
    Conv2dBnAct,
    ConvTranspose2dBnAct,
    DenseBnAct,
    Dequantize,
    Dropout,
    FakeQuant,
    Flatten,
    GlobalAvgPool1d,
    GlobalAvgPool2d,
    GlobalMaxPool1d,
    GlobalMaxPool2d,
    GroupNorm,
    Input,
    LayerNorm,
    MatMul,
    Max,
    Maximum,
    MaxPool1d,
    MaxPool2d,
    Mean,
    Minimum,
    Mul,
    Normalize,
    OneGrid,
    Pad,
    PixelShuffle,
    PixelUnshuffle,
    PReLU,
    Reshape,
    RMSNorm,
    Slice,
    Softmax,
    Stack,
    Sub,
    Transpose,
    Upsample,
    UpsampleBilinear,
    ZeroState,
)
from qat.cells.tracing import Traced
from qat.data import Dataset, Split
from qat.errors import NotFiniteError, QatError
from qat.graph import GRU, LSTM, Graph, Network, Node
from qat.integer import IntegerGraph, evaluate, memory
from qat.passes.convert_quant_network import convert_quant_network
from qat.passes.few_bits import few_bits_settings
from qat.passes.step_params import step_params
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
    QKerasPo2ActivationQuantizer,
    QKerasPo2WeightQuantizer,
    QKerasReLUActivationQuantizer,
    QKerasReLUPo2ActivationQuantizer,
    QKerasTernaryWeightQuantizer,
    TernaryWeightQuantizer,
    WeightQuantizer,
)
from qat.registry import backend, backend_names, target, target_names
from qat.tasks import Task
from qat.training.checkpoint import Checkpoint
from qat.training.losses import Objective
from qat.training.optimizer import Optimizer

if TYPE_CHECKING:  # what _LATER has
    from qat import networks, pruning, zoo
    from qat.analysis.diagnosis import diagnose
    from qat.analysis.repair import repair
    from qat.analysis.repaired import Repair, TargetMissedError
    from qat.deploy import verify
    from qat.imports.export import export
    from qat.imports.model import import_model
    from qat.imports.prepare import export_params, prepare
    from qat.reporting.report import report
    from qat.training import trackers
    from qat.training.distillation import Teaching, teach
    from qat.training.log import progress
    from qat.training.loop import evaluate_accuracy, evaluate_metrics, train
    from qat.training.objectives import BopsBudget, Distillation, GTCLoss, SizeBudget
    from qat.training.origin import checkpoint_of
    from qat.training.oscillations import Oscillations, oscillating
    from qat.training.quant_schedule import QuantSchedule, callback
    from qat.training.recipe import Recipe
    from qat.training.reestimate import reestimate_batch_norm

__version__ = "0.1.0"
__all__ = [
    "GRU",
    "LSTM",
    "Activation",
    "ActivationQuantizer",
    "AdaptiveAvgPool2d",
    "Add",
    "AvgPool1d",
    "AvgPool2d",
    "BatchNorm",
    "BinaryActivationQuantizer",
    "BinaryWeightQuantizer",
    "BopsBudget",
    "Cell",
    "ChannelShuffle",
    "Checkpoint",
    "Concat",
    "ConstantChannel",
    "Conv1dBnAct",
    "Conv2dBnAct",
    "ConvTranspose2dBnAct",
    "Dataset",
    "DenseBnAct",
    "Dequantize",
    "Distillation",
    "DoReFaActivationQuantizer",
    "DoReFaWeightQuantizer",
    "Dropout",
    "FakeQuant",
    "Flatten",
    "GTCActivationQuantizer",
    "GTCLoss",
    "GTCWeightQuantizer",
    "GlobalAvgPool1d",
    "GlobalAvgPool2d",
    "GlobalMaxPool1d",
    "GlobalMaxPool2d",
    "Graph",
    "GroupNorm",
    "Input",
    "IntegerGraph",
    "LSQActivationQuantizer",
    "LSQWeightQuantizer",
    "LayerNorm",
    "LearnedRounding",
    "LearnedWidthActivationQuantizer",
    "LearnedWidthWeightQuantizer",
    "MatMul",
    "Max",
    "MaxPool1d",
    "MaxPool2d",
    "Maximum",
    "Mean",
    "Minimum",
    "Mul",
    "Network",
    "Node",
    "Normalize",
    "NotFiniteError",
    "Objective",
    "OneGrid",
    "Optimizer",
    "Oscillations",
    "PACTActivationQuantizer",
    "PReLU",
    "Pad",
    "PixelShuffle",
    "PixelUnshuffle",
    "QKerasBinaryWeightQuantizer",
    "QKerasBitsActivationQuantizer",
    "QKerasBitsWeightQuantizer",
    "QKerasPo2ActivationQuantizer",
    "QKerasPo2WeightQuantizer",
    "QKerasReLUActivationQuantizer",
    "QKerasReLUPo2ActivationQuantizer",
    "QKerasTernaryWeightQuantizer",
    "QatError",
    "QuantSchedule",
    "RMSNorm",
    "Recipe",
    "Repair",
    "Reshape",
    "SizeBudget",
    "Slice",
    "Softmax",
    "Split",
    "Stack",
    "Sub",
    "TargetMissedError",
    "Task",
    "Teaching",
    "TernaryWeightQuantizer",
    "Traced",
    "Transpose",
    "Upsample",
    "UpsampleBilinear",
    "WeightQuantizer",
    "ZeroState",
    "backend",
    "backend_names",
    "calibrate",
    "callback",
    "checkpoint_of",
    "convert_quant_network",
    "data",
    "diagnose",
    "evaluate",
    "evaluate_accuracy",
    "evaluate_metrics",
    "export",
    "export_params",
    "few_bits_settings",
    "import_model",
    "memory",
    "metrics",
    "networks",
    "oscillating",
    "prepare",
    "progress",
    "pruning",
    "quantizers",
    "reestimate_batch_norm",
    "repair",
    "report",
    "step_params",
    "target",
    "target_names",
    "tasks",
    "teach",
    "to_integer",
    "trackers",
    "train",
    "verify",
    "zoo",
]

#: Modules, and where names are, that are imported when they are used, since not every program needs what they bring with them.
_MODULES = {
    "networks": "qat.networks",
    "pruning": "qat.pruning",
    "trackers": "qat.training.trackers",
    "verify": "qat.deploy.verify",
    "zoo": "qat.zoo",
}
_LATER = {
    "qat.analysis.diagnosis": ("diagnose",),
    "qat.analysis.repair": ("repair",),
    "qat.analysis.repaired": ("Repair", "TargetMissedError"),
    "qat.reporting.report": ("report",),
    "qat.imports.export": ("export",),
    "qat.imports.model": ("import_model",),
    "qat.imports.prepare": ("export_params", "prepare"),
    "qat.training.distillation": ("Teaching", "teach"),
    "qat.training.log": ("progress",),
    "qat.training.loop": ("evaluate_accuracy", "evaluate_metrics", "train"),
    "qat.training.origin": ("checkpoint_of",),
    "qat.training.oscillations": ("Oscillations", "oscillating"),
    "qat.training.quant_schedule": ("QuantSchedule", "callback"),
    "qat.training.recipe": ("Recipe",),
    "qat.training.reestimate": ("reestimate_batch_norm",),
    "qat.training.objectives": ("BopsBudget", "Distillation", "GTCLoss", "SizeBudget"),
}


if not TYPE_CHECKING:  # a type checker would take every misspelt name for one that comes from here

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(_MODULES[name])
        for module, names in _LATER.items():
            if name in names:
                return getattr(importlib.import_module(module), name)
        raise AttributeError(f"module 'qat' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What a user works with: ``__all__``, and the packages and modules below that are imported so far."""
    below = {
        name
        for name, value in globals().items()
        if isinstance(value, ModuleType) and value.__name__ == f"{__name__}.{name}"
    }
    return sorted({*__all__, *below, *(name for name in globals() if name.startswith("__"))})

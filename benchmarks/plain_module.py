"""A float network of qat as a plain torch.nn.Module of PyTorch's own layers, which other tools can read."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

import qat
from qat.errors import QatError
from qat.graph import Graph, Node
from qat.vocabulary.activations import RELU_BOUNDS

ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6}


def plain_module(graph: Graph, params: Mapping[str, np.ndarray]) -> torch.fx.GraphModule:
    """The network in evaluation mode. It takes the real numbers of the input (``Input.real_numbers``), float32.

    A module for each step of a cell, named after its node: padding where sides differ, convolution, batch normalisation and
    activation function are modules of their own, as in a network that was written by hand.

    Args:
        graph: a float network with one input and one output.
        params: its parameters, float32 by full name.

    Raises:
        QatError: a cell has no such module here, as an activation function other than ReLU and ReLU6.
    """
    root, fx = nn.Module(), torch.fx.Graph()
    found: dict[str, torch.fx.Node] = {}
    for node in graph.nodes:
        if isinstance(node.cell, qat.Input):
            found[node.name] = fx.placeholder("x")
            continue
        x, *others = (found[name] for name in node.inputs)
        if isinstance(node.cell, qat.Add):
            x = fx.call_function(operator.add, (x, *others))
        own = {key: torch.from_numpy(np.array(params[f"{node.cell_name}.{key}"])) for key in node.cell.params()}
        for kind, module in _modules(node, own, graph.shapes[node.inputs[0]]).items():
            name = f"{node.name.replace('.', '_')}_{kind}"
            root.add_module(name, module)
            x = fx.call_module(name, (x,))
        found[node.name] = x
    fx.output(found[graph.outputs[0]])
    return torch.fx.GraphModule(root, fx).eval()


def _modules(node: Node, own: Mapping[str, torch.Tensor], shape: tuple[int, ...]) -> dict[str, nn.Module]:
    """The modules of a cell in their order, with its parameters."""
    cell: Any = node.cell
    if isinstance(cell, qat.Add):
        return _activation(node)
    if isinstance(cell, qat.Flatten):
        return {"flatten": nn.Flatten()}
    if isinstance(cell, qat.GlobalAvgPool2d):
        return {"pool": nn.AdaptiveAvgPool2d(1)}
    if isinstance(cell, qat.AvgPool2d) and not any(cell.window(shape)["padding"]) and not cell.ceil_mode:
        return {"pool": nn.AvgPool2d(cell.kernel_size, cell.stride)}
    if isinstance(cell, qat.DenseBnAct) and len(shape) == 1 and not cell.has_bn:
        linear = nn.Linear(shape[0], cell.out_channels, cell.has_bias)
        return {"linear": _filled(linear, own)} | _activation(node)
    if isinstance(cell, qat.Conv2dBnAct):
        window = cell.window(shape)
        top, bottom, left, right = window["padding"]
        even = (top, left) == (bottom, right)
        conv = nn.Conv2d(
            shape[0],
            cell.out_channels,
            cell.kernel_size,
            window["stride"],
            (top, left) if even else 0,
            window["dilation"],
            cell.group,
            cell.has_bias,
        )
        modules: dict[str, nn.Module] = {} if even else {"pad": nn.ZeroPad2d((left, right, top, bottom))}
        modules["conv"] = _filled(conv, own)
        if cell.has_bn:
            norm = nn.BatchNorm2d(cell.out_channels, cell.eps)
            named = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
            modules["norm"] = _filled(norm, {key: own[of_cell] for key, of_cell in named.items()})
        return modules | _activation(node)
    raise QatError(f"{node.name}: {type(cell).__name__} has no plain module here; use --tools qat")


def _activation(node: Node) -> dict[str, nn.Module]:
    name = node.cell.activation  # type: ignore[attr-defined]
    if name is None:
        return {}
    if name not in ACTIVATIONS:
        raise QatError(f"{node.name}: activation {name!r} has no plain module here; it has {', '.join(RELU_BOUNDS)}")
    return {"act": ACTIVATIONS[name]()}


def _filled(module: nn.Module, own: Mapping[str, torch.Tensor]) -> nn.Module:
    """The module with the parameters that it has a name for."""
    state = module.state_dict()
    module.load_state_dict(state | {key: own[key] for key in state if key in own})
    return module

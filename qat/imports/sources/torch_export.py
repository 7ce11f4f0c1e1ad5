"""A torch.nn.Module, or a program that torch.export saved, as plain operations.

``torch.export`` without decompositions keeps convolutions, normalisations and activations whole, and the name of the module and
the line of the user's file of each.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from qat.errors import QatError
from qat.imports.program import Operation, Program
from qat.reading import reason_of
from qat.vocabulary.arrays import ArraySpec

Call = tuple[str, dict[str, Any], dict[str, int]]  #: kind, attributes, constants by the positions of arguments


def read_module(module: torch.nn.Module, example: Any, name: str | None = None) -> Program:
    """The operations of a module in evaluation mode.

    Args:
        module: Any; it is not changed.
        example: What it takes, one tensor or a tuple of them; its batch size does not matter.
        name: Of the network; that of the class by default.

    Returns:
        The program.

    Raises:
        QatError: the module is in training mode, or torch.export cannot capture it.
    """
    if any(each.training for each in module.modules()):
        raise QatError(
            f"{type(module).__name__}: is in training mode, so that its batch normalisations and dropouts would be those of a "
            "training step; call module.eval() first"
        )
    inputs = example if isinstance(example, tuple) else (example,)
    try:
        with torch.no_grad():
            exported = torch.export.export(module, inputs)
    except Exception as error:  # whatever the module's own code raises, and torch's many kinds
        raise QatError(
            f"{type(module).__name__}: torch.export cannot capture it ({reason_of(error)}); control flow that depends on numbers "
            "has to be written otherwise, or cut off"
        ) from None
    return read_exported(exported, name or type(module).__name__)


def read_exported(exported: Any, name: str) -> Program:
    """The operations of an exported program (``torch.export.load``)."""
    signature = exported.graph_signature
    arrays = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants: dict[str, tuple[str, Any]] = {
        placeholder: (
            source,
            exported.state_dict[source] if source in exported.state_dict else exported.constants[source],
        )
        for placeholder, source in arrays.items()
    }
    constants |= {
        placeholder: (source, exported.constants[source])
        for placeholder, source in signature.inputs_to_lifted_tensor_constants.items()
    }
    inputs: dict[str, ArraySpec] = {}
    operations: list[Operation] = []
    shapes: dict[str, tuple[int, ...]] = {}
    alias: dict[str, str] = {}
    outputs: tuple[str, ...] = ()
    for node in exported.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            shapes[node.name] = tuple(int(size) for size in value.shape[1:])
        if node.op == "placeholder" and node.name not in constants:
            inputs[node.name] = ArraySpec(shapes[node.name], str(value.dtype).removeprefix("torch."))
        elif node.op == "output":
            outputs = tuple(alias.get(each.name, each.name) for each in node.args[0])
        elif node.op == "call_function":
            if node.target is operator.getitem:
                alias[node.name] = node.args[0].name
                continue
            operations.append(_operation(node, constants, alias))
    return Program(name, inputs, tuple(operations), outputs, shapes)


def _operation(node: Any, constants: dict[str, tuple[str, Any]], alias: dict[str, str]) -> Operation:
    target = str(node.target).removeprefix("aten.")
    known = _READERS.get(target) or _READERS.get(target.partition(".")[0])
    arguments = _arguments(node)
    kind, attributes, arrays = known(arguments) if known else ("unknown", {"of": f"aten.{target}"}, {})
    found, sources = {}, {}
    for local, position in arrays.items():
        given = arguments[position] if position < len(arguments) else None
        if given is None:
            continue
        if isinstance(given, torch.fx.Node) and given.name in constants:
            source, tensor = constants[given.name]
            found[local], sources[local] = tensor.detach().cpu().numpy().astype(np.float32), source
        elif not isinstance(given, torch.fx.Node):
            found[local] = np.asarray(given, np.float32)
    names = [alias.get(each.name, each.name) for each in node.all_input_nodes if each.name not in constants]
    return Operation(kind, _module(node), tuple(names), node.name, attributes, found, sources, _line(node))


def _arguments(node: Any) -> list[Any]:
    """All arguments in order, those by keyword in the places of the schema."""
    found = list(node.args)
    for place, argument in enumerate(node.target._schema.arguments[len(found) :], len(found)):
        del place
        found.append(node.kwargs.get(argument.name, argument.default_value if argument.has_default_value() else None))
    return found


def _module(node: Any) -> str:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return re.sub(r"^L\['self'\]\.?", "", stack[-1][0]) if stack else ""


def _line(node: Any) -> str:
    """The last line of the user's own files."""
    lines = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    own = [(file, number) for file, number in lines if "/torch/" not in file]
    return f"{own[-1][0]}:{own[-1][1]}" if own else ""


def _pair(value: Any, default: int | None = None) -> tuple[int, int]:
    if value is None or (isinstance(value, Sequence) and not value):
        assert default is not None
        return default, default
    values = list(value) if isinstance(value, Sequence) else [value]
    return (int(values[0]), int(values[-1]))


def _conv2d(a: list[Any]) -> Call:
    rows, columns = (0, 0) if isinstance(a[4], str) else _pair(a[4])
    attributes = {
        "stride": _pair(a[3]),
        "padding": "same" if a[4] == "same" else (rows, rows, columns, columns),
        "dilation": _pair(a[5]),
        "groups": int(a[6]),
    }
    return "conv2d", attributes, {"weight": 1, "bias": 2}


def _pool(kind: str) -> Callable[[list[Any]], Call]:
    def read(a: list[Any]) -> Call:
        rows, columns = _pair(a[3])
        kernel = _pair(a[1])
        attributes: dict[str, Any] = {
            "kernel": kernel,
            "stride": _pair(a[2]) if a[2] else kernel,
            "padding": (rows, rows, columns, columns),
        }
        if kind == "max_pool2d":
            attributes |= {"dilation": _pair(a[4]), "ceil": bool(a[5])}
        else:
            attributes |= {"ceil": bool(a[4]), "counts_padding": bool(a[5]) and a[6] is None}
        return kind, attributes, {}

    return read


def _scalar(kind: str, sign: float = 1.0, *, inverse: bool = False) -> Callable[[list[Any]], Call]:
    def read(a: list[Any]) -> Call:
        if isinstance(a[1], torch.fx.Node):
            return (
                (kind, {}, {"other": 1})
                if sign == 1.0 and not inverse
                else ("unknown", {"of": "aten.sub or aten.div"}, {})
            )
        number = sign * (1.0 / float(a[1]) if inverse else float(a[1]))
        a[1] = number
        return kind, {}, {"other": 1}

    return read


def _function(name: str, **options: Any) -> Callable[[list[Any]], Call]:
    return lambda a: ("activation", {"function": name, **options}, {})


_READERS: dict[str, Callable[[list[Any]], Call]] = {
    "conv2d": _conv2d,
    "linear": lambda a: ("dense", {}, {"weight": 1, "bias": 2}),
    "batch_norm": lambda a: ("batch_norm", {"eps": float(a[7])}, {"gamma": 1, "beta": 2, "mean": 3, "variance": 4}),
    "relu": lambda a: ("clip", {"low": 0.0, "high": None}, {}),
    "relu_": lambda a: ("clip", {"low": 0.0, "high": None}, {}),
    "relu6": lambda a: ("clip", {"low": 0.0, "high": 6.0}, {}),
    "hardtanh": lambda a: ("clip", {"low": float(a[1]), "high": float(a[2])}, {}),
    "hardtanh_": lambda a: ("clip", {"low": float(a[1]), "high": float(a[2])}, {}),
    "clamp": lambda a: ("clip", {"low": a[1], "high": a[2]}, {}),
    "sigmoid": _function("sigmoid"),
    "tanh": _function("tanh"),
    "hardsigmoid": _function("hsigmoid"),
    "hardswish": _function("hswish"),
    "hardswish_": _function("hswish"),
    "leaky_relu": lambda a: ("activation", {"function": "leaky_relu", "alpha": float(a[1])}, {}),
    "add": _scalar("add"),
    "add_": _scalar("add"),
    "sub": _scalar("add", -1.0),
    "mul": _scalar("mul"),
    "div": _scalar("mul", inverse=True),
    "max_pool2d": _pool("max_pool2d"),
    "avg_pool2d": _pool("avg_pool2d"),
    "adaptive_avg_pool2d": lambda a: (
        ("mean", {"axes": (2, 3), "keepdims": True}, {})
        if _pair(a[1]) == (1, 1)
        else ("unknown", {"of": f"aten.adaptive_avg_pool2d to {_pair(a[1])}"}, {})
    ),
    "mean.dim": lambda a: ("mean", {"axes": tuple(sorted(x % 4 for x in a[1])), "keepdims": bool(a[2])}, {}),
    "flatten": lambda a: (
        ("flatten", {}, {}) if a[1] == 1 else ("unknown", {"of": "aten.flatten from another axis"}, {})
    ),
    "cat": lambda a: ("concat", {"axis": int(a[1])}, {}),
    "softmax": lambda a: ("softmax", {"axis": int(a[1])}, {}),
    "dropout": lambda a: ("dropout", {"rate": float(a[1])}, {}),
    "dropout_": lambda a: ("dropout", {"rate": float(a[1])}, {}),
    "contiguous": lambda a: ("identity", {}, {}),
    "clone": lambda a: ("identity", {}, {}),
    "alias": lambda a: ("identity", {}, {}),
    "detach": lambda a: ("identity", {}, {}),
    "to": lambda a: ("identity", {}, {}),
}

"""What is read of one node of a captured program: its operation, arguments, name and line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from qat.imports.sources.torch_params import plain_name

TORCH = os.path.dirname(torch.__file__) + os.sep
CONTAINERS = "torch.nn.modules.container."


def first_of(value: Any) -> Any:
    """The first of several results."""
    return value[0] if isinstance(value, (tuple, list)) and value else value


def nodes_of(arguments: Any) -> Iterator[torch.fx.Node]:
    """The nodes among arguments, in order; one that is given twice comes twice."""
    if isinstance(arguments, torch.fx.Node):
        yield arguments
    elif isinstance(arguments, Mapping):
        for each in arguments.values():
            yield from nodes_of(each)
    elif isinstance(arguments, (tuple, list)):
        for each in arguments:
            yield from nodes_of(each)


def arguments_of(node: Any) -> list[Any]:
    """All arguments in order, those by keyword in the places of the schema."""
    found = list(node.args)
    schema = getattr(node.target, "_schema", None)
    for argument in schema.arguments[len(found) :] if schema else ():
        found.append(node.kwargs.get(argument.name, argument.default_value if argument.has_default_value() else None))
    return found


def namespace_of(node: Any) -> str:
    """The library of its operation, with a dot: ``aten.`` is PyTorch's own."""
    return f"{getattr(node.target, 'namespace', 'torch')}."


def target_of(node: Any) -> str:
    """The operation's name without namespace, overload and the sign of an in-place variant."""
    schema = getattr(node.target, "_schema", None)
    name = schema.name.rpartition("::")[2] if schema else getattr(node.target, "__name__", str(node.target))
    return str(name.removesuffix("_"))


def is_in_place(node: Any) -> bool:
    """Whether its operation changes what it takes, as ``add_`` does."""
    schema = getattr(node.target, "_schema", None)
    return bool(schema and schema.name.endswith("_") and not schema.name.endswith("__"))


def name_of(node: Any, target: str) -> str:
    """The module's name where it is one of PyTorch's own, and with the operation's where it is the user's."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    if not stack:
        return target
    path, cls = stack[-1]
    path = plain_name(re.sub(r"^L\['self'\]\.?|@\d+", "", path))
    kind = cls if isinstance(cls, str) else f"{cls.__module__}.{cls.__qualname__}"
    if path and kind.startswith("torch.nn.modules.") and not kind.startswith(CONTAINERS):
        return path
    return f"{path}.{target}" if path else target


def line_of(trace: str) -> str:
    """The innermost line of files that are not PyTorch's own."""
    lines = re.findall(r'File "([^"\n]+)", line (\d+)', trace)
    own = [f"{file}:{number}" for file, number in lines if not is_of_torch(file)]
    return own[-1] if own else ""


def is_of_torch(file: str) -> bool:
    """Whether a file is one of PyTorch's, here or where the program was captured."""
    return file.startswith(TORCH) or "/site-packages/torch/" in file.replace("\\", "/")


def dtype_of(tensor: torch.Tensor) -> str:
    """The dtype's name without ``torch.``."""
    return str(tensor.dtype).removeprefix("torch.")

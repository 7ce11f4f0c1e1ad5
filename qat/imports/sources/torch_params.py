"""The parameters and buffers of a torch.nn.Module, by the names of its state_dict."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from qat.graph import Graph
from qat.vocabulary.ops import Array


def device_target(module: torch.nn.Module) -> str | None:
    """The device target on which a module computes; None where it has no tensors."""
    tensors = [*module.parameters(), *module.buffers()]
    return None if not tensors else "GPU" if tensors[0].device.type == "cuda" else "CPU"


def arrays(module: torch.nn.Module) -> dict[str, Array]:
    """All of them, as they are now."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in _tensors(module).items()}


def plain_name(name: str) -> str:
    """Without the parts that torch.compile puts into the names of a module that it wraps."""
    return re.sub(r"(^|\.)_orig_mod(?=\.|$)", "", name).lstrip(".")


def layouts(graph: Graph, name: str, array: Array, shape: tuple[int, ...]) -> Iterator[Array]:
    """A parameter of the graph as a module may have it: torch's layouts are the canonical ones."""
    yield array.reshape(shape)


def write(module: torch.nn.Module, found: Mapping[str, Array]) -> None:
    """Set some of them."""
    tensors = _tensors(module)
    with torch.no_grad():
        for name, array in found.items():
            tensors[name].copy_(torch.from_numpy(array.copy()))


def frozen(module: torch.nn.Module) -> set[str]:
    """The names of those that no optimizer changes: parameters without gradient, and buffers."""
    parameters = module.named_parameters(remove_duplicate=False)
    still = {name for name, parameter in parameters if not parameter.requires_grad}
    still |= {name for name, _ in module.named_buffers(remove_duplicate=False)}
    return {plain_name(name) for name in still}


def freeze(model: Any, names: Iterable[str]) -> None:
    """Let parameters of a lowered network have no gradient."""
    for name in names:
        model.tensors[name].requires_grad_(False)


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Those of the state_dict that are tensors; they share the memory of the module's own."""
    return {plain_name(name): x for name, x in module.state_dict().items() if isinstance(x, torch.Tensor)}

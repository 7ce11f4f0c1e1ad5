"""The parameters of a mindspore.nn.Cell by their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import mindspore as ms

from qat.graph import Graph
from qat.vocabulary.ops import Array


def device_target(cell: Any) -> str | None:
    """MindSpore computes on one device, its own setting for the whole process."""
    found: str = ms.get_context("device_target")
    return found


def arrays(cell: Any) -> dict[str, Array]:
    """All of them, as they are now."""
    return {name: parameter.asnumpy() for name, parameter in cell.parameters_dict().items()}


def layouts(graph: Graph, name: str, array: Array, shape: tuple[int, ...]) -> Iterator[Array]:
    """A parameter of the graph as a cell may have it: MindSpore's layouts are the canonical ones."""
    yield array.reshape(shape)


def write(cell: Any, found: Mapping[str, Array]) -> None:
    """Set some of them."""
    own = cell.parameters_dict()
    for name, array in found.items():
        own[name].set_data(ms.Tensor(array.copy()))


def frozen(cell: Any) -> set[str]:
    """The names of those that no optimizer changes."""
    return {name for name, parameter in cell.parameters_dict().items() if not parameter.requires_grad}


def freeze(model: Any, names: Iterable[str]) -> None:
    """Let parameters of a lowered network have no gradient."""
    for name in names:
        model.tensors[name].requires_grad = False

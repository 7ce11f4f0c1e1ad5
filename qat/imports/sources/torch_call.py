"""A call of one of PyTorch's operations, and what it is among the plain ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qat.vocabulary.ops import Array

Constant = tuple[Array, str]  #: float32, and its name in the source; "": it has none


class UnknownOperationError(Exception):
    """An operation that is none of the plain ones; the message says what it is."""


@dataclass(frozen=True)
class Step:
    """What an operation is: kind and attributes as in ``Operation``, and the places of its constants among its arguments, or
    the constants themselves.
    """

    kind: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, int | Constant] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One call of an operation.

    Attributes:
        target: its name, as "conv2d".
        arguments: in the order of its schema.
        shapes: of those that are tensors, with the batch, None for the others.
        shape: of its result.
        constants: of the arguments that are tensors and do not depend on the inputs, by place.
    """

    target: str
    arguments: tuple[Any, ...]
    shapes: tuple[tuple[Any, ...] | None, ...]
    shape: tuple[Any, ...]
    constants: Mapping[int, Constant]

    def __getitem__(self, place: int) -> Any:
        return self.arguments[place]

    @property
    def input_shape(self) -> tuple[Any, ...]:
        """Of the first argument."""
        shape = self.shapes[0]
        if shape is None:
            raise UnknownOperationError(f"aten.{self.target}")
        return shape

    def number(self, place: int) -> float | None:
        """A Python number, or None. Raises UnknownOperationError where it is a tensor."""
        value = self[place]
        if value is not None and not isinstance(value, (int, float)):
            raise UnknownOperationError(f"aten.{self.target} by another value")
        return None if value is None else float(value)

    def needs(self, *places: int) -> None:
        """Raise UnknownOperationError unless arguments are constants, or absent."""
        for place in places:
            if self[place] is not None and place not in self.constants:
                raise UnknownOperationError(f"aten.{self.target} with a computed weight")


Reader = Callable[[Call], Step]


def shown(shape: Sequence[Any]) -> str:
    """A shape for a message; of the samples, however many there are."""
    return f"({', '.join(['N', *map(str, shape[1:])])})"


def same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether sizes, of which a batch may be symbolic, are equal."""
    return [str(size) for size in a] == [str(size) for size in b]

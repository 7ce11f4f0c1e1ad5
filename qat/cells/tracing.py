"""What a cell knows of the construct that is being traced: where its call becomes a node."""

from __future__ import annotations

from typing import Any, Protocol

from qat.vocabulary.param import Shape


class Traced(Protocol):
    """What stands for a tensor inside ``construct``, for annotations of it; ``qat.graph.Symbol`` is one.

    >>> import qat
    >>> class Net(qat.Network):
    ...     def __init__(self) -> None:
    ...         self.inputs = qat.Input((1, 4, 4))
    ...         self.flatten = qat.Flatten()
    ...     def construct(self, x: qat.Traced) -> qat.Traced:
    ...         return self.flatten(x)
    """

    @property
    def name(self) -> str:
        """Of the node whose output it is."""

    @property
    def shape(self) -> Shape:
        """Of one sample: (C, H, W) or (F,)."""

    def __add__(self, other: Any) -> Traced:
        """The node that adds both, or a number."""

    def __radd__(self, other: Any) -> Traced:
        """The node that adds a number."""

    def __sub__(self, other: Any) -> Traced:
        """The node that subtracts the other, or a number."""

    def __rsub__(self, other: Any) -> Traced:
        """The node that subtracts it from a number."""

    def __mul__(self, other: Any) -> Traced:
        """The node that multiplies both, or by a number."""

    def __rmul__(self, other: Any) -> Traced:
        """The node that multiplies by a number."""

    def __neg__(self) -> Traced:
        """The node that multiplies by -1."""


class Tracer(Protocol):
    """What gathers the nodes of a graph."""

    def add(self, cell: Any, inputs: tuple[Any, ...], default_name: str) -> Traced:
        """Append a node."""


tracers: list[Tracer] = []  #: innermost last; ``construct`` may not start another trace, so it holds at most one

"""The node that takes codes by their places: parts, repetitions and reflections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from qat.integer.grid import IntegerTensor
from qat.integer.node import IntegerNode
from qat.vocabulary.ops import Ops, Tensor

Places = Mapping[int, tuple[int, ...]]  #: axis of one sample -> which places along it are taken, in order


@dataclass(frozen=True, eq=False)
class IntegerPick(IntegerNode):
    """y[..., i, ...] = x[..., places[i], ...], for each of some axes.

    Attributes:
        places: by axis of one sample, canonical; of the other axes all are taken.
    """

    kind: ClassVar[str] = "a choice of places"
    places: Places

    @classmethod
    def of(cls, name: str, x: IntegerTensor, places: Mapping[int, Sequence[int]]) -> IntegerPick:
        """The node of that name which takes these places of x."""
        shape = tuple(len(places.get(axis, range(size))) for axis, size in enumerate(x.shape))
        return cls(name, (x,), IntegerTensor(name, shape, x.grid), {axis: tuple(p) for axis, p in places.items()})

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        (x,) = inputs
        for axis, places in self.places.items():
            x = ops.pick(x, axis, places)
        return x

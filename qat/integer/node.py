"""What a node of the integer graph is, and what has no codes yet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qat.errors import QatError
from qat.integer.fixed_point import FixedMultiplier, FixedSum, LongMultiplier
from qat.integer.grid import Grid, IntegerTensor
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array, Kind, Ops, Tensor


@dataclass(frozen=True, eq=False)
class IntegerNode(ABC):
    """One operation on codes. Tensors of centred codes go in and out."""

    name: str
    inputs: tuple[IntegerTensor, ...]
    output: IntegerTensor

    def constants(self) -> dict[str, tuple[Array, Kind]]:
        """What ``evaluate`` needs, as canonical arrays."""
        return {}

    @abstractmethod
    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        """Centred codes of the output. ``constants`` hold what ``constants`` declares, as the backend's tensors."""

    def evaluate_fixed(self, constants: Mapping[str, Tensor], *inputs: Array) -> Array:
        """As ``evaluate`` with NumPy, in the fixed arithmetic; float32 arrays. It differs only where codes are requantized."""
        codes: Array = self.evaluate(NUMPY_OPS, constants, *inputs)
        return codes

    @property
    def fixed(self) -> FixedMultiplier | LongMultiplier | FixedSum | None:
        """What requantizes in the fixed arithmetic; None: nothing does. Raises QatError where it cannot."""
        return None


@dataclass
class Adjustments:
    """What sums ask of the scales of fake quantizers, by one name for all that share a grid."""

    nudges: Counter[str] = field(default_factory=Counter)  #: how often a scale is raised by 2^-16 of itself
    floors: dict[str, np.float32] = field(default_factory=dict)  #: the smallest scale


class Pending(ABC):
    """The output of a cell that has no codes yet: the fake quantizer that follows gives it a grid."""

    name: str

    @abstractmethod
    def requantized(self, grid: Grid) -> IntegerNode:
        """The finished node, with codes of the given grid."""

    @abstractmethod
    def clipped(self) -> IntegerNode:
        """The finished node with the codes -1, 0 and 1, by the sign of what is pending, whatever its size."""


def require_codes(name: str, x: IntegerTensor | Pending) -> IntegerTensor:
    """``x`` if it is codes. Raises QatError, as node ``name``, where no fake quantizer came before."""
    if not isinstance(x, IntegerTensor):
        raise QatError(
            f"{name}: its input {x.name} has no fake quantizer, so that it has no codes; keep after_fake=True on {x.name}"
        )
    return x

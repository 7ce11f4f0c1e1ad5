"""The bases of the nodes of an integer graph, and of outputs that have no codes yet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from qat.errors import QatError
from qat.integer.fixed_point import FixedMultiplier, FixedSum, LongMultiplier, in_float64
from qat.integer.grid import Grid, IntegerTensor, Requantize
from qat.vocabulary.listing import dimensions
from qat.vocabulary.ops import Array, Kind, Ops, Tensor


@dataclass(frozen=True, eq=False)
class IntegerNode(ABC):
    """Base of the nodes: one operation on centred codes (code - zero point).

    Attributes:
        name: unique within the graph; its output tensor has the same name.
        inputs: the tensors that it reads.
        output: the tensor that it makes.
        kind: what it computes, in the words of a message, with their article: "a softmax".
    """

    name: str
    inputs: tuple[IntegerTensor, ...]
    output: IntegerTensor

    kind: ClassVar[str] = "its operation"
    #: its codes are those of its input in the same order, so that they need no memory of their own
    renames: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__repr__ = IntegerNode.__repr__  # type: ignore[method-assign]  # a dataclass's own has all its arrays

    def __repr__(self) -> str:
        takes = ", ".join(x.name for x in self.inputs)
        return f"{type(self).__name__} {self.name}({takes}), {dimensions(self.output.shape)}"

    @property
    def belongs_to(self) -> str:
        """The node of the network that it computes, or of which it computes a part: its name, up to an @."""
        return self.name.partition("@")[0]

    def constants(self) -> dict[str, tuple[Array, Kind]]:
        """The arrays that ``evaluate`` needs by name, each with its kind, in canonical layout."""
        return {}

    @abstractmethod
    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        """Centred codes of the output. constants: the arrays of ``constants()``, as the backend's tensors."""

    def evaluate_fixed(
        self, ops: Ops, constants: Mapping[str, Tensor], integers: Mapping[str, Tensor], *inputs: Tensor
    ) -> Tensor:
        """As ``evaluate``, in the fixed arithmetic. It differs only where codes are requantized. integers: of
        ``fixed_constants()``, as the backend's tensors of the same type.
        """
        return self.evaluate(ops, constants, *inputs)

    @property
    def fixed(self) -> FixedMultiplier | LongMultiplier | FixedSum | None:
        """What requantizes in the fixed arithmetic; None: nothing does. Raises QatError where it cannot."""
        return None

    def fixed_constants(self) -> dict[str, tuple[Array, Kind]]:
        """The numbers that ``evaluate_fixed`` needs, int64 or float64, as ``constants``. Raises QatError as ``fixed``."""
        return {}

    def check_range(self) -> None:
        """Raise QatError where an intermediate result may leave the range of the type that holds it."""
        return


class Requantizing(IntegerNode):
    """Base of the nodes whose accumulators, exact integers, are multiplied and rounded to codes, as either arithmetic does it.

    Attributes:
        requantize: the multiplier of the float arithmetic, and the clip of both: a field of each subclass.
    """

    requantize: Requantize

    @abstractmethod
    def accumulate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        """The accumulators: in float32, rounded to it where ``wide``; exactly, in float64, where ``in_parts``, and where inputs
        are float64.
        """

    @property
    def wide(self) -> bool:
        """Its accumulators may pass what float32 adds exactly."""
        return False

    @property
    def in_parts(self) -> bool:
        """It is ``wide``, and adds several sums that float32 holds."""
        return False

    @property
    @abstractmethod
    def bounds(self) -> Array:
        """No accumulator is larger in magnitude, nor any partial sum in any order: one number, or one for each multiplier."""

    def spread(self, scaling: Array) -> tuple[Array, Kind]:
        """Numbers of the multiplier, shaped like it, as constants: here of all accumulators the same one."""
        return scaling, "scalar"

    def constants(self) -> dict[str, tuple[Array, Kind]]:
        return {"multiplier": self.spread(self.requantize.multiplier)}

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        acc = self.accumulate(ops, constants, *inputs)
        acc = ops.cast(acc, "float32") if self.in_parts else acc
        low, high = float(self.requantize.low), float(self.requantize.high)
        return ops.requantize(acc, self._on(ops, constants["multiplier"], acc), low, high)

    def fixed_constants(self) -> dict[str, tuple[Array, Kind]]:
        assert self.fixed is not None
        integers, (_, low, high) = self.fixed.constants(), self.requantize
        found = in_float64(integers, self.bounds, low, high) or integers
        return {name: self.spread(array) for name, array in found.items()}

    def evaluate_fixed(
        self, ops: Ops, constants: Mapping[str, Tensor], integers: Mapping[str, Tensor], *inputs: Tensor
    ) -> Tensor:
        assert self.fixed is not None
        inputs = tuple(ops.cast(x, "float64") for x in inputs) if self.wide and not self.in_parts else inputs
        acc = self.accumulate(ops, constants, *inputs)
        scaling = {name: self._on(ops, tensor, acc) for name, tensor in integers.items()}
        low, high = float(self.requantize.low), float(self.requantize.high)
        if "offset" in scaling:  # ``in_float64``
            return ops.rounded_product(acc, scaling["factor"], scaling["offset"], scaling.get("below"), low, high)
        y = self.fixed.apply(ops, scaling, ops.cast(acc, "int64"))
        # Rounded to float32 before the clip: the bounds are exact there, so that none is crossed.
        return ops.minimum(ops.maximum(ops.cast(y, "float32"), low), high)

    def _on(self, ops: Ops, scaling: Tensor, acc: Tensor) -> Tensor:
        return ops.on_channel(scaling, acc) if self.spread(self.requantize.multiplier)[1] == "vector" else scaling


@dataclass
class Adjustments:
    """Changes of scales that sums need, by group: one name for all fake quantizers that share a grid.

    Attributes:
        nudges: how often a scale is raised by 2^-16 of itself; default 0.
        floors: the smallest scale that a group may have; default none.
        groups: of each tensor that has codes by then, the group of its grid, where its scale may be raised.
    """

    nudges: Counter[str] = field(default_factory=Counter)
    floors: dict[str, np.float32] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)


class Pending(ABC):
    """The output of a cell that has no codes yet: the fake quantizer after it gives it a grid."""

    name: str

    def nodes_of(self, finished: IntegerNode) -> tuple[IntegerNode, ...]:
        """What the finished node becomes in the graph; the last one makes what the network goes on with."""
        return (finished,)

    def adjust(self, grid: Grid, group: str, wanted: Adjustments, *, keep_scale: bool) -> None:
        """Add to ``wanted`` where the grid's scale does not suit it. keep_scale: the scale may only get a floor."""
        return

    @abstractmethod
    def requantized(self, grid: Grid) -> IntegerNode:
        """The finished node, with codes of the given grid."""

    @abstractmethod
    def clipped(self) -> IntegerNode:
        """The finished node with the codes -1, 0 and 1, by the sign of what is pending, whatever its size."""


@dataclass(frozen=True)
class Staged(Pending):
    """What is pending, and several nodes once it is finished.

    Attributes:
        pending: what gets the grid.
        stages: the nodes that its finished one becomes, one after another; the last one has its name.
    """

    pending: Pending
    stages: Callable[[IntegerNode], tuple[IntegerNode, ...]]

    @property
    def name(self) -> str:  # type: ignore[override]
        """Of the node."""
        return self.pending.name

    def adjust(self, grid: Grid, group: str, wanted: Adjustments, *, keep_scale: bool) -> None:
        self.pending.adjust(grid, group, wanted, keep_scale=keep_scale)

    def requantized(self, grid: Grid) -> IntegerNode:
        return self.pending.requantized(grid)

    def clipped(self) -> IntegerNode:
        return self.pending.clipped()

    def nodes_of(self, finished: IntegerNode) -> tuple[IntegerNode, ...]:
        return self.stages(finished)


def require_codes(name: str, x: IntegerTensor | Pending) -> IntegerTensor:
    """``x`` if it is codes. Raises QatError, as node ``name``, where no fake quantizer came before."""
    if not isinstance(x, IntegerTensor):
        raise QatError(
            f"{name}: its input {x.name} has no fake quantizer, so that it has no codes; keep after_fake=True on {x.name}"
        )
    return x


def require_one_grid(name: str, *inputs: IntegerTensor | Pending) -> tuple[IntegerTensor, ...]:
    """The inputs, if they are codes of one grid. Raises QatError, as node ``name``, where they are not."""
    first, *others = (require_codes(name, x) for x in inputs)
    for x in others:
        if x.grid != first.grid:
            raise QatError(
                f"{name}: {first.name} and {x.name} have different grids, so that equal codes of both are different numbers; "
                "convert the network anew"
            )
    return first, *others

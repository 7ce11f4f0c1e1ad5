"""A pass over images that stops before chosen layers, so that a layer may be changed by what all images bring to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from qat.analysis.ranges import in_steps
from qat.cells.base import Context
from qat.cells.fake_quant import FakeQuant
from qat.graph import Graph
from qat.training.forward import NodeLoop
from qat.vocabulary.ops import Array, Ops, Tensor
from qat.vocabulary.values import Value


class PausedPass:
    """Runs all images up to a step, then on to another one. Between, what is still to be used waits, codes in one byte each
    as a rule.

    Attributes:
        context: of the pass; a changed parameter counts for all steps that are still to come.

    Args:
        loop: over the graph.
        context: as ``NodeLoop.load`` gives it.
        batches: of what the network takes, read once.
        ends: of ``code_ends``.
    """

    def __init__(
        self,
        loop: NodeLoop,
        context: Context,
        batches: Iterable[tuple[Array, ...]],
        ends: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        self.context = context
        self._loop, self._batches, self._ends, self._at = loop, batches, ends or {}, 0
        self._waiting: list[dict[str, Kept]] = []

    def until(self, end: int) -> Iterator[dict[str, Value]]:
        """Of each batch in turn, the values before step ``end``, its inputs settled. All have to be read before the next call.

        Args:
            end: of the loop's steps, behind those of earlier calls.
        """
        loop, ops, begin = self._loop, self._loop.ops, self._at
        reads = {name for each in loop.steps[begin : end + 1] for name in each.node.inputs}
        source: Iterable[Any] = self._waiting or self._batches
        for number, batch in enumerate(source):
            kept: dict[str, Kept] = batch if isinstance(batch, dict) else {}
            values = {name: kept[name].value(ops) for name in kept if name in reads}
            if not kept:
                values = loop.begin(loop.pixels(batch))
            for _ in in_steps(loop, self.context, values, begin, end):
                pass
            for name in loop.steps[end].node.inputs:
                values[name] = values[name].settled(ops)
            held = {key: kept.get(key) or Kept.of(ops, y, self._ends.get(key)) for key, y in values.items()}
            held |= {key: y for key, y in kept.items() if key not in reads}
            self._waiting[number : number + 1] = [held]
            yield values
        self._at = end


@dataclass(frozen=True, eq=False)
class Kept:
    """A value while it waits, its codes in the smallest type that holds them.

    Attributes:
        data: the value's, less ``low`` where that is of fewer bits.
        rest: the value without its data.
        low: the smallest code; None: ``data`` are as they were.
    """

    data: Tensor
    rest: Value
    low: float | None

    @classmethod
    def of(cls, ops: Ops, value: Value, bounds: tuple[int, int] | None = None) -> Kept:
        """The value, to be kept. bounds: between which codes are known to be whole numbers."""
        data, rest = value.data, replace(value, data=None)
        if not value.codes:
            return cls(data, rest, None)
        low, high = bounds or (float(ops.to_numpy(end(data), "scalar")) for end in (ops.min, ops.max))
        whole = bounds or float(ops.to_numpy(ops.max(ops.abs(ops.rint(data) - data)), "scalar")) == 0.0
        if high - low > 255.0 or not whole:
            return cls(data, rest, None)
        return cls(ops.cast(data - low if low else data, "uint8"), rest, low)

    def value(self, ops: Ops) -> Value:
        """As it was."""
        data = self.data if self.low is None else ops.cast(self.data, "float32")
        return replace(self.rest, data=data + self.low if self.low else data)


def code_ends(graph: Graph, params: Mapping[str, Array]) -> dict[str, tuple[int, int]]:
    """Of each fake quantizer that rounds, the smallest and the largest of its codes."""
    found = {}
    for node in graph.nodes:
        if isinstance(node.cell, FakeQuant) and node.cell.quantizer.uniform:
            own = node.own(params)
            grid = node.cell.grid(node.name, own, params)
            found[node.name] = (grid.low, grid.high)
    return found

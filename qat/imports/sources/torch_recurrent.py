"""GRU and LSTM of PyTorch: an operation for each layer and direction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qat.imports.program import Operation
from qat.imports.sources.places import FIRST, Place
from qat.imports.sources.torch_call import Constant, UnknownOperationError

RECURRENT = ("gru", "lstm")
LOCAL = ("input_weight", "state_weight", "input_bias", "state_bias")  #: in PyTorch's order


@dataclass(frozen=True)
class Recurrence:
    """A call of ``aten.gru`` or ``aten.lstm``.

    Attributes:
        operation: what is known of it: kind, name, the value that it takes, its own value, and where it stands.
        arguments: in the order of the schema: input, states, weights, has_biases, num_layers, dropout, train, bidirectional,
            batch_first.
        shape: of what it takes, (N, L, C).
        place: of the samples there.
    """

    operation: Operation
    arguments: Sequence[Any]
    shape: tuple[Any, ...]
    place: Place

    @property
    def steps_first(self) -> bool:
        """Whether its values are (L, N, C)."""
        return not self.arguments[8]

    def last(self, layer: int, direction: int) -> str:
        """The name of the last state of a layer."""
        return f"{self.operation.output}/last{layer}.{direction}"

    @property
    def result_place(self) -> Place:
        """Of the samples in the states of all steps."""
        return Place(1) if self.steps_first else FIRST

    def listed(self, constant: Callable[[Any], Constant | None]) -> Mapping[str, tuple[Operation, tuple[Any, ...]]]:
        """The operations and the shapes, with the samples, of their values.

        Args:
            constant: of an argument, the array; None: it is none.

        Raises:
            UnknownOperationError: it computes what the cells do not.
        """
        each, (_, hidden, weights, has_biases, count, _, _, both, *_) = self.operation, self.arguments
        per, directions = 4 if has_biases else 2, 2 if both else 1
        states = hidden if isinstance(hidden, Sequence) else [hidden]
        if len(weights) != per * count * directions:
            raise UnknownOperationError(f"aten.{each.kind} with projections")
        if any((array := constant(state)) is None or np.any(array[0]) for state in states):
            raise UnknownOperationError(f"aten.{each.kind} with states to begin with")
        if self.place != self.result_place or len(self.shape) != 3:
            raise UnknownOperationError(f"aten.{each.kind} of values whose samples are along axis {self.place.axis}")
        found: dict[str, tuple[Operation, tuple[Any, ...]]] = {}
        batch, length, _ = self.shape
        source, given = each.inputs[0], [constant(weight) for weight in weights]
        for layer in range(count):
            whole = each.output if layer == count - 1 else f"{each.output}/layer{layer}"
            values = []
            for direction in range(directions):
                own = given[(layer * directions + direction) * per :][:per]
                arrays = dict(zip(LOCAL, own, strict=False))
                if any(array is None for array in arrays.values()):
                    raise UnknownOperationError(f"aten.{each.kind} with computed weights")
                value = f"{whole}/direction{direction}" if both else whole
                name = each.name if count * directions == 1 else f"{each.name}.l{layer}{'_reverse' * direction}"
                operation = self._layer(
                    name, source, value, {key: x for key, x in arrays.items() if x}, bool(direction)
                )
                units = operation.attributes["units"]
                found[value] = operation, (batch, length, units)
                last = Operation(
                    "select",
                    name,
                    (value,),
                    self.last(layer, direction),
                    {"axis": 1, "index": 0 if direction else length - 1},
                    where=each.where,
                )
                found[last.output] = last, (batch, units)
                values.append(value)
            if both:
                joined = Operation("concat", each.name, tuple(values), whole, {"axis": 2}, where=each.where)
                found[whole] = joined, (batch, length, 2 * units)
            source = whole
        return found

    def _layer(self, name: str, source: str, value: str, arrays: Mapping[str, Constant], reverse: bool) -> Operation:
        units = arrays["state_weight"][0].shape[1]
        options = {"layout": "torch", "units": units, "reverse": reverse, "axis": 0}
        return Operation(
            self.operation.kind,
            name,
            (source,),
            value,
            options | ({"reset_after": True} if self.operation.kind == "gru" else {}),
            {local: array for local, (array, _) in arrays.items()},
            {local: stored for local, (_, stored) in arrays.items() if stored},
            self.operation.where,
        )

    def final(self, name: str, value: str) -> Operation:
        """The last states of all layers, (layers, N, units)."""
        rows = range(self.arguments[4]), range(2 if self.arguments[7] else 1)
        lasts = tuple(self.last(layer, direction) for layer in rows[0] for direction in rows[1])
        return Operation("stack", name, lasts, value, {"axis": 1}, where=self.operation.where)

"""The operations of a file as they are listed: under legal names, with reshapes one after another as one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from qat.imports.program import Operation
from qat.imports.sources.steps import Call, Shape, Steps, first_shape, reshaped
from qat.names import LONGEST, harmless, is_name
from qat.reading import check_sample


class Listing:
    """Gathers operations.

    Attributes:
        operations: in the order of the file.
        last: the values that are images with channels last in the file.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.last: set[str] = set()
        self._first: dict[str, str] = {}  #: of a value that was reshaped: the one that it was before
        self._made: dict[
            str, str
        ] = {}  #: of a value of ours, within an operation of the file: what the operation gives

    def add(self, name: str, steps: Steps, inputs: tuple[str, ...], output: str) -> None:
        """Append the steps of an operation; those before the last give values that the file does not have."""
        name = legal_name(name) or legal_name(output) or f"operation{len(self.operations)}"
        for number, step in enumerate(steps, 1):
            value = output if number == len(steps) else f"{output}/{number}"
            if value != output:
                self._made[value] = output
            sources = {local: source for local, source in step.sources.items() if source}
            self.operations.append(Operation(step.kind, name, inputs, value, step.attributes, step.constants, sources))
            inputs = (value,)

    def reshape(self, call: Call, value: str, output: str, shapes: Mapping[str, Shape | None]) -> tuple[Steps, str]:
        """What brings a value into another shape, and the value that it starts from: that before all reshapes. shapes: of both,
        and of all before, with the samples.
        """
        first = self._first[output] = self._first.get(value, value)
        last = first in self.last
        steps = reshaped(replace(call, last=last), shapes.get(first) or (), call.result)
        if last and steps[0].kind == "identity":
            self.last.add(output)
        return steps, first

    def shapes(self, shapes: Mapping[str, Shape | None]) -> dict[str, Shape]:
        """The shapes of one sample, channels first, of all values. shapes: of those of the file, with the samples.

        Raises:
            ValueError: one sample takes more numbers than any network's.
        """
        found = {
            value: first_shape(shape, value in self.last)[1:] for value, shape in shapes.items() if shape is not None
        }
        check_sample(sum(math.prod(shape) for shape in found.values()))
        return found | {value: found[output] for value, output in self._made.items() if output in found}

    def needed(self, outputs: Sequence[str]) -> tuple[Operation, ...]:
        """The operations that outputs depend on."""
        wanted, kept = set(outputs), []
        for each in reversed(self.operations):
            if each.output in wanted:
                wanted |= set(each.inputs)
                kept.append(each)
        return tuple(reversed(kept))


def legal_name(text: str) -> str:
    """A name of the file as a node may have it; "" where nothing is left of it."""
    found = " ".join(harmless(text).strip("/").replace("/", ".").split()).lstrip("+-.")[:LONGEST].strip()
    return found if is_name(found) else ""

"""The operations of a file as they are listed: under legal names, with reshapes one after another as one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from qat.errors import QatError, shortened
from qat.imports.program import Operation
from qat.imports.sources.step_moves import reshaped
from qat.imports.sources.steps import Call, Shape, Step, Steps, first_shape, to_first
from qat.names import LONGEST, harmless, is_name
from qat.reading import check_sample
from qat.vocabulary.ops import Array

#: What computes each number of a row by itself, or all of them whatever their order, with constants that can be reordered.
KEEPING = {
    "dense",
    "batch_norm",
    "add",
    "mul",
    "activation",
    "clip",
    "identity",
    "dropout",
    "softmax",
    "elementwise",
    "prelu",
}


class Listing:
    """Gathers operations.

    Attributes:
        operations: in the order of the file.
        last: the values that are images with channels last in the file.
        flat: of a value that was flattened from such an image: its (H, W, C).
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.last: set[str] = set()
        self.flat: dict[str, Shape] = {}
        self._first: dict[str, str] = {}  #: of a value that was reshaped: the one that it was before
        self._made: dict[
            str, str
        ] = {}  #: of a value of ours, within an operation of the file: what the operation gives

    def add(
        self, name: str, steps: Steps, inputs: tuple[str, ...], output: str, shapes: Mapping[str, Shape | None]
    ) -> None:
        """Append the steps of an operation; those before the last give values that the file does not have. shapes: of all
        values of the file, with the samples.
        """
        name = legal_name(name) or legal_name(output) or f"operation{len(self.operations)}"
        for number, step in enumerate(steps, 1):
            value = output if number == len(steps) else f"{output}/{number}"
            if value != output:
                self._made[value] = output
            if step.kind not in KEEPING or len({self.flat.get(each) for each in inputs}) > 1:
                inputs = tuple(self._in_order(name, each) for each in inputs)
            if step.kind == "flatten" and inputs[0] in self.last:
                _, height, width, channels = shapes.get(inputs[0]) or (0, 1, 1, 1)
                if channels > 1 and height * width > 1:
                    self.flat[value] = (height, width, channels)
            elif step.kind != "unknown":
                step = self._placed(step, inputs, value)
            sources = {local: source for local, source in step.sources.items() if source}
            self.operations.append(Operation(step.kind, name, inputs, value, step.attributes, step.constants, sources))
            inputs = (value,)

    def reshape(self, call: Call, value: str, output: str, shapes: Mapping[str, Shape | None]) -> tuple[Steps, str]:
        """What brings a value into another shape, and the value that it starts from: that before all reshapes. shapes: of both,
        and of all before, with the samples.
        """
        first = self._first[output] = self._first.get(value, value)
        last, given = first in self.last, shapes.get(first) or ()
        if given == call.result:
            (self.last.add if last else self.last.discard)(output)
            return [Step("identity")], first
        return reshaped(call, given, call.result, last=last), first

    def _in_order(self, name: str, value: str) -> str:
        """A value; of an image that was flattened with channels first, its numbers in the order of the file."""
        if value not in self.flat:
            return value
        ordered = f"{value}/ordered"
        if all(each.output != ordered for each in self.operations):
            height, width, channels = self.flat[value]
            attributes = {"parts": (channels, height, width), "axes": (1, 2, 0), "shape": (channels * height * width,)}
            self.operations.append(Operation("move", name, (value,), ordered, attributes))
        return ordered

    def canonical(self, value: str, array: Array) -> Array:
        """A value (N, ...) of the file, channels first, as float32."""
        if value in self.flat:
            return np.ascontiguousarray(array[:, _columns(self.flat[value])], np.float32)
        return to_first(array, value in self.last)

    def _placed(self, step: Step, inputs: tuple[str, ...], output: str) -> Step:
        """A step that takes a flattened image, with its constants in the order of channels first."""
        image = self.flat.get(inputs[0])
        if image is None:
            return step
        columns = _columns(image)
        if step.kind != "dense":
            self.flat[output] = image
        placed = {
            name: array[..., columns] if array.shape[-1:] == columns.shape else array
            for name, array in step.constants.items()
            if name != "bias"
        }
        kept = {name: array for name, array in step.constants.items() if name == "bias"}
        sources = {name: source for name, source in step.sources.items() if name not in placed}
        return replace(step, constants=placed | kept, sources=sources)

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

    def check_outputs(self, path: str | Path, outputs: Sequence[str]) -> None:
        """Raise QatError where the numbers of an output would stand in another order."""
        if wrong := [output for output in outputs if output in self.flat]:
            raise QatError(
                f"{path}: its output {shortened(wrong[0])} is an image that is flattened with channels last, and here "
                "channels come first, so that its numbers would stand in another order; end the network before the flatten"
            )

    def needed(self, outputs: Sequence[str]) -> tuple[Operation, ...]:
        """The operations that outputs depend on.

        Exporters merge equal constants, as biases of zeros: of what several operations have, weights alone mean a layer that is
        used several times (``Program.ties``), and other arrays lose their names.
        """
        wanted, kept = set(outputs), []
        for each in reversed(self.operations):
            if each.output in wanted:
                wanted |= set(each.inputs)
                kept.append(each)
        uses = Counter(source for each in kept for local, source in each.sources.items() if local != "weight")
        return tuple(
            replace(each, sources={local: x for local, x in each.sources.items() if local == "weight" or uses[x] == 1})
            for each in reversed(kept)
        )


def _columns(image: Shape) -> Array:
    """Of a flattened (H, W, C): where in the file each of its numbers is, channels first."""
    return np.arange(math.prod(image)).reshape(image).transpose(2, 0, 1).reshape(-1)


def legal_name(text: str) -> str:
    """A name of the file as a node may have it; "" where nothing is left of it."""
    found = " ".join(harmless(text).strip("/").replace("/", ".").split()).lstrip("+-.")[:LONGEST].strip()
    return found if is_name(found) else ""

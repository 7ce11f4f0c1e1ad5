"""What every front end gives: the operations of a source, and the source itself to compare with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qat.imports.program import Program
from qat.vocabulary.ops import Array

#: Samples as the program's inputs are, (N, ...) with channels first, one array for each, and names of its values; to these
#: values, float32 (N, ...) with channels first, as the source's own framework computes them.
Trace = Callable[[tuple[Array, ...], Collection[str]], dict[str, Array]]


@dataclass(frozen=True, eq=False)
class Opened:
    """A source that was read.

    Attributes:
        program: its operations.
        trace: what the source itself computes.
        notes: what its user should know, a line each.
    """

    program: Program
    trace: Trace
    notes: tuple[str, ...] = ()

    def cut(self, outputs: Sequence[str]) -> Opened:
        """The part of the source that gives some values (``Program.cut``). Inputs that it does not take are zeros in it."""
        program = self.program.cut(outputs)

        def trace(samples: tuple[Array, ...], values: Collection[str]) -> dict[str, Array]:
            given = dict(zip(program.inputs, samples, strict=True))
            every = {
                name: given[name] if name in given else np.zeros((len(samples[0]), *spec.shape), np.float32)
                for name, spec in self.program.inputs.items()
            }
            return self.trace(tuple(every.values()), values)

        return replace(self, program=program, trace=trace)

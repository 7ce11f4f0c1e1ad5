"""What targets have beside the functions of ``qat.deploy.interfaces.Target`` that can time their files or run them emulated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from qat.tables import counted
from qat.vocabulary.arrays import Arrays
from qat.vocabulary.ops import Array


@runtime_checkable
class IsTimed(Protocol):
    """What a target has beside that can say how long its files take on this machine."""

    def timed(self, path: str | Path, samples: Arrays) -> AbstractContextManager[Callable[[int], float]]:
        """Load a file and one sample, (1, ...) as the network takes it, into the runtime, on one thread.

        Yields:
            A function that computes the outputs so many times, and returns the seconds of all of them; nothing else is timed.

        Raises:
            QatError: as ``predict``.
        """

    def timed_runtime(self) -> str:
        """What ``timed`` runs in, with its version and options."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What a file computed on an emulated processor, and what that took there. It is counted, and the same each time.

    Attributes:
        outputs: Of each output what the file gives, codes or real numbers, (N, ...) in canonical order.
        reals: The same as ``predict`` gives it.
        instructions: Executed in an inference, of each sample.
        functions: The same of the first sample by function, as the compiler left them after inlining; the most first.
        layers: The same by node, in order; empty where it was not asked for. It is of another build, which calls a function
            behind each node.
        flash: Bytes of the file's code, constants and initialised data.
        linked: The same with what it calls of libraries.
        ram: Bytes of its static data.
        arena: Of these the bytes of its arena.
        stack: Bytes of the stack that an inference needs at most.
    """

    outputs: tuple[Array, ...]
    reals: tuple[Array, ...]
    instructions: tuple[int, ...]
    functions: Mapping[str, int]
    layers: Mapping[str, int]
    flash: int
    linked: int
    ram: int
    arena: int
    stack: int

    def __repr__(self) -> str:
        return (
            f"Measured on {counted(len(self.instructions), 'sample')}: {self.instructions[0]:,} instructions, "
            f"{self.flash:,} bytes of flash, {self.ram:,} of RAM, {self.stack:,} of stack"
        )


@runtime_checkable
class IsEmulated(Protocol):
    """What a target has beside whose files can be run on emulated processors."""

    def cores(self) -> dict[str, str]:
        """What the processors are called, by the name under which ``measure`` knows them."""

    def emulator(self) -> str:
        """What ``measure`` compiles and runs with, with versions. Raises QatError where something is not installed."""

    def measure(
        self, path: str | Path, samples: Arrays, core: str, *, options: Sequence[str] = (), layers: bool = False
    ) -> Measured:
        """Run a file on an emulated processor.

        Args:
            path: An exported file.
            samples: As ``predict`` takes them.
            core: One of ``cores``.
            options: Of the compiler, after the target's own.
            layers: Count each node by itself too.

        Raises:
            QatError: what it needs is not installed, there is no such processor, or the file cannot be run there.
        """

"""What a training backend and a deployment target are: modules with these names and functions.

Both may be modules of other packages, which name them in their metadata (``qat.plugins``). They need nothing more than what
stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from qat.deploy.inference import LoweredNetwork
from qat.errors import QatError, shortened
from qat.graph import Graph, Network, Params
from qat.integer import IntegerGraph, IntegerTensor
from qat.training.losses import Loss, Objective
from qat.training.optimizer import Optimizer
from qat.vocabulary.arrays import Arrays, ArraySpec
from qat.vocabulary.ops import Array, Ops


class Step(Protocol):
    """One training step of a lowered network."""

    def __call__(self, x: Arrays, y: Arrays, lr: float) -> float:
        """What the network takes, and labels (N,) or a tuple of them and further targets: the loss before the update."""

    def terms(self) -> dict[str, Array]:
        """The terms of the last step's loss by name, before the update; the first is the loss itself."""

    def means(self, figures: Sequence[float]) -> list[float]:
        """Of each figure over the workers, so that all of them decide alike; the figures themselves where there is one."""

    def averages(self) -> dict[str, Array]:
        """What ``Optimizer.ema`` asks for, canonical, by full name; empty where it asks for nothing."""

    def state(self) -> dict[str, Array]:
        """The optimizer's state, by "<parameter>.<name of the state>"."""

    def load_state(self, state: Mapping[str, Array]) -> None:
        """The inverse of ``state``."""


class TrainingBackend(Protocol):
    """A framework that trains.

    ``predict``, ``predict_codes`` and ``trace`` are those of ``qat.deploy.inference``, which a module only has to import. One
    of another package may have ``PACKAGES`` too, the names of what it imports, whose versions ``qat doctor`` prints.
    """

    NAME: str  #: under which ``qat.backend`` knows it

    def devices(self) -> list[str]:
        """The device targets that it can use here, the best first."""

    def lower(
        self,
        network: Network | Graph,
        params: Mapping[str, Array] | None = None,
        *,
        device_target: str | None = None,
        step: int = 0,
    ) -> Any:
        """The framework's own model of a network.

        Args:
            network: A network, or its graph.
            params: Arrays by name, canonical, float32; by default fresh ones.
            device_target: "CPU", "GPU" or "Ascend"; by default the best that there is.
            step: Training steps done so far, on which ``quant_delay`` and the seed of a dropout depend.

        Returns:
            A ``torch.nn.Module``, ``keras.Model`` or ``mindspore.nn.Cell``, which is a ``LoweredNetwork`` too. Its type is the
            framework's, so that all that the framework's models have passes a type checker.

        Raises:
            QatError: the parameters are not those of the network, or there is no such device.
        """

    def read(self, model: Any) -> Params:
        """The parameters and state of a lowered network, canonical."""

    def write(self, model: Any, params: Mapping[str, Array]) -> None:
        """Set some parameters or state of a lowered network, canonical arrays by full name."""

    def make_step(
        self, model: Any, optimizer: Optimizer, loss: Loss | Objective = ..., *, compile: bool = False
    ) -> Step:
        """One training step with the framework's own optimizer.

        Args:
            model: What ``lower`` returned.
            optimizer: Which, and its constants.
            loss: A function of outputs and labels, or an objective; by default the cross entropy.
            compile: Compile the step with the framework's compiler.
        """

    def seed(self, *numbers: int) -> None:
        """Seed what ``ops.drop`` draws from."""

    def runtime(self) -> str:
        """What its passes run in, with its version."""

    def predict(self, model: LoweredNetwork, pixels: Arrays, *, batch_size: int | None = None) -> Arrays:
        """Real outputs (N, ...), float32, of what the network takes, in evaluation mode."""

    def predict_codes(self, model: LoweredNetwork, pixels: Arrays, *, batch_size: int | None = None) -> Arrays:
        """Output codes (N, ...), int32, of a quantized network."""

    def trace(
        self,
        model: LoweredNetwork,
        pixels: Arrays,
        tensors: Collection[IntegerTensor],
        *,
        batch_size: int | None = None,
    ) -> dict[str, Array]:
        """Codes of the given tensors by name, int32 (N, ...), as the evaluation pass computes them."""


@runtime_checkable
class ParameterFiles(Protocol):
    """What a backend has beside that whose framework has files of named arrays."""

    def load_params(self, path: str | Path) -> dict[str, Array]:
        """The arrays of such a file."""

    def save_params(self, params: Mapping[str, Array], path: str | Path) -> None:
        """The inverse of ``load_params``."""


@runtime_checkable
class Evaluates(Protocol):
    """What a backend has beside that whose vocabulary others may evaluate and calibrate networks with."""

    def evaluation_ops(self, device_target: str | None = None) -> Ops:
        """The vocabulary in which every sum of integers is exact; device_target: as of ``lower``."""


@runtime_checkable
class OwnLayout(Protocol):
    """What a backend has beside that whose framework orders the axes of images otherwise than (N, C, H, W)."""

    def to_own_layout(self, model: Any) -> None:
        """Let a lowered network take and give what the framework's own models do, wherever the framework calls it."""

    def own_spec(self, spec: ArraySpec) -> ArraySpec:
        """What the framework's own models take where a network takes that."""

    def canonical(self, samples: tuple[Array, ...]) -> tuple[Array, ...]:
        """Samples as the framework's own models take them, (N, ...), as (N, C, H, W)."""


@runtime_checkable
class DataSink(Protocol):
    """What a backend has beside that whose framework can move batches to the device by itself."""

    def data_sink(self) -> str:
        """What becomes of ``--dataset_sink_mode true`` in the commands, in a sentence."""


@runtime_checkable
class HasCallback(Protocol):
    """What a backend has beside that whose framework has a training loop of its own."""

    def callback(self, schedule: Any) -> Any:
        """The framework's own callback, which hands the loop's events to a ``qat.QuantSchedule``, and has ``checkpoint``."""


NO, YES = SWITCH = "no", "yes"  #: the choices of an option whose flag stands alone


@dataclass(frozen=True)
class Option:
    """A choice that a target's ``export`` takes by keyword; the commands that export have a flag of its name.

    Attributes:
        name: Of the keyword and of the flag.
        choices: Its values; the first is the default. Where they are "no" and "yes", the flag alone means "yes".
        help: What it chooses, for ``--help``, in a few words without the default.
    """

    name: str
    choices: tuple[str, ...]
    help: str

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise QatError(f"Option: name {self.name!r} can be no keyword; use letters, digits and _")
        if not self.choices or not all(isinstance(choice, str) for choice in self.choices):
            raise QatError(f"Option {self.name!r}: choices are {self.choices!r}; give strings, the default first")


def check_switch(name: str, value: str) -> bool:
    """True where an option of the choices ``SWITCH`` is "yes". Raises QatError where it is neither of them."""
    if value not in SWITCH:
        raise QatError(f"--{name} {shortened(value)} is unknown: choose one of {', '.join(SWITCH)}")
    return value == YES


class Target(Protocol):
    """A file format.

    Where options follow, each target has keywords of its own: those of ``OPTIONS`` in ``export``, and in all of them
    ``arithmetic`` (docs/numerics.md) where it has several arithmetics. (That is what type checkers take ``*args`` for: no
    target has more arguments without a name.)

    One of another package may have ``PACKAGES`` too, as a ``TrainingBackend``. It is imported wherever the names and options of
    all targets are shown, so that it should import what takes long in its functions.
    """

    NAME: str  #: under which ``qat.target`` knows it
    SUFFIX: str  #: of its files, with its dots, in small letters: by it a file finds its target
    ARITHMETICS: tuple[
        str, ...
    ]  #: that its runtime computes, of "float" and "fixed"; a file has its network's, or else the first
    OPTIONS: tuple[Option, ...]  #: of ``export``
    RUNS_CODE: bool  #: ``predict`` and ``trace`` run code that the file holds: commands ask for --trust before

    def export(self, graph: IntegerGraph, path: str | Path, *args: Any, **options: Any) -> None:
        """Write an integer graph as a file, which appears or is replaced as a whole.

        Args:
            graph: The integers, as ``qat.to_integer`` gives them.
            path: The file.
            options: Those that the target declares.

        Raises:
            QatError: the runtime does not compute a node exactly, which the message names; or an option is unknown.
        """

    def input_specs(self, path: str | Path) -> list[ArraySpec]:
        """What the network in a file takes, whatever the file's own inputs are (``qat.integer.ends``).

        Args:
            path: An exported file.

        Returns:
            Shape and dtype of each input's arrays.

        Raises:
            QatError: the file cannot be read, or is not one of ``export``.
        """

    def predict(self, path: str | Path, pixels: Arrays, *args: Any, **options: Any) -> Arrays:
        """Compute a network's outputs in the runtime, from the file as it is.

        Args:
            path: An exported file.
            pixels: What the network takes (``input_specs``), (N, C, H, W) or (N, F); a tuple of arrays for several inputs.
            options: The arithmetic, where the target has several.

        Returns:
            Real outputs, float32, (N, ...); a tuple of arrays for a network with several outputs.

        Raises:
            QatError: the file is not one of ``export`` or cannot be run, or it takes other arrays.
        """

    def trace(
        self, path: str | Path, pixels: Arrays, tensors: Collection[IntegerTensor], *args: Any, **options: Any
    ) -> dict[str, Array]:
        """Compute the codes of single nodes in the runtime.

        Args:
            path: An exported file.
            pixels: As ``predict`` takes them.
            tensors: What is wanted: ``node.output`` of nodes of the integer graph.
            options: The arithmetic, where the target has several.

        Returns:
            Codes, int32, (N, ...), by the tensor's name; without those that the file cannot give, as of its inputs.

        Raises:
            QatError: as ``predict``.
        """

    def write_metadata(self, path: str | Path, metadata: Mapping[str, str]) -> None:
        """Set entries of a file's metadata; nothing that is computed changes.

        Args:
            path: An exported file, which is replaced as a whole.
            metadata: Texts by key; entries under other keys stay.

        Raises:
            QatError: the file cannot be read, or is not one of ``export``.
        """

    def runtime(self, *args: Any, **options: Any) -> str:
        """What ``predict`` runs in, with its version and options."""


@runtime_checkable
class HoldsFloats(Protocol):
    """What a target has beside that whose files may also hold float networks (``qat.deploy.floats.export_float``)."""

    def export_float(self, graph: Graph, params: Mapping[str, Array], path: str | Path) -> None:
        """Write a float network with its parameters, canonical."""


@runtime_checkable
class CountsBytes(Protocol):
    """What a target has beside that knows how many bytes each node takes."""

    def storage(self, graph: IntegerGraph, *args: Any, **options: Any) -> dict[str, int]:
        """Bytes of the constants of each node that has any, with the options of ``export``."""


@runtime_checkable
class StaysLoaded(Protocol):
    """What a target has beside that can load a file once and run it often."""

    def opened(self, path: str | Path, *, threads: int = 1) -> Callable[[Arrays], Arrays]:
        """``predict`` of that file, which is loaded now. threads: of the runtime."""


@runtime_checkable
class RunsFilesOfOthers(Protocol):
    """What a target has beside whose runtime can run files that are none of ``export``, to compare with."""

    def predict_of_others(self, path: str | Path, numbers: Array) -> Array:
        """Compute the outputs of a file that others have made.

        Args:
            path: The file, with one input and one output, of real numbers or codes of 8 bits.
            numbers: The real numbers that its network takes, float32 (N, C, H, W) or (N, F).

        Returns:
            Real outputs, float32 (N, ...), channels first.

        Raises:
            QatError: the file cannot be read or run, or takes other numbers.
        """


@runtime_checkable
class CountsMemory(Protocol):
    """What a target has beside that knows how much memory the activations take in its files."""

    def arena_bytes(self, graph: IntegerGraph, *args: Any, **options: Any) -> int:
        """Bytes of all activations, and of what computes them beside, with the options of ``export``."""


@runtime_checkable
class RecordsMetadata(Protocol):
    """What a target has beside that can read what ``write_metadata`` wrote."""

    def read_metadata(self, path: str | Path) -> dict[str, str]:
        """The texts by key."""


@runtime_checkable
class WritesSeveral(Protocol):
    """What a target has beside whose export is several files."""

    def files(self, path: str | Path, *args: Any, **options: Any) -> list[Path]:
        """Those that ``export`` with these options writes, ``path`` among them."""

    def wrote(self, path: Path) -> bool:
        """Whether a file that is there, one of these or of ``MakesArduinoLibrary``, is what was written."""


@runtime_checkable
class MakesArduinoLibrary(Protocol):
    """What a target has beside whose files become libraries for Arduino."""

    def library_files(self, path: str | Path, folder: str | Path) -> list[Path]:
        """Those that ``arduino_library`` writes; the exported file need not be there."""

    def arduino_library(self, path: str | Path, folder: str | Path) -> list[Path]:
        """Write a library around an exported file: the files of it."""


@runtime_checkable
class RecordsArithmetic(Protocol):
    """What a target has beside whose files say for which arithmetic they were exported."""

    def arithmetic_of(self, path: str | Path) -> str:
        """The arithmetic that a file was exported for."""


def check_backend(backend: TrainingBackend) -> None:
    """Raise QatError for anything but a training backend, as its name."""
    if not hasattr(backend, "devices"):  # every string has a lower
        example = backend if isinstance(backend, str) else "torch"
        raise QatError(f"backend is {shortened(backend)}, which computes nothing; give qat.backend({example!r})")


def check_target(target: Target) -> None:
    """Raise QatError for anything but a deployment target, as its name."""
    if not hasattr(target, "export"):
        example = target if isinstance(target, str) else "ONNX"
        raise QatError(f"target is {shortened(target)}, which writes no files; give qat.target({example!r})")

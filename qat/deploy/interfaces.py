"""What a training backend and a deployment target are: modules with these functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from qat.cells.base import Shape
from qat.deploy.inference import LoweredNetwork
from qat.graph import Graph, Network, Params
from qat.integer import IntegerGraph, IntegerTensor
from qat.training.losses import Loss, Objective
from qat.training.optimizer import Optimizer
from qat.vocabulary.arrays import Arrays
from qat.vocabulary.ops import Array


class Step(Protocol):
    """One training step of a lowered network."""

    def __call__(self, x: Arrays, y: Arrays, lr: float) -> float:
        """Raw pixels (N, C, H, W), and labels (N,) or a tuple of them and further targets: the loss before the update."""

    def terms(self) -> dict[str, Array]:
        """The terms of the last step's loss by name, before the update; the first is the loss itself."""

    def means(self, figures: Sequence[float]) -> list[float]:
        """Of each figure over the workers, so that all of them decide alike; the figures themselves where there is one."""

    def state(self) -> dict[str, Array]:
        """The optimizer's state, by "<parameter>.<name of the state>"."""

    def load_state(self, state: Mapping[str, Array]) -> None:
        """The inverse of ``state``."""


class TrainingBackend(Protocol):
    """A framework that trains. Its module also hands on what ``qat.deploy.inference`` has."""

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
    ) -> LoweredNetwork:
        """The framework's own model of a network."""

    def read(self, model: Any) -> Params:
        """The parameters and state of a lowered network, canonical."""

    def write(self, model: Any, params: Mapping[str, Array]) -> None:
        """Set some parameters or state of a lowered network, canonical arrays by full name."""

    def make_step(
        self, model: Any, optimizer: Optimizer, loss: Loss | Objective = ..., *, compile: bool = False
    ) -> Step:
        """One training step with the framework's own optimizer."""

    def seed(self, *numbers: int) -> None:
        """Seed what ``ops.drop`` draws from."""

    def runtime(self) -> str:
        """What its passes run in, with its version."""


class ParameterFiles(Protocol):
    """What a backend offers beside that whose framework has files of named arrays (``Entry.suffix``)."""

    def load_params(self, path: str | Path) -> dict[str, Array]:
        """The arrays of such a file."""

    def save_params(self, params: Mapping[str, Array], path: str | Path) -> None:
        """The inverse of ``load_params``."""


class Target(Protocol):
    """A file format.

    A target whose runtime computes several arithmetics lists them as ``ARITHMETICS`` and takes ``arithmetic=`` in ``export``,
    ``predict``, ``trace`` and ``runtime``; one without computes the float one. ``Entry.options`` are further options of
    ``export``. A target that also holds float networks has ``export_float(graph, params, path)``; one that knows how many
    bytes each node takes ``storage(graph, **options)``. One whose ``predict`` and ``trace`` run code that the file holds
    says so by ``RUNS_CODE = True``; commands that are handed a file refuse one of its without --trust.
    """

    NAME: str  #: under which ``qat.target`` knows it

    def export(self, graph: IntegerGraph, path: str | Path, **options: Any) -> None:
        """Write an integer graph. Raises QatError, naming the node, for what the runtime does not compute exactly."""

    def input_shapes(self, path: str | Path) -> list[Shape]:
        """Of the file's inputs, (C, H, W) or (F,)."""

    def predict(self, path: str | Path, pixels: Arrays, **options: Any) -> Arrays:
        """Real outputs, float32, of raw uint8 pixels (N, C, H, W), computed by the runtime from the file as it is."""

    def trace(
        self, path: str | Path, pixels: Arrays, tensors: Collection[IntegerTensor], **options: Any
    ) -> dict[str, Array]:
        """Codes of the named tensors, int32, as far as the file can give them."""

    def write_metadata(self, path: str | Path, metadata: Mapping[str, str]) -> None:
        """Set entries beside what is computed."""

    def runtime(self, **options: Any) -> str:
        """What ``predict`` runs in, with its version and options."""

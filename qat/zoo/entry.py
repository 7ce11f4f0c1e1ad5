"""What a network of the zoo is: one declaration of its source, its samples, and how it is quantized."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from qat import tasks
from qat.cells.input import Input
from qat.data import Dataset, Preparation, Split
from qat.data.download import Remote
from qat.deploy.interfaces import TrainingBackend
from qat.imports.compare import MOST_SAMPLES
from qat.imports.model import import_model
from qat.networks.catalogue import create
from qat.tasks import Task
from qat.training.checkpoint import Checkpoint
from qat.training.loop import train
from qat.training.recipe import Recipe
from qat.vocabulary.arrays import as_arrays, as_tuple
from qat.zoo.places import Places
from qat.zoo.settings import CALIBRATED, Way

#: The home of MLPerf Tiny's files, at the state that the digests are of.
TINY = "https://raw.githubusercontent.com/mlcommons/tiny/1afd2c9820f795965a6134facd0b4dfae41ef23f/benchmark/training/"


class Origin(Protocol):
    """Where a float network comes from."""

    def checkpoint(self, places: Places, dataset: Dataset, backend: TrainingBackend, task: Task) -> Checkpoint:
        """The float network.

        Args:
            places: where files are.
            dataset: the samples as they are.
            backend: that trains.
            task: what it is for.

        Returns:
            A float checkpoint; its ``preparation`` says how pictures become its input.

        Raises:
            QatError: it cannot be had.
        """

    def record(self) -> dict[str, str]:
        """What it depends on, for the history of checkpoints."""


@dataclass(frozen=True)
class Published:
    """A trained network of others: a file, or what a function of a package gives. It is compared with its source.

    Attributes:
        remote: the file below ``TINY``; None: it is a package's.
        package: modules that are needed, and the function of this package that makes the network of them.
        input: what it takes; None, the default: what it begins with says so.
        preparation: how pictures become its input; None, the default: samples have its shape.
    """

    remote: Remote | None = None
    package: tuple[str, Callable[[], Any]] | None = None
    input: Input | None = None
    preparation: Preparation | None = None

    def checkpoint(self, places: Places, dataset: Dataset, backend: TrainingBackend, task: Task) -> Checkpoint:
        """The network, imported; some calibration samples are compared with the source."""
        if self.remote is not None:
            source: Any = places.model(self.remote, TINY)
        else:
            assert self.package is not None, "one of the two is given"
            source = self.package[1]()
        shape = None if self.input is None else self.input.shape
        imported = import_model(source, inputs=self.input, input_shape=shape if self.remote is None else None)
        taken = imported.graph.input_specs[0].shape
        shaped = dataset.resized(taken, self.preparation)
        imported.compare(as_arrays(tuple(x[:MOST_SAMPLES] for x in as_tuple(shaped.train.images))))
        return replace(imported.checkpoint(task), preparation=self.preparation)

    def record(self) -> dict[str, str]:
        """Which file or package, and what it takes."""
        if self.remote is not None:
            of = {"file": self.remote.name, "sha256": self.remote.sha256}
        else:
            assert self.package is not None, "one of the two is given"
            of = {"package": self.package[0]}
        return of | {"input": repr(self.input), "preparation": str(self.preparation)}


@dataclass(frozen=True)
class Trained:
    """A network that is trained here.

    Attributes:
        network: its name in the catalogue.
        recipe: of its float training.
    """

    network: str
    recipe: Recipe

    def checkpoint(self, places: Places, dataset: Dataset, backend: TrainingBackend, task: Task) -> Checkpoint:
        """The network, trained on the training samples."""
        graph = create(self.network, dataset, task).graph()
        shaped = dataset.resized(graph.input_specs[0].shape)
        start = Checkpoint(graph, graph.initial_params(self.recipe.seed), task=task, class_names=dataset.class_names)
        trained = train(backend, start, shaped, self.recipe)
        return replace(trained, optimizer={}, preparation=shaped.preparation)

    def record(self) -> dict[str, str]:
        """Which network and recipe."""
        # What a later release may add to recipes has its default here.
        usual = asdict(Recipe())
        own = {name: value for name, value in asdict(self.recipe).items() if value != usual[name]}
        return {"network": self.network, "recipe": json.dumps(own)}


@dataclass(frozen=True)
class Entry:
    """A network of the zoo.

    Attributes:
        name: under which the zoo knows it.
        title: what it is, in a few words.
        origin: of the float network.
        samples: from places and a file in place of the test samples, or None, to the data set.
        licence: of the weights.
        about: where weights and samples are from, and what the samples are; it stands wherever its figures do.
        task: what it is for; "classification" by default.
        ways: how it is quantized, by width.
        official: the publisher's own int8 file; None, the default: there is none.
        compared: samples that certificates compare. None, the default: all test samples; a number of them; or a function of the
            places and the data set to a split.
    """

    name: str
    title: str
    origin: Origin
    samples: Callable[[Places, Path | None], Dataset]
    licence: str
    about: str
    task: str = "classification"
    ways: Mapping[str, Way] = field(default_factory=lambda: CALIBRATED)
    official: Remote | None = None
    compared: int | Callable[[Places, Dataset], Split] | None = None

    def task_of(self) -> Task:
        """The task."""
        return tasks.create(self.task)

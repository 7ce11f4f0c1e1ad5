"""The checkpoint file: safetensors, with the graph as JSON in its metadata. Every backend reads what any other has
written.

Parameters and state lie under "params/" in their canonical layouts, the optimizer's state under "optimizer/", the
parameters of the best epoch under "best/". The metadata hold the graph and the progress of the training.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from qat import tasks
from qat.data import Preparation
from qat.errors import NotFiniteError, QatError, shortened
from qat.files import write_atomically
from qat.graph import Graph, Params
from qat.graph.graph import MOST_PARAMETERS
from qat.reading import LARGEST_JSON, kind_of, open_regular, reading
from qat.registry import suffixed
from qat.tables import counted
from qat.tasks import Classification, Task
from qat.training.monitor import Epoch, Progress
from qat.training.records import line
from qat.vocabulary.listing import Listed, Listing, Row
from qat.vocabulary.ops import Array

FORMAT = "qat-checkpoint-1"
COURSE = "course"  #: in a record of the history: the epochs of a training that is over
#: Bytes of a file: parameters, those of the best epoch and three moments of each, for the largest graph.
LARGEST = 5 * 4 * MOST_PARAMETERS + (1 << 28)


@dataclass(frozen=True, eq=False)
class Checkpoint(Listed):
    """A network, its parameters and the state of its training.

    Args:
        graph: float or quantized.
        params: parameters and state by full name, float32.
        step: training steps on this graph so far.
        epoch: epochs on this graph so far.
        optimizer: the optimizer's state, in the form of the backend that ``history`` names.
        history: how the network was trained, newest training first: JSON values, for people and for the defaults of
            commands.
        progress: of the current training.
        best: parameters of the best epoch so far, where they are wanted and differ from ``params``; else empty.
        preparation: how pictures become its input; None where nobody has said it.
        task: what the network is for; classification by default, as in files of the first releases.
        class_names: what the labels mean, in their order; empty by default: nobody has said it.

    >>> import qat
    >>> from qat.networks import LeNet5
    >>> graph = LeNet5().graph()
    >>> qat.Checkpoint(graph, graph.initial_params(0)).save("lenet.ckpt")
    >>> qat.Checkpoint.load("lenet.ckpt")
    Checkpoint of LeNet5, float, step 0, 61,684 parameters
    """

    graph: Graph
    params: Params
    step: int = 0
    epoch: int = 0
    optimizer: Mapping[str, Array] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()
    progress: Progress = field(default_factory=Progress)
    best: Params = field(default_factory=dict)
    preparation: Preparation | None = None
    task: Task = field(default_factory=Classification)
    class_names: tuple[str, ...] = ()

    def derived(self, graph: Graph, params: Params) -> Checkpoint:
        """Another network made from this one, not trained yet: it keeps the history, the task and what is known of the data.

        Args:
            graph: of the new network.
            params: of the new network.

        Returns:
            A checkpoint at step 0.
        """
        return Checkpoint(
            graph,
            params,
            history=self.past,
            preparation=self.preparation,
            task=self.task,
            class_names=self.class_names,
        )

    @property
    def past(self) -> tuple[Mapping[str, Any], ...]:
        """The history for a network that is made from this one: the newest training has its epochs with it, so that what is
        made later can still show how this one was trained (``courses``).
        """
        if not self.progress.epochs or not self.history:
            return self.history
        first, *others = self.history
        records = [{name: x for name, x in asdict(epoch).items() if x is not None} for epoch in self.progress.epochs]
        return ({**first, COURSE: records}, *others)

    @property
    def courses(self) -> tuple[tuple[Epoch, ...], ...]:
        """The epochs of each training of the history that kept them, the oldest training first, the current one last.

        Raises:
            QatError: where such a record is damaged.
        """
        earlier = [record[COURSE] for record in reversed(self.history) if COURSE in record]
        found = [Progress.from_json({"epochs": course}).epochs for course in earlier]
        return (*found, self.progress.epochs) if self.progress.epochs else tuple(found)

    def kept(self) -> dict[str, str]:
        """What the network is for and what is known of the data, for the metadata of checkpoints and exported files.

        Returns:
            JSON texts by key; none of what nobody has said.
        """
        found = {"task": tasks.written(self.task)}
        if self.class_names:
            found["class_names"] = json.dumps(self.class_names)
        return found if self.preparation is None else found | {"preparation": json.dumps(self.preparation.to_json())}

    def __repr__(self) -> str:
        kind = "quantized" if self.graph.is_quantized else "float"
        numbers = sum(math.prod(param.shape) for param in self.graph.params.values() if param.trainable)
        return f"Checkpoint of {self.graph.name}, {kind}, step {self.step:,}, {counted(numbers, 'parameter')}"

    @property
    def _listing(self) -> Listing:
        numbers = sum(array.nbytes for array in self.params.values())
        rows = [
            Row(("network", repr(self.graph))),
            Row(("parameters", f"{counted(len(self.params), 'array')}, {numbers:,} bytes")),
            Row(("trained", f"{counted(self.epoch, 'epoch')}, {counted(self.step, 'step')}")),
            Row(("task", type(self.task).__name__)),
        ]
        if self.class_names:
            rows.append(Row(("classes", f"{len(self.class_names):,}"), shortened(self.class_names)))
        rows += [Row((f"history[{number}]", line(record))) for number, record in enumerate(self.history)]
        return Listing(repr(self), ("what", "value"), tuple(rows))

    def not_finite(self) -> str | None:
        """What is infinite or NaN among the parameters, those of the best epoch and the optimizer's state.

        Returns:
            The first such tensor, in words; None where all numbers are finite.
        """
        found = self.graph.not_finite(self.params)
        if found is None and self.best:
            found = self.graph.not_finite(self.best)
        for name, array in self.optimizer.items():
            if found is None and not np.isfinite(array).all():
                found = f"the optimizer's {name!r} holds {array[~np.isfinite(array)][0]}"
        return found

    def save(self, path: str | Path) -> None:
        """Write the file, as a whole or not at all.

        Args:
            path: where to; an existing file is replaced.

        Raises:
            QatError: where it cannot be written.
            NotFiniteError: where a number is infinite or NaN; no command would read such a checkpoint.
        """
        wrong = self.not_finite()
        if wrong:
            kept = "; the file that was there is unharmed" if os.path.isfile(path) else ""
            raise NotFiniteError(
                f"{path}: {wrong}, so the checkpoint is not saved: such a network cannot be used{kept}"
            )
        # safetensors writes the buffer as it lies in memory, whatever the strides are.
        tensors = {f"params/{name}": np.asarray(array, order="C") for name, array in self.params.items()}
        tensors |= {f"optimizer/{name}": np.asarray(array, order="C") for name, array in self.optimizer.items()}
        tensors |= {f"best/{name}": np.asarray(array, order="C") for name, array in self.best.items()}
        metadata = {
            "format": FORMAT,
            "graph": self.graph.to_json(),
            "step": str(self.step),
            "epoch": str(self.epoch),
            "history": json.dumps(self.history),
            "progress": json.dumps(self.progress.to_json()),
        }
        write_atomically(path, in_order(safetensors.numpy.save(tensors, metadata | self.kept())))

    @classmethod
    def load(cls, path: str | Path) -> Checkpoint:
        """Read a checkpoint.

        Args:
            path: of the file.

        Returns:
            The checkpoint, its parameters checked against its graph.

        Raises:
            QatError: where the file is missing, damaged, not a checkpoint, or does not fit its graph.
        """
        path = Path(path)
        open_regular(path, "give the checkpoint file that training wrote", limit=LARGEST).close()
        advice = "use another copy, or import-params where it is a file of PyTorch or MindSpore"
        try:
            with reading(path, "a checkpoint of qat", advice), safetensors.safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
        except QatError:
            if suffixed(path):
                raise QatError(
                    f"{path}: is an exported file, not a checkpoint; run, evaluate and verify take such files"
                ) from None
            kind = kind_of(path)
            if kind is not None and kind[0] != "is a checkpoint":
                raise QatError(f"{path}: {kind[0]}, not a checkpoint of qat; {kind[1]}") from None
            raise
        if metadata.get("format") != FORMAT:
            raise QatError(
                f"{path}: has format {shortened(metadata.get('format'))} where this release reads {FORMAT!r}; it is "
                "another program's safetensors file, or another release's checkpoint"
            )
        with reading(path, "a checkpoint of qat: its metadata are damaged", "use another copy"):
            if max(map(len, metadata.values())) > LARGEST_JSON:
                raise ValueError(f"there are more than {LARGEST_JSON:,} characters")
            graph = Graph.from_json(metadata["graph"])
            step, epoch = (_count(name, metadata[name]) for name in ("step", "epoch"))
            history = _history(json.loads(metadata["history"]))
            progress = Progress.from_json(json.loads(metadata.get("progress", "null")))
            task = tasks.read(metadata["task"]) if "task" in metadata else Classification()
            recipe = json.loads(metadata.get("preparation", "null"))
            preparation = None if recipe is None else Preparation.from_json(recipe)
            class_names = names_of_classes(metadata.get("class_names"))
        params, state, best = (
            {name.removeprefix(part): a for name, a in tensors.items() if name.startswith(part)}
            for part in ("params/", "optimizer/", "best/")
        )
        for source, arrays in ((str(path), params), (f"{path}, its best epoch", best)):
            if arrays or source == str(path):
                graph.check_params(arrays, source)
                not_finite = graph.not_finite(arrays)
                if not_finite:
                    raise QatError(
                        f"{source}: {not_finite}; its training went wrong or the file is damaged, use another copy"
                    )
        return cls(graph, params, step, epoch, state, history, progress, best, preparation, task, class_names)

    def require(self, path: str | Path, *, quantized: bool) -> None:
        """Check that the network is of the kind that a command needs.

        Args:
            path: that it was read from, for the message.
            quantized: True where a quantized network is needed, False where a float one is.

        Raises:
            QatError: for the other kind, with the command that makes the right one.
        """
        if quantized and not self.graph.is_quantized:
            raise QatError(
                f"{path}: holds the float network {self.graph.name}, which is not quantized yet; run calibrate or train-quant "
                f"(train_quant.py) --ckpt_path {path} first and give the checkpoint that it writes"
            )
        if not quantized and self.graph.is_quantized:
            raise QatError(
                f"{path}: holds the quantized network {self.graph.name} where a float one is needed; give the checkpoint "
                "that it was made from (its accuracy: eval-quant, or eval_quant.py)"
            )


def in_order(content: bytes) -> bytes:
    """A safetensors file whose metadata stand in the order of their names: the library writes them in another order each time,
    so that one checkpoint would have many digests.

    Args:
        content: Of the file: the length of its header, the header as JSON, the tensors.

    Returns:
        The same, always with the same bytes.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned
    return b"".join((len(text).to_bytes(8, "little"), text, content[end:]))


def names_of_classes(text: str | None) -> tuple[str, ...]:
    """What ``Checkpoint.kept`` wrote of them. Raises ValueError for anything else."""
    names = json.loads(text or "[]")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its names of classes are not a list of strings")
    return tuple(names)


def _count(name: str, text: str) -> int:
    """The number of steps or epochs that ``save`` wrote."""
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise ValueError(f"its {name} is {shortened(text)}, not a count")
    return int(text)


def _history(entries: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("its history is not a list of trainings")
    return tuple(entries)

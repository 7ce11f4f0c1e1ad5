"""Distillation from a teacher: its logits of the training images, computed once before training."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qat.data import Split
from qat.deploy.interfaces import TrainingBackend, check_backend
from qat.errors import QatError
from qat.files import absolute
from qat.graph import Graph
from qat.passes.logits_graph import logits_graph
from qat.training.checkpoint import Checkpoint
from qat.training.objectives import Distillation
from qat.vocabulary.ops import Array

OWN = "self"  #: the --teacher_ckpt for the trained network itself with its quantizers idle


@dataclass(frozen=True, eq=False)
class Teaching:
    """What ``train`` needs for distillation.

    Args:
        objective: what is minimised.
        targets: the teacher's logits of the training images, float32 (N, K), to be put into ``Split.targets``; empty
            where the network teaches itself.
        record: of the teacher, for the checkpoint's history.

    >>> from qat.training.distillation import Teaching
    >>> from qat.training.objectives import Distillation
    >>> Teaching(Distillation()).targets
    ()
    """

    objective: Distillation
    targets: tuple[Array, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)


def teach(
    backend: TrainingBackend,
    student: Graph,
    path: str,
    train: Split | None,
    temperature: float,
    weight: float,
    *,
    smoothing: float = 0.0,
    device_target: str | None = None,
) -> Teaching:
    """Prepare a training of ``student`` with a teacher (``Distillation``).

    The logits are those of the original images; augmentation of the student's images does not change them.

    Args:
        backend: computes the teacher's logits; it is not used where the network teaches itself.
        student: the graph to be trained.
        path: a checkpoint, float or quantized, of any network with the same outputs; or "self": the network with its
            quantizers idle teaches the quantized one.
        train: the training images in the teacher's own shape; None for "self".
        temperature: T of ``Distillation``.
        weight: W of ``Distillation``.
        smoothing: of the labels.
        device_target: "CPU", "GPU" or "Ascend"; None, the default: the backend's first.

    Returns:
        The objective, the targets and a record of the teacher.

    Raises:
        QatError: where the outputs differ, or a float network is to teach itself.

    >>> import qat
    >>> from qat.networks import LeNet5
    >>> from qat.training.distillation import teach
    >>> student = qat.convert_quant_network(LeNet5())
    >>> teach(None, student, "self", None, temperature=4.0, weight=0.5).record
    {'teacher': 'self'}
    """
    objective = Distillation(temperature, weight, path == OWN, smoothing)
    if path == OWN:
        if not student.is_quantized:
            raise QatError(
                f"--teacher_ckpt {OWN}: {student.name} has no quantizers, so that it would learn from its own outputs; give "
                "the checkpoint of another network, or train a quantized one"
            )
        return Teaching(objective, (), {"teacher": OWN})
    teacher = Checkpoint.load(path)
    shapes = [[graph.shapes[name] for name in graph.outputs] for graph in (teacher.graph, student)]
    if shapes[0] != shapes[1]:
        raise QatError(
            f"--teacher_ckpt {path}: {teacher.graph.name} gives {_words(shapes[0])} where {student.name} gives "
            f"{_words(shapes[1])}; a teacher has to know the same classes"
        )
    assert train is not None, "a teacher looks at images"
    check_backend(backend)
    model = backend.lower(logits_graph(teacher.graph), teacher.params, device_target=device_target)
    logits = np.asarray(backend.predict(model, train.images), np.float32)
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    return Teaching(objective, (logits,), {"teacher": absolute(path), "teacher_sha256": digest})


def _words(shapes: list[tuple[int, ...]]) -> str:
    return " and ".join(map(str, shapes))

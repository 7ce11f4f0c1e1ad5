"""Tasks by name: our own, those that other packages add, and a user's own; losses of a user's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from qat import hints
from qat.errors import QatError
from qat.plugins import Group, own_object
from qat.tasks.base import Loss, Task
from qat.tasks.classification import Classification
from qat.tasks.multilabel import Multilabel
from qat.tasks.reconstruction import Reconstruction
from qat.tasks.regression import Regression
from qat.tasks.segmentation import Segmentation
from qat.tasks.several import OutputTask, Several
from qat.vocabulary.serial import from_json

TASKS: dict[str, type[Task]] = {
    cls.name: cls for cls in (Classification, Multilabel, Regression, Segmentation, Reconstruction)
}
ADDED = Group("qat.tasks", "task", tuple(TASKS))  #: our own, and those of other packages


def create(text: str | Sequence[str]) -> Task:
    """A task by its name, or the tasks of several outputs.

    Args:
        text: one of ``TASKS``, in capitals or small letters; that of an entry point of the group ``qat.tasks`` of an installed
            package; or ``package.module:Class``, whose code is then run. For several outputs one ``output=task`` each, with
            the weight of its loss behind a colon where that is not 1, as "slant=regression:0.5".

    Returns:
        The task, with the defaults of its arguments.

    Raises:
        QatError: there is no such task.

    >>> import qat
    >>> qat.tasks.create("regression")
    Regression()
    >>> qat.tasks.create(["digit=classification", "slant=regression:0.5"]).parts[1].weight
    0.5
    """
    words = [text] if isinstance(text, str) else list(text)
    if len(words) == 1 and "=" not in words[0]:
        return _one(words[0])
    parts = []
    for word in words:
        output, equals, name = word.partition("=")
        if not equals or not output or not name:
            raise QatError(
                f"--task {word}: of several outputs each has its task, as a=classification b=regression:0.5; give them so"
            )
        before, colon, last = name.rpartition(":")
        weight = _number(last) if colon else None
        parts.append(OutputTask(output, _one(name)) if weight is None else OutputTask(output, _one(before), weight))
    return Several(tuple(parts))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _one(name: str) -> Task:
    known = ADDED.meant(name)
    if known is not None:
        return TASKS[known]() if known in TASKS else _made(name, ADDED.load(known))
    if ":" not in name:
        raise QatError(f"{hints.unknown('task', name, ADDED.names())}, or give your own as package.module:Class")
    return _made(name, own_object(name, "--task", "package.module:Class"))


def _made(name: str, cls: Any) -> Task:
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        raise QatError(f"--task {name}: is no qat.tasks.Task; derive the class from it")
    try:
        return cls()
    except TypeError as error:
        raise QatError(f"--task {name}: cannot be made ({error}); give its fields defaults") from None


def own_loss(name: str) -> Loss:
    """A loss of a user's own.

    Args:
        name: ``package.module:function``, whose module is run. The function is over the vocabulary: from ``ops``, the outputs
            and the targets of the task to a scalar.

    Returns:
        The function.

    Raises:
        QatError: there is none.
    """
    if ":" not in name:
        raise QatError(
            f"--loss {name}: give a function of your own as package.module:function, or leave it out for the task's"
        )
    function: Loss = own_object(name, "--loss", "package.module:function")
    if not callable(function):
        raise QatError(f"--loss {name}: is a {type(function).__name__}, not a function of ops, outputs and targets")
    return function


def written(task: Task) -> str:
    """A task as JSON text, for the metadata of a file.

    Args:
        task: any.

    Returns:
        The text.
    """
    return json.dumps(task.to_json())


def read(text: str) -> Task:
    """The inverse of ``written``.

    Args:
        text: of a file's metadata.

    Returns:
        The task.

    Raises:
        QatError: it is of another release, or of a module that is not imported.
        ValueError: the text is damaged.
    """
    task: Task = from_json(json.loads(text), Task)  # type: ignore[type-abstract]
    return task

"""What quantization does at which step of a training whose loop is a framework's or a user's own.

It is decided here, once. A backend's callback hands it the events of its framework's loop
(``qat.deploy.interfaces.HasCallback``).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qat.cells.linear import LinearCell
from qat.deploy.interfaces import HasCallback
from qat.errors import QatError, QatWarning
from qat.files import check_writable
from qat.passes.delays import with_delays
from qat.registry import backend_of
from qat.training.checkpoint import Checkpoint
from qat.training.lengths import Length, Span
from qat.training.origin import checkpoint_of, origin_of
from qat.training.oscillations import Oscillations, oscillating, tracked_cells
from qat.training.trackers import Tracker, check_trackers


class QuantSchedule:
    """What quantization does at which step of a training in a loop of your own.

    Call ``begin`` before the first step, ``before_step`` before each, ``after_epoch`` where an epoch ends, ``end`` after the
    last step. ``qat.callback`` gives an object that makes these calls in the loop of a framework.

    Args:
        model: what ``qat.prepare`` returned, or a backend's ``lower``.
        quant_delay: the length before quantization sets in, in place of what the model was converted with: steps (900, "900"),
            epochs ("2ep") or a share of the training ("10%"). It counts from the model's first training step, also where
            that was in a training before. None, the default: as it is.
        freeze_bn: the length after which batch normalisation uses its running statistics in training too; None likewise.
        oscillations: freeze weights whose codes oscillate; the model is prepared with the same. None, the default: as
            ``qat.prepare(oscillations=...)`` was told, or nothing of it.
        save_path: a checkpoint file that is written after each epoch and at the end; None, the default: none.
        trackers: what numbers are sent to (``qat.trackers``); none by default. They are not closed.

    Raises:
        QatError: the model is none that a backend lowered, is float, or counts no oscillations; a length is none; or nothing
            can be written at save_path.

    >>> import numpy as np, torch, qat
    >>> from qat.networks import LeNet5
    >>> model = qat.prepare(LeNet5(), backend="torch")
    >>> schedule = qat.QuantSchedule(model, quant_delay="1ep")
    >>> schedule.begin(epoch=10, steps=40)
    >>> model.graph.quant_delay
    10
    """

    def __init__(
        self,
        model: Any,
        *,
        quant_delay: int | str | None = None,
        freeze_bn: int | str | None = None,
        oscillations: Oscillations | None = None,
        save_path: str | Path | None = None,
        trackers: Iterable[Tracker] = (),
    ) -> None:
        self.backend = backend_of(model)
        self.model, self.save_path, self.trackers = model, save_path, check_trackers(trackers)
        graph = model.graph
        given = {"quant_delay": quant_delay, "freeze_bn": freeze_bn}
        self._lengths = {name: Length(str(value)) for name, value in given.items() if value is not None}
        if quant_delay is not None and not graph.is_quantized:
            raise QatError(
                f"{graph.name}: quant_delay is {quant_delay}, but it is float; give what qat.prepare returned"
            )
        if freeze_bn is not None and not any(isinstance(n.cell, LinearCell) and n.cell.has_bn for n in graph.nodes):
            raise QatError(
                f"{graph.name}: freeze_bn is {freeze_bn}, but it has no batch normalisation; leave freeze_bn out"
            )
        self.oscillations = origin_of(model).oscillations if oscillations is None else oscillations
        if self.oscillations is not None:
            _check_tracked(model, self.oscillations)
        if save_path is not None:
            check_writable(Path(save_path))
        self._steps = 0  #: of the training, with those that the model had before
        self._speaks = True  #: whether this process writes and logs
        self._base: int | None = None

    def begin(self, epoch: int | None = None, steps: int | None = None, *, speaks: bool = True) -> None:
        """Before the first step: lengths become steps, and the model follows them.

        Args:
            epoch: the steps of an epoch; None, the default: not known.
            steps: of the whole training, counted from the model's first step; None likewise.
            speaks: whether this process writes the checkpoint and logs; of several that train together one does.

        Raises:
            QatError: what is not known is needed.
        """
        self._speaks, self._base = speaks, None
        found = {name: self._within(length, name, epoch, steps) for name, length in self._lengths.items()}
        graph = with_delays(self.model.graph, **found)
        if graph != self.model.graph:
            self.model.follow(graph)
        freezes = self.oscillations is not None and self.oscillations.freeze is not None
        if freezes and steps is None:
            raise QatError(
                f"{graph.name}: the threshold of oscillations falls until the training ends, and its length is not known; "
                "give the loop a number of epochs, and batches whose number is known"
            )
        if steps is not None and graph.is_quantized and graph.quant_delay >= steps:
            warnings.warn(
                f"{graph.name}: quantization sets in after {graph.quant_delay} steps, but the training ends after {steps}, so "
                "that nothing is trained quantized; use a shorter quant_delay, as 10%, or train longer",
                QatWarning,
                stacklevel=2,
            )
        self._steps = steps or 0
        if speaks:
            settings = {"network": graph.name, "backend": self.backend.NAME, "quant_delay": graph.quant_delay, **found}
            for tracker in self.trackers:
                tracker.log_params({f"qat/{name}": value for name, value in settings.items()})

    def before_step(self, done: int | None = None) -> None:
        """Before a training step: what it needs is set.

        Args:
            done: the optimizer's steps so far, where its loop counts them: quant_delay then counts these, not the calls of the
                model, of which there are several a step where gradients are accumulated. None, the default: each call counts.
        """
        if done is not None:
            if self._base is None:
                self._base = self.model.step - done
            if self.model.step != self._base + done:
                self.model.step = self._base + done
        if self.oscillations is not None:
            delay = self.model.graph.quant_delay
            own = self.oscillations.scalars(self.model.graph, self.model.step - delay, self._steps - delay)
            self.backend.write(self.model, own)

    def after_epoch(self, metrics: Mapping[str, float] | None = None) -> None:
        """After the last step of an epoch.

        Args:
            metrics: numbers by name, for the trackers.
        """
        if not self._speaks:
            return
        self._save()  # first: a tracker may fail
        if self.trackers:
            found = dict(metrics or {})
            counts = (
                oscillating(self.model.graph, self.backend.read(self.model)) if self.oscillations is not None else []
            )
            if weights := sum(each.weights for each in counts):
                found["qat/oscillating"] = sum(each.oscillating for each in counts) / weights
                found["qat/frozen"] = sum(each.frozen for each in counts) / weights
            for tracker in self.trackers:
                tracker.log_metrics(found, self.model.step)

    def end(self) -> Checkpoint:
        """After the last step.

        Returns:
            The model as a checkpoint (``qat.checkpoint_of``).
        """
        if self._speaks:
            self._save()
        return self.checkpoint

    @property
    def checkpoint(self) -> Checkpoint:
        """The model as a checkpoint, as it is now."""
        return checkpoint_of(self.model)

    def _save(self) -> None:
        if self.save_path is not None:
            self.checkpoint.save(self.save_path)

    def _within(self, length: Length, name: str, epoch: int | None, steps: int | None) -> int:
        """The steps of a length. The two numbers are those of ``begin``."""
        text = length.text
        known = steps if text.endswith("%") else epoch
        if known is None and not text.isdigit():
            what = "how many steps the training has" if text.endswith("%") else "how many steps an epoch has"
            raise QatError(
                f"{self.model.graph.name}: {name} is {text}, but {what} is not known here; give steps, as 900"
            )
        return length.within(Span(known or 0, 1), name)


def callback(
    model: Any,
    *,
    quant_delay: int | str | None = None,
    freeze_bn: int | str | None = None,
    oscillations: Oscillations | None = None,
    save_path: str | Path | None = None,
    trackers: Iterable[Tracker] = (),
) -> Any:
    """A callback for the training loop of a model's framework: when quantization sets in, what is frozen when.

    Args:
        model: what ``qat.prepare`` returned, or a backend's ``lower``; a part of what is trained.
        quant_delay: as ``QuantSchedule`` has it: 900 steps, "2ep" epochs, "10%" of the training.
        freeze_bn: as ``QuantSchedule`` has it.
        oscillations: as ``QuantSchedule`` has it.
        save_path: as ``QuantSchedule`` has it.
        trackers: as ``QuantSchedule`` has it; they get the loop's own metrics after each epoch.

    Returns:
        A ``keras.callbacks.Callback``, ``mindspore.train.Callback`` or, for PyTorch, a ``lightning.pytorch.Callback``. Its
        ``checkpoint`` is the model as a ``qat.Checkpoint``, as it is when it is asked for.

    Raises:
        QatError: as ``QuantSchedule``; the backend has no such callback; Lightning is not installed.

    >>> import qat
    >>> qat.callback("net.ckpt")  # what qat.prepare returned: lightning.pytorch.Trainer(callbacks=[qat.callback(model)])
    Traceback (most recent call last):
        ...
    qat.errors.QatError: a str is no prepared model, since it has no codes; call qat.prepare first, ...
    """
    schedule = QuantSchedule(
        model,
        quant_delay=quant_delay,
        freeze_bn=freeze_bn,
        oscillations=oscillations,
        save_path=save_path,
        trackers=trackers,
    )
    if not isinstance(schedule.backend, HasCallback):
        raise QatError(
            f"callback: the backend {schedule.backend.NAME!r} has no callback for a framework's loop; use qat.QuantSchedule in "
            "a loop of your own, or qat.train"
        )
    return schedule.backend.callback(schedule)


def _check_tracked(model: Any, wanted: Oscillations) -> None:
    """Raise QatError unless a model counts what is to be frozen."""
    graph = model.graph
    if wanted.dampen:
        raise QatError(
            f"{graph.name}: dampen is {wanted.dampen}, a part of the loss, which in a loop of your own is yours; give freeze "
            "instead, or train with qat.train"
        )
    cells: dict[str, Any] = {node.cell_name: node.cell for node in graph.nodes}
    trackers = {cells[name].tracker for name in tracked_cells(graph)}
    if trackers != {wanted.tracker}:
        found = f"does so by {next(iter(trackers))}" if trackers else "does not"
        raise QatError(
            f"{graph.name}: oscillations are to be counted by {wanted.tracker}, but the model {found}; give the same "
            "oscillations to qat.prepare"
        )

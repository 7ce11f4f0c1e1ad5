"""Keras's callback that tells a model's schedule what ``fit`` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qat.backends.keras.setup import keras
from qat.errors import QatError
from qat.training.checkpoint import Checkpoint
from qat.training.quant_schedule import QuantSchedule


class QuantCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """``model.fit(..., callbacks=[qat.callback(model, quant_delay="2ep")])``.

    Put it behind callbacks that change weights at the end, as EarlyStopping(restore_best_weights=True) does, if it is to save
    a checkpoint.

    Attributes:
        schedule: what it does.
    """

    def __init__(self, schedule: QuantSchedule) -> None:
        super().__init__()
        self.schedule = schedule
        self._begun = False  #: whether this ``fit`` has begun its first epoch, by whose number its length is known

    @property
    def checkpoint(self) -> Checkpoint:
        """The model as a checkpoint, as it is now."""
        return self.schedule.checkpoint

    def on_train_begin(self, logs: Any = None) -> None:
        """As keras.callbacks.Callback's. Raises QatError where ``fit`` trains something else."""
        own, fitted = self.schedule.model, self.model
        if own is not fitted and own not in fitted._flatten_layers():
            raise QatError(
                f"callback: fit trains {fitted.name}, of which {own.graph.name}, the model of qat.callback, is no part; give "
                "qat.callback the model that is trained"
            )
        self._begun = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Of the first one: how long the training is becomes known."""
        if self._begun:
            return
        self._begun = True
        own, fitted, batches = self.schedule.model, self.model, self.params.get("steps")
        graph = own.graph
        self.schedule.begin(batches, None if batches is None else own.step + batches * (self.params["epochs"] - epoch))
        if own is not fitted and own.graph is not graph and fitted.train_function is not None:
            fitted.make_train_function(force=True)

    def on_test_begin(self, logs: Any = None) -> None:
        """The model's own evaluation derives the integers anew; one in which it is a part is traced anew for that."""
        if self.schedule.model is not self.model:
            self.model.make_test_function(force=True)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """What the next step needs is set."""
        self.schedule.before_step()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """A checkpoint is saved, and the trackers get the metrics."""
        self.schedule.after_epoch({name: float(value) for name, value in (logs or {}).items()})

    def on_train_end(self, logs: Any = None) -> None:
        """The last checkpoint is saved."""
        self.schedule.end()


def callback(schedule: QuantSchedule) -> QuantCallback:
    """As ``qat.deploy.interfaces.HasCallback`` has it."""
    return QuantCallback(schedule)

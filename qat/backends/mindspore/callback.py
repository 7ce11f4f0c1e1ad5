"""MindSpore's callback that tells a model's schedule what ``mindspore.train.Model.train`` does."""

from __future__ import annotations

from typing import Any

import numpy as np

from qat.backends.mindspore.setup import ms
from qat.errors import QatError
from qat.training.checkpoint import Checkpoint
from qat.training.quant_schedule import QuantSchedule


class QuantCallback(ms.train.Callback):  # type: ignore[misc]
    """``Model(TrainOneStepCell(network, optimizer)).train(5, data, callbacks=[qat.callback(network, quant_delay="2ep")])``.

    Attributes:
        schedule: what it does.
    """

    def __init__(self, schedule: QuantSchedule) -> None:
        super().__init__()
        self.schedule = schedule

    @property
    def checkpoint(self) -> Checkpoint:
        """The network as a checkpoint, as it is now."""
        return self.schedule.checkpoint

    def on_train_begin(self, run_context: Any) -> None:
        """As mindspore.train.Callback's. Raises QatError where ``train`` trains something else."""
        run, own = run_context.original_args(), self.schedule.model
        if all(own is not cell for _, cell in run.train_network.cells_and_names()):
            raise QatError(
                f"callback: Model.train trains a {type(run.train_network).__name__}, of which {own.graph.name}, the network of "
                "qat.callback, is no part; give qat.callback the network that is trained"
            )
        self.schedule.begin(run.batch_num, own.step + run.batch_num * run.epoch_num)

    def on_train_step_begin(self, run_context: Any) -> None:
        """What the next step needs is set."""
        self.schedule.before_step()

    def on_train_epoch_end(self, run_context: Any) -> None:
        """A checkpoint is saved, and the trackers get the metrics."""
        found = run_context.original_args().net_outputs
        found = found[0] if isinstance(found, (tuple, list)) else found
        self.schedule.after_epoch({} if found is None else {"loss": float(np.mean(found.asnumpy()))})

    def on_train_end(self, run_context: Any) -> None:
        """The last checkpoint is saved."""
        self.schedule.end()


def callback(schedule: QuantSchedule) -> QuantCallback:
    """As ``qat.deploy.interfaces.HasCallback`` has it."""
    return QuantCallback(schedule)

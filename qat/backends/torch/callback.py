"""Lightning's callback that tells a model's schedule what its Trainer does. Lightning is imported when it is asked for."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

from qat.errors import QatError
from qat.extras import how_to_install
from qat.training.checkpoint import Checkpoint
from qat.training.quant_schedule import QuantSchedule


@functools.cache
def _callback_class() -> type[Any]:
    """The class, of that package of the two that is installed; of both that which Lightning recommends."""
    names = [name for name in ("lightning", "pytorch_lightning") if importlib.util.find_spec(name) is not None]
    if not names:
        raise QatError(
            f"callback: for PyTorch it is one of Lightning, which is not installed: {how_to_install('lightning')}; in a "
            "loop of your own use qat.QuantSchedule"
        )
    base: type[Any] = importlib.import_module("lightning.pytorch" if names[0] == "lightning" else names[0]).Callback

    class QuantCallback(base):  # type: ignore[misc]
        """``Trainer(callbacks=[qat.callback(module.model, quant_delay="2ep")])``.

        Its steps are those of the optimizer, also where the Trainer accumulates gradients.

        Attributes:
            schedule: what it does.
        """

        def __init__(self, schedule: QuantSchedule) -> None:
            super().__init__()
            self.schedule = schedule

        @property
        def checkpoint(self) -> Checkpoint:
            """The model as a checkpoint, as it is now."""
            return self.schedule.checkpoint

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            """As lightning.pytorch.Callback's. Raises QatError where something else is trained."""
            own = self.schedule.model
            if all(own is not module for module in pl_module.modules()):
                raise QatError(
                    f"callback: the Trainer trains a {type(pl_module).__name__}, of which {own.graph.name}, the model of "
                    "qat.callback, is no part; give qat.callback the model that it holds"
                )
            batches, parts = trainer.num_training_batches, trainer.accumulate_grad_batches
            steps = trainer.estimated_stepping_batches
            before = own.step - trainer.global_step
            self.schedule.begin(
                None if batches == float("inf") else -(-int(batches) // parts),
                None if steps == float("inf") else before + int(steps),
                speaks=trainer.is_global_zero,
            )

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            """What the next step needs is set."""
            self.schedule.before_step(trainer.global_step)

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            """A checkpoint is saved, and the trackers get the metrics."""
            self.schedule.after_epoch({name: float(value) for name, value in trainer.callback_metrics.items()})

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            """The last checkpoint is saved."""
            self.schedule.end()

    return QuantCallback


def callback(schedule: QuantSchedule) -> Any:
    """As ``qat.deploy.interfaces.HasCallback`` has it. Raises QatError where Lightning is not installed."""
    return _callback_class()(schedule)

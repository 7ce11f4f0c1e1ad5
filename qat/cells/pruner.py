"""Magnitude pruning of single weights: how many are 0 at which step of training."""

from __future__ import annotations

from dataclasses import dataclass

from qat.errors import QatError
from qat.vocabulary.serial import Serializable, check_steps

SCHEDULES = ("polynomial", "constant")


@dataclass(frozen=True)
class MagnitudePruner(Serializable):
    """The smallest weights of a cell become 0 and stay 0: |w| decides, and a mask remembers (``qat.pruning.magnitude``).

    Steps count from 0 as training counts them: at step t the weights are pruned before that step is taken. A weight
    that is 0 never comes back, so that the sparsity of a cell that was pruned before never falls.

    Args:
        final_sparsity: s_f, the share of the weights that is 0 in the end, 0 to below 1.
        initial_sparsity: s_i, the share at step ``begin``. Default: 0.
        begin: the step at which pruning begins. Default: 1000.
        end: the step at which final_sparsity is reached. Default: 8000.
        frequency: steps between two prunings. Default: 100.
        schedule: "polynomial" or "constant". Default: "polynomial".

            "polynomial": s_t = s_f + (s_i - s_f) (1 - (t - begin) / (end - begin))^3 at every ``frequency``-th step t
            from begin to end, and at end (Zhu and Gupta, arXiv 1710.01878, equation 1).

            "constant": s_f at step begin, at once. initial_sparsity, end and frequency have no effect.

    Raises:
        QatError: where a field is out of its range, or the schedule would end before it begins or let the sparsity
            fall.

    Example:
        >>> import qat
        >>> pruner = qat.pruning.MagnitudePruner(0.8, begin=0, end=1000)
        >>> [round(pruner.sparsity(step), 3) for step in (0, 500, 1000)]
        [0.0, 0.7, 0.8]
    """

    final_sparsity: float
    initial_sparsity: float = 0.0
    begin: int = 1000
    end: int = 8000
    frequency: int = 100
    schedule: str = "polynomial"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self, "begin", "end", "frequency")
        owner = type(self).__name__
        for name in ("final_sparsity", "initial_sparsity"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise QatError(f"{owner}: {name} is {getattr(self, name)!r}; use a share of weights, 0 to below 1")
        if self.schedule not in SCHEDULES:
            raise QatError(f"{owner}: schedule is {self.schedule!r}; use one of {', '.join(map(repr, SCHEDULES))}")
        if self.frequency < 1:
            raise QatError(f"{owner}: frequency is {self.frequency}; use a number of steps of at least 1")
        if self.schedule == "polynomial" and self.end <= self.begin:
            raise QatError(
                f"{owner}: the schedule goes from step {self.begin} to {self.end}; let it end after it begins"
            )
        if self.schedule == "polynomial" and self.initial_sparsity > self.final_sparsity:
            raise QatError(
                f"{owner}: sparsity would fall from {self.initial_sparsity} to {self.final_sparsity}, but weights that are 0 "
                "stay 0; begin with less"
            )

    def __str__(self) -> str:
        if self.schedule == "constant":
            return f"sparsity {self.final_sparsity:g} from step {self.begin}"
        return (
            f"sparsity {self.initial_sparsity:g} to {self.final_sparsity:g}, steps {self.begin} to {self.end} every "
            f"{self.frequency}"
        )

    @property
    def last(self) -> int:
        """The step at which the final sparsity is reached."""
        return self.begin if self.schedule == "constant" else self.end

    def prunes_at(self, step: int) -> bool:
        """True at the steps before which weights are pruned."""
        if step == self.last:
            return True
        return self.begin <= step < self.last and (step - self.begin) % self.frequency == 0

    def sparsity(self, step: int) -> float:
        """The share of weights that is to be 0 at a step; 0 before the schedule begins."""
        if step < self.begin:
            return 0.0
        if step >= self.last:
            return self.final_sparsity
        left = 1.0 - (step - self.begin) / (self.end - self.begin)
        return self.final_sparsity + (self.initial_sparsity - self.final_sparsity) * left**3

"""Studies: many trainings, some of which need the results of others, run from one study file (docs/study.md)."""

from qat.study.run import run_study
from qat.study.store import Study, Task

__all__ = ["Study", "Task", "run_study"]

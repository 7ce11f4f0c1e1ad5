"""Studies: many trainings that depend on one another, in one file that says what is done (docs/study.md)."""

from qat.study.run import run_study
from qat.study.store import Study, Task

__all__ = ["Study", "Task", "run_study"]

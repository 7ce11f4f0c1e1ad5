"""What a type checker sees of the package, as a user's program imports it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

PROGRAM = """\
import qat
from qat import convertt
class Net(qat.Network):
    def __init__(self) -> None:
        self.inputs = qat.Input((1, 4, 4))
        self.relu = qat.Activation("relu")
    def construct(self, x: qat.Traced) -> qat.Traced:
        return self.relu(x) + x
qat.nothing
qat.train, qat.Recipe, qat.networks.LeNet5, qat.SizeBudget
"""


def test_misspelt_names_are_found_and_a_network_with_annotations_is_right(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--follow-imports=silent", str(path)],
        cwd=Path(__file__).parents[1],  # whose settings and cache are those of the whole check
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert [line.partition(":")[2] for line in done.stdout.splitlines()] == [
        '2: error: Module "qat" has no attribute "convertt"  [attr-defined]',
        '9: error: Module has no attribute "nothing"  [attr-defined]',
    ], done.stdout + done.stderr

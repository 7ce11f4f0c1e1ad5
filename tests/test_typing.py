"""What a type checker sees of the package in users' programs and in the examples of the pages."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_readme import ROOT, blocks

pytest.importorskip("mypy", reason="the type checker is an extra, as are all tools of development")
#: An example need not annotate its own functions; all else is checked as the package itself is.
UNTYPED = '# mypy: disable-error-code="no-untyped-def, no-untyped-call"\n'
#: PyTorch has types, but to read them takes a minute.
SKIPPED = '[[tool.mypy.overrides]]\nmodule = ["torch.*"]\nfollow_imports = "skip"\n'


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The settings with which the package is checked."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    tables = re.findall(r"^\[+tool\.mypy.*?(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
    path = tmp_path_factory.mktemp("mypy") / "pyproject.toml"
    path.write_text("".join([*tables, SKIPPED]), encoding="utf-8")
    return path


def checked(source: str, config: Path, cache: Path) -> str:
    """What mypy says of a program."""
    program = config.parent / "example.py"
    program.write_text(UNTYPED + source, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", config, "--cache-dir", cache, program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout


def test_the_examples_of_the_pages_pass_mypy(config: Path, pytestconfig: pytest.Config) -> None:
    cache = pytestconfig.cache.mkdir("mypy")  # from the second run on it takes seconds
    for page in ("README.md", "docs/library.md"):
        example = blocks(page, "python")[0]
        assert checked(example, config, cache).startswith("Success"), checked(example, config, cache)
    float_files = """
import qat
from qat.deploy.floats import export_float

class Net(qat.Network):
    inputs = qat.Input((4,))

graph = Net().graph()
export_float(qat.target("ONNX"), graph, graph.initial_params(), "net.onnx")
export_float("ONNX", graph, {}, "net.onnx")
"""
    found = checked(float_files, config, cache)
    assert 'example.py:11: error: Argument 1 to "export_float"' in found, found
    assert "Found 1 error in 1 file" in found


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
        cwd=ROOT,  # whose settings and cache are those of the whole check
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert [line.partition(":")[2] for line in done.stdout.splitlines()] == [
        '2: error: Module "qat" has no attribute "convertt"  [attr-defined]',
        '9: error: Module has no attribute "nothing"  [attr-defined]',
    ], done.stdout + done.stderr

"""The README's own words, run: its Python, its commands, and the example of docs/library.md that goes on from it."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qat.cli import Parser, add_command_arguments, main
from qat.commands import COMMANDS

ROOT = Path(__file__).parent.parent
MOST_LINES = 120  #: of the README: what does not fit is a subject of docs/


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def run_python(page: str) -> dict[str, Any]:
    """What its first Python example leaves behind."""
    example = blocks(page, "python")[0]
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, page, "exec"), names)
    return names


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_the_example_of_the_readme_trains_and_its_codes_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_python("README.md")
    certificate = names["certificate"]
    assert certificate.passed
    assert names["codes"].shape == (360, 10)
    assert certificate.reference_top1 > 0.85
    printed = re.findall(r"^([\d,]+) codes compared in .*, 0 differ$", capsys.readouterr().out, re.MULTILINE)
    assert printed == ["3,600", "3,600"]
    assert (tmp_path / "digits.onnx").is_file()


def test_the_example_of_the_library_runs_and_its_codes_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_python("docs/library.md")
    np.testing.assert_array_equal(names["codes"], names["same"])
    assert (tmp_path / "lenet.onnx").is_file()
    assert names["certificate"].passed


def test_every_command_of_the_readme_can_be_run_as_it_stands() -> None:
    """Also one that takes too long for a test: its own parser accepts it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [
        shlex.split(line, comments=True) for line in re.findall(r"(?:^|`)qat ([a-z][^`\n]*)", text, re.MULTILINE)
    ]
    assert len(commands) > 8
    for name, *arguments in commands:
        if arguments:  # a name alone speaks of the command
            parser = Parser()
            add_command_arguments(parser, import_module(f"qat.scripts.{COMMANDS[name][0]}").add_arguments)
            parser.parse_args(arguments)


def test_the_commands_of_the_readme_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (commands,) = blocks("README.md", "sh")
    lines = [shlex.split(line, comments=True) for line in commands.splitlines()]
    assert len(lines) > 4
    for program, *arguments in lines:
        assert program == "qat"
        assert main(arguments) == 0, arguments
    assert len(re.findall(r"^3,600 codes compared in .*, 0 differ", capsys.readouterr().out, re.MULTILINE)) >= 6

"""A ``qat`` command as a user types it, for tests."""

from __future__ import annotations

import pytest

from qat.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a ``qat`` command."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse's own errors
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err

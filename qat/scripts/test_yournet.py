"""Accuracy, time of an image, parameters and MACs of YourNet: the project's own answer to the contest."""

from __future__ import annotations

import argparse
import sys

from qat.cli import run_script
from qat.scripts.common import contest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    contest.add_test_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    contest.test(args)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

"""Print how good a checkpoint or an exported file is, float, quantized or compressed, on pictures that an index names."""

from __future__ import annotations

import argparse
import sys

from qat.cli import run_script
from qat.scripts.common import pictures
from qat.scripts.common.tasks import add_class_arguments, check_class_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    pictures.add_arguments(parser, "--input_path", "--model")
    pictures.add_test_argument(parser, required=True)
    add_class_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    check_class_arguments(args)
    pictures.print_accuracy(pictures.load_classifier(args), args.test_path, args)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

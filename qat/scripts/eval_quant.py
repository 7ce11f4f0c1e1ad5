"""Print how good a quantized checkpoint is on the test images, by the integers it deploys: its accuracy, or other metrics."""

from __future__ import annotations

import argparse
import sys

from qat.cli import run_script
from qat.scripts import eval as eval_float
from qat.scripts.common.flags import add_backend_arguments, add_checkpoint_argument, add_data_argument
from qat.scripts.common.tasks import add_class_arguments, add_task_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_data_argument(parser, workers=True)
    add_checkpoint_argument(parser, "quantized network")
    add_backend_arguments(parser)
    add_task_argument(parser)
    add_class_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    eval_float.run(args, quantized=True)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

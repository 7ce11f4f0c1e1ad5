"""Print the accuracy of a quantized checkpoint on the test images: that of the integers it deploys."""

from __future__ import annotations

import argparse
import sys

from qat.cli import run_script
from qat.scripts import common
from qat.scripts import eval as eval_float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_data_argument(parser)
    common.add_checkpoint_argument(parser, "quantized network")
    common.add_backend_arguments(parser)


def run(args: argparse.Namespace) -> None:
    eval_float.run(args, quantized=True)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

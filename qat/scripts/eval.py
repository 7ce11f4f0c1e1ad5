"""Print the accuracy of a float checkpoint on the test images."""

from __future__ import annotations

import argparse
import sys

import qat
from qat.cli import run_script
from qat.scripts.common.files import load_checkpoint, load_data
from qat.scripts.common.flags import add_backend_arguments, add_checkpoint_argument, add_data_argument
from qat.training.loop import check_labels, evaluate_accuracy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_data_argument(parser, workers=True)
    add_checkpoint_argument(parser, "float network")
    add_backend_arguments(parser)


def run(args: argparse.Namespace, *, quantized: bool = False) -> None:
    """Run the command."""
    checkpoint = load_checkpoint(args.ckpt_path, quantized=quantized)
    backend = qat.backend(args.backend)
    dataset = load_data(args.data_path, checkpoint.graph, args.num_workers)
    check_labels(checkpoint.graph, dataset)
    top1 = evaluate_accuracy(backend, checkpoint, dataset.test, device_target=args.device_target)
    print(f"Accuracy: {100 * top1:.2f}")


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

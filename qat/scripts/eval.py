"""Print the accuracy of a float checkpoint on the test images."""

from __future__ import annotations

import argparse
import sys

import qat
from qat.cli import run_script
from qat.scripts import common
from qat.training.loop import check_labels, evaluate_accuracy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_data_argument(parser)
    common.add_checkpoint_argument(parser, "float network")
    common.add_backend_arguments(parser)


def run(args: argparse.Namespace, *, quantized: bool = False) -> None:
    checkpoint = common.load_checkpoint(args.ckpt_path, quantized=quantized)
    backend = qat.backend(args.backend)
    dataset = common.load_data(args.data_path, checkpoint.graph)
    check_labels(checkpoint.graph, dataset)
    top1 = evaluate_accuracy(backend, checkpoint, dataset.test, device_target=args.device_target)
    print(f"Accuracy: {100 * top1:.2f}")


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

"""Print how good a float checkpoint is on the test images: its accuracy, or the metrics of another task."""

from __future__ import annotations

import argparse
import sys

import qat
from qat.cli import run_script
from qat.console import result
from qat.scripts.common.files import load_checkpoint, load_data
from qat.scripts.common.flags import add_backend_arguments, add_checkpoint_argument, add_data_argument
from qat.scripts.common.printing import print_arithmetic, print_metrics
from qat.scripts.common.tasks import (
    add_class_arguments,
    add_task_argument,
    check_class_arguments,
    print_classes,
    with_task,
)
from qat.training.loop import check_labels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_data_argument(parser, workers=True)
    add_checkpoint_argument(parser, "float network")
    add_backend_arguments(parser)
    add_task_argument(parser)
    add_class_arguments(parser)


def run(args: argparse.Namespace, *, quantized: bool = False) -> None:
    """Run the command."""
    checkpoint = with_task(args, load_checkpoint(args.ckpt_path, quantized=quantized))
    check_class_arguments(args)
    backend = qat.backend(args.backend)
    dataset = load_data(args.data_path, checkpoint, args)
    check_labels(checkpoint.graph, dataset, checkpoint.task)
    model = backend.lower(checkpoint.graph, checkpoint.params, device_target=args.device_target)
    outputs = backend.predict(model, dataset.test.images)
    result(network=checkpoint.graph.name, task=checkpoint.task.name, samples=len(dataset.test))
    print_arithmetic(checkpoint.graph)
    print_metrics(checkpoint.task, checkpoint.task.metrics(checkpoint.graph, outputs, dataset.test))
    known = (dataset.class_names, checkpoint.class_names)
    print_classes(args, checkpoint.task, outputs, dataset.test.labels, *known)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

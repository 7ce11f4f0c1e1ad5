"""Compare every code that exported files and backends compute with their checkpoint's integers; exit status 1 where one
differs."""

from __future__ import annotations

import argparse
import sys

import qat
from qat.cli import run_script
from qat.deploy.arithmetics import default_arithmetic
from qat.deploy.verify import backend_engine, compare, file_engine
from qat.registry import backend_names
from qat.scripts.common.files import check_file, load_checkpoint, load_data, trusted_target
from qat.scripts.common.flags import (
    add_arithmetic_argument,
    add_checkpoint_argument,
    add_data_argument,
    add_device_argument,
    add_trust_argument,
)
from qat.scripts.common.printing import print_arithmetics, print_certificate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--model", nargs="+", default=[], metavar="FILE", help="exported files (default: none, backends alone)"
    )
    add_trust_argument(parser)
    add_checkpoint_argument(parser, "quantized network that they were exported from")
    add_arithmetic_argument(parser, "that of each file; of backends alone the network's")
    add_data_argument(parser, workers=True)
    parser.add_argument(
        "--backend",
        nargs="+",
        choices=backend_names(),
        default=["torch"],
        help="whose evaluation passes are compared too",
    )
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command. Returns the exit status."""
    for model in args.model:
        check_file(model, "give --model what export wrote")
    targets = [trusted_target(args, model) for model in args.model]
    checkpoint = load_checkpoint(args.ckpt_path, quantized=True)
    graph = qat.to_integer(checkpoint.graph, checkpoint.params)
    own = [
        args.arithmetic or default_arithmetic(target, model, graph)
        for target, model in zip(targets, args.model, strict=True)
    ]
    arithmetic = args.arithmetic or (own[0] if len(set(own)) == 1 else graph.arithmetic)
    dataset = load_data(args.data_path, checkpoint, args)
    engines = [
        file_engine(model, target, graph, arithmetic)
        for model, target, arithmetic in zip(args.model, targets, own, strict=True)
    ]
    engines += [backend_engine(qat.backend(name), checkpoint, args.device_target) for name in args.backend]
    files = ", ".join(args.model) or "no file, backends alone"
    data = f"{dataset.name}, test samples"
    certificate = compare(
        engines, graph, dataset.test, data=data, file=files, arithmetic=arithmetic, task=checkpoint.task
    )
    print_arithmetics(certificate)
    print_certificate(certificate)
    return 0 if certificate.passed else 1


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

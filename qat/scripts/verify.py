"""Compare every code that exported files and backends compute with their checkpoint's integers; exit status 1 where one
differs."""

from __future__ import annotations

import argparse
import sys

import qat
from qat.cli import run_script
from qat.deploy.verify import backend_engine, compare, default_arithmetic, file_engine
from qat.integer.fixed_point import ARITHMETICS
from qat.registry import backend_names
from qat.scripts import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", nargs="+", default=[], metavar="FILE", help="exported files (default: none, backends alone)"
    )
    common.add_trust_argument(parser)
    common.add_checkpoint_argument(parser, "quantized network that they were exported from")
    common.add_arithmetic_argument(parser)
    common.add_data_argument(parser)
    parser.add_argument(
        "--backend",
        nargs="+",
        choices=backend_names(),
        default=["torch"],
        help="whose evaluation passes are compared too",
    )
    common.add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    for model in args.model:
        common.check_file(model, "give --model what export wrote")
    targets = [common.trusted_target(args, model) for model in args.model]
    own = [
        args.arithmetic or default_arithmetic(target, model) for target, model in zip(targets, args.model, strict=True)
    ]
    arithmetic = args.arithmetic or (own[0] if len(set(own)) == 1 else ARITHMETICS[0])
    checkpoint = common.load_checkpoint(args.ckpt_path, quantized=True)
    graph = qat.to_integer(checkpoint.graph, checkpoint.params)
    dataset = common.load_data(args.data_path, checkpoint.graph)
    engines = [
        file_engine(model, target, graph, arithmetic)
        for model, target, arithmetic in zip(args.model, targets, own, strict=True)
    ]
    engines += [backend_engine(qat.backend(name), checkpoint, args.device_target) for name in args.backend]
    files = ", ".join(args.model) or "no file, backends alone"
    data = f"{dataset.name}, test images"
    certificate = compare(engines, graph, dataset.test, data=data, file=files, arithmetic=arithmetic)
    common.print_certificate(certificate)
    return 0 if certificate.passed else 1


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

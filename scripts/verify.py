"""Compare every code that an exported file computes with its checkpoint's; exit status 1 where one differs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import qat
from qat.cli import run_script
from qat.errors import QatError
from qat.registry import target_of
from qat.scripts import common
from qat.verify import verify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="exported file")
    common.add_checkpoint_argument(parser, "quantized network that it was exported from")
    common.add_profile_argument(parser)
    common.add_data_argument(parser)
    common.add_backend_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if not Path(args.model).is_file():
        raise QatError(f"{args.model}: there is no such file; give --model what export wrote")
    target = target_of(args.model)
    checkpoint = common.load_checkpoint(args.ckpt_path, quantized=True)
    dataset = common.load_data(args.data_path, checkpoint.graph)
    certificate = verify(
        args.model,
        target,
        qat.backend(args.backend),
        checkpoint,
        dataset.test,
        data=f"{dataset.name}, test images",
        device_target=args.device_target,
        profile=args.profile,
    )
    common.print_certificate(certificate)
    return 0 if certificate.passed else 1


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

"""The LeNet-5 compression contest's table and score of a network against its reference, timed alternately in one run."""

from __future__ import annotations

import argparse
import sys

from qat.cli import run_script
from qat.score import score
from qat.scripts import common, contest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reference", required=True, metavar="CKPT", help="checkpoint of the reference, float or quantized"
    )
    parser.add_argument("--model", required=True, metavar="CKPT", help="checkpoint of the compressed network")
    common.add_data_argument(parser)
    contest.add_timing_arguments(parser)
    parser.add_argument("--batch_size", type=int, default=64, help="images a call")
    common.add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    reference, model = contest.measure(
        [args.reference, args.model],
        args.data_path,
        runtime=args.runtime,
        batch_size=args.batch_size,
        blocks=args.blocks,
        device_target=args.device_target,
    )
    result = score(reference, model)
    if result.worse:
        print(f"score: 0 of 100, for {'; '.join(result.worse)}")
        return 1
    print(
        f"score: {result.points:.1f} of 100 (uncapped {result.uncapped:.1f} = 60 + accuracy {result.accuracy:.1f} + time "
        f"{result.time:.1f} + params {result.params:.1f} + MACs {result.macs:.1f})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

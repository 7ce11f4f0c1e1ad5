"""The LeNet-5 compression contest's table and score of a network against its reference, timed alternately in one run.

--result_path writes what the contest asks to be handed in, too.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path

from qat.analysis.score import Measured, Score, score
from qat.cli import run_script
from qat.console import result, wrote
from qat.files import check_distinct, check_writable, write_atomically
from qat.scripts.common import contest
from qat.scripts.common.flags import add_data_argument, add_device_argument
from qat.training.checkpoint import Checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--reference", required=True, metavar="CKPT", help="checkpoint of the reference, float or quantized"
    )
    parser.add_argument("--model", required=True, metavar="CKPT", help="checkpoint of the compressed network")
    add_data_argument(parser)
    contest.add_timing_arguments(parser)
    parser.add_argument("--batch_size", type=int, default=64, help="images a call")
    add_device_argument(parser)
    parser.add_argument("--result_path", metavar="FILE", help="also write the contest's result.txt")


def run(args: argparse.Namespace) -> int:
    """Run the command. Returns the exit status."""
    if args.result_path:
        check_distinct(args.result_path, args.model, "--result_path and --model")
        check_distinct(args.result_path, args.reference, "--result_path and --reference")
        check_writable(args.result_path)
    reference, model = contest.measure(
        [args.reference, args.model],
        args.data_path,
        runtime=args.runtime,
        batch_size=args.batch_size,
        blocks=args.blocks,
        device_target=args.device_target,
        flags=args,
    )
    found = score(reference, model)
    result(_in_words(found), score=0.0 if found.worse else found.points, worse=list(found.worse))
    if args.result_path:
        write_atomically(Path(args.result_path), _result_file(args, reference, model, found).encode())
        wrote(args.result_path)
    return int(bool(found.worse))


def _in_words(result: Score) -> str:
    if result.worse:
        return f"score: 0 of 100, for {'; '.join(result.worse)}"
    return (
        f"score: {result.points:.1f} of 100 (uncapped {result.uncapped:.1f} = 60 + accuracy {result.accuracy:.1f} + time "
        f"{result.time:.1f} + params {result.params:.1f} + MACs {result.macs:.1f})"
    )


def _result_file(args: argparse.Namespace, reference: Measured, model: Measured, result: Score) -> str:
    """The contest's six headings, filled in. Seed and batch size of the training are those that the checkpoint keeps."""
    path = Path(args.model)
    trained = next(iter(Checkpoint.load(path).history), {})
    options = f"--device cpu --data_path {shlex.quote(args.data_path)} --batch-size"
    epoch = re.fullmatch(r"epoch-(\d+)", path.stem)
    until = f"--epoch-end {int(epoch[1]) + 1} " if epoch else ""
    batch_size = trained.get("batch_size", args.batch_size)
    training = f"--checkpoint-dir {shlex.quote(str(path.parent))} {until}--seed {trained.get('seed', 0)} {options} {batch_size}"
    testing = f"--best-checkpoint {shlex.quote(str(path))} {options} {args.batch_size}"
    runtime = "ONNX Runtime, one thread" if args.runtime == contest.ONNX else args.runtime
    sections = {
        "Installation": 'pip install -e ".[torch,onnx]"',
        "The accuracy, infer time, MACs and params of reference model (LeNet-5)": _figures(reference),
        "The accuracy, infer time, MACs and params of your model (YourNet)": _figures(model),
        'The command to run "./train_yournet.py"': f"python scripts/train_yournet.py {training}",
        'The command to run "./test_yournet.py"': f"python scripts/test_yournet.py {testing}",
        "Others": f"{_in_words(result)}\nBoth timed in turn in one run: {runtime}, {args.blocks} passes each.",
    }
    return "\n\n".join(f"# {heading}\n\n{text}" for heading, text in sections.items()) + "\n"


def _figures(measured: Measured) -> str:
    return (
        f"accuracy {measured.accuracy:.4f}, infer time {measured.times.median:.4f} ms, MACs {measured.macs / 1e6:.4f} M, "
        f"params {measured.params / 1e6:.4f} M"
    )


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

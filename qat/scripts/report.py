"""Write one HTML page of a run: accuracy, curves, the network, every layer, bytes, certificates; or of two runs side by side.

The page needs nothing else, no network either. What does not apply, as a confusion matrix of a regression, is left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import qat
from qat.cli import run_script
from qat.console import wrote
from qat.errors import QatError
from qat.files import check_writable
from qat.reporting.gather import LAYER_SAMPLES
from qat.reporting.page import require_jinja2
from qat.reporting.report import Report, report
from qat.scripts.common.files import load_checkpoint, load_data
from qat.scripts.common.flags import add_backend_arguments, add_data_argument
from qat.scripts.common.tasks import add_task_argument, with_task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--ckpt_path", help="checkpoint file of the quantized network")
    what.add_argument("--compare", nargs=2, metavar="CKPT", help="two such checkpoints, side by side")
    add_data_argument(parser, workers=True)
    add_backend_arguments(parser)
    parser.add_argument(
        "--float_ckpt",
        metavar="CKPT",
        help="the float checkpoint that it came from, to compare with (default: its own parameters in float)",
    )
    parser.add_argument(
        "--certificates",
        nargs="+",
        default=[],
        metavar="FILE",
        help="files that export wrote, whose certificates are shown",
    )
    parser.add_argument("--bench", metavar="FILE.json", help="what bench --json printed, for the latency")
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        default=LAYER_SAMPLES,
        help="test samples on which layers are compared, at most all",
    )
    parser.add_argument("--name", help="of the run, for the page (default: the checkpoint file's)")
    parser.add_argument("--command", action="append", default=[], help="a line that made the run, for the page")
    parser.add_argument("--out", default="report.html", metavar="FILE.html", help="the page to write")
    add_task_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    require_jinja2()
    check_writable(args.out)
    if args.compare:
        for flag, given in (
            ("--float_ckpt", args.float_ckpt),
            ("--certificates", args.certificates),
            ("--bench", args.bench),
            ("--name", args.name),
            ("--command", args.command),
        ):
            if given:
                raise QatError(f"{flag}: is of one run, and --compare has two; leave it out, or give --ckpt_path")
        one, two = (_report(args, path, name) for path, name in zip(args.compare, _names(args.compare), strict=True))
        page = one.compared_with(two)
    else:
        page = _report(args, args.ckpt_path, args.name or Path(args.ckpt_path).stem)
    page.save(args.out)
    wrote(args.out, "wrote", f", {len(page.html.encode()):,} bytes")


def _report(args: argparse.Namespace, path: str, name: str) -> Report:
    checkpoint = with_task(args, load_checkpoint(path, quantized=True))
    plain = None if args.float_ckpt is None else load_checkpoint(args.float_ckpt, quantized=False)
    args.ckpt_path = path  # (of which the note on preparation speaks)
    dataset = load_data(args.data_path, checkpoint, args)
    if "images" in args.given and not 1 <= args.images <= len(dataset.test):
        raise QatError(
            f"--images {args.images}: there are {len(dataset.test)} test images; use a number from 1 to that"
        )
    return report(
        checkpoint,
        dataset.test,
        backend=qat.backend(args.backend),
        device_target=args.device_target,
        name=name,
        data=f"test samples of {dataset.name}",
        class_names=dataset.class_names,
        float_checkpoint=plain,
        certificates=args.certificates,
        bench=args.bench,
        images=min(args.images, len(dataset.test)),
        commands=args.command,
    )


def _names(paths: list[str]) -> list[str]:
    """Of two runs: their files' names, with the folders where these are alike."""
    names = [Path(path).stem for path in paths]
    return names if names[0] != names[1] else list(paths)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

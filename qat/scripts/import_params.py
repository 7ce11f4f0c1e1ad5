"""Make a checkpoint out of a framework's own parameter file: MindSpore's .ckpt, or a state_dict of PyTorch."""

from __future__ import annotations

import argparse
import sys

from qat.cli import run_script
from qat.errors import QatError
from qat.files import check_distinct, check_writable
from qat.networks import create
from qat.scripts.common.flags import add_network_argument, parameter_files, with_files
from qat.scripts.common.tasks import add_task_argument, with_task
from qat.training.checkpoint import Checkpoint
from qat.training.native import params_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--file", required=True, help="the framework's file")
    parser.add_argument("--backend", choices=with_files(), required=True, help="the framework that wrote it")
    add_network_argument(parser)
    parser.add_argument("--ckpt_path", required=True, help="checkpoint to write")
    add_task_argument(parser, "classification")
    parser.add_argument(
        "--rename", nargs="+", default=[], metavar="OLD=NEW", help="beginnings of names in the file, and in the network"
    )


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    renamed = {}
    for pair in args.rename:
        old, equals, new = pair.partition("=")
        if not (old and equals and new):
            raise QatError(f"--rename {pair!r}: give OLD=NEW, as bn1=conv1.bn")
        renamed[old] = new
    check_distinct(args.ckpt_path, args.file, "--ckpt_path and --file")
    check_writable(args.ckpt_path)
    graph = create(args.network).graph()
    params = params_from(graph, parameter_files(args.backend).load_params(args.file), renamed, args.file)
    with_task(args, Checkpoint(graph, params)).save(args.ckpt_path)
    print(f"saved {args.ckpt_path}: {graph.name}, {graph.count_trainable():,} trainable parameters")


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

"""Write the parameters of a checkpoint as a framework's own file: MindSpore's .ckpt, or a state_dict of PyTorch."""

from __future__ import annotations

import argparse
import sys

from qat.cli import run_script
from qat.console import wrote
from qat.files import check_distinct
from qat.scripts.common.flags import add_checkpoint_argument, parameter_files, with_files
from qat.scripts.common.plan import add_writing_arguments, check_outputs, never_own, of_graph, stop_if_dry
from qat.tables import counted
from qat.training.checkpoint import Checkpoint
from qat.training.native import NAMINGS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_checkpoint_argument(parser, "network, float or quantized")
    parser.add_argument("--backend", choices=with_files(), required=True, help="the framework to write for")
    parser.add_argument("--file", required=True, help="file to write")
    parser.add_argument(
        "--naming",
        choices=list(NAMINGS),
        default="graph",
        help="names as in the network (conv1.weight), or as MindSpore's own fused cells have them (conv1.conv.weight)",
    )
    add_writing_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    check_distinct(args.file, args.ckpt_path, "--file and --ckpt_path")
    checkpoint = Checkpoint.load(args.ckpt_path)
    named = NAMINGS[args.naming]
    params = {named(name, checkpoint.graph): array for name, array in checkpoint.params.items()}
    files = parameter_files(args.backend)
    check_outputs(args, args.file, own=never_own)
    stop_if_dry(
        args,
        f"write {counted(len(params), 'array')} as {args.backend} has them",
        reads=[(args.ckpt_path, of_graph(checkpoint.graph))],
        writes=[args.file],
    )
    files.save_params(params, args.file)
    wrote(args.file, "wrote", f": {counted(len(params), 'array')}")


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

"""Write images of a data set as PNG files, with an index and the names of the classes, for run and evaluate."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qat import data
from qat.cli import run_script
from qat.data.pictures import write_pictures
from qat.errors import QatError
from qat.scripts.common.flags import add_data_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_data_argument(parser)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder to put them into")
    parser.add_argument("--split", choices=("test", "train"), default="test", help="which images")
    parser.add_argument("--count", type=int, metavar="N", help="the first N only (default: all)")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    dataset = data.load(args.data_path)
    split = getattr(dataset, args.split)
    count = len(split) if args.count is None else args.count
    if not 1 <= count <= len(split):
        raise QatError(
            f"--count {count}: {dataset.source} has {len(split):,} {args.split} images; use a number from 1 to that"
        )
    index = write_pictures(args.out, split.images[:count], split.labels[:count], dataset.class_names)
    print(f"wrote {count:,} pictures, {index} and {Path(args.out) / 'class_names.txt'}")


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

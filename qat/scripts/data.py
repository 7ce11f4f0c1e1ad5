"""Download a data set from its public home, checked by SHA-256."""

from __future__ import annotations

import argparse
import sys

from qat.cli import run_script
from qat.console import result
from qat.data.download import SOURCES, Source, download
from qat.scripts.common.plan import add_writing_arguments, stop_if_dry
from qat.tables import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("name", choices=list(SOURCES), help="which one")
    parser.add_argument("--out", required=True, help="folder to put it into")
    parser.add_argument(
        "--home", help="another place to fetch it from, by https: the start of the addresses of its files"
    )
    add_writing_arguments(parser, replaces=False)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    source = SOURCES[args.name]
    home = args.home.rstrip("/") + "/" if args.home else source.home
    stop_if_dry(args, f"download {counted(len(source.files), 'file')} from {home}", writes=[args.out])
    written = download(Source(home, source.files), args.out)
    text = (
        f"{args.out}: {counted(len(written), 'file')} written"
        if written
        else f"{args.out}: everything is there already"
    )
    result(text, files=[{"path": str(path)} for path in written])


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

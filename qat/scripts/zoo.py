"""Networks with trained weights: list them, fetch one that comes with the package, or make one from its public source.

'qat zoo' lists them with what was measured; 'qat zoo fetch NAME --out FILE' writes a certified file or a checkpoint; 'qat zoo
make NAME --out FOLDER' imports or trains, quantizes, exports, verifies and measures; 'qat zoo table' prints the tables of
'qat help zoo', or those of a folder that make wrote. Names come before the flags. Exit status 1 where a code differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import qat
from qat import tasks
from qat.cli import run_script
from qat.console import Column, print_table, print_whole, result, wrote
from qat.data import Split
from qat.deploy.verify import export_verified
from qat.errors import QatError
from qat.registry import formats, suffixed, target_of
from qat.scripts.common.flags import add_arithmetic_argument, add_backend_arguments
from qat.scripts.common.plan import add_writing_arguments, check_exported, check_outputs, stop_if_dry
from qat.scripts.common.printing import print_certificate
from qat.tables import counted
from qat.training.checkpoint import Checkpoint
from qat.zoo.entry import Entry
from qat.zoo.kept import WIDTH, entry_of, figures_of, is_kept, load, names, random_samples
from qat.zoo.make import FORMATS, Order, compared, make
from qat.zoo.places import Places
from qat.zoo.row import ACCURACY, CORE, COST, Row, accuracy_rows, cost_rows, load_rows, markdown
from qat.zoo.settings import WIDTHS

ACTIONS = ("list", "fetch", "make", "table")
CORES = ("core", "instructions", "flash", "RAM", "of it arena", "stack", "outputs that differ")
#: Flags, and the actions that have them.
OF = {
    "out": ("fetch", "make"),
    "data": ("fetch", "make"),
    "models": ("fetch", "make"),
    "widths": ("fetch", "make"),
    "arithmetic": ("fetch", "make"),
    "formats": ("make",),
    "samples": ("make",),
    "cores": ("make",),
    "rows": ("table",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list", help="what to do")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of networks: {', '.join(names())}")
    parser.add_argument(
        "--out",
        help="fetch: the file to write, a checkpoint or, by its ending, an exported one; make: the folder for all files",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="where samples lie, in it or in folders in it (default: MNIST and CIFAR-10 are fetched)",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="where published networks lie, before --data (default: they are fetched)",
    )
    parser.add_argument(
        "--widths",
        nargs="+",
        choices=WIDTHS,
        metavar="W/A",
        help="bits of weights/activations (default: all; fetch: 8/8)",
    )
    add_arithmetic_argument(parser, "float")
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, help="of files (default: all that have the arithmetic)"
    )
    parser.add_argument(
        "--samples", metavar="FILE", help="evaluate this file, of the form of the test samples, whole in their place"
    )
    parser.add_argument(
        "--cores",
        nargs="+",
        default=[],
        metavar="CORE",
        help="also run the first width's .c on emulated processors, as m4 m55",
    )
    parser.add_argument("--rows", metavar="FOLDER", help="of which the tables are (default: those of 'qat help zoo')")
    add_backend_arguments(parser)
    add_writing_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command. Returns the exit status."""
    for name, actions in OF.items():
        if name in args.given and args.action not in actions:
            raise QatError(f"--{name}: is of {' and '.join(f'qat zoo {x}' for x in actions)}; leave it out")
    entries = [entry_of(name) for name in args.names]
    if args.action in ("fetch", "make"):
        if not entries or (args.action == "fetch" and len(entries) > 1):
            wanted = "one name, as --out is a file" if entries else "the name of a network"
            raise QatError(f"{args.action}: give {wanted}; 'qat zoo' lists them")
        if args.out is None:
            raise QatError(f"{args.action}: needs --out, {'a file' if args.action == 'fetch' else 'a folder'}")
    if args.action == "list":
        return _list(entries)
    if args.action == "table":
        return _table(args, entries)
    return _fetch(args, entries[0]) if args.action == "fetch" else _make(args, entries)


def _list(entries: Sequence[Entry]) -> int:
    rows = []
    for entry in entries or map(entry_of, names()):
        row = figures_of(entry.name)
        widths = [None if row is None or x not in row.widths else row.widths[x].figure for x in WIDTHS]
        figures = [None if row is None else row.float_figure, *widths]
        shown = ["" if x is None or row is None else tasks.create(row.task).value(row.metric, x) for x in figures]
        metric, how = None if row is None else row.metric, "fetch" if is_kept(entry.name) else "make"
        rows.append((entry.name, entry.title, metric, *figures, *shown, how))
    keys = ("float", *(f"w{x.replace('/', '_a')}" for x in WIDTHS))
    columns = [Column("name"), Column("network", "title"), Column("metric")]
    columns += [Column("", key, None) for key in keys]
    columns += [Column(x, f"{key}_shown") for x, key in zip(("float", *WIDTHS), keys, strict=True)]
    columns.append(Column("how"))
    title = "Networks with trained weights, and what was measured ('qat help zoo'); weights/activations in bits"
    print_table(title, columns, rows, "networks")
    for entry in entries:
        result(f"{entry.name}: {entry.about}; {entry.licence}")
    return 0


def _table(args: argparse.Namespace, entries: Sequence[Entry]) -> int:
    wanted = [entry.name for entry in entries] or names()
    if args.rows is None:
        rows = [row for name in wanted if (row := figures_of(name)) is not None]
    else:
        found = {row.name: row for row in load_rows(args.rows)}
        rows = [found[name] for name in wanted if name in found]
    result(accuracy=[dict(zip(ACCURACY, line, strict=True)) for line in accuracy_rows(rows)])
    result(cost=[dict(zip(COST, line, strict=True)) for line in cost_rows(rows)])
    print_whole(markdown(ACCURACY, accuracy_rows(rows)))
    print_whole(markdown(COST, cost_rows(rows)), end="")
    return 0


def _places(args: argparse.Namespace, store: Path) -> Places:
    return Places(args.data, args.models, store)


def _order(args: argparse.Namespace, out: Path, widths: Sequence[str], formats: Sequence[str] | None) -> Order:
    return Order(
        out=out,
        widths=widths,
        formats=formats,
        arithmetic=args.arithmetic or "float",
        samples=None if args.samples is None else Path(args.samples),
        cores=args.cores,
        backend=args.backend,
        device_target=args.device_target,
    )


def _make(args: argparse.Namespace, entries: Sequence[Entry]) -> int:
    out = Path(args.out)
    order = _order(args, out, args.widths or WIDTHS, args.formats)
    stop_if_dry(args, f"make {', '.join(entry.name for entry in entries)}", writes=[out])
    rows: list[Row] = []
    for entry in entries:
        row, _ = make(entry, _places(args, out), order, _say)
        rows.append(row)
    print_table("Accuracy; weights/activations in bits", ACCURACY, accuracy_rows(rows))
    print_table("Files and their certificates", COST, cost_rows(rows))
    for row in rows:
        if row.cores:
            lines = [(core, *(f"{own[key]:,}" for key in CORE)) for core, own in row.cores.items()]
            print_table(f"{row.name} in C on emulated processors; bytes", CORES, lines)
    return int(any(row.differ for row in rows))


def _fetch(args: argparse.Namespace, entry: Entry) -> int:
    path, widths = Path(args.out), args.widths or [WIDTH]
    if len(widths) > 1:
        raise QatError("--widths: one file has one width; give one")
    suffix = suffixed(path)
    endings = [*(formats()[name].suffix for name in FORMATS), ".ckpt"]
    if path.suffix not in endings:
        raise QatError(
            f"--out {path}: what it is to hold is not known, as its name ends in none of {', '.join(endings)}; use one of these"
        )
    if suffix is None:
        check_outputs(args, path)
    else:
        check_exported(args, target_of(path), path)
    stop_if_dry(args, f"fetch {entry.name} at {widths[0]}", writes=[path])
    if is_kept(entry.name) and widths == [WIDTH] and args.arithmetic is None:
        checkpoint, row = load(entry.name), figures_of(entry.name)
    else:
        kept = (
            f"only its {WIDTH} comes with the package" if is_kept(entry.name) else "it does not come with the package"
        )
        _say(f"{entry.name}: {kept}, so that it is made from its source")
        with tempfile.TemporaryDirectory() as folder:
            order = _order(args, Path(folder), widths, [suffix or FORMATS[-1]])
            row, _ = make(entry, _places(args, Path(folder)), order, _say)
            if row.differ:
                raise QatError(f"{path}: is not written, since {row.differ:,} codes differ; report it")
            checkpoint = Checkpoint.load(Path(folder) / f"{entry.name}_{widths[0].replace('/', '_')}.ckpt")
    assert row is not None, "load has compared with it"
    figure = row.widths[widths[0]].figure
    text = f"{entry.name}: {checkpoint.task.words(row.metric, figure)} on {counted(row.tested, 'test sample')}"
    result(text, network=entry.name, metrics={row.metric: figure}, samples=row.tested)
    if suffix is None:
        checkpoint.save(path)
    else:
        _export(args, entry, checkpoint, path, suffix)
    wrote(path, "wrote", f", {path.stat().st_size:,} bytes")
    return 0


def _export(args: argparse.Namespace, entry: Entry, checkpoint: Checkpoint, path: Path, suffix: str) -> None:
    """A certified file. It is compared on the test samples, or without --data, where the network came with the package, on
    random ones.
    """
    spec = checkpoint.graph.input_specs[0]
    if args.data or not is_kept(entry.name):
        places = _places(args, path.parent)
        dataset = entry.samples(places, None).resized(spec.shape, checkpoint.preparation)
        split, data = compared(entry, places, dataset), f"{dataset.name}, test samples"
    else:
        split, data = Split(random_samples(spec), None), "random samples"
    certificate = export_verified(
        path,
        qat.target(suffix),
        qat.backend(args.backend),
        checkpoint,
        split,
        data=data,
        device_target=args.device_target,
        required=True,
    )
    print_certificate(certificate)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

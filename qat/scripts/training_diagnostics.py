"""Plot the accuracy over the folds against the width of the weights, pruned beside unpruned.

Writes <out>/<prefix>_accuracy<extra>.png and .svg.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qat.cli import run_script
from qat.console import wrote
from qat.errors import QatError
from qat.study.pictures import accuracy_picture
from qat.study.results import Model, models_in, read_model, short_name
from qat.tables import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_models_arguments(parser)
    parser.add_argument("--prefix", default="quantized", help="beginning of the files' names")
    parser.add_argument("--extra", default="", help="end of the files' names")
    parser.add_argument("--pruned", action="store_true", help="also the pruned version of each model")


def add_models_arguments(parser: argparse.ArgumentParser) -> None:
    """-m, --names and --out."""
    parser.add_argument(
        "-m",
        "--models",
        default="models",
        metavar="PATHS",
        help="models with ';' between them, as 'models/quant_8bit;models/full', or the folder of a study for all in it but the "
        "pruned ones",
    )
    parser.add_argument("--names", metavar="NAMES", help="what they are called in the picture, with ';' between them")
    parser.add_argument("--out", default="plots", help="folder for the pictures")


def chosen_models(args: argparse.Namespace, *, all_folds: bool = True) -> list[tuple[Path, Model]]:
    """The models that the arguments name, and where they are."""
    paths = [Path(path) for path in args.models.split(";") if path]
    if len(paths) == 1 and paths[0].is_dir():
        paths = [paths[0] / name for name in models_in(paths[0])]
    if not paths:
        raise QatError(f"-m {args.models!r}: there is no model; train some with train_svhn.py, or give another folder")
    names = args.names.split(";") if args.names else [short_name(path.name) for path in paths]
    if len(names) != len(paths):
        found = f"{counted(len(names), 'name')} for {counted(len(paths), 'model')}"
        raise QatError(f"--names: {found}; give one for each, with ';' between them")
    names = [name.replace("\\n", "\n") for name in names]
    return [(path, read_model(path, name, all_folds=all_folds)) for path, name in zip(paths, names, strict=True)]


def pruned_version(path: Path, model: Model) -> Model:
    """The pruned version of a model. Raises QatError where it has other folds."""
    pruned = read_model(path.with_name(f"pruned_{path.name}"), model.name)
    folds = [[fold.result["label"]["fold"] for fold in one.folds] for one in (model, pruned)]
    if folds[0] != folds[1]:
        raise QatError(
            f"{path}: has folds {folds[0]}, pruned {folds[1]}; let train_svhn.py --prune finish, or leave --pruned out"
        )
    return pruned


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    chosen = chosen_models(args)
    pruned = [pruned_version(path, model) for path, model in chosen] if args.pruned else None
    picture = accuracy_picture([model for _, model in chosen], pruned)
    for path in picture.save(Path(args.out) / f"{args.prefix}_accuracy{args.extra}"):
        wrote(path)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

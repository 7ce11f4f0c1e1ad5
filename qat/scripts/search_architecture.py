"""Search for a network: convolutions, filters, kernels, poolings, dense layers and dropout, by Hyperband or Bayesian search.

The validation accuracy of images held back of the training images decides. Killed and called again, it goes on; Optuna's
dashboard shows <out>/search.db.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import qat
from qat.analysis.metrics import total_macs
from qat.cli import run_script
from qat.console import print_table
from qat.data import load
from qat.errors import QatError
from qat.networks import SvhnCnn
from qat.scripts.common.flags import add_backend_arguments, add_data_argument, seed
from qat.scripts.common.plan import add_writing_arguments, of_data, stop_if_dry
from qat.study.search import SAMPLERS, Search, goodness, train_trial, trial_recipe
from qat.study.training import study_data
from qat.tables import counted
from qat.training.checkpoint import Checkpoint
from qat.vocabulary.arrays import as_tuple

SHOWN = 5  #: of the best networks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_search_arguments(parser, out="search_architecture", epochs=100, trials=30)
    parser.add_argument("--tuner", choices=SAMPLERS, default="hyperband", help="how settings are chosen")


def add_search_arguments(parser: argparse.ArgumentParser, *, out: str, epochs: int, trials: int) -> None:
    """What all searches take."""
    add_writing_arguments(parser, replaces=False)
    parser.add_argument("--flagfile", metavar="FILE.cfg", help="arguments from a file, one --name=value a line")
    add_data_argument(parser, prepared=False)
    add_backend_arguments(parser)
    parser.add_argument("--out", default=out, help="folder of the search: search.db and the trials' checkpoints")
    parser.add_argument("--trials", type=int, default=trials, help="in all, those of earlier calls included")
    parser.add_argument("--epochs", type=int, default=epochs, help="of a trial, at most")
    parser.add_argument("--batch_size", type=int, default=128, help="images a step")
    parser.add_argument("--lr", type=float, default=0.003, help="learning rate of Adam (AMSGrad), lowered on a plateau")
    parser.add_argument("--train_images", type=int, default=0, metavar="N", help="only so many, at random; 0: all")
    parser.add_argument("--validation_share", type=float, default=0.2, help="of the training images, to choose by")
    parser.add_argument("--seed", type=seed, default=0, help="of the search, the weights and the order of images")


def prepared(args: argparse.Namespace, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """The data, and how a trial is trained. Raises QatError where the arguments make no sense."""
    if args.trials < 1:
        raise QatError(f"--trials is {args.trials}; use a number of at least 1")
    if not 0.0 < args.validation_share < 1.0:
        raise QatError(f"--validation_share is {args.validation_share}; use a share of the training images, as 0.2")
    settings = {"data_path": args.data_path, "shape": shape, "images": args.train_images, "folds": 0, "fold": 0}
    dataset = study_data({**settings, "seed": args.seed})
    validation = max(round(len(dataset.train) * args.validation_share), 1)
    return dataset, trial_recipe(args.epochs, args.batch_size, args.lr, args.seed, validation, early_stopping=10)


def fixed(args: argparse.Namespace, *others: str) -> dict[str, Any]:
    """The arguments that a search must not change when it is called again."""
    names = ("data_path", "backend", "epochs", "batch_size", "lr", "train_images", "validation_share", "seed", *others)
    return {name: getattr(args, name) for name in names}


def suggested(trial: Any) -> dict[str, Any]:
    """One to five blocks of 4 to 64 filters and kernels of 3 to 5, pooled or not; up to three dense layers of 16 to 256."""
    blocks = trial.suggest_int("blocks", 1, 5)
    filters = [trial.suggest_int(f"filters_{i}", 4, 64, step=4) for i in range(blocks)]
    kernels = [trial.suggest_int(f"kernel_{i}", 3, 5) for i in range(blocks)]
    pools = [trial.suggest_categorical(f"pool_{i}", [True, False]) for i in range(blocks)]
    dense = [trial.suggest_int(f"dense_{i}", 16, 256, step=16) for i in range(trial.suggest_int("dense", 0, 3))]
    dropout = trial.suggest_float("dropout", 0.0, 0.5, step=0.1)
    return {"filters": filters, "kernels": kernels, "pools": pools, "dense": dense, "dropout": dropout}


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    channel = as_tuple(load(args.data_path).train.images)[0].shape[1]
    dataset, recipe = prepared(args, (channel, 32, 32))
    backend = qat.backend(args.backend)
    folder = Path(args.out)
    stop_if_dry(
        args,
        f"try {counted(args.trials, 'time')}, {counted(args.epochs, 'epoch')} each",
        reads=[(args.data_path, of_data(dataset))],
        writes=[folder],
    )

    def objective(trial: Any) -> float:
        graph = SvhnCnn(channel=channel, **suggested(trial)).graph()  # raises where nothing is left of the image
        trial.set_user_attr("weights", graph.count_trainable())
        trial.set_user_attr("macs", total_macs(graph))
        start = Checkpoint(graph, graph.initial_params(args.seed))
        return goodness(train_trial(trial, folder, backend, start, dataset, recipe, device_target=args.device_target))

    with Search(
        folder, ["maximize"], sampler=args.tuner, epochs=args.epochs, seed=args.seed, settings=fixed(args, "tuner")
    ) as search:
        trials = search.run(objective, args.trials, lambda trial: f"{100 * trial.value:.2f} %")
    best = sorted(trials, key=lambda trial: -trial.value)[:SHOWN]
    rows = [
        (
            str(trial.number),
            f"{100 * trial.value:.2f}",
            f"{trial.user_attrs['weights']:,}",
            f"{trial.user_attrs['macs']:,}",
            _described(trial.params),
        )
        for trial in best
    ]
    print(f"Top-1 of {recipe.validation:,} held-back training images of {dataset.name}")
    print_table(
        "The best networks",
        ("trial", "top-1 in %", "parameters", "MACs", "network"),
        rows,
    )


def _described(params: dict[str, Any]) -> str:
    """As "16 k3 pool, 24 k5; dense 64, 32; dropout 0.1"."""
    blocks = ", ".join(
        f"{params[f'filters_{i}']} k{params[f'kernel_{i}']}{' pool' if params[f'pool_{i}'] else ''}"
        for i in range(params["blocks"])
    )
    dense = ", ".join(str(params[f"dense_{i}"]) for i in range(params["dense"])) or "none"
    return f"{blocks}; dense {dense}; dropout {params['dropout']:g}"


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

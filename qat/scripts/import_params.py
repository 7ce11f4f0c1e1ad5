"""Make a checkpoint out of a framework's own parameter file: MindSpore's .ckpt, or a state_dict of PyTorch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from qat.analysis.norm_inputs import small_variances
from qat.cells.input import Input
from qat.cells.linear import LinearCell
from qat.cli import run_script
from qat.console import note, result, wrote
from qat.data import Dataset
from qat.data.preparation import PLAIN
from qat.errors import QatError
from qat.graph import Graph
from qat.networks import create
from qat.networks.fitting import AUTO
from qat.scripts.common.files import check_checkpoint_path, load_data, read_data
from qat.scripts.common.flags import (
    add_data_argument,
    add_network_argument,
    chosen_preparation,
    fitted_network,
    parameter_files,
    print_fitted,
    with_files,
)
from qat.scripts.common.normalization import (
    RAW_STD,
    normalization_notes,
    print_normalization,
    shown,
    takes_pixels,
    with_cells,
)
from qat.scripts.common.plan import add_writing_arguments, check_outputs, of_data, of_graph, stop_if_dry
from qat.scripts.common.tasks import add_task_argument, with_task
from qat.tables import counted
from qat.training.checkpoint import Checkpoint
from qat.training.matching import matched_by_order
from qat.training.native import params_from
from qat.vocabulary.ops import Array

OTHER_EPS = 1e-3  #: Keras's; ours, as PyTorch's and MindSpore's, is 1e-5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--file", required=True, help="the framework's file")
    parser.add_argument("--backend", choices=with_files(), required=True, help="the framework that wrote it")
    add_network_argument(parser, fitted=True)
    parser.add_argument(
        "--raw_pixels",
        action="store_true",
        help="the parameters were trained with pixels from 0 to 255, not normalised",
    )
    parser.add_argument(
        "--eps",
        type=float,
        metavar="NUMBER",
        help="what batch normalisation added to variances where the parameters were trained (default: as the network says; "
        "Keras: 0.001)",
    )
    parser.add_argument("--ckpt_path", required=True, help="checkpoint to write")
    add_task_argument(parser, "classification")
    add_writing_arguments(parser)
    names = parser.add_mutually_exclusive_group()
    names.add_argument(
        "--rename", nargs="+", default=[], metavar="OLD=NEW", help="beginnings of names in the file, and in the network"
    )
    names.add_argument(
        "--match",
        choices=("name", "order"),
        default="name",
        help="how parameters are found: by their names (default), or by the order and the shapes of the layers",
    )
    add_data_argument(
        parser,
        required=False,
        otherwise="none: the network is as it is by itself",
        also="the network is fitted to it, and its running statistics are compared with what it gives",
    )


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    renamed = {}
    for pair in args.rename:
        old, equals, new = pair.partition("=")
        if not (old and equals and new):
            raise QatError(f"--rename {pair!r}: give OLD=NEW, as bn1=conv1.bn")
        renamed[old] = new
    check_checkpoint_path(args.ckpt_path, {"--file": args.file}, "--ckpt_path")
    check_outputs(args, args.ckpt_path)
    graph, dataset = _network(args)
    arrays = parameter_files(args.backend).load_params(args.file)
    if args.match == "order":
        renamed, pairs = matched_by_order(graph, arrays, args.file)
        result("\n".join(["matched by order:", *(f"  {pair}" for pair in pairs)]), pairs=[str(pair) for pair in pairs])
    params, notes = params_from(graph, arrays, renamed, args.file)
    _print_assumed(args, graph, params)
    for text in [*notes, *normalization_notes(args.file, graph, params, dataset)]:
        note(text)
    stop_if_dry(
        args,
        f"keep {of_graph(graph)}",
        reads=[
            (args.file, counted(len(arrays), "array")),
            *([(args.data_path, of_data(dataset))] if dataset else []),
        ],
        writes=[args.ckpt_path],
    )
    preparation = chosen_preparation(args, None, PLAIN, "") if dataset is None else dataset.preparation
    checkpoint = Checkpoint(
        graph,
        params,
        preparation=None if preparation == PLAIN else preparation,
        class_names=() if dataset is None else dataset.class_names,
    )
    with_task(args, checkpoint).save(args.ckpt_path)
    wrote(args.ckpt_path, more=f": {graph.name}, {counted(graph.count_trainable(), 'trainable parameter')}")


def _network(args: argparse.Namespace) -> tuple[Graph, Dataset | None]:
    """The network as the flags say that it was trained, fitted to the data where there are some."""
    if args.raw_pixels:
        if args.mean is not None or args.std is not None:
            raise QatError("--raw_pixels: says what --mean and --std say; give it alone, or both of them")
        args.mean, args.std = [0.0], [RAW_STD]
    if args.eps is not None and not 0.0 < args.eps < 1.0:
        raise QatError(f"--eps {args.eps}: is added to variances; give a small positive number, as 0.001")
    if args.data_path is not None:
        dataset = read_data(args.data_path, args)
        graph = fitted_network(args, dataset)
        dataset = load_data(dataset, graph, args)
        print_fitted(graph, dataset)
    else:
        if args.input_size is not None or AUTO in (args.mean or []) + (args.std or []):
            raise QatError(f"--input_size, --mean {AUTO} and --std {AUTO}: need data; give --data_path too")
        graph, dataset = _normalised(args, create(args.network).graph()), None
    return with_cells(graph, LinearCell, eps=args.eps), dataset


def _normalised(args: argparse.Namespace, graph: Graph) -> Graph:
    """The network with the mean and std of the flags."""
    given = {name: getattr(args, name) for name in ("mean", "std") if getattr(args, name) is not None}
    if given and not takes_pixels(graph):
        raise QatError(
            f"--{next(iter(given))}: is of pixels, but {graph.name} takes {' and '.join(map(str, graph.input_specs))}; leave "
            "it out, and say it in a network class of your own"
        )
    numbers = {name: values[0] if len(values) == 1 else tuple(values) for name, values in given.items()}
    return with_cells(graph, Input, **numbers)


def _print_assumed(args: argparse.Namespace, graph: Graph, params: Mapping[str, Array]) -> None:
    """Say what the network takes for granted, and ask for what nobody has said: a file of arrays does not tell."""
    asked = "" if args.mean or args.std else "; trained otherwise? --raw_pixels, or --mean and --std"
    print_normalization(graph, asked)
    eps = sorted({node.cell.eps for node in graph.nodes if isinstance(node.cell, LinearCell) and node.cell.has_bn})
    if not eps:
        return
    asked = ""
    if args.eps is None:
        small, count = small_variances(graph, params, OTHER_EPS)
        asked = f"; trained with another? --eps (Keras: {OTHER_EPS}), which "
        asked += (
            f"changes {small:,} of {counted(count, 'channel')} by more than 5 %"
            if small
            else "changes no channel by 5 %"
        )
    print(f"{graph.name} has eps {' and '.join(map(shown, eps))} in its batch normalisations{asked}")


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

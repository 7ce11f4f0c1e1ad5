"""Make a checkpoint out of a framework's own parameter file: MindSpore's .ckpt, or a state_dict of PyTorch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qat.analysis.norm_inputs import fitting, norm_inputs, off, small_variances, usual_pixels
from qat.cells.input import Input
from qat.cells.linear import LinearCell
from qat.cli import run_script
from qat.data import Dataset
from qat.data.preparation import PLAIN
from qat.errors import QatError, one_line
from qat.files import check_distinct, check_writable
from qat.graph import Graph
from qat.networks import create
from qat.networks.fitting import AUTO
from qat.scripts.common.files import load_data, read_data
from qat.scripts.common.flags import (
    add_data_argument,
    add_network_argument,
    chosen_preparation,
    fitted_network,
    parameter_files,
    print_fitted,
    with_files,
)
from qat.scripts.common.tasks import add_task_argument, with_task
from qat.training.checkpoint import Checkpoint
from qat.training.matching import matched_by_order
from qat.training.native import params_from
from qat.vocabulary.arrays import PIXELS, as_arrays, as_tuple, batches_of
from qat.vocabulary.ops import Array

RAW_STD = 1 / 255  #: with a mean of 0: pixels from 0 to 255
#: How networks want pixels, scaled to 0..1, normalised as a rule, and the flags that say so.
USUAL = {
    "--raw_pixels": (0.0, RAW_STD),
    "--mean 0 --std 1": (0.0, 1.0),
    "--mean 0.5 --std 0.5": (0.5, 0.5),
    "--mean 0.485 0.456 0.406 --std 0.229 0.224 0.225": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
SAMPLES, AT_ONCE = 64, 8  #: samples that batch normalisations are looked at with
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
    check_distinct(args.ckpt_path, args.file, "--ckpt_path and --file")
    check_writable(args.ckpt_path)
    graph, dataset = _network(args)
    arrays = parameter_files(args.backend).load_params(args.file)
    if args.match == "order":
        renamed, pairs = matched_by_order(graph, arrays, args.file)
        print("\n".join(["matched by order:", *(one_line(f"  {pair}") for pair in pairs)]))
    params, notes = params_from(graph, arrays, renamed, args.file)
    _print_assumed(args, graph, params)
    for note in [*notes, *_warnings(args, graph, params, dataset)]:
        print(one_line(f"note: {note}"), file=sys.stderr)
    preparation = chosen_preparation(args, None, PLAIN, "") if dataset is None else dataset.preparation
    checkpoint = Checkpoint(
        graph,
        params,
        preparation=None if preparation == PLAIN else preparation,
        class_names=() if dataset is None else dataset.class_names,
    )
    with_task(args, checkpoint).save(args.ckpt_path)
    print(f"saved {args.ckpt_path}: {graph.name}, {graph.count_trainable():,} trainable parameters")


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
    return _with_cells(graph, LinearCell, eps=args.eps), dataset


def _normalised(args: argparse.Namespace, graph: Graph) -> Graph:
    """The network with the mean and std of the flags."""
    given = {name: getattr(args, name) for name in ("mean", "std") if getattr(args, name) is not None}
    if given and not _takes_pixels(graph):
        raise QatError(
            f"--{next(iter(given))}: is of pixels, but {graph.name} takes {' and '.join(map(str, graph.input_specs))}; leave "
            "it out, and say it in a network class of your own"
        )
    numbers = {name: values[0] if len(values) == 1 else tuple(values) for name, values in given.items()}
    return _with_cells(graph, Input, **numbers)


def _with_cells(graph: Graph, kind: type[Any], **changes: Any) -> Graph:
    """The network with other fields of its cells of a kind; None: as they are."""
    changes = {name: value for name, value in changes.items() if value is not None}
    if not changes:
        return graph
    nodes = tuple(
        replace(node, cell=replace(node.cell, **changes)) if isinstance(node.cell, kind) else node
        for node in graph.nodes
    )
    return Graph(nodes, graph.outputs, graph.name)


def _takes_pixels(graph: Graph) -> bool:
    """Whether its only input is pixels, normalised by a mean and a std."""
    cells: list[Any] = [node.cell for node in graph.inputs]
    return len(cells) == 1 and cells[0].dtype == PIXELS and cells[0].scale is None


def _print_assumed(args: argparse.Namespace, graph: Graph, params: Mapping[str, Array]) -> None:
    """Say what the network takes for granted, and ask for what nobody has said: a file of arrays does not tell."""
    cell: Any = graph.inputs[0].cell
    if _takes_pixels(graph):
        asked = "" if args.mean or args.std else "; trained otherwise? --raw_pixels, or --mean and --std"
        print(f"{graph.name} takes (pixel / 255 - {_shown(cell.mean)}) / {_shown(cell.std)}{asked}")
    eps = sorted({node.cell.eps for node in graph.nodes if isinstance(node.cell, LinearCell) and node.cell.has_bn})
    if not eps:
        return
    asked = ""
    if args.eps is None:
        small, count = small_variances(graph, params, OTHER_EPS)
        asked = f"; trained with another? --eps (Keras: {OTHER_EPS}), which "
        asked += f"changes {small:,} of {count:,} channels by more than 5 %" if small else "changes no channel by 5 %"
    print(f"{graph.name} has eps {' and '.join(map(_shown, eps))} in its batch normalisations{asked}")


def _shown(numbers: float | tuple[float, ...]) -> str:
    return f"({', '.join(f'{x:g}' for x in numbers)})" if isinstance(numbers, tuple) else f"{numbers:g}"


def _warnings(
    args: argparse.Namespace, graph: Graph, params: Mapping[str, Array], dataset: Dataset | None
) -> list[str]:
    """Where batch normalisations get other numbers than they were trained on: with samples of the data, else of plausible
    pixels, which tell only whether the input's normalisation is another.
    """
    pixels = _takes_pixels(graph)
    if dataset is not None:
        samples = as_arrays(tuple(x[:SAMPLES] for x in as_tuple(dataset.train.images)))
        what = f"samples of {dataset.name}"
    elif pixels:
        samples, what = usual_pixels(graph.input_specs[0].shape), "pixels like those of photographs"
    else:
        return []
    batches = batches_of(samples, graph.input_specs, AT_ONCE, graph.name)
    wrong = off(norm_inputs(graph, params, batches, first=dataset is None), measured=dataset is not None)
    if wrong is None:
        return []
    mean, std, trained_mean, trained_std = (
        f"{np.median(x):.3g}" for x in (wrong.mean, wrong.std, wrong.expected_mean, wrong.expected_std)
    )
    text = (
        f"{args.file}: the normalisation of {wrong.name} was trained on numbers of std {trained_std} and mean {trained_mean}, "
        f"but gets std {std} and mean {mean} (of the median channel, on {what})"
    )
    first = {each.name for each in norm_inputs(graph, params, batches, first=True)}
    if wrong.name not in first:
        return [
            f"{text}: something before it is not what was trained, as an activation, a padding, --eps or the order of layers"
        ]
    if not pixels:
        return [f"{text}: the samples are in other units than those that were trained on"]
    channels = graph.input_specs[0].shape[0]
    candidates = {
        flags: _with_cells(graph, Input, mean=mean, std=std)
        for flags, (mean, std) in USUAL.items()
        if not isinstance(mean, tuple) or len(mean) == channels
    }
    flags = fitting(candidates, params, batches, than=wrong)
    advice = (
        f"with {flags} they agree: give these flags, or those that it was trained with"
        if flags
        else "give --mean and --std as trained"
    )
    return [f"{text}: the weights were trained with another input normalisation; {advice}"]


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

"""Import a float network of another framework, or of a file, as a checkpoint, and compare the two."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

import qat
from qat.cells.input import CODES, Input
from qat.cli import run_script
from qat.console import note, result, wrote
from qat.data.preparation import Preparation
from qat.errors import QatError, one_line
from qat.imports.compare import MOST_SAMPLES, TOLERANCE
from qat.imports.entry import pixels
from qat.imports.model import SUFFIXES, open_source
from qat.imports.program import Program
from qat.plugins import own_object, working_directory_last
from qat.scripts.common.files import check_checkpoint_path, load_data
from qat.scripts.common.flags import PREPARATION, add_data_argument, chosen_preparation
from qat.scripts.common.normalization import RAW_STD, normalization_notes, print_normalization
from qat.scripts.common.plan import add_writing_arguments, check_outputs, of_data, of_graph, stop_if_dry
from qat.scripts.common.tasks import add_task_argument, with_task
from qat.tables import counted
from qat.vocabulary.arrays import as_arrays, as_tuple
from qat.vocabulary.listing import dimensions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--model",
        required=True,
        help="a file .pt2, .keras, .h5, .onnx or .tflite; or package.module:function, which is then run and gives a "
        "torch.nn.Module or a keras.Model",
    )
    parser.add_argument("--ckpt_path", required=True, help="checkpoint to write")
    parser.add_argument(
        "--input_shape",
        nargs="+",
        type=int,
        metavar="SIZE",
        help="of one sample, channels first, as 3 224 224: for a torch.nn.Module, and where the source leaves it open",
    )
    parser.add_argument(
        "--outputs", nargs="+", metavar="NAME", help="operations of the source to end at (default: its own outputs)"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help="the largest relative difference between the outputs of the two",
    )
    add_task_argument(parser, "classification")
    group = parser.add_argument_group(
        "input",
        "what the network will take (default: real numbers; raw pixels where it begins with their normalisation)",
    )
    for name, of in (("mean", "mean"), ("std", "standard deviation")):
        group.add_argument(
            f"--{name}",
            nargs="+",
            type=float,
            metavar="NUMBER",
            help=f"it takes pixels; {of}, of pixels scaled to 0..1, by which the source wants them normalised: one number, or "
            "one for each channel",
        )
    group.add_argument(
        "--raw_pixels", action="store_true", help="it takes pixels, and the source wants them from 0 to 255"
    )
    group.add_argument(
        "--input_dtype", choices=CODES, help="it takes codes of this dtype, and the source their real numbers"
    )
    group.add_argument("--input_scale", type=float, metavar="SCALE", help="of these codes: the real number of one step")
    group.add_argument("--input_zero_point", type=int, metavar="CODE", help="of these codes: that of the number 0")
    add_data_argument(
        parser, required=False, otherwise="4 random samples", also=f"{MOST_SAMPLES} samples of it are compared"
    )
    add_writing_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    check_checkpoint_path(args.ckpt_path, {"--model": args.model}, "--ckpt_path")
    check_outputs(args, args.ckpt_path)
    opened = open_source(_source(args.model), None, args.input_shape)
    opened = opened if args.outputs is None else opened.cut(args.outputs)
    imported = qat.import_model(opened, inputs=_inputs(args, opened.program), tolerance=args.tolerance)
    graph = imported.graph
    dataset = load_data(args.data_path, graph, args) if args.data_path is not None else None
    if dataset is not None:
        images = as_tuple(dataset.train.images)
        imported.compare(as_arrays(tuple(x[:MOST_SAMPLES] for x in images)), tolerance=args.tolerance)
    outputs = " and ".join(dimensions(graph.shapes[name]) for name in graph.outputs)
    result(f"{graph.name}: takes {' and '.join(map(str, graph.input_specs))}, gives {outputs}", network=graph.name)
    print_normalization(graph)
    for text in [*imported.notes, *normalization_notes(args.model, graph, imported.params, dataset)]:
        note(text)
    result(f"{graph.name} {imported.difference}", difference=str(imported.difference))
    stop_if_dry(
        args,
        f"keep {of_graph(graph)}",
        reads=[
            (args.model, counted(len(graph.nodes), "node")),
            *([(args.data_path, of_data(dataset))] if dataset else []),
        ],
        writes=[args.ckpt_path],
    )
    recipe = dataset.preparation if dataset is not None else chosen_preparation(args, None, Preparation(), "")
    said = dataset is not None or any(getattr(args, name) is not None for name in PREPARATION)
    checkpoint = replace(imported.checkpoint(), preparation=recipe if said else None)
    with_task(args, checkpoint).save(args.ckpt_path)
    wrote(
        args.ckpt_path,
        more=f": {counted(len(graph.nodes), 'node')}, {counted(graph.count_trainable(), 'trainable parameter')}",
    )


def _source(model: str) -> Any:
    """The file, or what a function of the user's own gives."""
    if ":" not in model or model.lower().endswith(SUFFIXES):
        return model
    with working_directory_last():
        function = own_object(model, "model", "package.module:function")
        if not callable(function):
            raise QatError(f"--model {model}: is a {type(function).__name__}; give a function that returns the network")
        try:
            made = function()
        except Exception as error:  # whatever the user's code raises
            raise QatError(
                f"--model {model}: cannot be made ({type(error).__name__}: {one_line(error)}); give a function that takes no "
                "arguments and returns the network with its weights"
            ) from error
    evaluated = getattr(made, "eval", None)  # a module that was just made is in training mode
    return evaluated() if callable(evaluated) else made


def _inputs(args: argparse.Namespace, program: Program) -> Input | None:
    """What the flags say that the network takes."""
    flags = {
        "--mean": args.mean is not None,
        "--std": args.std is not None,
        "--raw_pixels": args.raw_pixels,
        "--input_dtype": args.input_dtype is not None,
    }
    given = [name for name, value in flags.items() if value]
    if args.input_dtype is None and (args.input_scale is not None or args.input_zero_point is not None):
        raise QatError("--input_scale and --input_zero_point: are of codes; give --input_dtype too, or leave them out")
    if args.tolerance < 0:
        raise QatError(f"--tolerance {args.tolerance:g}: is the largest difference that may be; give 0 or more")
    if not given:
        return None
    if len(given) > 1 and given != ["--mean", "--std"]:
        raise QatError(
            f"{' and '.join(given)}: say different things of the input; give --mean and --std, or one of the others"
        )
    if len(program.inputs) != 1:
        raise QatError(
            f"{given[0]}: {program.name} has {len(program.inputs)} inputs ({', '.join(program.inputs)}); import it from "
            "Python, with a qat.Input for each"
        )
    ((name, spec),) = program.inputs.items()
    if args.input_dtype is not None:
        return Input(spec.shape, dtype=args.input_dtype, scale=args.input_scale, zero_point=args.input_zero_point or 0)
    mean, std = ([0.0], [RAW_STD]) if args.raw_pixels else (args.mean or [0.0], args.std or [1.0])
    for flag, numbers in (("--mean", mean), ("--std", std)):
        if len(numbers) not in (1, spec.shape[0]):
            raise QatError(
                f"{flag}: has {len(numbers)} numbers, but {name} of {program.name} has {spec.shape[0]} channels; give one for "
                "each, or one for all"
            )
    return pixels(spec.shape, mean, std)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

"""Write a checkpoint as a file for deployment, and certify that its runtime computes the integers of training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import qat
from qat.cli import run_script
from qat.console import result, wrote
from qat.data import Dataset
from qat.data.loading import exists, load
from qat.deploy.arithmetics import arithmetic_options, default_arithmetic
from qat.deploy.certificate import statement
from qat.deploy.floats import export_float
from qat.deploy.interfaces import SWITCH, YES, HoldsFloats, MakesArduinoLibrary, Option, Target
from qat.deploy.recipe import metadata_of
from qat.deploy.verify import export_verified
from qat.errors import QatError
from qat.integer.widths import PACKINGS
from qat.registry import formats, target_names
from qat.scripts.common.files import load_checkpoint, load_data, output_path
from qat.scripts.common.flags import (
    add_arithmetic_argument,
    add_backend_arguments,
    add_checkpoint_argument,
    add_data_argument,
)
from qat.scripts.common.plan import add_writing_arguments, check_exported, of_data, of_graph, stop_if_dry
from qat.scripts.common.printing import print_arithmetics, print_certificate
from qat.scripts.common.report import print_summary
from qat.tables import counted
from qat.training.checkpoint import Checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_checkpoint_argument(parser, "quantized network (with --float: float network)")
    parser.add_argument("--file_format", choices=target_names(), default="ONNX", help="what to write")
    parser.add_argument("--file_name", required=True, help="file to write; its ending may be left out")
    parser.add_argument("--float", action="store_true", help="write a float network as it is, to compare with")
    parser.add_argument("--arduino", metavar="FOLDER", help="of C: write it as a library for Arduino too")
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """How a file is written and verified: the arithmetic, the options of every target, the images and the backend."""
    add_arithmetic_argument(parser, "the network's own")
    parser.add_argument("--no_verify", action="store_true", help="write the file without a certificate")
    add_data_argument(parser, required=False, workers=True)
    add_backend_arguments(parser)
    add_target_options(parser)
    add_writing_arguments(parser)


def add_target_options(parser: argparse.ArgumentParser) -> None:
    """One flag for each name among the options of all targets. What two targets say of an option of one name stands there
    once where it is the same, and one after the other where it is not.
    """
    users: dict[str, dict[Option, list[str]]] = {}
    for file_format, entry in formats().items():
        for option in entry.options:
            users.setdefault(option.name, {}).setdefault(option, []).append(file_format)
    for name, options in users.items():
        if f"--{name}" in parser._option_string_actions:
            continue  # a flag of the command's own: _chosen says so to whoever chooses that target
        texts = [f"of {_listed(names)}: {x.help} (default: {x.choices[0]})" for x, names in options.items()]
        choices = dict.fromkeys(choice for option in options for choice in option.choices)
        alone: dict[str, Any] = {"nargs": "?", "const": YES} if tuple(choices) == SWITCH else {}
        parser.add_argument(
            f"--{name}",
            dest=_destination(name),
            choices=list(choices),
            help="; ".join(texts).replace("%", "%%"),
            **alone,
        )


def _destination(name: str) -> str:
    """Where the value of a target's option stands in the arguments, apart from those of the command's own."""
    return f"option_{name}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _chosen(args: argparse.Namespace, target: Target) -> dict[str, str]:
    """The options of the target's export that were given. Raises QatError where it does not have them."""
    given = {name.removeprefix("option_"): value for name, value in vars(args).items() if name.startswith("option_")}
    own = {option.name: option for option in target.OPTIONS}
    for name in own.keys() - given.keys():
        raise QatError(
            f"--file_format {target.NAME}: its option {name!r} has the name of a flag of this command; its package has to "
            "call it otherwise"
        )
    options = {name: value for name, value in given.items() if value is not None}
    for name, value in options.items():
        if name not in own:
            raise QatError(f"--{name}: format {target.NAME} has no such choice; leave it out")
        if value not in own[name].choices:
            raise QatError(
                f"--{name} {value}: of {target.NAME} it is one of {', '.join(own[name].choices)}; choose one"
            )
    return options


def run(args: argparse.Namespace) -> int:
    """Write the file, verified unless that was declined; 1 where a code differs."""
    target = qat.target(args.file_format)
    options = _chosen(args, target)
    path = output_path(args.file_name, target.SUFFIX)
    packing = next((x for x in PACKINGS if x == options.get("packing")), PACKINGS[0])  # the summary counts C's bytes
    if args.arduino and (args.float or not isinstance(target, MakesArduinoLibrary)):
        raise QatError(
            f"--arduino: {'float networks are' if args.float else f'{target.NAME} is'} nothing that Arduino builds; leave it "
            "out, or use --file_format C"
        )
    if args.arduino and options.get("weights_file") == YES:
        raise QatError("--arduino: builds no weights in a file of their own; leave it out, or --weights_file")
    check_exported(args, target, path, args.arduino, **options)
    if args.data_path and (args.float or args.no_verify) and not exists(args.data_path):
        load(args.data_path)  # its QatError: a path that is not there is a mistake, though nothing is read from it
    if args.float:
        if args.arithmetic not in (None, "float"):
            raise QatError(
                "--arithmetic: a float network (--float) has no integers, and so no choice of it; leave one of the two out"
            )
        if options or not isinstance(target, HoldsFloats):
            what = (
                f"--{next(iter(options))} is of quantized networks" if options else "it holds quantized networks only"
            )
            raise QatError(f"--float: {target.NAME}: {what}; leave it out, or choose --file_format ONNX")
        checkpoint = load_checkpoint(args.ckpt_path, quantized=False)
        _stop_if_dry(args, checkpoint, None, path)
        export_float(target, checkpoint.graph, checkpoint.params, path)
        target.write_metadata(path, checkpoint.kept())  # which also say that qat wrote it
        wrote(path, "wrote", f", {path.stat().st_size:,} bytes, float", verified=False)
        return 0
    checkpoint = load_checkpoint(args.ckpt_path, quantized=True)
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    if args.no_verify:
        _stop_if_dry(args, checkpoint, None, path)
        arithmetic, own = args.arithmetic or default_arithmetic(target, graph=integers), integers.arithmetic
        running = arithmetic_options(target, arithmetic)
        integers = replace(integers, arithmetic=arithmetic)
        target.export(integers, path, **options, **running)
        target.write_metadata(path, metadata_of(path, target, checkpoint, arithmetic))
        if arithmetic != own:
            text = statement(path, arithmetic, own, None)
            result(text, statements=[text])
        wrote(path, "wrote", f", {path.stat().st_size:,} bytes, not verified", verified=False)
        _write_library(args, target, path)
        print_summary(checkpoint.graph, checkpoint.params, integers, packing=packing)
        return 0
    backend = qat.backend(args.backend)
    dataset = load_data(args.data_path or _trained_on(args.ckpt_path, checkpoint), checkpoint, args)
    _stop_if_dry(args, checkpoint, dataset, path)
    certificate = export_verified(
        path,
        target,
        backend,
        replace(checkpoint, preparation=dataset.preparation or checkpoint.preparation),
        dataset.test,
        data=f"{dataset.name}, test samples",
        device_target=args.device_target,
        arithmetic=args.arithmetic,
        options=options,
        integers=integers,
    )
    print_arithmetics(certificate)
    wrote(path, "wrote", f", {path.stat().st_size:,} bytes", verified=True)
    _write_library(args, target, path)
    integers = replace(integers, arithmetic=certificate.arithmetic)
    print_summary(checkpoint.graph, checkpoint.params, integers, packing=packing)
    print_certificate(certificate)
    return 0 if certificate.passed else 1


def _stop_if_dry(args: argparse.Namespace, checkpoint: Checkpoint, dataset: Dataset | None, path: Path) -> None:
    target = qat.target(args.file_format)
    how = (
        "without a certificate"
        if dataset is None
        else f"and compare its codes on {counted(len(dataset.test), 'sample')}"
    )
    if dataset is not None:
        target.runtime()  # or its QatError
    reads = [] if dataset is None else [(args.data_path or dataset.source, of_data(dataset))]
    reads.insert(0, (args.ckpt_path, of_graph(checkpoint.graph)))
    stop_if_dry(args, f"export {target.NAME} {how}", reads=reads, writes=[path, *filter(None, [args.arduino])])


def _write_library(args: argparse.Namespace, target: Target, path: Path) -> None:
    """The library for Arduino, where one is asked for."""
    if args.arduino and isinstance(target, MakesArduinoLibrary):
        written = target.arduino_library(path, args.arduino)
        wrote(args.arduino, "wrote", f", a library for Arduino of {counted(len(written), 'file')}")


def _trained_on(ckpt_path: str, checkpoint: Checkpoint) -> str:
    """The data path that the checkpoint remembers. Raises QatError where it is gone."""
    for record in checkpoint.history:
        data_path = record.get("data_path")
        if isinstance(data_path, str) and exists(data_path):
            return data_path
    remembers = any("data_path" in record for record in checkpoint.history)
    found = (
        "the images it was trained on are not where they were" if remembers else "does not say what it was trained on"
    )
    raise QatError(
        f"{ckpt_path}: {found}, and the certificate needs images; give --data_path, or --no_verify to do without a certificate"
    )


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

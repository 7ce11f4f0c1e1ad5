"""Flags that many commands take."""

from __future__ import annotations

import argparse
from dataclasses import replace
from importlib.util import find_spec

import qat
from qat import tasks
from qat.console import note
from qat.data import Dataset
from qat.data.loading import READERS
from qat.data.preparation import INTERPOLATIONS, RESIZES, Preparation
from qat.deploy.interfaces import ParameterFiles
from qat.errors import QatError
from qat.graph import Graph
from qat.integer.fixed_point import ARITHMETICS
from qat.networks.catalogue import ADDED, create
from qat.networks.fitting import AUTO
from qat.registry import BACKENDS, backend_names
from qat.training.devices import DEVICES, available_cores
from qat.training.lengths import Length
from qat.vocabulary.listing import dimensions

#: More workers than this make sense for fast devices alone; each takes 100 MB.
MOST_BY_DEFAULT = 4
PREPARATION = ("resize", "resize_to", "crop_fraction", "interpolation")  #: the flags that are fields of one


def add_backend_arguments(parser: argparse.ArgumentParser) -> None:
    """--backend and --device_target."""
    parser.add_argument("--backend", choices=backend_names(), default="torch", help="the framework that computes")
    add_device_argument(parser)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """--device_target and --threads."""
    parser.add_argument(
        "--device_target", choices=DEVICES, help="the device it computes on (default: the best that there is)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        help="threads of a CPU (default: OMP_NUM_THREADS, else as many as there are cores that nobody uses just now)",
    )


def add_workers_argument(parser: argparse.ArgumentParser) -> None:
    """--num_workers."""
    parser.add_argument(
        "--num_workers",
        type=int,
        default=min(available_cores(), MOST_BY_DEFAULT) if find_spec("grain") else 0,
        help="processes that read pictures ahead where the data are not in memory; 0: this one reads. The results are the "
        "same",
    )


def with_files() -> list[str]:
    """The backends whose frameworks have files of named arrays; those of other packages, which may have some, among them."""
    return [name for name in backend_names() if name not in BACKENDS or BACKENDS[name].suffix]


def parameter_files(name: str) -> ParameterFiles:
    """A backend whose framework has files of named arrays. Raises QatError where it has none."""
    backend = qat.backend(name)
    if not isinstance(backend, ParameterFiles):
        raise QatError(f"--backend {backend.NAME}: its framework has no files of parameters; choose another")
    return backend


def add_network_argument(parser: argparse.ArgumentParser, *, fitted: bool = False) -> None:
    """--network. fitted: with what the data do not say of its input, for ``fitted_network``."""
    parser.add_argument(
        "--network",
        default="lenet",
        help=f"one of {', '.join(ADDED.names())}, or your own as package.module:Class, whose code is then run",
    )
    if not fitted:
        return
    group = parser.add_argument_group("input of the network", "of pictures; anything else follows from the data")
    for name, of in (("mean", "mean"), ("std", "standard deviation")):
        group.add_argument(
            f"--{name}",
            nargs="+",
            type=_number_or_auto,
            metavar="NUMBER",
            help=f"{of} of pixels scaled to 0..1: one number, one for each channel, or {AUTO!r}, measured on the training "
            "pictures (default: the network's own, else that of most pictures)",
        )
    group.add_argument(
        "--input_size",
        type=int,
        metavar="PIXELS",
        help="height and width of its pictures (default: the network's own, else that of the first picture)",
    )


def fitted_network(args: argparse.Namespace, dataset: Dataset) -> Graph:
    """The network that ``add_network_argument`` names, fitted to data and to --task."""
    given = {name: getattr(args, name) for name in ("mean", "std")}
    for name, values in given.items():
        if values is not None and AUTO in values:
            if len(values) > 1:
                raise QatError(f"--{name}: takes {AUTO!r} alone, or numbers; leave one of them out")
            given[name] = AUTO
    task = tasks.create(args.task) if args.task is not None else None
    return create(args.network, dataset, task, **given, input_size=args.input_size).graph()


def print_fitted(graph: Graph, dataset: Dataset) -> None:
    """What a network takes and gives."""
    outputs = " and ".join(dimensions(graph.shapes[name]) for name in graph.outputs)
    print(f"{graph.name} for {dataset.name}: takes {' and '.join(map(str, graph.input_specs))}, gives {outputs}")


def _number_or_auto(text: str) -> float | str:
    """An argument that is a number, or AUTO."""
    if text == AUTO:
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor {AUTO!r}") from None


def add_checkpoint_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """--ckpt_path."""
    parser.add_argument("--ckpt_path", required=True, help=f"checkpoint file of the {what}")


def add_data_argument(
    parser: argparse.ArgumentParser,
    *,
    required: bool = True,
    otherwise: str = "what the checkpoint was trained on",
    also: str = "",
    prepared: bool = True,
    workers: bool = False,
) -> None:
    """--data_path, and how its pictures are prepared.

    Args:
        parser: Of the command.
        required: Whether it has to be given.
        otherwise: What is taken where it is left out, for the help.
        also: What this command takes beside, for the help.
        workers: Whether there is --num_workers.
        prepared: Whether there are flags of ``add_preparation_arguments`` and --skip_unreadable; a study prepares all alike.
    """
    text = (
        "a folder of pictures with a folder for each class, or such folders in train/ and test/; images/ and masks/; a .csv, "
        ".npz or .npy file; package.module:function; the folder of MNIST, CIFAR-10 or SVHN; or 'digits' for scikit-learn's"
    )
    text += "".join(f", or {name}:..." for name in READERS.names()).replace("%", "%%")
    text += f"; {also}" if also else ""
    if required:
        parser.add_argument("--data_path", required=True, help=text)
    else:
        parser.add_argument("--data_path", default=None, help=f"{text} (default: {otherwise})")
    if workers:
        add_workers_argument(parser)
    if not prepared:
        return
    add_preparation_arguments(parser)
    parser.add_argument(
        "--skip_unreadable",
        action="store_true",
        help="look at all pictures first and leave out those that cannot be read (default: the first such one is an error)",
    )


def add_preparation_arguments(parser: argparse.ArgumentParser, usual: str = "crop for picture files") -> None:
    """How pictures become inputs, where it is not as the checkpoint or the file says. usual: where that says nothing."""
    group = parser.add_argument_group(
        "pictures", f"of another size than the network's (default: as the model says, else {usual})"
    )
    group.add_argument(
        "--resize",
        choices=RESIZES,
        help="in proportion, then the middle is cut; to the size alone; or in proportion, on black",
    )
    group.add_argument(
        "--resize_to", type=int, metavar="PIXELS", help="of crop: the shorter side before (default: by --crop_fraction)"
    )
    group.add_argument(
        "--crop_fraction",
        type=float,
        metavar="SHARE",
        help="of crop: the share of the shorter side that is kept (0.875)",
    )
    group.add_argument("--interpolation", choices=INTERPOLATIONS, help="between pixels (of picture files: bilinear)")


def chosen_preparation(
    args: argparse.Namespace | None, kept: Preparation | None, usual: Preparation, source: str
) -> Preparation:
    """How pictures are prepared: as the flags say, which comes before what the model says, before what is usual.

    Args:
        args: of ``add_preparation_arguments``; None, or without some, where a command has no such flags.
        kept: by the checkpoint or file.
        usual: where nobody says anything.
        source: of ``kept``, for the note that says that it is not followed.
    """
    given = {name: getattr(args, name, None) for name in PREPARATION}
    given = {name: value for name, value in given.items() if value is not None}
    found = kept or usual
    if given.get("resize", found.resize) != "crop" or "crop_fraction" in given:
        given = {"resize_to": None} | given
    found = replace(found, **given)
    if "crop_fraction" in given and (found.resize != "crop" or found.resize_to is not None):
        raise QatError(
            f"--crop_fraction {given['crop_fraction']}: has no say in '{found}'; leave it out, or give --resize crop"
        )
    if kept is not None and found != kept:
        note(f"pictures are prepared as the flags say ({found}), but {source} was made with {kept}")
    return found


def add_arithmetic_argument(container: argparse._ActionsContainer, otherwise: str) -> None:
    """--arithmetic. otherwise: what is taken where it is left out, for the help."""
    container.add_argument(
        "--arithmetic",
        choices=ARITHMETICS,
        help="how sums become codes: float, by a float32 multiplication, as ONNX Runtime and XNNPACK do; fixed, by integers "
        f"alone, as TensorFlow Lite for Microcontrollers and CMSIS-NN do (default: {otherwise})",
    )


def arithmetic_settings(args: argparse.Namespace) -> dict[str, str]:
    """What --arithmetic says to convert_quant_network: nothing where it is the float one, as in what was stored before there
    was a choice.
    """
    return {} if args.arithmetic in (None, ARITHMETICS[0]) else {"arithmetic": args.arithmetic}


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """--trust."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="also run files that hold code, as .c: only where you exported them yourself, or trust who did",
    )


def length(text: str) -> Length:
    """An argument in steps (900), epochs (2ep) or a share of the training (10%)."""
    try:
        return Length(text)
    except QatError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def seed(text: str) -> int:
    """An argument that random numbers follow from."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no seed; use a whole number, 0 or more")
    return number


def boolean(text: str) -> bool:
    """An argument that is true or false, in words: bool("False") would be True."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"

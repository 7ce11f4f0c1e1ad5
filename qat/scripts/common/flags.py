"""Flags that many commands take."""

from __future__ import annotations

import argparse
from importlib.util import find_spec

import qat
from qat.data.dataset import READERS
from qat.deploy.interfaces import ParameterFiles
from qat.errors import QatError
from qat.integer.fixed_point import ARITHMETICS
from qat.networks.catalogue import ADDED
from qat.registry import BACKENDS, backend_names
from qat.training.devices import DEVICES, available_cores

#: More workers than this make sense for fast devices alone; each takes 100 MB.
MOST_BY_DEFAULT = 4


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


def add_network_argument(parser: argparse.ArgumentParser) -> None:
    """--network."""
    parser.add_argument(
        "--network",
        default="lenet",
        help=f"one of {', '.join(ADDED.names())}, or your own as package.module:Class, whose code is then run",
    )


def add_checkpoint_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """--ckpt_path."""
    parser.add_argument("--ckpt_path", required=True, help=f"checkpoint file of the {what}")


def add_data_argument(
    parser: argparse.ArgumentParser,
    *,
    required: bool = True,
    otherwise: str = "what the checkpoint was trained on",
    workers: bool = False,
) -> None:
    """--data_path and, if ``workers``, --num_workers. otherwise: what is taken where it is not required and left out."""
    text = "folder of MNIST (IDX files in train/ and test/), CIFAR-10 (.bin) or SVHN (.mat), or 'digits' for scikit-learn's"
    text += "".join(f", or {name}:..." for name in READERS.names()).replace("%", "%%")
    if required:
        parser.add_argument("--data_path", required=True, help=text)
    else:
        parser.add_argument("--data_path", default=None, help=f"{text} (default: {otherwise})")
    if workers:
        add_workers_argument(parser)


def add_arithmetic_argument(parser: argparse.ArgumentParser) -> None:
    """--arithmetic."""
    parser.add_argument(
        "--arithmetic",
        choices=ARITHMETICS,
        help="how sums become codes: by a float32 multiplication, or by integers alone, as TFLite's reference kernels and C "
        "files (default: the file's own; for export float, or fixed where a format has nothing else)",
    )


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """--trust."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="also run files that hold code, as .c: only where you exported them yourself, or trust who did",
    )


def boolean(text: str) -> bool:
    """An argument that is true or false, in words: bool("False") would be True."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"

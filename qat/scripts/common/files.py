"""Files that commands are given: what they hold, checked, and where results are written."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qat import data
from qat.data import Dataset
from qat.data.loader import check_workers, in_workers
from qat.data.preparation import PLAIN, Preparation
from qat.deploy.interfaces import Target
from qat.errors import QatError
from qat.files import check_distinct
from qat.graph import Graph
from qat.registry import formats, suffixed, target_of
from qat.scripts.common.flags import chosen_preparation
from qat.training.checkpoint import Checkpoint


def load_checkpoint(path: str, *, quantized: bool) -> Checkpoint:
    """A checkpoint of the kind that the command needs."""
    checkpoint = Checkpoint.load(path)
    checkpoint.require(path, quantized=quantized)
    return checkpoint


def read_data(data_path: str, args: argparse.Namespace | None = None) -> Dataset:
    """The data set as it is. args: with the flags of ``add_data_argument``, or some of them."""
    check_workers(getattr(args, "num_workers", 0))
    return data.load(data_path, skip_unreadable=bool(getattr(args, "skip_unreadable", False)))


def load_data(data_path: str | Dataset, network: Graph | Checkpoint, args: argparse.Namespace | None = None) -> Dataset:
    """The data set, its samples in the shape that the network takes.

    Args:
        data_path: as ``qat.data.load`` takes it; or what ``read_data`` gave.
        network: Its checkpoint, which may say how pictures become its inputs, or its graph.
        args: With the flags of ``add_data_argument``, which come before what the checkpoint says; None where there are none.

    Returns:
        The data set, with the ``preparation`` that was used.
    """
    graph, kept = (network, None) if isinstance(network, Graph) else (network.graph, network.preparation)
    if len(graph.inputs) != 1:
        raise QatError(
            f"{graph.name} has {len(graph.inputs)} inputs, but a data set of --data_path has one image a sample; train and "
            "verify it from Python, with a tuple of arrays as Split.images"
        )
    num_workers = getattr(args, "num_workers", 0)
    dataset = data_path if isinstance(data_path, Dataset) else read_data(data_path, args)
    _check_codes(dataset, graph)
    usual: Preparation = getattr(dataset.train.images, "usual", PLAIN)
    source = getattr(args, "ckpt_path", None) or "the checkpoint"
    recipe = chosen_preparation(args, kept, dataset.preparation or usual, source)
    dataset = dataset.resized(graph.shapes[graph.inputs[0].name], recipe)
    train, test = (
        replace(x, images=in_workers(x.images, num_workers), labels=in_workers(x.labels, num_workers))
        for x in (dataset.train, dataset.test)
    )
    return replace(dataset, train=train, test=test)


def _check_codes(dataset: Dataset, graph: Graph) -> None:
    """Raise QatError where codes of the data stand for other numbers than those that the network takes."""
    cell: Any = graph.inputs[0].cell
    if dataset.scale is None or cell.scale is None:
        return
    found, wanted = (np.float32(dataset.scale), dataset.zero_point or 0), (np.float32(cell.scale), cell.zero_point)
    if found != wanted:
        raise QatError(
            f"{dataset.source}: its codes have scale {found[0]:g} and zero point {found[1]:g}, but {graph.name} takes scale "
            f"{wanted[0]:g} and zero point {wanted[1]:g}; convert them, or give the data that it was trained for"
        )


def check_file(path: str, advice: str) -> None:
    """Raise QatError where there is no such file."""
    if not os.path.isfile(path):
        found = "it is a folder, a pipe or a device" if os.path.exists(path) else "there is no such file"
        raise QatError(f"{path or repr(path)}: {found}; {advice}")


def trusted_target(args: argparse.Namespace, path: str) -> Target:
    """The target of a file that was handed in. Raises QatError where to run it is to run code, and --trust is not given."""
    target = target_of(path)
    if target.RUNS_CODE and not args.trust:
        raise QatError(
            f"{path}: holds code, which would be compiled and run here with all your rights, and its digest does not say who "
            "wrote it; give --trust, but only if you exported it yourself or trust who did"
        )
    return target


def check_checkpoint_path(path: str | Path, sources: Mapping[str, str | None], flag: str) -> None:
    """Check the name under which a command is to write its checkpoint. Whether it can be, ``check_outputs`` says.

    Args:
        path: of the checkpoint.
        sources: flag -> the file that it names, which must stay.
        flag: that names ``path``.

    Raises:
        QatError: where it ends as an exported file, or would overwrite what it is made from.
    """
    if suffixed(path) is not None:
        raise QatError(f"{flag} {path}: ends as an exported file, but a checkpoint is written; name it *.ckpt")
    for other, source in sources.items():
        if source:
            check_distinct(path, source, f"{flag} and {other}")


def output_path(name: str, suffix: str) -> Path:
    """The file to write, with its ending added where it is missing. Raises QatError for a folder or another ending."""
    where = f"the file to write, {name!r}:"
    path = Path(name)
    if not path.name or os.path.isdir(path):
        raise QatError(f"{where} is a folder, or nothing; give the name of a file")
    found = suffixed(path)
    if found is not None and formats()[found].suffix == suffix:
        return path
    if found is not None:
        raise QatError(f"{where} ends as another format's file, not as {suffix}; change the name or the format")
    return path.with_name(path.name + suffix)

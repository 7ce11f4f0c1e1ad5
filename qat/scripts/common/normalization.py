"""What a network takes for granted of its input's normalisation, shown and questioned: files do not say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qat.analysis.norm_inputs import fitting, norm_inputs, off, usual_pixels
from qat.cells.input import Input
from qat.data import Dataset
from qat.graph import Graph
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


def takes_pixels(graph: Graph) -> bool:
    """Whether its only input is pixels, normalised by a mean and a std."""
    cells: list[Any] = [node.cell for node in graph.inputs]
    return len(cells) == 1 and cells[0].dtype == PIXELS and cells[0].scale is None


def with_cells(graph: Graph, kind: type[Any], **changes: Any) -> Graph:
    """The network with other fields of its cells of a kind; None: as they are."""
    changes = {name: value for name, value in changes.items() if value is not None}
    if not changes:
        return graph
    nodes = tuple(
        replace(node, cell=replace(node.cell, **changes)) if isinstance(node.cell, kind) else node
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)


def print_normalization(graph: Graph, asked: str = "") -> None:
    """Print how a network normalises its pixels, if it does. asked: what is to be questioned, behind it."""
    cell: Any = graph.inputs[0].cell
    if takes_pixels(graph):
        print(f"{graph.name} takes (pixel / 255 - {shown(cell.mean)}) / {shown(cell.std)}{asked}")


def shown(numbers: float | tuple[float, ...]) -> str:
    """One number, or one for each channel."""
    return f"({', '.join(f'{x:g}' for x in numbers)})" if isinstance(numbers, tuple) else f"{numbers:g}"


def normalization_notes(file: str, graph: Graph, params: Mapping[str, Array], dataset: Dataset | None) -> list[str]:
    """Where batch normalisations get other numbers than they were trained on.

    Args:
        file: that the parameters are of, for the notes.
        graph: of the float network.
        params: its parameters.
        dataset: whose samples are used; None: plausible pixels, which tell only whether the input's normalisation is another.

    Returns:
        Notes, a line each.
    """
    pixels = takes_pixels(graph)
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
        f"{file}: the normalisation of {wrong.name} was trained on numbers of std {trained_std} and mean {trained_mean}, "
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
        flags: with_cells(graph, Input, mean=mean, std=std)
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

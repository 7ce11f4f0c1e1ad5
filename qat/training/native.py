"""Parameter files of the frameworks, and how their names correspond to those of a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from qat.errors import QatError, shortened
from qat.graph import Graph, Params
from qat.reading import reading, without_warnings
from qat.vocabulary.ops import Array

#: Parts of a name that fused cells of frameworks put between cell and parameter, as MindSpore's "conv1.conv.weight".
WRAPPERS = ("conv", "dense", "handler")
NORMS = ("batchnorm", "bn", "norm")  #: the same for batch normalisation
OF_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
IGNORED = ("num_batches_tracked", "global_step", "learning_rate", "momentum", "_extra_state")
#: What MindSpore's optimizers store for each parameter, as "moments.conv1.weight", or for all.
SLOTS = ("moments", "moment1", "moment2", "accum", "stat", "beta1_power", "beta2_power")


def graph_name(name: str) -> str:
    """The graph's name for a framework's: "conv1.conv.weight" -> "conv1.weight", "conv1.bn.bias" -> "conv1.beta"."""
    *parts, last = name.split(".")
    if parts and parts[-1] in NORMS and len(parts) > 1:
        return ".".join([*parts[:-1], OF_NORM.get(last, last)])
    if parts and parts[-1] in WRAPPERS and len(parts) > 1:
        parts = parts[:-1]
    return ".".join([*parts, last])


def mindspore_name(name: str, graph: Graph) -> str:
    """The name of a parameter in MindSpore's nn.Conv2dBnAct and nn.DenseBnAct; the inverse of ``graph_name``."""
    cell, _, last = name.rpartition(".")
    if last in OF_NORM.values():
        return f"{cell}.batchnorm.{last}"
    if last in ("weight", "bias"):
        return f"{cell}.{'dense' if graph.params[f'{cell}.weight'].kind == 'dense_weight' else 'conv'}.{last}"
    return name


#: What layers may be trained without: what stands beside it in any case, and what it is then.
ABSENT = {"bias": ("weight", 0.0), "beta": ("moving_mean", 0.0), "gamma": ("moving_mean", 1.0)}
#: From a name and its graph to the name in a file.
NAMINGS: dict[str, Callable[[str, Graph], str]] = {"graph": lambda name, graph: name, "mindspore": mindspore_name}


def params_from(
    graph: Graph, arrays: Mapping[str, Array], renamed: Mapping[str, str], source: str
) -> tuple[Params, list[str]]:
    """The parameters of a graph, taken from a framework's file.

    Ranges of fake quantizers that the file does not have stay as if nothing had been observed. A bias, beta or gamma
    that the file does not have is 0 or 1, which is what a layer without one computes; a bias that the network does not have
    goes into the running mean of the batch normalisation after it, where there is one.

    Args:
        graph: a float graph.
        arrays: what the file holds, by its own names.
        renamed: names in the file, or beginnings of them, and what they are called in the graph; the longest counts.
        source: the file, for messages.

    Returns:
        Parameters by full name, and what was done about those that one side lacks, a sentence each.

    Raises:
        QatError: naming the parameter that is missing, has another shape, or does not belong to the graph.
    """
    found: Params = {}
    unused = [old for old in renamed if not any(name == old or name.startswith(f"{old}.") for name in arrays)]
    if unused:
        raise QatError(f"{source}: holds no name that begins with {unused[0]!r}; correct that --rename or leave it out")
    biases: Params = {}  # for which the network has no place
    for name, array in kept(arrays).items():
        old = max((old for old in renamed if name == old or name.startswith(f"{old}.")), key=len, default=None)
        given = name if old is None else renamed[old] + name.removeprefix(old)
        ours = given if given in graph.params or _is_bias(graph, given) else graph_name(given)
        if ours.rpartition(".")[0].endswith("fake_quant"):
            raise QatError(
                f"{source}: holds {name!r}, so it is of a quantized network, but {graph.name} is float; export the parameters "
                "of the float checkpoint instead"
            )
        if ours not in graph.params and not _is_bias(graph, ours):
            raise QatError(
                f"{source}: holds {name!r}, which {graph.name} does not know (it has {', '.join(list(graph.params)[:4])}, "
                f"...); give --rename {name.rpartition('.')[0] or name}=<name of the cell>, or --match order"
            )
        into = found if ours in graph.params else biases
        if ours in into:
            raise QatError(f"{source}: {name!r} is a second {ours!r}; rename one of them")
        advice = f"look at {shortened(name)} in it"
        with reading(source, "parameters", advice), np.errstate(all="ignore"), without_warnings():
            into[ours] = np.asarray(array, np.float32)
        if np.iscomplexobj(array) or not np.isfinite(into[ours]).all():
            raise QatError(f"{source}: {shortened(name)} holds numbers that are not finite; save the parameters anew")
    lacking = [name for name in graph.params if name not in found and _may_be_absent(found, name)]
    for name in lacking:
        found[name] = np.full(graph.params[name].shape, ABSENT[name.rpartition(".")[2]][1], np.float32)
    ranges = {name: a for name, a in graph.initial_params().items() if not np.isfinite(a).all()}
    params = ranges | found
    graph.check_params(params, source)
    notes = _placed(graph, params, biases, source)
    for value in (0, 1):
        names = [name for name in lacking if ABSENT[name.rpartition(".")[2]][1] == value]
        if names:
            notes.append(
                f"{source}: has no {_listed(names)}: {value} is taken, which is right where the layers were trained without"
            )
    return {name: params[name] for name in graph.params}, notes


def kept(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The parameters among the arrays of a file: without counters and what optimizers store."""
    found = {}
    for name, array in arrays.items():
        slot, _, parameter = name.partition(".")
        if not (name.rpartition(".")[2] in IGNORED or (slot in SLOTS and parameter in arrays) or name in SLOTS):
            found[name] = array
    return found


def _is_bias(graph: Graph, name: str) -> bool:
    """Whether it is the bias of a cell that has a weight or a batch normalisation, but no bias."""
    cell, _, local = name.rpartition(".")
    return local == "bias" and name not in graph.params and f"{cell}.weight" in graph.params


def _may_be_absent(found: Params, name: str) -> bool:
    """Whether it is one of ``ABSENT`` of a layer that was found."""
    cell, _, local = name.rpartition(".")
    return local in ABSENT and f"{cell}.{ABSENT[local][0]}" in found


def _placed(graph: Graph, params: Params, biases: Params, source: str) -> list[str]:
    """Put biases that the network has no place for where they change nothing: BN(W x + b) with the running mean m is BN(W x)
    with m - b. Returns what was done. Raises QatError where that cannot be.
    """
    for name, bias in biases.items():
        cell = name.rpartition(".")[0]
        mean = f"{cell}.moving_mean"
        if mean not in params:
            raise QatError(
                f"{source}: holds {name!r}, but {cell} of {graph.name} has no bias, so that it would compute something else "
                "than what was trained; give the cell has_bias=True in a network class of your own"
            )
        if bias.shape != params[mean].shape:
            raise QatError(
                f"{source}: {name!r} has shape {bias.shape} but {graph.name} needs {params[mean].shape}; the parameters belong "
                "to another network"
            )
        params[mean] = params[mean] - bias
    if not biases:
        return []
    return [
        f"{source}: holds {_listed(list(biases))}, which {graph.name} has no place for: taken out of the running means of the "
        "batch normalisations after them, which is the same function"
    ]


def _listed(names: list[str], most: int = 4) -> str:
    """Names, the first few of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more

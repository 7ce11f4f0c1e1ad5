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


#: From a name and its graph to the name in a file.
NAMINGS: dict[str, Callable[[str, Graph], str]] = {"graph": lambda name, graph: name, "mindspore": mindspore_name}


def params_from(graph: Graph, arrays: Mapping[str, Array], renamed: Mapping[str, str], source: str) -> Params:
    """The parameters of a graph, taken from a framework's file.

    Ranges of fake quantizers that the file does not have stay as if nothing had been observed.

    Args:
        graph: a float graph.
        arrays: what the file holds, by its own names.
        renamed: beginnings of names in the file, and what they are called in the graph.
        source: the file, for messages.

    Returns:
        Parameters by full name.

    Raises:
        QatError: naming the parameter that is missing, has another shape, or does not belong to the graph.
    """
    found: Params = {}
    unused = [old for old in renamed if not any(name == old or name.startswith(f"{old}.") for name in arrays)]
    if unused:
        raise QatError(f"{source}: holds no name that begins with {unused[0]!r}; correct that --rename or leave it out")
    for name, array in arrays.items():
        slot, _, parameter = name.partition(".")
        if name.rpartition(".")[2] in IGNORED or (slot in SLOTS and parameter in arrays) or name in SLOTS:
            continue
        old = next((old for old in renamed if name == old or name.startswith(f"{old}.")), None)
        given = name if old is None else renamed[old] + name.removeprefix(old)
        ours = given if given in graph.params else graph_name(given)
        if ours.rpartition(".")[0].endswith("fake_quant"):
            raise QatError(
                f"{source}: holds {name!r}, so it is of a quantized network, but {graph.name} is float; export the parameters "
                "of the float checkpoint instead"
            )
        if ours not in graph.params:
            raise QatError(
                f"{source}: holds {name!r}, which {graph.name} does not know (it has {', '.join(list(graph.params)[:4])}, "
                f"...); give --rename {name.rpartition('.')[0] or name}=<name of the cell>"
            )
        if ours in found:
            raise QatError(f"{source}: {name!r} is a second {ours!r}; rename one of them")
        advice = f"look at {shortened(name)} in it"
        with reading(source, "parameters", advice), np.errstate(all="ignore"), without_warnings():
            found[ours] = np.asarray(array, np.float32)
        if np.iscomplexobj(array) or not np.isfinite(found[ours]).all():
            raise QatError(f"{source}: {shortened(name)} holds numbers that are not finite; save the parameters anew")
    ranges = {name: a for name, a in graph.initial_params().items() if not np.isfinite(a).all()}
    params = ranges | found
    graph.check_params(params, source)
    return {name: params[name] for name in graph.params}

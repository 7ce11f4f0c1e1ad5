"""Does the imported float network compute what its source computes?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qat.cells import Input, Softmax
from qat.errors import QatError
from qat.graph import Graph, Params
from qat.imports.source import Opened
from qat.training.forward import IDLE, NodeLoop
from qat.vocabulary.arrays import Arrays, as_tuple, batches_of
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array

SAMPLES = 4  #: that are compared where nobody gives any: a difference shows in each
MOST_SAMPLES = 8  #: of those that are given
TOLERANCE = 1e-4  #: of the largest relative difference: float sums of other orders differ by 1e-6, a wrong eps by 1e-3


@dataclass(frozen=True)
class Difference:
    """How far an imported network is from its source.

    Attributes:
        absolute: The largest difference of an output, or of what a softmax at the end takes.
        relative: The largest difference of an output, divided by the largest number of that output.
        samples: How many were compared, and which, as "4 random samples".
    """

    absolute: float
    relative: float
    samples: str

    def __str__(self) -> str:
        return f"differs by {self.absolute:.2g} at most ({self.relative:.2g} of the largest output) on {self.samples}"


def compared(
    opened: Opened,
    graph: Graph,
    params: Params,
    values: Mapping[str, str],
    entries: Sequence[Input],
    images: Arrays | None = None,
    *,
    tolerance: float = TOLERANCE,
) -> Difference:
    """Run a source and the network that was made of it on the same samples.

    Args:
        opened: the source, whose program ends where the graph does.
        graph: made of it.
        params: of the graph.
        values: of each node, the value of the source that it gives.
        entries: of each input, an Input whose ``real_numbers`` are what the source takes.
        images: what the graph takes, one array for each input; None: random numbers.
        tolerance: the largest relative difference that may be.

    Returns:
        The largest differences.

    Raises:
        QatError: they differ by more, and where they part; or the source gives numbers that are not finite.
    """
    given = _random(graph) if images is None else as_tuple(images)
    checked = batches_of(tuple(x[:MOST_SAMPLES] for x in given), graph.input_specs, MOST_SAMPLES, graph.name)
    samples: tuple[Array, ...] = checked[0]
    count = len(samples[0])
    taken = tuple(cell.real_numbers(x) for cell, x in zip(entries, samples, strict=True))
    outputs = opened.program.outputs  # not the last nodes' values: an operation that has no node counts too
    logits = _logits(graph, values)
    wanted = opened.trace(taken, {*outputs, *(value for _, value in logits)})
    if unknown := [value for value in outputs if value not in wanted]:
        raise QatError(
            f"{opened.program.name}: {unknown[0]} is within an operation of the source, which does not tell its numbers; end "
            "the network elsewhere (--outputs, or outputs=)"
        )
    found = _numbers(graph, params, samples)
    worst = (0.0, 0.0)
    known = [(name, value) for name, value in logits if value in wanted]
    for name, value in (*zip(graph.outputs, outputs, strict=True), *known):
        if not np.isfinite(wanted[value]).all():
            raise QatError(
                f"{opened.program.name}: its output {value} is not finite on these samples, so that nothing can be compared; "
                "give images that it knows"
            )
        worst = max(worst, _difference(found[name], wanted[value]), key=lambda pair: pair[1])
    what = f"{count} {'random samples' if images is None else 'samples'}"
    if zero := [value for value in outputs if not wanted[value].any()]:
        what += f", where {', '.join(zero)} is 0 throughout, which proves nothing: compare on images that it knows"
    difference = Difference(*worst, what)
    if not worst[1] <= tolerance:
        raise QatError(
            f"{opened.program.name}: the imported network {difference}, but {tolerance:g} is the most that rounding explains; "
            f"{_first(opened, graph, found, values, taken, tolerance)}"
        )
    return difference


def _logits(graph: Graph, values: Mapping[str, str]) -> list[tuple[str, str]]:
    """The nodes before a softmax at the end, and their values: it gives 0 and 1 for all large numbers, which hides errors."""
    ends = [node for node in graph.nodes if node.name in graph.outputs and isinstance(node.cell, Softmax)]
    return [(node.inputs[0], values[node.inputs[0]]) for node in ends if node.inputs[0] in values]


def _first(
    opened: Opened,
    graph: Graph,
    found: dict[str, Array],
    values: Mapping[str, str],
    taken: tuple[Array, ...],
    tolerance: float,
) -> str:
    """Where they part, in words."""
    inputs = {node.name for node in graph.inputs}
    known = {name: value for name, value in values.items() if name in found and name not in inputs}
    wanted = opened.trace(taken, set(known.values()))
    for node in graph.nodes:
        value = wanted.get(known.get(node.name, ""))
        if value is None:
            continue
        absolute, relative = _difference(found[node.name], value)
        if not relative <= tolerance:
            return (
                f"the first node that differs is {node.name} ({type(node.cell).__name__}), by {absolute:.2g} ({relative:.2g}): "
                "cut the network before it (--outputs, or outputs=), and report it as an error of the import"
            )
    return "no node before the outputs differs: give a larger tolerance, or report it as an error of the import"


def _numbers(graph: Graph, params: Params, samples: tuple[Array, ...]) -> dict[str, Array]:
    """The real numbers of every node, in NumPy."""
    loop = NodeLoop(graph, NUMPY_OPS)
    context, values = loop.load(params, IDLE), loop.begin(loop.pixels(samples))
    with np.errstate(all="ignore"):
        for step in loop.steps:
            loop.advance(step, context, values)
    return {name: loop.ops.to_numpy(value.real(loop.ops), "activation") for name, value in values.items()}


def _difference(found: Array, wanted: Array) -> tuple[float, float]:
    """The largest, absolute and relative to the largest number; infinite where shapes differ, or numbers are not finite."""
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf"), float("inf")
    absolute = float(np.abs(found.astype(np.float64) - wanted).max(initial=0.0))
    largest = float(np.abs(wanted).max(initial=0.0))
    return absolute, absolute / largest if largest else absolute


def _random(graph: Graph) -> tuple[Array, ...]:
    """Samples of what each input takes: any code, or numbers of a normal distribution."""
    rng = np.random.default_rng(0)
    found = []
    for spec in graph.input_specs:
        shape = (SAMPLES, *spec.shape)
        if spec.dtype.startswith("float"):
            found.append(rng.standard_normal(shape).astype(np.float32))
        else:
            info = np.iinfo(spec.dtype)
            found.append(rng.integers(info.min, info.max + 1, shape).astype(spec.dtype))
    return tuple(found)

"""What batch normalisations are given, beside what they were trained on: do parameters meet the input that they know?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qat.analysis.ranges import Batches
from qat.cells.batch_norm import BatchNorm
from qat.cells.linear import LinearCell
from qat.graph import Graph, Node, Params
from qat.training.forward import IDLE, NodeLoop
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array, Ops

#: What is taken for wrong: the first normalisation by ``factor`` or ``shift`` on samples of the data, on which seven networks
#: that were right had at most 1.16 and 0.16; by ``factor`` on ``usual_pixels``, at most 1.48, while with a wrong normalisation
#: of the input they had 1.86 and more; and those after it by ``factor``, at most 1.49.
MEASURED, SHIFTED, USUAL, LATER = 1.5, 0.5, 1.75, 2.0
SMALL = 0.05  #: a relative change that counts
BEFORE = "before_norm"  #: the ending of a node that computes what a batch normalisation is given


@dataclass(frozen=True, eq=False)
class NormInput:
    """What one batch normalisation is given, and its running statistics, of each channel: float64, (C,).

    Attributes:
        name: its node.
        mean, std: of what it is given.
        expected_mean, expected_std: that it was trained on.
        eps: what it adds to variances, so that of a smaller one it sees little.
    """

    name: str
    mean: Array
    std: Array
    expected_mean: Array
    expected_std: Array
    eps: float

    @property
    def factor(self) -> float:
        """By how much its std is another, up or down, of the median channel; 1: not at all."""
        given, expected = (np.sqrt(x * x + self.eps) for x in (self.std, self.expected_std))
        return float(np.exp(np.median(np.abs(np.log(given / expected)))))

    @property
    def shift(self) -> float:
        """By how many of the expected stds its mean is another, of the median channel."""
        sigma = np.sqrt(self.expected_std**2 + self.eps)
        return float(np.median(np.abs(self.mean - self.expected_mean) / sigma))

    @property
    def distance(self) -> float:
        """How far it is from what is expected; 0: not at all."""
        return float(np.log(self.factor)) + self.shift


def norm_inputs(
    graph: Graph, params: Mapping[str, Array], batches: Batches, *, first: bool = False, ops: Ops = NUMPY_OPS
) -> list[NormInput]:
    """What the batch normalisations of a float network are given for some samples.

    Args:
        graph: the float network.
        params: its parameters.
        batches: of samples.
        first: only those before which there is no other one: nothing but the input decides what they are given.
        ops: the vocabulary that computes.

    Returns:
        One for each, in the order of the nodes; none where there is no batch normalisation.
    """
    norms = _norms(graph, first)
    if not norms:
        return []
    probed, own = _probed(graph, params, norms)
    loop = NodeLoop(probed, ops)
    context = loop.load(own, IDLE)
    count = 0
    shapes = [params[f"{node.cell_name}.moving_mean"].shape for node in norms]
    sums = [(np.zeros(shape), np.zeros(shape)) for shape in shapes]
    for batch in batches:
        with np.errstate(all="ignore"):
            outputs = loop.run(context, loop.pixels(batch))
        count += len(batch[0])
        for (total, squares), output in zip(sums, outputs, strict=True):
            array = ops.to_numpy(output, "activation").astype(np.float64)
            axes = tuple(axis for axis in range(array.ndim) if axis != 1)
            total += array.mean(axes) * len(array)
            squares += (array * array).mean(axes) * len(array)
    found = []
    for node, (total, squares) in zip(norms, sums, strict=True):
        cell: Any = node.cell
        mean = total / count
        running, variance = (
            params[f"{node.cell_name}.{name}"].astype(np.float64) for name in ("moving_mean", "moving_variance")
        )
        std, expected = (np.sqrt(np.maximum(x, 0.0)) for x in (squares / count - mean * mean, variance))
        found.append(NormInput(node.name, mean, std, running, expected, cell.eps))
    return found


def off(norms: Sequence[NormInput], *, measured: bool) -> NormInput | None:
    """The first batch normalisation that is given something else than what it was trained on; None: all agree.

    Args:
        norms: in the order of the nodes.
        measured: whether the samples are of the data; else they are ``usual_pixels``.

    Returns:
        One of them.
    """
    for position, norm in enumerate(norms):
        if not norm.expected_mean.any() and (norm.expected_std == 1.0).all():
            continue  # it has never been trained
        if not measured:
            wrong = norm.factor > USUAL
        elif position == 0:
            wrong = norm.factor > MEASURED or norm.shift > SHIFTED
        else:
            wrong = norm.factor > LATER
        if wrong:
            return norm
    return None


def fitting(
    candidates: Mapping[str, Graph], params: Mapping[str, Array], batches: Batches, *, than: NormInput
) -> str | None:
    """Which of some networks, that differ in the normalisation of their input, gives a first batch normalisation what it was
    trained on.

    Args:
        candidates: by name.
        params: of all of them.
        batches: of samples.
        than: what the network itself gives it.

    Returns:
        The name of the best; None where it is not much better.
    """
    found = {}
    for name, graph in candidates.items():
        norms = {norm.name: norm for norm in norm_inputs(graph, params, batches, first=True)}
        found[name] = norms[than.name].distance
    best = min(found, key=found.__getitem__, default=None)
    return None if best is None or found[best] > than.distance / 2 else best


def small_variances(graph: Graph, params: Mapping[str, Array], eps: float) -> tuple[int, int]:
    """How many channels another ``eps`` of batch normalisation would change by more than 5 %, and of how many.

    Args:
        graph: the float network.
        params: its parameters.
        eps: the other one.

    Returns:
        Both numbers.
    """
    small = count = 0
    for node in _norms(graph, first=False):
        cell: Any = node.cell
        variance = params[f"{node.cell_name}.moving_variance"].astype(np.float64)
        change = np.sqrt((variance + max(eps, cell.eps)) / (variance + min(eps, cell.eps)))
        small += int((change > 1.0 + SMALL).sum())
        count += len(variance)
    return small, count


def _norms(graph: Graph, first: bool) -> list[Node]:
    """The nodes with a batch normalisation; first: those that come after no other one."""
    behind: set[str] = set()
    found = []
    for node in graph.nodes:
        after = any(name in behind for name in node.inputs)
        normed = isinstance(node.cell, LinearCell) and node.cell.has_bn
        if normed and not (first and after):
            found.append(node)
        if normed or after:
            behind.add(node.name)
    return found


def _probed(graph: Graph, params: Mapping[str, Array], norms: list[Node]) -> tuple[Graph, Params]:
    """The graph whose outputs are what these normalisations are given, and its parameters."""
    wanted, own, outputs = {node.name for node in norms}, dict(params), []
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes.append(node)
        cell: Any = node.cell
        if node.name not in wanted:
            continue
        if isinstance(cell, BatchNorm):
            outputs.append(node.inputs[0])
            continue
        name = f"{node.name}.{BEFORE}"
        nodes.append(Node(name, replace(cell, has_bn=False, activation=None), node.inputs, name))
        own |= {f"{name}.{local}": params[f"{node.cell_name}.{local}"] for local in nodes[-1].cell.params()}
        outputs.append(name)
    needed = set(outputs)
    for node in reversed(nodes):
        needed |= set(node.inputs) if node.name in needed else set()
    kept = tuple(node for node in nodes if node.name in needed or not node.inputs)
    return replace(graph, nodes=kept, outputs=tuple(outputs)), own


def usual_pixels(shape: tuple[int, ...], count: int = 16, seed: int = 0) -> Array:
    """Pixels whose statistics are about those of photographs, where there are none: uint8 (count, *shape).

    Their spectrum falls as 1 / f (Field, "Relations between the statistics of natural images", 1987), their channels differ
    little, and their mean and contrast vary from one to another.

    Args:
        shape: (C, H, W) of one; of any other shape all axes are places.
        count: how many.
        seed: of their random numbers.

    Returns:
        The pixels.
    """
    rng = np.random.default_rng(seed)
    places = shape[1:] if len(shape) == 3 else shape
    frequencies = np.meshgrid(*(np.fft.fftfreq(size) * size for size in places), indexing="ij")
    distance = np.sqrt(sum(each * each for each in frequencies))
    amplitude = 1.0 / np.maximum(distance, 1.0) ** (len(places) / 2)
    amplitude[(0,) * len(places)] = 0.0

    def field(channels: int) -> Array:
        axes = tuple(range(2, 2 + len(places)))
        spectrum = np.fft.fftn(rng.normal(size=(count, channels, *places)), axes=axes) * amplitude
        real = np.fft.ifftn(spectrum, axes=axes).real
        scaled: Array = real / np.maximum(real.std(axes, keepdims=True), 1e-12)
        return scaled

    each = (count, 1, *(1,) * len(places))
    grey = field(1) * 0.97 + field(shape[0] if len(shape) == 3 else 1) * 0.25
    pixels = rng.normal(0.46, 0.12, each) + grey * rng.uniform(0.15, 0.3, each)
    rounded: Array = np.rint(255.0 * np.clip(pixels, 0.0, 1.0)).astype(np.uint8).reshape(count, *shape)
    return rounded

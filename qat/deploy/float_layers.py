"""Verification of networks with layers that are left in float: what such layers give is compared within a tolerance, and all
codes with those that NumPy's integers give from there on.

A float layer's sums differ in their last bits from engine to engine, and a sum beside the boundary of two codes then becomes
another code. So the reference follows each engine: from the codes that an engine had before a float layer it computes that
layer, and from those behind the layer what follows. Each part of the network is compared by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from qat.deploy.certificate import FloatNumbers
from qat.deploy.engine import Engine
from qat.errors import QatError
from qat.integer import FloatLayer, IntegerGraph, IntegerNode, IntegerQuantize, trace_codes
from qat.integer.float_layer import TOLERANCE
from qat.vocabulary.arrays import Arrays, as_arrays, as_tuple
from qat.vocabulary.ops import Array

#: Samples at once. Engines that compute 1000, 100 or fewer in a batch compute the same batches as when only codes are wanted.
AT_ONCE = 1000


@dataclass(frozen=True)
class Followed:
    """An engine against the reference that has the engine's own codes behind float layers.

    Attributes:
        outputs: of the engine, one array each, (N, ...): codes, or real numbers of what is left in float.
        codes: how many codes of one sample are compared for equality.
        differ: of each sample, how many of them differ, (N,).
        largest: the largest difference of two codes.
        numbers: how many numbers of one sample are compared within the tolerance.
        beyond: of each sample, how many of them are further off, (N,).
        error: the largest difference, as a share of the largest number of its layer.
    """

    outputs: tuple[Array, ...]
    codes: int
    differ: Array
    largest: int
    numbers: int
    beyond: Array
    error: float

    @property
    def figures(self) -> FloatNumbers:
        """What is compared within the tolerance, of all samples."""
        return FloatNumbers(TOLERANCE, self.numbers * len(self.beyond), int(self.beyond.sum()), self.error)


def follow(engine: Engine, graph: IntegerGraph, samples: Arrays) -> Followed:
    """Run an engine, and the reference behind it.

    Compared for equality are the outputs, and the codes that enter float layers; within the tolerance what these give, where it
    becomes codes or is an output.

    Args:
        engine: what computes codes.
        graph: the integers, with layers that are left in float.
        samples: what the network takes, (N, ...).

    Raises:
        QatError: the engine does not have the codes of this graph.
    """
    parts = [_part(engine, graph, some) for some in _in_parts(samples)]
    return Followed(
        outputs=tuple(np.concatenate(each) for each in zip(*(part.outputs for part in parts), strict=True)),
        codes=parts[0].codes,
        differ=np.concatenate([part.differ for part in parts]),
        largest=max(part.largest for part in parts),
        numbers=parts[0].numbers,
        beyond=np.concatenate([part.beyond for part in parts]),
        error=max(part.error for part in parts),
    )


def _in_parts(samples: Arrays) -> Iterator[Arrays]:
    every = as_tuple(samples)
    for start in range(0, len(every[0]), AT_ONCE):
        yield as_arrays(tuple(x[start : start + AT_ONCE] for x in every))


def _part(engine: Engine, graph: IntegerGraph, samples: Arrays) -> Followed:
    """As ``follow``, of samples that are computed at once."""
    outputs = engine.codes(samples)
    ends = {x.name for x in graph.outputs} | _entering_floats(graph)
    nodes = [node for node in graph.nodes if node.name in ends or isinstance(node, IntegerQuantize)]
    found = dict(engine.trace(samples, [node.output for node in nodes if not node.output.grid.real]))
    found |= {x.name: codes for x, codes in zip(graph.outputs, outputs, strict=True)}
    missing = [node.name for node in nodes if node.name not in found]
    if missing:
        raise QatError(
            f"{engine.name}: has no codes named {missing[0]}, so it was not exported from this checkpoint; give --ckpt_path "
            "that one, or export again"
        )
    own = reference_behind(graph, samples, engine.arithmetic, found)
    count = len(outputs[0])
    apart, errors = np.zeros((count, 0), np.int64), np.zeros((count, 0))
    for node in nodes:
        error = error_of(node, found[node.name], own)
        if error is not None:
            errors = np.concatenate([errors, error.reshape(count, -1)], axis=1)
        else:
            difference = np.abs(found[node.name].astype(np.int64) - own[node.name])
            apart = np.concatenate([apart, difference.reshape(count, -1)], axis=1)
    return Followed(
        outputs=outputs,
        codes=apart.shape[1],
        differ=np.count_nonzero(apart, axis=1),
        largest=int(apart.max(initial=0)),
        numbers=errors.shape[1],
        beyond=np.count_nonzero(is_beyond(errors), axis=1),
        error=float(errors.max(initial=0.0)),
    )


def _entering_floats(graph: IntegerGraph) -> set[str]:
    """The codes that float layers take, but those of inputs, which a file need not give back."""
    taken = {x.name for node in graph.nodes if isinstance(node, FloatLayer) for x in node.inputs if not x.grid.real}
    return taken - {x.name for x in graph.inputs}


def reference_behind(
    graph: IntegerGraph, samples: Arrays, arithmetic: str, found: Mapping[str, Array]
) -> dict[str, Array]:
    """NumPy's numbers of every node, by name: in and behind float layers from the codes that an engine had there.

    Args:
        graph: the integers.
        samples: what the network takes, (N, ...).
        arithmetic: "float" or "fixed".
        found: the engine's codes, by name.
    """
    leaving = {node.name for node in graph.nodes if isinstance(node, IntegerQuantize)}
    given = {name: found[name] for name in leaving | _entering_floats(graph)}
    names = [node.name for node in graph.nodes]
    return trace_codes(graph, samples, names, arithmetic=arithmetic, given=given)


def error_of(node: IntegerNode, found: Array, own: Mapping[str, Array]) -> Array | None:
    """How far an engine's codes or real numbers of a node are off, as a share of the largest number of the float layer that
    gives them; None of other codes, which are equal or wrong.

    Args:
        node: the node.
        found: what the engine has there, (N, ...).
        own: NumPy's numbers, by name, of that node and the one before.
    """
    if isinstance(node, IntegerQuantize):
        real = own[node.inputs[0].name].astype(np.float64)
        off = node.error(real, found.astype(np.int64) - node.output.grid.zero_point)
    elif node.output.grid.real:
        real = own[node.name].astype(np.float64)
        off = np.abs(found - real)
    else:
        return None
    return as_share(off, real)


def as_share(off: Array, real: Array) -> Array:
    """Differences as shares of the largest of the numbers themselves."""
    share: Array = off / max(float(np.abs(real).max(initial=0.0)), float(np.finfo(np.float32).tiny))
    return share


def is_beyond(error: Array) -> Array:
    """Which numbers are further off than the tolerance, or are none."""
    beyond: Array = ~(error <= TOLERANCE)
    return beyond

"""Where the activations of an integer graph lie in memory, so that those share bytes that are never needed together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from qat.integer import IntegerGraph

ALIGNMENT = 4  #: bytes; an int32, and what a word-wise load of codes wants


@dataclass(frozen=True)
class Buffer:
    """Bytes that are needed from step ``first`` to step ``last``, both included.

    Attributes:
        name: unique.
        size: in bytes, at least 1.
        first: the step that writes it.
        last: the last step that reads it.
    """

    name: str
    size: int
    first: int
    last: int

    def meets(self, other: Buffer) -> bool:
        """True where both are needed in some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class MemoryPlan:
    """Where buffers lie in one arena.

    Attributes:
        offsets: of each buffer by name, in bytes.
        size: of the arena, in bytes.
    """

    offsets: Mapping[str, int]
    size: int


def plan_memory(buffers: Sequence[Buffer], alignment: int = ALIGNMENT) -> MemoryPlan:
    """Offsets at multiples of ``alignment`` where no two buffers overlap that are needed in one step.

    Greedy by size: the largest buffer first, each at the lowest place that is free throughout its life (Pisarchyk and Lee,
    "Efficient Memory Management for Deep Neural Net Inference", arXiv 2001.03288). The arena is never larger
    than all buffers one after another, and never smaller than what any one step needs.

    Args:
        buffers: what is needed when; names are unique.
        alignment: bytes; every offset is a multiple of it.

    Returns:
        The offsets by name, and the size of the arena, in bytes.
    """
    placed: list[tuple[int, int, Buffer]] = []  # begin, end
    for buffer in sorted(buffers, key=lambda b: (-b.size, b.first, b.name)):
        length = -(-buffer.size // alignment) * alignment
        begin = 0
        for other_begin, other_end, other in sorted(placed, key=lambda p: p[0]):
            if not other.meets(buffer):
                continue
            if other_begin - begin >= length:
                break
            begin = max(begin, other_end)
        placed.append((begin, begin + length, buffer))
    offsets = {buffer.name: begin for begin, _, buffer in placed}
    return MemoryPlan(offsets, max((end for _, end, _ in placed), default=0))


def renamed_sources(graph: IntegerGraph) -> dict[str, str]:
    """For each node that only renames codes, such as a Flatten, the tensor that holds them.

    Args:
        graph: the integer graph.

    Returns:
        By the node's name, the name of the tensor at the start of its chain of such nodes.
    """
    sources: dict[str, str] = {}
    for node in graph.nodes:
        if node.renames:
            source = node.inputs[0].name
            sources[node.name] = sources.get(source, source)
    return sources


def activation_buffers(graph: IntegerGraph, aliases: Mapping[str, str]) -> dict[str, Buffer]:
    """One byte for each code of every tensor, two where it has more than 8 bits, from the node that makes it to the last
    that reads it; outputs to the end. Step i is the i-th node of the graph.

    Args:
        graph: the integer graph.
        aliases: by the name of a tensor that lies where another does, that other one's name.

    Returns:
        By the tensor's name, its buffer; tensors among ``aliases`` have none.
    """
    first = {node.name: step for step, node in enumerate(graph.nodes)}
    size = {node.name: prod(node.output.shape) * np.dtype(node.output.grid.dtype).itemsize for node in graph.nodes}
    last = dict(first)
    for step, node in enumerate(graph.nodes):
        for x in node.inputs:
            last[aliases.get(x.name, x.name)] = step
        if node.name in aliases:
            last[aliases[node.name]] = step
    for x in graph.outputs:
        last[aliases.get(x.name, x.name)] = len(graph.nodes)
    return {name: Buffer(name, size[name], first[name], last[name]) for name in first if name not in aliases}


def activation_memory(graph: IntegerGraph) -> MemoryPlan:
    """The plan of all activations, the inputs among them: its size is the memory that evaluating one sample needs at least.

    A target has its own figure: a file of C (``arena_bytes`` of that target) needs scratch memory besides, and leaves out
    images that lie in the caller's memory.

    Args:
        graph: the integer graph.

    Returns:
        Offsets and size of the arena, in bytes.
    """
    return plan_memory(list(activation_buffers(graph, renamed_sources(graph)).values()))

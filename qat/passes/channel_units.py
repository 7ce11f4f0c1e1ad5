"""Which channels of a graph belong together: one number for all that cannot be treated one without the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qat.cells.facts import OutputChannels
from qat.graph import Graph, Node
from qat.vocabulary.ops import Array


class DisjointSets:
    """Disjoint sets of numbers (union-find)."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def find(self, x: int) -> int:
        """The number that stands for the set of x."""
        while self._parent[x] != x:
            self._parent[x] = self._parent[self._parent[x]]
            x = self._parent[x]
        return x

    def join(self, x: int, y: int) -> None:
        """Make one set of two."""
        x, y = sorted((self.find(x), self.find(y)))
        self._parent[y] = x


class ChannelUnits:
    """Every output channel of every node has a number; a set of numbers that belong together is a unit.

    1. "kept": channel i of each input and the output channels that are made of it;
    2. "joined": each input channel and the output channel that it becomes;
    3. "grouped": the channels at one place in every group, of the input and likewise of the output;
    4. "new": nothing is joined;
    5. "fixed": the same, and these channels, and those that enter, are fixed, as those of the network's outputs are;
    6. a cell with numbers of single channels that is used twice: the channels at one place in each use.

    Args:
        graph: the graph.
        how: how a node lets channels pass; by default what its cell states.

    Attributes:
        count: how many numbers there are.
    """

    def __init__(
        self, graph: Graph, how: Callable[[Node], OutputChannels] = lambda node: node.cell.output_channels
    ) -> None:
        self._channels: dict[str, Array] = {}
        self.count = sum(shape[0] for shape in graph.shapes.values())
        self._sets = DisjointSets(self.count)
        self._fixed: list[Array] = []
        start = 0
        uses: dict[str, Node] = {}
        for node in graph.nodes:
            width = graph.shapes[node.name][0]
            own = self._channels[node.name] = np.arange(start, start + width)
            start += width
            self._node(node.cell, how(node), own, [self._channels[name] for name in node.inputs])
            if node.cell.of_channels:
                first = uses.setdefault(node.cell_name, node)
                for mine, others in zip((node.name, *node.inputs), (first.name, *first.inputs), strict=True):
                    self._tie(self._channels[mine], self._channels[others])
        for name in graph.outputs:
            self.fix(name)

    def of(self, name: str) -> Array:
        """The units of a node's output channels, (C,)."""
        return np.array([self._sets.find(int(x)) for x in self._channels[name]])

    def fix(self, name: str) -> None:
        """Let the output channels of a node stay as they are."""
        self._fixed.append(self._channels[name])

    def fixed(self) -> set[int]:
        """The units that stay as they are."""
        return {self._sets.find(int(x)) for channels in self._fixed for x in channels}

    def _tie(self, a: Array, b: Array) -> None:
        for x, y in zip(map(int, a), map(int, b), strict=True):
            self._sets.join(x, y)

    def _tie_groups(self, channels: Array, group: int) -> None:
        rows = channels.reshape(group, -1)
        for row in rows[1:]:
            self._tie(rows[0], row)

    def _node(self, cell: Any, how: OutputChannels, own: Array, inputs: list[Array]) -> None:
        if how == "kept":
            for source in inputs:
                self._tie(own, np.repeat(source, len(own) // len(source)))
        elif how == "joined":
            self._tie(own, np.concatenate(inputs))
        elif how == "grouped":
            self._tie_groups(own, cell.group)
            self._tie_groups(inputs[0], cell.group)
        elif how == "fixed":
            self._fixed += [own, *inputs]

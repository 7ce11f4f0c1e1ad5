"""How an integer graph is built, node by node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from qat.integer.grid import Grid, IntegerTensor
from qat.integer.node import Adjustments, IntegerNode, Pending
from qat.integer.table import Function
from qat.vocabulary.ops import Array


class IntegerBuilder:
    """Collects the nodes of an integer graph in order.

    A sum whose output's scale does not suit it adds to ``wanted``: then the graph must be built anew with these
    adjustments, since other nodes may share that scale.

    Attributes:
        params: parameters of the whole network, by full name.
        adjustments: changes of scales that are made.
        cell_name: of the cell whose integer form is being derived, which several nodes may have; "": it is that of the node.
        nodes: the nodes so far.
        wanted: changes of scales that are still to be made.
    """

    def __init__(self, params: Mapping[str, Array], adjustments: Adjustments) -> None:
        self.params, self.adjustments = params, adjustments
        self.nodes: list[IntegerNode] = []
        self.wanted = Adjustments()
        self.cell_name = ""
        self._nudges: Counter[tuple[str, str]] = Counter()  # by cell and group

    def quantize(self, x: Pending, grid: Grid, group: str, *, keep_scale: bool = False) -> IntegerTensor:
        """Append the finished form of ``x``; returns the tensor that it makes.

        Args:
            x: the output that has no codes yet.
            grid: the grid that the fake quantizer has learned, before adjustments.
            group: one name for all fake quantizers that share the grid.
            keep_scale: the scale is a power of two and has to stay one, so that ties remain; where every scale is one,
                sums are exact in float32 and rint is the only rounding.
        """
        scale = np.float32(grid.scale * np.float32(1.0 + 2.0**-16 * self.adjustments.nudges[group]))
        grid = grid._replace(scale=max(scale, self.adjustments.floors.get(group, scale)))
        wanted = Adjustments(groups=self.wanted.groups)
        x.adjust(grid, group, wanted, keep_scale=keep_scale)
        self.wanted.floors |= wanted.floors
        # Steps of a recurrence want the same: once, so that a single step gets the scale that many get.
        for which, nudges in wanted.nudges.items():
            known = self.cell_name or x.name, which
            more = max(nudges - self._nudges[known], 0)
            self._nudges[known] += more
            if more:
                self.wanted.nudges[which] += more
        tensor = self.add_finished(x, x.requantized(grid))
        if not keep_scale:
            self.wanted.groups[tensor.name] = group
        return tensor

    def add_finished(self, x: Pending, node: IntegerNode) -> IntegerTensor:
        """Append the finished form of what was pending; returns the tensor that it makes."""
        return [self.add(each) for each in x.nodes_of(node)][-1]

    def add(self, node: IntegerNode) -> IntegerTensor:
        """Append a node; returns the tensor that it makes. Raises QatError where accumulators may overflow."""
        node.check_range()
        self.nodes.append(node)
        groups = self.wanted.groups
        for given in node.inputs[:1]:  # what only moves codes leaves them on their grid
            if given.grid == node.output.grid and given.name in groups:
                groups[node.output.name] = groups[given.name]
        return node.output


def by_sign(builder: IntegerBuilder, name: str, x: IntegerTensor | Pending, scale: np.float32) -> Function:
    """-scale where x is negative, else scale: a table over the codes -1, 0 and 1.

    No clip of rounded numbers alone can do that, since 0 would have to become a code that nothing is rounded to.
    """
    if isinstance(x, Function):  # of codes, a table already
        return replace(x, function=lambda real: np.where(x.function(real) < 0.0, -scale, scale))
    codes = builder.add_finished(x, x.clipped()) if isinstance(x, Pending) else x
    return Function(name, codes, lambda real: np.where(real < 0.0, -scale, scale))

"""How an integer graph is built, node by node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from qat.errors import QatError
from qat.integer.add import Sum
from qat.integer.fixed_point import ADD_SHIFT, LONG_ADD_SHIFT
from qat.integer.grid import Grid, IntegerTensor
from qat.integer.linear import EXACT_LONG, INT32, INT32_MAX, IntegerLinear
from qat.integer.node import Adjustments, IntegerNode, Pending
from qat.integer.table import Function
from qat.vocabulary.ops import Array


class IntegerBuilder:
    """Collects the nodes of an integer graph in order.

    params: of the whole network, by full name. adjustments: of scales. A sum that finds its output's scale unsuitable
    adds to ``wanted``: then the graph must be built anew with these, since others may share that scale.
    """

    def __init__(self, params: Mapping[str, Array], adjustments: Adjustments) -> None:
        self.params, self.adjustments = params, adjustments
        self.nodes: list[IntegerNode] = []
        self.wanted = Adjustments()

    def quantize(self, x: Pending, grid: Grid, group: str, *, keep_scale: bool = False) -> IntegerTensor:
        """Append the finished form of ``x``; ``group``: one name for all fake quantizers that share the grid.

        keep_scale: the scale is a power of two and has to stay one, so that ties remain; where every scale is one, sums
        are exact in float32 and rint is the only rounding.
        """
        scale = np.float32(grid.scale * np.float32(1.0 + 2.0**-16 * self.adjustments.nudges[group]))
        grid = grid._replace(scale=max(scale, self.adjustments.floors.get(group, scale)))
        if isinstance(x, Sum):
            # ONNX Runtime converts a sum to int32 before it clips, and TFLite shifts one by 20 bits, or 15: a dead
            # output's scale must not make them overflow.
            wide = grid.wide or x.inputs[0].grid.wide
            smallest = np.float32(
                x.inputs[0].grid.scale * np.float32(2.0 ** (2 - (LONG_ADD_SHIFT if wide else ADD_SHIFT)))
            )
            if grid.scale < smallest:
                self.wanted.floors[group] = smallest
            elif not keep_scale and not wide and x.ties(grid):  # among so many sums some always are next to a tie
                self.wanted.nudges[group] += 1
        return self.add(x.requantized(grid))

    def add(self, node: IntegerNode) -> IntegerTensor:
        """Append a node; returns the tensor that it makes. Raises QatError where its accumulators may overflow."""
        if isinstance(node, IntegerLinear):
            limit, holder = (EXACT_LONG, "what float64 adds exactly") if node.wide_codes else (INT32_MAX, INT32)
            if node.accumulator_bound > limit:
                raise QatError(
                    f"{node.name}: its accumulator may reach {node.accumulator_bound}, beyond {holder}; use fewer bits or "
                    "fewer inputs"
                )
        self.nodes.append(node)
        return node.output


def by_sign(builder: IntegerBuilder, name: str, x: IntegerTensor | Pending, scale: np.float32) -> Function:
    """-scale where x is negative, else scale: a table over the codes -1, 0 and 1.

    No clip of rounded numbers alone can do that, since 0 would have to become a code that nothing is rounded to.
    """
    if isinstance(x, Function):  # of codes, a table already
        return replace(x, function=lambda real: np.where(x.function(real) < 0.0, -scale, scale))
    codes = builder.add(x.clipped()) if isinstance(x, Pending) else x
    return Function(name, codes, lambda real: np.where(real < 0.0, -scale, scale))

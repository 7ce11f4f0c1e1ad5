"""The integer graph: what is deployed.

Every number in it was derived once, in NumPy, from the trained parameters. All targets export it, and evaluating it on
a backend runs only convolution, addition, multiplication, rint and clip, which are equal everywhere (docs/numerics.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qat.errors import QatError
from qat.integer.entry import IntegerInput
from qat.integer.float_layer import FloatLayer, IntegerQuantize
from qat.integer.grid import IntegerTensor
from qat.integer.node import IntegerNode
from qat.tables import counted
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.listing import Listed, Listing, Row, dimensions


@dataclass(frozen=True, eq=False)
class IntegerGraph(Listed):
    """The integers of a trained network: what every target exports.

    Attributes:
        nodes: in order of evaluation; only such as an output needs, and the inputs.
        inputs: the tensors that enter, in the order of the network's inputs.
        outputs: the tensors that leave, in the order of the network's outputs.
        name: of the network.
        arithmetic: how sums become codes where it was trained and is evaluated, "float" or "fixed"; default "float".
    """

    nodes: tuple[IntegerNode, ...]
    inputs: tuple[IntegerTensor, ...]
    outputs: tuple[IntegerTensor, ...]
    name: str = "network"
    arithmetic: str = "float"

    @property
    def _listing(self) -> Listing:
        rows = []
        for node in self.nodes:
            name, shape, grid = node.output
            codes = ("real numbers", "") if grid.real else (f"{grid.qmin} to {grid.qmax}", f"{float(grid.scale):.4g}")
            rows.append(
                Row((name, type(node).__name__, ", ".join(x.name for x in node.inputs), dimensions(shape), *codes))
            )
        return Listing(repr(self), ("tensor", "node", "inputs", "shape", "codes", "scale"), tuple(rows))

    def __repr__(self) -> str:
        shapes = " and ".join(dimensions(x.shape) for x in self.inputs)
        return f"IntegerGraph of {self.name}, {counted(len(self.nodes), 'node')}, input {shapes}, {self.arithmetic} arithmetic"

    @property
    def entries(self) -> tuple[IntegerInput, ...]:
        """Where the arrays enter, in the order of the network's inputs."""
        nodes = {node.name: node for node in self.nodes if isinstance(node, IntegerInput)}
        return tuple(nodes[x.name] for x in self.inputs)

    @property
    def float_layers(self) -> tuple[str, ...]:
        """The nodes that are left in float, behind which codes are not equal everywhere."""
        return tuple(node.name for node in self.nodes if isinstance(node, FloatLayer))

    @property
    def without_float_layers(self) -> IntegerGraph:
        """The integers alone, with inputs where float layers give codes, and outputs where they take some: to count what is
        theirs.
        """
        nodes = {
            node.name: IntegerInput(node.name, (), node.output, np.dtype(node.output.grid.dtype).name)
            if isinstance(node, IntegerQuantize)
            else node
            for node in self.nodes
            if not node.output.grid.real
        }
        entering = {x.name: x for node in self.nodes if isinstance(node, FloatLayer) for x in node.inputs}
        leaving = {x.name: x for x in (*self.outputs, *entering.values()) if not x.grid.real}
        inputs = tuple(node.output for node in nodes.values() if isinstance(node, IntegerInput))
        return IntegerGraph(tuple(nodes.values()), inputs, tuple(leaving.values()), self.name, self.arithmetic)

    @property
    def input_specs(self) -> tuple[ArraySpec, ...]:
        """Shape and dtype of the arrays that enter, in the order of the network's inputs."""
        return tuple(node.spec for node in self.entries)

    @property
    def input(self) -> IntegerTensor:
        """The input of a network that has one. Raises QatError where it has several."""
        return self._only(self.inputs, "inputs")

    @property
    def output(self) -> IntegerTensor:
        """The output of a network that has one. Raises QatError where it has several."""
        return self._only(self.outputs, "outputs")

    def _only(self, tensors: tuple[IntegerTensor, ...], what: str) -> IntegerTensor:
        if len(tensors) != 1:
            raise QatError(f"{self.name} has {len(tensors)} {what}, not one: use its {what}")
        return tensors[0]


def require_integers(graph: object) -> None:
    """Raise QatError unless this is an integer graph, as ``to_integer`` makes them."""
    if not isinstance(graph, IntegerGraph):
        raise QatError(
            f"{getattr(graph, 'name', type(graph).__name__)}: is a {type(graph).__name__}, not the integers of one; give "
            "qat.to_integer(network, params)"
        )

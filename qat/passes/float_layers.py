"""Layers that are left in float: which nodes of a network they are, and what they are in the integer graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from qat.cells.base import Context, Scope
from qat.cells.dequantize import Dequantize
from qat.cells.linear import LinearCell, WeightedCell
from qat.cells.weight_codes import MASK
from qat.errors import QatError
from qat.graph import Graph, Node
from qat.integer import FloatLayer, IntegerTensor
from qat.passes.fold_batch_norm import folded
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array, Ops, Tensor
from qat.vocabulary.values import Value


def may_stay_float(node: Node) -> bool:
    """Whether a node of a float network can be chosen to be left in float: one that computes something."""
    return node.cell.wants_quantizer or (node.cell.output_numbers == "coded" and bool(node.inputs))


def left_in_float(graph: Graph, chosen: Collection[str]) -> frozenset[str]:
    """The nodes whose outputs stay real numbers when the chosen ones are computed in float.

    1. A chosen node's output stays one where nothing but chosen nodes takes it, directly or through cells that only move
       numbers; else a fake quantizer comes after it, as after any other.
    2. So does that of a cell that only moves numbers, as a max pooling, between them.
    3. So do outputs of the network.

    Args:
        graph: a float network.
        chosen: names of nodes of it.

    Returns:
        Names of nodes, most of them chosen ones.
    """
    coded: set[str] = set()  # whose output something takes as codes
    for node in reversed(graph.nodes):
        if node.name not in chosen and (node.name in coded or not node.cell.keeps_grid):
            coded.update(node.inputs)
    real: set[str] = set()
    for node in graph.nodes:
        moved = node.cell.keeps_grid and not real.isdisjoint(node.inputs)
        if (node.name in chosen and node.name not in coded) or moved:
            real.add(node.name)
    return frozenset(real)


def dequantized(source: str) -> Node:
    """The real numbers of the named node's codes."""
    name = f"{source.removesuffix('.fake_quant')}.dequantize"
    return Node(name, Dequantize(), (source,), name)


def with_real_inputs(node: Node, real: Collection[str], known: dict[str, str]) -> list[Node]:
    """A node that is left in float, behind a Dequantize for each of its inputs that is codes.

    Args:
        node: whose inputs are named as in the quantized network.
        real: names of nodes whose outputs are real numbers.
        known: the Dequantize of each node that has one, to which those that are made are added.
    """
    made = []
    for name in node.inputs:
        if name not in real and name not in known:
            made.append(dequantized(name))
            known[name] = made[-1].name
    return [*made, replace(node, inputs=tuple(name if name in real else known[name] for name in node.inputs))]


def float_layer(graph: Graph, node: Node, params: Mapping[str, Array], inputs: tuple[IntegerTensor, ...]) -> FloatLayer:
    """The integer graph's node of one that is left in float.

    Args:
        graph: the quantized network.
        node: of it.
        params: of the node's cell, canonical, by local name.
        inputs: codes, or real numbers of other such layers.

    Raises:
        QatError: the cell's weight is quantized all the same.
    """
    cell, own = node.cell, dict(params)
    if isinstance(cell, LinearCell) and cell.weight_quantizer is not None:
        raise QatError(
            f"{node.name}: its weight has a quantizer, but its input {node.inputs[0]} is left in float and none comes between "
            "them; keep after_fake=True on the cells before it"
        )
    if isinstance(cell, WeightedCell):
        cell, own = _plain(cell, own)
    if isinstance(cell, LinearCell) and cell.has_bn:
        cell, own = folded(cell, own, graph.shapes[node.name])
    shapes = tuple(graph.shapes[name] for name in node.inputs)

    def compute(ops: Ops, tensors: Mapping[str, Tensor], *real: Tensor) -> Tensor:
        context = Context(ops, tensors, training=False, phase=0, updates={})
        scope = Scope(context, "", tuple(tensors), shapes)
        return cell.forward(scope, *map(Value, real)).real(ops)

    arrays = {local: (own[local], param.kind) for local, param in cell.params().items()}
    return FloatLayer.of(node.name, inputs, graph.shapes[node.name], compute, arrays)


def _plain(cell: WeightedCell, params: Mapping[str, Array]) -> tuple[WeightedCell, dict[str, Array]]:
    """The same function without a pruner, and over an input as it is: cell and parameters."""
    own = cell._complete(NUMPY_OPS, dict(params))
    own = {**own, "weight": cell.as_stored(own["weight"])}
    own.pop(MASK, None)
    further = 0 if cell.input_normalization is None else cell.input_normalization.further
    plain = replace(cell, in_channels=cell.in_channels + further, has_bias="bias" in own)
    return replace(plain, pruner=None, input_normalization=None), own

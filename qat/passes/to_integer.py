"""From a trained quantization-aware graph to the integer graph that is deployed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from qat.cells.dequantize import Dequantize
from qat.errors import QatError
from qat.graph import Graph, Network, as_graph
from qat.integer import Adjustments, IntegerBuilder, IntegerGraph, IntegerNode, IntegerTensor
from qat.passes.float_layers import float_layer
from qat.passes.unlike_ranges import warn_of_unlike_ranges
from qat.vocabulary.ops import Array

MOST_ROUNDS = 100  #: of adjusting scales; a few are usual
MOST_TOGETHER = 20  #: rounds in which all scales give way that are to


def to_integer(network: Network | Graph, params: Mapping[str, Array]) -> IntegerGraph:
    """Derive every integer and multiplier once, in NumPy; each cell gives its own integer form.

    Where the sums of an addition would be ties, which runtimes round either way, the output's scale gives way by a few
    hundredths of a per mille; its other users follow.

    Args:
        network: a quantized network, or its graph.
        params: its parameters and state by full name, float32 and finite.

    A QatWarning says where a Concat puts unlike ranges on one grid, of which little is left of the smaller one.

    Returns:
        The integers of deployment: what every target exports and ``qat.evaluate`` computes.

    Raises:
        QatError: the network is a float one, a quantizer has never seen data, a parameter is not finite or missing, scales
            that give way to one another come to no end, or the network's arithmetic is "fixed", which cannot compute it.

    >>> import numpy as np
    >>> import qat
    >>> from qat.networks import LeNet5
    >>> network = LeNet5()
    >>> images = np.random.default_rng(0).integers(0, 256, (8, 1, 32, 32), np.uint8)
    >>> quantized = qat.calibrate(network, network.graph().initial_params(), images)
    >>> qat.to_integer(quantized.graph, quantized.params).outputs[0].shape
    (10,)
    """
    graph = as_graph(network)
    integers = derived_integers(graph, params)
    warn_of_unlike_ranges(graph, params)
    return integers


def derived_integers(graph: Graph, params: Mapping[str, Array]) -> IntegerGraph:
    """``to_integer`` without its warnings, for a network that is evaluated again and again while it is trained."""
    return integers_by_node(graph, params)[0]


def integers_by_node(graph: Graph, params: Mapping[str, Array]) -> tuple[IntegerGraph, dict[str, IntegerTensor]]:
    """As ``derived_integers``, with the tensor that holds the numbers of each node of the network, where one does: a
    convolution has none before its fake quantizer, and what no output needs has none either.
    """
    if not any(node.cell.wants_quantizer for node in graph.nodes):
        raise QatError(
            f"{graph.name} has no cell whose numbers are quantized (a convolution, a dense layer, an addition, ...): what "
            "leaves it are pixels still, and there are no integers to derive; add such a cell"
        )
    if not graph.is_quantized:
        raise QatError(
            f"{graph.name} is a float network, it has no integers: convert it with convert_quant_network and train it "
            "(train_quant.py) first"
        )
    graph.check_params(params)
    require_finite(graph, params)
    adjustments = Adjustments()
    for attempt in range(MOST_ROUNDS):
        builder = IntegerBuilder(params, adjustments)
        values: dict[str, Any] = {}
        for node in graph.nodes:
            prefix, builder.cell_name = f"{node.cell_name}.", node.cell_name
            own = {local: params[prefix + local] for local in node.cell.params()}
            inputs = tuple(values[name] for name in node.inputs)
            if node.name in graph.in_float and not isinstance(node.cell, Dequantize):
                values[node.name] = builder.add(float_layer(graph, node, own, inputs))
            else:
                values[node.name] = node.cell.to_integer(builder, node.name, own, *inputs)
        if not builder.wanted.floors and not builder.wanted.nudges:
            break
        adjustments.floors |= builder.wanted.floors
        nudges = builder.wanted.nudges
        if nudges and attempt >= MOST_TOGETHER:
            # Two grids of which each depends on the other would give way together, or in turn, for ever: one of them does, by
            # more each time.
            nudges = Counter({next(iter(nudges)): attempt - MOST_TOGETHER + 1})
        adjustments.nudges += nudges
    else:
        wanting = ", ".join(sorted({*builder.wanted.floors, *builder.wanted.nudges}))
        raise QatError(
            f"{graph.name}: after {MOST_ROUNDS} rounds the scales of {wanting} still have to give way to ties, which runtimes "
            "round either way; let these ranges be found on other data, or by another method of calibration"
        )
    for output in graph.outputs:
        if not isinstance(values[output], IntegerTensor):
            raise QatError(
                f"{output}: this output of {graph.name} has no fake quantizer; keep after_fake=True on that cell"
            )
    made = {node.name: node.output for node in builder.nodes}
    inputs, outputs = tuple(made[node.name] for node in graph.inputs), tuple(values[name] for name in graph.outputs)
    nodes: list[IntegerNode] = []
    needed = {x.name for x in (*inputs, *outputs)}
    for integer_node in reversed(builder.nodes):
        if integer_node.name in needed:
            needed |= {x.name for x in integer_node.inputs}
            nodes.insert(0, integer_node)
    if graph.arithmetic == "fixed":
        for integer_node in nodes:
            _ = integer_node.fixed  # or its QatError
    kept = {integer_node.name for integer_node in nodes}
    tensors = {name: x for name, x in values.items() if isinstance(x, IntegerTensor) and x.name in kept}
    return IntegerGraph(tuple(nodes), inputs, outputs, graph.name, graph.arithmetic), tensors


def require_finite(graph: Graph, params: Mapping[str, Array]) -> None:
    """Raise QatError where a parameter holds a number that is infinite or NaN."""
    found = graph.not_finite(params)
    if found:
        raise QatError(
            f"params: {found}, with which {graph.name} computes nothing; their training went wrong, use those from before"
        )

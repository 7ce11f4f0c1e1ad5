"""Insert fake quantizers: from a float network to a quantization-aware one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qat.cells.fake_quant import FakeQuant
from qat.cells.linear import LinearCell
from qat.errors import QatError
from qat.graph import Graph, Node
from qat.network import Network, as_graph
from qat.quantizers import ActivationQuantizer, WeightQuantizer

Setting = Any  #: one value for weights and activations, or a pair (weights, activations)


def convert_quant_network(
    network: Network | Graph,
    *,
    num_bits: Setting = 8,
    per_channel: Setting = (True, False),
    symmetric: Setting = (True, False),
    narrow_range: Setting = False,
    quant_delay: Setting = 0,
    ema_decay: float = 0.99,
) -> Graph:
    """The quantization-aware graph of a float network; its parameters keep their names.

    Parameters and their meaning are those of MindSpore's ``convert_quant_network``. Each is one value, or a pair for
    (weights, activations):

    num_bits: 2 to 8. per_channel: a scale for each output channel (weights only). symmetric: signed codes around 0, else
    unsigned codes with a zero point. narrow_range: leave the lowest code out. quant_delay: training steps during which
    the fake quantizers only watch. ema_decay: how slowly an activation's range follows the batches.

    1. Every convolution and dense cell gets a weight quantizer; its bias follows (docs/numerics.md).
    2. After every cell whose output is no code yet (``after_fake``) comes a FakeQuant node, named
       ``<node>.fake_quant``. The input needs none: its pixels are codes.
    """
    graph = as_graph(network)
    if graph.is_quantized:
        raise QatError(f"{graph.name} is quantized already: convert the float network it was made from")
    bits, channels, symmetry = _pair(num_bits), _pair(per_channel), _pair(symmetric)
    narrow, delay = _pair(narrow_range), _pair(quant_delay)
    if channels[1]:
        raise QatError(
            "convert_quant_network: per_channel is True for activations, but an integer convolution adds over its input "
            "channels, which then have to share one scale; use per_channel=(True, False)"
        )
    weights = WeightQuantizer(bits[0], bool(symmetry[0]), bool(narrow[0]), delay[0], bool(channels[0]))
    activations = ActivationQuantizer(bits[1], bool(symmetry[1]), bool(narrow[1]), delay[1], ema_decay)

    nodes: list[Node] = []
    renamed: dict[str, str] = {}  # node -> the fake quantizer that now stands for it
    for node in graph.nodes:
        cell = node.cell.with_weight_quantizer(weights) if isinstance(node.cell, LinearCell) else node.cell
        nodes.append(replace(node, cell=cell, inputs=tuple(renamed.get(name, name) for name in node.inputs)))
        if node.cell.wants_fake_quant:
            name = renamed[node.name] = f"{node.name}.fake_quant"
            nodes.append(Node(name, FakeQuant(activations, node.cell.non_negative), (node.name,), name))
    outputs = tuple(renamed.get(name, name) for name in graph.outputs)
    return Graph(tuple(nodes), outputs, graph.name)


def _pair(setting: Setting) -> tuple[Any, Any]:
    if not isinstance(setting, (tuple, list)):
        return setting, setting
    if len(setting) == 1:
        return setting[0], setting[0]
    if len(setting) != 2:
        raise QatError(f"convert_quant_network: {setting!r} is no pair: give one value, or (weights, activations)")
    return setting[0], setting[1]

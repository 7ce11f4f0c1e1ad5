"""Insert fake quantizers: from a float network to a quantization-aware one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qat.cells.elementwise import Activation
from qat.cells.fake_quant import FakeQuant
from qat.cells.input import Input
from qat.cells.linear import NEVER, LinearCell
from qat.errors import QatError, QatWarning
from qat.graph import Graph, Network, Node, as_graph
from qat.names import fits
from qat.passes.float_layers import dequantized, left_in_float, may_stay_float, with_real_inputs
from qat.passes.join_linear import join_linear
from qat.passes.place_normalization import place_normalization
from qat.passes.quantizer_settings import QUANTIZE, QuantizerSettings, Setting, check_settings, chosen_fold
from qat.passes.share_grids import share_grids
from qat.passes.unreached_numbers import unreached_numbers
from qat.quantizers import ActivationQuantizer, BaseActivationQuantizer, BaseWeightQuantizer
from qat.vocabulary.activations import TABLES

INPUT_BITS = 8  #: of pixels, and of other inputs at least, unless ``layers`` says otherwise


def convert_quant_network(
    network: Network | Graph,
    *,
    num_bits: Setting = 8,
    per_channel: Setting = (True, False),
    symmetric: Setting = (True, False),
    narrow_range: Setting = False,
    quant_delay: Setting = 0,
    bn_fold: bool | None = None,
    one_conv_fold: bool | None = None,
    freeze_bn: int = NEVER,
    ema_decay: float = 0.99,
    layers: Mapping[str, Mapping[str, Setting]] | None = None,
    profile: str = "default",
    arithmetic: str = "float",
    weight_quantizer: BaseWeightQuantizer | None = None,
    activation_quantizer: BaseActivationQuantizer | None = None,
) -> Graph:
    """Insert fake quantizers into a float network; its parameters keep their names (``Graph.params_from``).

    Parameters and their meaning are those of MindSpore's ``convert_quant_network``, which folds by default. The first five
    settings are one value, or a pair (weights, activations).

    1. Every convolution and dense cell gets a weight quantizer; its bias follows (docs/numerics.md).
    2. After every cell whose output is not a code yet (``after_fake``) comes a FakeQuant node, named
       ``<node>.fake_quant``. An input of pixels, or of codes of 8 bits, needs none;
       one of real numbers, or of wider codes, gets one of at least 8 bits. Where its codes are not uniform, an 8-bit one whose
       codes are, ``<node>.uniform_fake_quant``, comes before it.
    3. An activation that is not a clamp becomes a cell of its own between two fake quantizers, ``<node>.pre_fake_quant`` and
       ``<node>.fake_quant``: a table of codes.
    4. The fake quantizers before an addition or a concatenation share one range (``share_grids``). All steps of a recurrence
       (``Network.recurrent``) have one and the same.
    5. Cells for which ``layers`` has ``quantize: False`` are left in float, with a Dequantize before them and a fake quantizer
       after them where others take their codes (``left_in_float``); an output of the network stays real numbers.
    6. Under the profile "ascend" the input gets a FakeQuant too: a pixel minus its zero point lies within -255 .. 255 and
       fits no int8, so that a table brings it to symmetric codes.

    Args:
        network: the float network, or its graph.
        num_bits: 2 to 16, of activations 1 to 16; more than 8: docs/numerics.md, "More than 8 bits".
        per_channel: a scale for each output channel (weights only).
        symmetric: signed codes around 0, else unsigned codes with a zero point.
        narrow_range: leave the lowest code out.
        quant_delay: training steps during which fake quantizers only observe.
        bn_fold: True: quantize weights with batch normalisation folded in; False: as they are. None: as they are where each
            output channel has a scale of its own, which gives the same codes in less time, and folded where it has not, or
            the quantizer cannot do without; unless ``one_conv_fold`` says how to fold.
        one_conv_fold: where it is folded, True: by one convolution; False: by two (``LinearCell``). None: by one.
        freeze_bn: the step from which on batch normalisation uses its running statistics in training too.
        ema_decay: how slowly the range of an activation follows the batches; 0: it is that of the last batch.
        layers: other values of the first five, or other quantizers, for some nodes, by patterns of their names ("conv1",
            "blocks.*"); the last one that fits counts. A number of bits and the like changes that field of the quantizer
            that the node otherwise has. ``{"quantize": False}`` leaves them in float: ONNX and TFLite files then compute them
            so, and behind them codes are no longer equal everywhere (docs/numerics.md). Where that is all nodes, a QatWarning
            says so, and the result is the float network.
        profile: "default", or "ascend" for what Ascend's int8 unit computes (docs/ascend.md): symmetric activations whose
            scales are powers of two, one scale for a dense weight, symmetric weights. It takes the place of the defaults of
            symmetric and per_channel.
        arithmetic: how sums become codes in training, evaluation and deployment (docs/numerics.md): "float", by a float32
            multiplication, as ONNX Runtime and XNNPACK do, or "fixed", by an integer and a shift, as TensorFlow Lite for
            Microcontrollers and CMSIS-NN do.
        weight_quantizer: a quantizer of another kind or with other settings (``qat.quantizers``), in place of what the
            first five settings say of weights.
        activation_quantizer: likewise for activations, in place of ema_decay too.

    Returns:
        The graph for quantization-aware training.

    Raises:
        QatError: for a network that is quantized already, a setting of another type, a pattern of ``layers`` that fits no
            node with a quantizer, an unknown setting in it, a setting that contradicts the profile, and a number that a Pad
            puts around codes that enter which do not reach it.

    >>> import qat
    >>> class Small(qat.Network):
    ...     inputs = qat.Input((1, 4, 4))
    ...     def __init__(self):
    ...         self.conv = qat.Conv2dBnAct(1, 2, 3, activation="relu")
    ...     def construct(self, x):
    ...         return self.conv(x)
    >>> graph = qat.convert_quant_network(Small(), num_bits=(4, 8))
    >>> [node.name for node in graph.nodes]
    ['input', 'conv', 'conv.fake_quant']
    """
    check_settings(locals())
    graph = replace(as_graph(network), arithmetic=arithmetic)
    if graph.is_quantized:
        raise QatError(f"{graph.name} is quantized already: convert the float network it was made from")
    settings = QuantizerSettings(
        num_bits=num_bits,
        per_channel=per_channel,
        symmetric=symmetric,
        narrow_range=narrow_range,
        quant_delay=quant_delay,
        ema_decay=ema_decay,
        bn_fold=bn_fold,
        profile=profile,
        layers=layers or {},
        weight_quantizer=weight_quantizer,
        activation_quantizer=activation_quantizer,
    )

    def alike(first: Node, second: Node) -> bool:
        """A layer that ``layers`` gives codes of its own, or leaves in float, stays."""
        own = [(settings.quantizes(each.name), settings.quantizers(each.name, each.cell)) for each in (first, second)]
        return own[0] == own[1]

    given, graph = graph, place_normalization(join_linear(graph, alike), into_weights=not settings.ascend)
    _check_layers((given, graph), settings.layers)
    chosen = {node.name for node in graph.nodes if may_stay_float(node) and not settings.quantizes(_setting_name(node))}
    if chosen.issuperset(node.name for node in graph.nodes if node.inputs and node.cell.wants_quantizer) and chosen:
        warnings.warn(
            f"{graph.name}: quantize is False for all of its layers, so that nothing is quantized: the result is the float "
            "network",
            QatWarning,
            stacklevel=2,
        )
        return given
    floats, real, known = left_in_float(graph, chosen), set[str](), dict[str, str]()
    if bn_fold is None and one_conv_fold is not None:
        bn_fold = True
    nodes: list[Node] = []
    renamed: dict[str, str] = {}  # node -> the fake quantizer that now stands for it
    for node in graph.nodes:
        cell = node.cell
        weights, activations = settings.quantizers(_setting_name(node), cell)
        if isinstance(cell, Input) and not settings.of_activation(node.name):
            activations = _of_input(activations)
        node = replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        if node.name in chosen or node.name in floats:
            if isinstance(cell, LinearCell) and cell.has_bn:
                node = replace(node, cell=replace(cell, freeze_bn=freeze_bn))  # type: ignore[type-var]
            nodes += with_real_inputs(node, real, known)
        elif isinstance(cell, LinearCell):
            fold = chosen_fold(weights, bn_fold, one_conv=one_conv_fold is not False)
            nodes += _quantized(node, cell, weights, _uniform(activations), fold=fold, freeze_bn=freeze_bn)
        else:
            nodes.append(node)
        if node.name in floats:
            if isinstance(cell, Input):
                nodes.append(dequantized(node.name))
                renamed[node.name] = nodes[-1].name
            real.add(nodes[-1].name)
        elif node.name not in floats and (
            cell.wants_fake_quant
            or (settings.ascend and isinstance(cell, Input))
            or (node.name in chosen and cell.output_numbers == "coded")  # which it is of codes alone
        ):
            nodes += _fake_quants(node, nodes[-1].name, activations)
            renamed[node.name] = nodes[-1].name
    outputs = tuple(renamed.get(name, name) for name in graph.outputs)
    converted = share_grids(replace(graph, nodes=tuple(nodes), outputs=outputs), settings.quantizers("")[1])
    unreached = unreached_numbers(converted, {})  # of codes that enter: those of others are known later
    if unreached:
        raise QatError(unreached[0])
    return converted


def _quantized(
    node: Node,
    cell: LinearCell,
    weights: BaseWeightQuantizer,
    activations: BaseActivationQuantizer,
    *,
    fold: str | None,
    freeze_bn: int,
) -> list[Node]:
    """A linear node with its weight quantizer; where its activation is a table, this one and the fake quantizer before it
    are nodes of their own.
    """
    try:
        quantized: Any = cell.quantized(weights, *((fold, freeze_bn) if cell.has_bn else (None, NEVER)))
    except QatError as error:
        raise QatError(f"{node.name}: {error}") from None
    if cell.activation not in TABLES or not cell.after_fake:
        return [replace(node, cell=quantized)]
    before = node.follower("pre_fake_quant", FakeQuant(activations), node.name)
    after = node.follower(cell.activation or "", Activation(cell.activation, cell.alpha), before.name)
    return [replace(node, cell=replace(quantized, activation=None)), before, after]


def _fake_quants(node: Node, source: str, activations: BaseActivationQuantizer) -> list[Node]:
    """The fake quantizer of a node's output, which ``source`` gives, behind a uniform one where its codes are not."""
    found = []
    if not activations.uniform:
        quantizer = FakeQuant(_uniform(activations), node.cell.non_negative)
        found.append(node.follower("uniform_fake_quant", quantizer, source))
        source = found[-1].name
    return [*found, node.follower("fake_quant", FakeQuant(activations, node.cell.non_negative), source)]


def _setting_name(node: Node) -> str:
    """By which ``layers`` knows a node: its own name; of the steps of a recurrence, which have one quantizer, their cell's."""
    return node.cell_name if node.recurs else node.name


def _uniform(activations: BaseActivationQuantizer) -> BaseActivationQuantizer:
    """The quantizer itself, or one of 8 bits whose codes are uniform."""
    return activations if activations.uniform else ActivationQuantizer(quant_delay=activations.quant_delay)


def _of_input(activations: BaseActivationQuantizer) -> BaseActivationQuantizer:
    """Of real numbers that enter: as many bits as pixels have, 8, where the other activations have fewer."""
    if not activations.uniform or activations.by_sign:
        return ActivationQuantizer(quant_delay=activations.quant_delay)
    return replace(activations, num_bits=max(activations.num_bits, INPUT_BITS))


def _check_layers(graphs: tuple[Graph, Graph], layers: Mapping[str, Mapping[str, Setting]]) -> None:
    """Raise QatError where a pattern fits no quantized node, neither of the network as it was nor of what became of it."""
    nodes = [node for graph in graphs for node in graph.nodes]
    names = list(dict.fromkeys(_setting_name(node) for node in nodes if node.cell.wants_quantizer))
    for pattern, own in layers.items():
        of_floats = [_setting_name(node) for node in nodes if QUANTIZE in own and may_stay_float(node)]
        if not any(fits(name, pattern) for name in (*names, *of_floats)):
            raise QatError(
                f"layers: pattern {pattern!r} fits no cell of {graphs[0].name} that is quantized; those are {', '.join(names)}"
            )

"""Insert fake quantizers: from a float network to a quantization-aware one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qat.cells.base import Cell
from qat.cells.dense import DenseBnAct
from qat.cells.elementwise import Activation
from qat.cells.fake_quant import FakeQuant
from qat.cells.input import Input
from qat.cells.linear import NEVER, LinearCell
from qat.errors import QatError, shortened
from qat.graph import Graph, Network, Node, as_graph
from qat.hints import perhaps
from qat.names import fits
from qat.passes.share_grids import share_grids
from qat.quantizers import (
    ActivationQuantizer,
    BaseActivationQuantizer,
    BaseWeightQuantizer,
    Quantizer,
    WeightQuantizer,
)
from qat.vocabulary.activations import TABLES
from qat.vocabulary.fields import check_type
from qat.vocabulary.serial import from_json

PROFILES = ("default", "ascend")
#: The types of settings: of those that may be a pair, of weights and of activations, and of the others.
PAIRS = {"num_bits": int, "per_channel": bool, "symmetric": bool, "narrow_range": bool, "quant_delay": int}
SINGLE = {"bn_fold": bool, "one_conv_fold": bool, "freeze_bn": int, "ema_decay": float}
QUANTIZERS = ("weight_quantizer", "activation_quantizer")
Setting = Any  #: one value for weights and activations, or a pair (weights, activations)


def convert_quant_network(
    network: Network | Graph,
    *,
    num_bits: Setting = 8,
    per_channel: Setting = (True, False),
    symmetric: Setting = (True, False),
    narrow_range: Setting = False,
    quant_delay: Setting = 0,
    bn_fold: bool = True,
    one_conv_fold: bool = False,
    freeze_bn: int = NEVER,
    ema_decay: float = 0.99,
    layers: Mapping[str, Mapping[str, Setting]] | None = None,
    profile: str = "default",
    weight_quantizer: BaseWeightQuantizer | None = None,
    activation_quantizer: BaseActivationQuantizer | None = None,
) -> Graph:
    """The quantization-aware graph of a float network; its parameters keep their names.

    Parameters and their meaning are those of MindSpore's ``convert_quant_network``. The first five are one value, or a
    pair for (weights, activations):

    num_bits: 2 to 16, of activations 1 to 16; what more than 8 mean, docs/numerics.md says under "More than 8 bits".
    per_channel: a scale for each output channel (weights only). symmetric: signed codes around 0, else unsigned codes with a
    zero point. narrow_range: leave the lowest code out. quant_delay: training steps during which the fake quantizers only
    watch. bn_fold, one_conv_fold: quantize the weights with batch normalisation folded in, by one convolution or by two, or
    else as they are (``LinearCell``). freeze_bn: the step from which on batch
    normalisation uses its running statistics in training too. ema_decay: how slowly an activation's range follows the
    batches; 0: it is that of the last batch.
    weight_quantizer, activation_quantizer: quantizers of another kind or with other settings (``qat.quantizers``), in
    place of what the first five and ema_decay say for weights, or for activations.
    layers: other values of the first five, or other quantizers, for some nodes, by patterns of their names ("conv1",
    "blocks.*"), the last that fits counting. A number of bits and the like changes that field of the quantizer that the
    node otherwise has. Raises QatError for a pattern that fits no node with a quantizer, and for an unknown setting.
    profile: "default", or "ascend" for what Ascend's int8 unit computes (docs/ascend.md): symmetric activations whose
    scales are powers of two, one scale for a dense weight, symmetric weights. It takes the place of the defaults of
    symmetric and per_channel; a setting that contradicts it raises QatError.

    1. Every convolution and dense cell gets a weight quantizer; its bias follows (docs/numerics.md).
    2. After every cell whose output is no code yet (``after_fake``) comes a FakeQuant node, named
       ``<node>.fake_quant``. The input needs none: its pixels are codes. Where its codes are not uniform, an 8-bit one whose
       codes are, ``<node>.uniform_fake_quant``, comes before it.
    3. An activation that is no clamp becomes a cell of its own between two fake quantizers, ``<node>.pre_fake_quant`` and
       ``<node>.fake_quant``: a table of codes.
    4. The fake quantizers before an addition or a concatenation share one range (``share_grids``).
    5. Under the profile "ascend" the input gets a FakeQuant too: a pixel minus its zero point lies within -255 .. 255 and
       fits no int8, so that a table brings it to symmetric codes.
    """
    check_settings(locals())
    graph = as_graph(network)
    if graph.is_quantized:
        raise QatError(f"{graph.name} is quantized already: convert the float network it was made from")
    if profile not in PROFILES:
        raise QatError(
            f"convert_quant_network: profile is {shortened(profile)}; use one of {', '.join(map(repr, PROFILES))}"
        )
    ascend = profile == "ascend"
    if ascend:  # what the activations' defaults are elsewhere has no form there
        symmetric = (_pair(symmetric)[0], True)
    defaults: dict[str, Setting] = {
        "num_bits": num_bits,
        "per_channel": per_channel,
        "symmetric": symmetric,
        "narrow_range": narrow_range,
        "quant_delay": quant_delay,
    }
    _check_layers(graph, layers or {})
    fold = None if not bn_fold else "one_conv" if one_conv_fold else "two_conv"

    def quantizers(name: str, cell: Cell | None = None) -> tuple[BaseWeightQuantizer, BaseActivationQuantizer]:
        """Those of a node: the defaults, then every pattern that fits."""
        settings = dict(defaults)
        weights, activations = weight_quantizer, activation_quantizer
        changes: tuple[dict[str, Any], dict[str, Any]] = ({}, {})  # of the fields of given quantizers
        if ascend and isinstance(cell, DenseBnAct):
            settings["per_channel"] = False
        for pattern, own in (layers or {}).items():
            if fits(name, pattern):
                settings |= {key: value for key, value in own.items() if key in defaults}
                if "weight_quantizer" in own:
                    weights = own["weight_quantizer"]
                    changes[0].clear()
                if "activation_quantizer" in own:
                    activations = own["activation_quantizer"]
                    changes[1].clear()
                for key, value in own.items():
                    if key in defaults:
                        for side in (0, 1):
                            changes[side][key] = _pair(value)[side]
        bits, channels, symmetry, narrow, delay = (_pair(settings[key]) for key in defaults)
        if channels[1]:
            raise QatError(
                f"{name}: per_channel is True for activations, but an integer convolution adds over its input channels, which "
                "then have to share one scale; use per_channel=(True, False)"
            )
        changes[1].pop("per_channel", None)
        if ascend:
            if weights is not None or activations is not None:
                raise QatError(
                    f"{name or 'convert_quant_network'}: profile 'ascend' has quantizers of its own; give none"
                )
            _check_ascend(name, cell, symmetry, bool(channels[0]), bn_fold)
        own_weights: BaseWeightQuantizer = WeightQuantizer(
            bits[0], bool(symmetry[0]), bool(narrow[0]), delay[0], bool(channels[0])
        )
        own_activations: BaseActivationQuantizer = ActivationQuantizer(
            bits[1], bool(symmetry[1]), bool(narrow[1]), delay[1], ema_decay, ascend
        )
        return (
            _given(name, weights, own_weights, BaseWeightQuantizer, changes[0]),
            _given(name, activations, own_activations, BaseActivationQuantizer, changes[1]),
        )

    nodes: list[Node] = []
    renamed: dict[str, str] = {}  # node -> the fake quantizer that now stands for it
    for node in graph.nodes:
        cell = node.cell
        weights, activations = quantizers(node.name, cell)
        uniform = activations if activations.uniform else ActivationQuantizer(quant_delay=activations.quant_delay)
        node = replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        if isinstance(cell, LinearCell):
            tabled = cell.activation if cell.activation in TABLES and cell.after_fake else None
            try:
                quantized: Any = cell.quantized(weights, *((fold, freeze_bn) if cell.has_bn else (None, NEVER)))
            except QatError as error:
                raise QatError(f"{node.name}: {error}") from None
            nodes.append(replace(node, cell=replace(quantized, activation=None) if tabled else quantized))
            if tabled:
                before, after = f"{node.name}.pre_fake_quant", f"{node.name}.{tabled}"
                nodes.append(Node(before, FakeQuant(uniform), (node.name,), before))
                nodes.append(Node(after, Activation(tabled, cell.alpha), (before,), after))
        else:
            nodes.append(node)
        if cell.wants_fake_quant or (ascend and isinstance(cell, Input)):
            if not activations.uniform:
                name = f"{node.name}.uniform_fake_quant"
                nodes.append(Node(name, FakeQuant(uniform, cell.non_negative), (nodes[-1].name,), name))
            name = renamed[node.name] = f"{node.name}.fake_quant"
            nodes.append(Node(name, FakeQuant(activations, cell.non_negative), (nodes[-1].name,), name))
    outputs = tuple(renamed.get(name, name) for name in graph.outputs)
    return share_grids(Graph(tuple(nodes), outputs, graph.name), quantizers("")[1])


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise QatError, naming it, where a setting of ``convert_quant_network`` is of another type than it takes."""
    for name, value in settings.items():
        pair = PAIRS.get(name)
        if pair is not None:
            for one in _pair(value):
                check_type(f"{name}", one, pair)
        elif name in SINGLE:
            check_type(name, value, SINGLE[name])
    layers = settings.get("layers")
    if layers is None:
        return
    wanted = "layers must map patterns of names to settings, as {'fc*': {'num_bits': 4}}, but"
    if not isinstance(layers, Mapping):
        raise QatError(f"{wanted} is {shortened(layers)}")
    for pattern, own in layers.items():
        if not isinstance(pattern, str) or not isinstance(own, Mapping):
            raise QatError(f"{wanted} {shortened(pattern)} has {shortened(own)}")
        for name in own:
            if name not in PAIRS and name not in QUANTIZERS:
                known = [*PAIRS, *QUANTIZERS]
                hint = perhaps(str(name), known)
                raise QatError(
                    f"layers: {pattern!r} sets {shortened(name)}, which is unknown{hint}; use {', '.join(known)}"
                )
        try:
            check_settings(own)
        except QatError as error:
            raise QatError(f"layers: {shortened(pattern)}: {error}") from None


def _given(name: str, given: Any, otherwise: Quantizer, base: type[Any], changes: Mapping[str, Any]) -> Any:
    """The quantizer that the user gave, as an object or in its JSON form, with some fields changed; or else another.

    Raises QatError where it is none of ``base``.
    """
    if given is None:
        return otherwise
    quantizer = from_json(given, Quantizer) if isinstance(given, dict) else given
    if not isinstance(quantizer, base):
        what = "weights" if base is BaseWeightQuantizer else "activations"
        raise QatError(
            f"{name or 'convert_quant_network'}: {shortened(given)} is no quantizer of {what}; see qat.quantizers"
        )
    return replace(quantizer, **changes)


def _check_ascend(name: str, cell: Cell | None, symmetric: tuple[Any, Any], per_channel: bool, bn_fold: bool) -> None:
    """Raise QatError where the settings of a node contradict the profile "ascend"."""
    contradiction = None
    if not (symmetric[0] and symmetric[1]):
        kind = "activations" if symmetric[0] else "weights"
        contradiction = f"symmetric is False for {kind}, but there every zero point is 0; leave symmetric out"
    elif isinstance(cell, DenseBnAct) and per_channel:
        contradiction = "per_channel is True, but a dense weight has one scale there; leave per_channel out"
    elif isinstance(cell, DenseBnAct) and cell.has_bn and not bn_fold:
        contradiction = (
            "bn_fold is False, which gives each channel a scale, but a dense weight has one there; use bn_fold=True"
        )
    if contradiction:
        raise QatError(f"{name or 'convert_quant_network'}: profile 'ascend': {contradiction}")


def _check_layers(graph: Graph, layers: Mapping[str, Mapping[str, Setting]]) -> None:
    names = [node.name for node in graph.nodes if isinstance(node.cell, LinearCell) or node.cell.wants_fake_quant]
    for pattern in layers:
        if not any(fits(name, pattern) for name in names):
            raise QatError(
                f"layers: pattern {pattern!r} fits no cell of {graph.name} that is quantized; those are {', '.join(names)}"
            )


def _pair(setting: Setting) -> tuple[Any, Any]:
    if not isinstance(setting, (tuple, list)):
        return setting, setting
    if len(setting) == 1:
        return setting[0], setting[0]
    if len(setting) != 2:
        raise QatError(
            f"convert_quant_network: {shortened(setting)} is no pair: give one value, or (weights, activations)"
        )
    return setting[0], setting[1]

"""The settings of convert_quant_network: their types, and the quantizers that they give to each node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from qat.cells.base import Cell
from qat.cells.dense import DenseBnAct
from qat.errors import QatError, shortened
from qat.hints import perhaps
from qat.integer.fixed_point import check_arithmetic
from qat.names import fits
from qat.quantizers import (
    ActivationQuantizer,
    BaseActivationQuantizer,
    BaseWeightQuantizer,
    Quantizer,
    WeightQuantizer,
)
from qat.vocabulary.fields import check_type
from qat.vocabulary.serial import from_json

PROFILES = ("default", "ascend")
#: The types of settings: of those that may be a pair, of weights and of activations, and of the others.
PAIRS = {"num_bits": int, "per_channel": bool, "symmetric": bool, "narrow_range": bool, "quant_delay": int}
SINGLE = {"bn_fold": bool | None, "one_conv_fold": bool | None, "freeze_bn": int, "ema_decay": float, "arithmetic": str}
QUANTIZE = "quantize"  #: of single nodes: False leaves them in float
#: Settings that are objects, of the two sides: their base class and the name of one.
QUANTIZERS: dict[str, tuple[type[Any], str]] = {
    "weight_quantizer": (BaseWeightQuantizer, "LSQWeightQuantizer"),
    "activation_quantizer": (BaseActivationQuantizer, "LSQActivationQuantizer"),
}
WEIGHTS, ACTIVATIONS = 0, 1  #: the sides of a pair
Setting = Any  #: one value for weights and activations, or a pair (weights, activations)


@dataclass(frozen=True)
class QuantizerSettings:
    """What convert_quant_network was told of quantizers, for all nodes and for some.

    Attributes:
        num_bits, per_channel, symmetric, narrow_range, quant_delay: one value, or a pair (weights, activations).
        ema_decay: of the ranges of activations.
        bn_fold: batch normalisation is folded into weights before they are quantized; None: where need be.
        profile: one of ``PROFILES``.
        layers: other settings by patterns of names; the last one that fits a node counts.
        weight_quantizer: in place of a ``WeightQuantizer``; None: that one.
        activation_quantizer: in place of an ``ActivationQuantizer``; None: that one.
    """

    num_bits: Setting
    per_channel: Setting
    symmetric: Setting
    narrow_range: Setting
    quant_delay: Setting
    ema_decay: float
    bn_fold: bool | None
    profile: str
    layers: Mapping[str, Mapping[str, Setting]]
    weight_quantizer: BaseWeightQuantizer | None
    activation_quantizer: BaseActivationQuantizer | None

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            known = ", ".join(map(repr, PROFILES))
            raise QatError(f"convert_quant_network: profile is {shortened(self.profile)}; use one of {known}")

    @property
    def ascend(self) -> bool:
        """True under the profile "ascend"."""
        return self.profile == "ascend"

    def of_activation(self, name: str) -> bool:
        """True where a pattern says what quantizer the output of the named node has, or how many bits."""
        said = {"num_bits", "activation_quantizer"}
        return any(fits(name, pattern) and said & own.keys() for pattern, own in self.layers.items())

    def quantizes(self, name: str) -> bool:
        """False where the last pattern that says so leaves the named node in float."""
        said = [own[QUANTIZE] for pattern, own in self.layers.items() if QUANTIZE in own and fits(name, pattern)]
        return said[-1] if said else True

    def quantizers(self, name: str, cell: Cell | None = None) -> tuple[BaseWeightQuantizer, BaseActivationQuantizer]:
        """Those of the weights and of the activations of a node.

        Args:
            name: of the node; "": of a node that no pattern fits.
            cell: of the node.

        Raises:
            QatError: where the settings contradict one another, or the profile.
        """
        weights, given_weights, weight_changes = self._side(WEIGHTS, name, cell)
        activations, given_activations, activation_changes = self._side(ACTIVATIONS, name, cell)
        if activations["per_channel"]:
            raise QatError(
                f"{name}: per_channel is True for activations, but an integer convolution adds over its input channels, which "
                "then have to share one scale; use per_channel=(True, False)"
            )
        if self.ascend:
            if given_weights is not None or given_activations is not None:
                raise QatError(
                    f"{name or 'convert_quant_network'}: profile 'ascend' has quantizers of its own; give none"
                )
            symmetric = weights["symmetric"], activations["symmetric"]
            _check_ascend(name, cell, symmetric, bool(weights["per_channel"]), self.bn_fold)
        for side in (weights, activations):  # NumPy's bools are taken, too
            side |= {key: bool(side[key]) for key, kind in PAIRS.items() if kind is bool}
        del activations["per_channel"]
        activation_changes.pop("per_channel", None)
        own_weights = WeightQuantizer(**weights)
        own_activations = ActivationQuantizer(**activations, ema_decay=self.ema_decay, power_of_two=self.ascend)
        return (
            _given(name, given_weights, own_weights, BaseWeightQuantizer, weight_changes),
            _given(name, given_activations, own_activations, BaseActivationQuantizer, activation_changes),
        )

    def _side(self, side: int, name: str, cell: Cell | None) -> tuple[dict[str, Any], Any, dict[str, Any]]:
        """The settings of a node's weights or activations, and the quantizer that is given for them with the fields of it
        that later patterns change: what holds for all nodes, then every pattern that fits.
        """
        settings = {key: pair(getattr(self, key))[side] for key in PAIRS}
        key = tuple(QUANTIZERS)[side]
        given, changes = getattr(self, key), dict[str, Any]()
        if self.ascend:  # the defaults differ: symmetric activations, one scale for a dense weight
            settings["symmetric"] = settings["symmetric"] or side == ACTIVATIONS
            settings["per_channel"] = settings["per_channel"] and not isinstance(cell, DenseBnAct)
        for pattern, own in self.layers.items():
            if not fits(name, pattern):
                continue
            if key in own:
                given, changes = own[key], {}
            values = {name: pair(value)[side] for name, value in own.items() if name in PAIRS}
            settings |= values
            changes |= values
        return settings, given, changes


def chosen_fold(quantizer: BaseWeightQuantizer, bn_fold: bool | None, *, one_conv: bool = True) -> str | None:
    """How training sees a batch normalisation after a quantized weight, of ``BN_FOLDS``.

    Where each output channel has a scale of its own, deployment has the same codes whether batch normalisation is folded
    before or after the weight is quantized, and after it costs least; a single scale stays one only if it is folded before.

    Args:
        quantizer: of the weight.
        bn_fold: what was said; None: as above, unless the quantizer refuses it.
        one_conv: where it is folded, by one convolution, the default, or by two.
    """
    if bn_fold is None:
        apart = quantizer.per_channel or quantizer.refuses_batch_norm(folded=True) is not None
        bn_fold = not apart or quantizer.refuses_batch_norm(folded=False) is not None
    return None if not bn_fold else "one_conv" if one_conv else "two_conv"


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise QatError, naming it, where a setting of ``convert_quant_network`` is of another type than it takes."""
    for name, value in settings.items():
        kind = PAIRS.get(name)
        if kind is not None:
            for one in pair(value):
                check_type(name, one, kind)
        elif name in SINGLE or name == QUANTIZE:
            check_type(name, value, SINGLE.get(name, bool))
            if name == "arithmetic":
                check_arithmetic(value, "convert_quant_network")
        elif name in QUANTIZERS:
            base, example = QUANTIZERS[name]
            if not (value is None or isinstance(value, (dict, base))):
                what = "weights" if base is BaseWeightQuantizer else "activations"
                raise QatError(
                    f"convert_quant_network: {name} is {shortened(value)}, which is not a quantizer of {what}; give an "
                    f"object, as qat.{example}(num_bits=4), or in a file {{type: {example}, num_bits: 4}}"
                )
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
            if name not in PAIRS and name not in QUANTIZERS and name != QUANTIZE:
                known = [*PAIRS, *QUANTIZERS, QUANTIZE]
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

    Raises QatError where it is not an instance of ``base``.
    """
    if given is None:
        return otherwise
    quantizer = from_json(given, Quantizer) if isinstance(given, dict) else given
    if not isinstance(quantizer, base):
        what = "weights" if base is BaseWeightQuantizer else "activations"
        raise QatError(
            f"{name or 'convert_quant_network'}: {shortened(given)} is not a quantizer of {what}; see qat.quantizers"
        )
    return replace(quantizer, **changes)


def _check_ascend(
    name: str, cell: Cell | None, symmetric: tuple[Any, Any], per_channel: bool, bn_fold: bool | None
) -> None:
    """Raise QatError where the settings of a node contradict the profile "ascend"."""
    contradiction = None
    if not (symmetric[0] and symmetric[1]):
        kind = "activations" if symmetric[0] else "weights"
        contradiction = f"symmetric is False for {kind}, but there every zero point is 0; leave symmetric out"
    elif isinstance(cell, DenseBnAct) and per_channel:
        contradiction = "per_channel is True, but a dense weight has one scale there; leave per_channel out"
    elif isinstance(cell, DenseBnAct) and cell.has_bn and bn_fold is False:
        contradiction = (
            "bn_fold is False, which gives each channel a scale, but a dense weight has one there; use bn_fold=True"
        )
    if contradiction:
        raise QatError(f"{name or 'convert_quant_network'}: profile 'ascend': {contradiction}")


def pair(setting: Setting) -> tuple[Any, Any]:
    """A setting of weights and of activations. Raises QatError for a tuple that is not a pair."""
    if not isinstance(setting, (tuple, list)):
        return setting, setting
    if len(setting) == 1:
        return setting[0], setting[0]
    if len(setting) != 2:
        raise QatError(
            f"convert_quant_network: {shortened(setting)} is not a pair: give one value, or (weights, activations)"
        )
    return setting[0], setting[1]

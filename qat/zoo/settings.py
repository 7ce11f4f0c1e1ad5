"""How a network of the zoo is quantized at each width: the one place where these settings stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import qat
from qat.graph import Graph
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe

SEED = 0  #: of the choice of calibration images
IMAGES = 1000  #: that calibrate, at most
TEMPERATURE, TEACHING = 2.0, 0.7  #: of the float network as the teacher (``qat.training.objectives.Distillation``)
FEW = 4  #: bits and fewer, of weights and activations alike, that are trained where there are images to train on


@dataclass(frozen=True)
class Way:
    """How a float network becomes one of a certain width.

    Attributes:
        calibration: arguments of ``qat.calibrate`` beside the images and the settings of ``convert_quant_network``.
        recipe: of quantization-aware training. None, the default: calibrated, without training.
    """

    calibration: Mapping[str, Any] = field(default_factory=dict)
    recipe: Recipe | None = None

    def __str__(self) -> str:
        if self.recipe is not None:
            return f"trained, {self.recipe.epochs} epochs"
        words = [
            name if value is True else str(value) for name, value in self.calibration.items() if value is not False
        ]
        return f"calibrated: {', '.join(words).replace('_', ' ')}" if words else "calibrated"


#: weights/activations, without training.
CALIBRATED: Mapping[str, Way] = {
    "8/8": Way(),
    "4/8": Way({"method": "mse", "equalize": True, "bias_correction": True}),
    "4/4": Way({"method": "mse", "equalize": True, "bias_correction": True}),
}
WIDTHS = tuple(CALIBRATED)
#: Quantization-aware training at 4/4, of LSQ's scales, for networks of a few million products and 20,000 images or more.
TRAINED = Way(
    recipe=Recipe(6, 64, lr=0.005, optimizer=Optimizer(weight_decay=1e-4), augment_shift=2, augment_flip=True)
)
#: The same of digits, which are not mirrored.
TRAINED_DIGITS = Way(recipe=Recipe(4, 128, lr=0.01, optimizer=Optimizer(weight_decay=1e-4), augment_shift=1))


def bits_of(width: str) -> tuple[int, int]:
    """Bits of weights and of activations.

    Args:
        width: one of ``WIDTHS``.

    >>> from qat.zoo.settings import bits_of
    >>> bits_of("4/8")
    (4, 8)
    """
    weights, activations = map(int, width.split("/"))
    return weights, activations


def conversion(graph: Graph, width: str, way: Way) -> dict[str, Any]:
    """The settings of ``convert_quant_network``: what the network gives has 8 bits at every width.

    Args:
        graph: of the float network.
        width: one of ``WIDTHS``.
        way: how it is reached.
    """
    weights, activations = bits_of(width)
    if activations == 8 and way.recipe is None:
        return {"num_bits": (weights, activations)}
    if way.recipe is None:
        last = {name: {"num_bits": (weights, 8)} for name in _last_layers(graph)}
        return {"num_bits": (weights, activations), "layers": last}
    trained = {name: {"activation_quantizer": qat.LSQActivationQuantizer(8)} for name in _last_layers(graph)}
    return {
        "weight_quantizer": qat.LSQWeightQuantizer(weights, per_channel=True),
        "activation_quantizer": qat.LSQActivationQuantizer(activations),
        "layers": trained,
    }


def _last_layers(graph: Graph) -> list[str]:
    """The nodes that compute what the network gives, before a softmax."""
    inputs = {node.name: node.inputs for node in graph.nodes}
    cells = {node.name: node.cell for node in graph.nodes}
    return [inputs[name][0] if isinstance(cells[name], qat.Softmax) else name for name in graph.outputs]

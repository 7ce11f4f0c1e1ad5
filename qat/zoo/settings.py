"""How a network of the zoo is quantized at each width: the one place where these settings stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import qat
from qat.graph import Graph
from qat.passes.few_bits import TABLE, edge_layers
from qat.tables import counted
from qat.training.recipe import Recipe

SEED = 0  #: of the choice of calibration images
IMAGES = 1000  #: that calibrate, at most
TEMPERATURE, TEACHING = 2.0, 0.7  #: of the float network as the teacher (``qat.training.objectives.Distillation``)


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
            return f"trained, {counted(self.recipe.epochs, 'epoch')}"
        return "calibrated"


WIDTHS = ("8/8", "4/8", "4/4")  #: weights/activations
#: Without training: ranges, equalization, rounding and bias correction are what ``qat.calibrate`` chooses itself.
CALIBRATED: Mapping[str, Way] = dict.fromkeys(WIDTHS, Way())
#: Quantization-aware training at 4/4 of networks with a few million products and 20,000 images or more.
TRAINED = Way(recipe=Recipe(2, 64, lr=TABLE[4].lr, augment_shift=2, augment_flip=True))
#: The same of digits, which are not mirrored.
TRAINED_DIGITS = Way(recipe=Recipe(2, 128, lr=TABLE[4].lr, augment_shift=1))


def bits_of(width: str) -> tuple[int, int]:
    """Bits of weights and of activations.

    Args:
        width: one of ``WIDTHS``.

    Returns:
        Both numbers.

    >>> from qat.zoo.settings import bits_of
    >>> bits_of("4/8")
    (4, 8)
    """
    weights, activations = map(int, width.split("/"))
    return weights, activations


def conversion(graph: Graph, width: str, way: Way) -> dict[str, Any]:
    """The settings of ``convert_quant_network``: what the network gives has 8 bits at every width. Where it is trained at few
    bits, so have the weights of the first and the last layers (``qat.few_bits_settings``).

    Args:
        graph: of the float network.
        width: one of ``WIDTHS``.
        way: how it is reached.

    Returns:
        Keyword arguments.
    """
    bits = bits_of(width)
    if way.recipe is not None:
        found = qat.few_bits_settings(graph, bits)
        # A batch normalisation with a negative factor turns the code -128 into 128, which no int8 holds.
        edges = {name: {**layer, "narrow_range": (True, False)} for name, layer in found["layers"].items()}
        return found | {"layers": edges}
    return {"num_bits": bits, "layers": edge_layers(graph, *bits, edge_bits=bits[0])}

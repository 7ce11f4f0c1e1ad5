"""All quantizers by name, in the pairs in which they are used: tests and benchmarks run over them."""

from __future__ import annotations

from typing import Any, NamedTuple

from qat.quantizers.base import BaseActivationQuantizer, BaseWeightQuantizer
from qat.quantizers.few_bits import BinaryWeightQuantizer, DoReFaWeightQuantizer, TernaryWeightQuantizer
from qat.quantizers.few_bits_activations import BinaryActivationQuantizer, DoReFaActivationQuantizer
from qat.quantizers.gtc import GTCActivationQuantizer, GTCWeightQuantizer
from qat.quantizers.learned import LSQActivationQuantizer, LSQWeightQuantizer, PACTActivationQuantizer
from qat.quantizers.learned_width import LearnedWidthActivationQuantizer, LearnedWidthWeightQuantizer
from qat.quantizers.minmax import ActivationQuantizer, WeightQuantizer
from qat.quantizers.qkeras import (
    QKerasBinaryWeightQuantizer,
    QKerasBitsActivationQuantizer,
    QKerasBitsWeightQuantizer,
    QKerasReLUActivationQuantizer,
    QKerasTernaryWeightQuantizer,
)
from qat.quantizers.qkeras_po2 import (
    QKerasPo2ActivationQuantizer,
    QKerasPo2WeightQuantizer,
    QKerasReLUPo2ActivationQuantizer,
)


class Pair(NamedTuple):
    """A weight quantizer and an activation quantizer that are used together.

    Attributes:
        weights: of every layer's weight.
        activations: of every layer's output.
        rectified: True: a ReLU stands before the activation quantizer; False: no activation function does.
    """

    weights: BaseWeightQuantizer
    activations: BaseActivationQuantizer
    rectified: bool = True

    @property
    def activation(self) -> str | None:
        """The name of the activation function of the layers before, or None."""
        return "relu" if self.rectified else None

    def settings(self, *last: str) -> dict[str, Any]:
        """Arguments for ``convert_quant_network``.

        Args:
            *last: names of the layers whose outputs are the network's; they get 8-bit activations by range.

        Returns:
            Keyword arguments.
        """
        layers = {name: {"activation_quantizer": None} for name in last}
        return {"weight_quantizer": self.weights, "activation_quantizer": self.activations, "layers": layers}


FAMILY: dict[str, Pair] = {
    "min/max": Pair(WeightQuantizer(8, per_channel=True), ActivationQuantizer(8)),
    "min/max, affine": Pair(WeightQuantizer(4, symmetric=False), ActivationQuantizer(4, symmetric=True)),
    "min/max, 1-bit activations": Pair(WeightQuantizer(4, per_channel=True), ActivationQuantizer(1)),
    "powers of two": Pair(
        WeightQuantizer(4, power_of_two=True), ActivationQuantizer(4, symmetric=True, power_of_two=True)
    ),
    "LSQ": Pair(LSQWeightQuantizer(4, per_channel=True), LSQActivationQuantizer(4)),
    "LSQ, 1-bit activations": Pair(LSQWeightQuantizer(2), LSQActivationQuantizer(1)),
    "LSQ+": Pair(LSQWeightQuantizer(3), LSQActivationQuantizer(4, offset=True), rectified=False),
    "DoReFa": Pair(DoReFaWeightQuantizer(4), DoReFaActivationQuantizer(4)),
    "DoReFa, 1-bit activations": Pair(DoReFaWeightQuantizer(3), DoReFaActivationQuantizer(1), rectified=False),
    "DoReFa, PACT": Pair(DoReFaWeightQuantizer(4), PACTActivationQuantizer(4, initial_alpha=2.0)),
    "ternary, PACT": Pair(TernaryWeightQuantizer(per_channel=True), PACTActivationQuantizer(1, initial_alpha=2.0)),
    "binary weights": Pair(BinaryWeightQuantizer(per_channel=True), LSQActivationQuantizer(2)),
    "binary": Pair(BinaryWeightQuantizer(per_channel=True), BinaryActivationQuantizer(scale="mean"), rectified=False),
    "binary, constant scales": Pair(
        BinaryWeightQuantizer(scale="constant"), BinaryActivationQuantizer(), rectified=False
    ),
    "learned width": Pair(LearnedWidthWeightQuantizer(per_channel=True), LearnedWidthActivationQuantizer(8)),
    "learned width, both signs": Pair(
        LearnedWidthWeightQuantizer(6), LearnedWidthActivationQuantizer(5), rectified=False
    ),
    "GTC": Pair(GTCWeightQuantizer(4), GTCActivationQuantizer(4)),
    "QKeras bits": Pair(QKerasBitsWeightQuantizer(6, integer=1), QKerasReLUActivationQuantizer(6, integer=2)),
    "QKeras bits, alpha": Pair(
        QKerasBitsWeightQuantizer(5, alpha=0.5), QKerasBitsActivationQuantizer(6, integer=2), rectified=False
    ),
    "QKeras bits, auto": Pair(
        QKerasBitsWeightQuantizer(4, narrow_range=True, alpha="auto"), QKerasReLUActivationQuantizer(4, integer=2)
    ),
    "QKeras bits, auto_po2": Pair(
        QKerasBitsWeightQuantizer(4, narrow_range=True, alpha="auto_po2"), QKerasReLUActivationQuantizer(4, integer=2)
    ),
    "QKeras ternary": Pair(
        QKerasTernaryWeightQuantizer(alpha="auto"), QKerasBitsActivationQuantizer(4, symmetric=False, integer=2)
    ),
    "QKeras binary": Pair(
        QKerasBinaryWeightQuantizer(alpha="auto_po2"), QKerasReLUActivationQuantizer(1, integer=1), rectified=False
    ),
    "QKeras powers of two": Pair(
        QKerasPo2WeightQuantizer(3, max_value=1.0), QKerasReLUPo2ActivationQuantizer(2), rectified=False
    ),
    "QKeras powers of two, both signs": Pair(
        QKerasPo2WeightQuantizer(3), QKerasPo2ActivationQuantizer(3), rectified=False
    ),
    "QKeras binary 0 and 1, leaky": Pair(
        QKerasBinaryWeightQuantizer(alpha="auto", use_01=True),
        QKerasReLUActivationQuantizer(4, integer=2, negative_slope=0.25),
        rectified=False,
    ),
}

"""The whole family by name, in the pairs in which its members are used: what tests and benchmarks go through."""

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


class Pair(NamedTuple):
    """Quantizers of weights and of activations.

    rectified: the activations come after a ReLU; else no activation function stands before the quantizer.
    """

    weights: BaseWeightQuantizer
    activations: BaseActivationQuantizer
    rectified: bool = True

    @property
    def activation(self) -> str | None:
        """The activation function of the layers before."""
        return "relu" if self.rectified else None

    def settings(self, *last: str) -> dict[str, Any]:
        """Of convert_quant_network; the named layers, whose outputs are the network's, give 8 bits by range."""
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
}

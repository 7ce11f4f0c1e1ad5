"""The family of quantizers, each written once over the vocabulary."""

from qat.quantizers.base import SMALLEST_SCALE, BaseActivationQuantizer, BaseWeightQuantizer, Quantizer, WeightCodes
from qat.quantizers.family import FAMILY
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

__all__ = [
    "FAMILY",
    "SMALLEST_SCALE",
    "ActivationQuantizer",
    "BaseActivationQuantizer",
    "BaseWeightQuantizer",
    "BinaryActivationQuantizer",
    "BinaryWeightQuantizer",
    "DoReFaActivationQuantizer",
    "DoReFaWeightQuantizer",
    "GTCActivationQuantizer",
    "GTCWeightQuantizer",
    "LSQActivationQuantizer",
    "LSQWeightQuantizer",
    "LearnedWidthActivationQuantizer",
    "LearnedWidthWeightQuantizer",
    "PACTActivationQuantizer",
    "QKerasBinaryWeightQuantizer",
    "QKerasBitsActivationQuantizer",
    "QKerasBitsWeightQuantizer",
    "QKerasPo2ActivationQuantizer",
    "QKerasPo2WeightQuantizer",
    "QKerasReLUActivationQuantizer",
    "QKerasReLUPo2ActivationQuantizer",
    "QKerasTernaryWeightQuantizer",
    "Quantizer",
    "TernaryWeightQuantizer",
    "WeightCodes",
    "WeightQuantizer",
]

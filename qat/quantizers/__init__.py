"""The family of quantizers, each written once over the vocabulary."""

from qat.quantizers.base import (
    SMALLEST_SCALE,
    BaseActivationQuantizer,
    BaseWeightQuantizer,
    Quantizer,
    WeightCodes,
)
from qat.quantizers.few_bits import BinaryWeightQuantizer, DoReFaWeightQuantizer, TernaryWeightQuantizer
from qat.quantizers.gtc import GTCActivationQuantizer, GTCWeightQuantizer
from qat.quantizers.learned import LSQActivationQuantizer, LSQWeightQuantizer, PACTActivationQuantizer
from qat.quantizers.learned_width import LearnedWidthWeightQuantizer
from qat.quantizers.minmax import ActivationQuantizer, WeightQuantizer

__all__ = [
    "SMALLEST_SCALE",
    "ActivationQuantizer",
    "BaseActivationQuantizer",
    "BaseWeightQuantizer",
    "BinaryWeightQuantizer",
    "DoReFaWeightQuantizer",
    "GTCActivationQuantizer",
    "GTCWeightQuantizer",
    "LSQActivationQuantizer",
    "LSQWeightQuantizer",
    "LearnedWidthWeightQuantizer",
    "PACTActivationQuantizer",
    "Quantizer",
    "TernaryWeightQuantizer",
    "WeightCodes",
    "WeightQuantizer",
]

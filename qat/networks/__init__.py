"""Networks, each written once."""

from qat.networks.catalogue import NETWORKS, create
from qat.networks.compact import (
    CompactDigits,
    CompactResidual,
    CompactSeparable,
    DepthwiseSeparable,
    InvertedResidual,
)
from qat.networks.lenet5 import LeNet3x3, LeNet5
from qat.networks.lenet_gtc import LeNetGTC
from qat.networks.mlperf_tiny import DSCNN, Autoencoder, MobileNetV1
from qat.networks.mnist_cnn import MnistCnn
from qat.networks.resnet import ResNet8, ResNet20
from qat.networks.svhn_cnn import SvhnCnn

__all__ = [
    "DSCNN",
    "NETWORKS",
    "Autoencoder",
    "CompactDigits",
    "CompactResidual",
    "CompactSeparable",
    "DepthwiseSeparable",
    "InvertedResidual",
    "LeNet3x3",
    "LeNet5",
    "LeNetGTC",
    "MnistCnn",
    "MobileNetV1",
    "ResNet8",
    "ResNet20",
    "SvhnCnn",
    "create",
]

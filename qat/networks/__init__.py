"""Networks, each written once."""

from qat.networks.catalogue import NETWORKS, create
from qat.networks.cnn import Cnn, Cnn1d
from qat.networks.compact import (
    CompactDigits,
    CompactResidual,
    CompactSeparable,
    DepthwiseSeparable,
    InvertedResidual,
)
from qat.networks.lenet5 import LeNet3x3, LeNet5
from qat.networks.lenet_gtc import LeNetGTC
from qat.networks.mlp import Mlp
from qat.networks.mlperf_tiny import DSCNN, Autoencoder, MobileNetV1
from qat.networks.mnist_cnn import MnistCnn
from qat.networks.resnet import ResNet8, ResNet20
from qat.networks.segmenter import Segmenter
from qat.networks.svhn_cnn import SvhnCnn
from qat.networks.transformer import Attention, VisionTransformer

__all__ = [
    "DSCNN",
    "NETWORKS",
    "Attention",
    "Autoencoder",
    "Cnn",
    "Cnn1d",
    "CompactDigits",
    "CompactResidual",
    "CompactSeparable",
    "DepthwiseSeparable",
    "InvertedResidual",
    "LeNet3x3",
    "LeNet5",
    "LeNetGTC",
    "Mlp",
    "MnistCnn",
    "MobileNetV1",
    "ResNet8",
    "ResNet20",
    "Segmenter",
    "SvhnCnn",
    "VisionTransformer",
    "create",
]

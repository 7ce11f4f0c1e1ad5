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
from qat.networks.dense import Dense
from qat.networks.detector import Detector
from qat.networks.ds_cnn1d import DSCNN1d
from qat.networks.lenet5 import LeNet3x3, LeNet5
from qat.networks.lenet_gtc import LeNetGTC
from qat.networks.mlp import Mlp
from qat.networks.mlperf_tiny import DSCNN, Autoencoder, MobileNetV1
from qat.networks.mnist_cnn import MnistCnn
from qat.networks.mobilenet_v3 import Bottleneck, MobileNetV3, SqueezeExcitation
from qat.networks.resnet import ResNet8, ResNet20
from qat.networks.segmenter import Segmenter
from qat.networks.svhn_cnn import SvhnCnn
from qat.networks.transformer import Attention, VisionTransformer
from qat.networks.unet import UNet

__all__ = [
    "DSCNN",
    "NETWORKS",
    "Attention",
    "Autoencoder",
    "Bottleneck",
    "Cnn",
    "Cnn1d",
    "CompactDigits",
    "CompactResidual",
    "CompactSeparable",
    "DSCNN1d",
    "Dense",
    "DepthwiseSeparable",
    "Detector",
    "InvertedResidual",
    "LeNet3x3",
    "LeNet5",
    "LeNetGTC",
    "Mlp",
    "MnistCnn",
    "MobileNetV1",
    "MobileNetV3",
    "ResNet8",
    "ResNet20",
    "Segmenter",
    "SqueezeExcitation",
    "SvhnCnn",
    "UNet",
    "VisionTransformer",
    "create",
]

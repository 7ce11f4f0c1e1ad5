"""Networks, each written once. Also importable as ``networks`` from the repository's root: the same classes."""

from __future__ import annotations

import importlib
import sys

if __name__ == "networks":
    # The folder itself was imported. Hand over qat.networks, so that a class exists once whichever name is used.
    _package = importlib.import_module("qat.networks")
    for _name, _module in list(sys.modules.items()):
        if _name.startswith("qat.networks"):
            sys.modules[_name.removeprefix("qat.")] = _module
else:
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

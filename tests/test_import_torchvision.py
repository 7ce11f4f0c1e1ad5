"""torchvision's own networks, imported: their code is what users of PyTorch have."""

from __future__ import annotations

import numpy as np
import pytest
from calibrations import calibrate
from frameworks import but_long
from import_modules import EQUAL, ready, torch
from torchvision_models import models

import qat
from qat.imports.sources.torch_node import is_of_torch


def test_resnet18_trains_and_deploys() -> None:
    module = ready(models().resnet18(weights=None))
    found = qat.import_model(module, torch.zeros(1, 3, 32, 32), tolerance=EQUAL)
    assert [node.name for node in found.graph.nodes[1:5]] == ["conv1", "maxpool", "layer1.0.conv1", "layer1.0.conv2"]
    assert found.graph.count_trainable() == sum(tensor.numel() for tensor in module.parameters())
    images = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    quantized = calibrate(found.graph, found.params, images)
    backend = qat.backend("torch")
    codes = backend.predict_codes(backend.lower(quantized.graph, quantized.params), images)
    wanted = qat.evaluate(qat.to_integer(quantized.graph, quantized.params), images)
    assert int((codes != wanted).sum()) == 0


OTHERS = ["squeezenet1_1", "mobilenet_v2", "mnasnet0_5", "mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_y_400mf"]
OTHERS += ["convnext_tiny", "swin_t"]


@pytest.mark.parametrize("name", but_long(OTHERS, lambda name: name not in ("squeezenet1_1", "mobilenet_v3_small")))
def test_others(name: str) -> None:
    module = ready(models().get_model(name, weights=None))
    assert qat.import_model(module, torch.zeros(1, 3, 64, 64), tolerance=1e-5).sources


def test_lines_of_torchvision_are_no_lines_of_torch() -> None:
    folder = "/usr/lib/python3/site-packages"
    assert not is_of_torch(f"{folder}/torchvision/models/convnext.py")
    assert is_of_torch(f"{folder}/torch/nn/functional.py")

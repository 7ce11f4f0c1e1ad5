"""The networks: published counts, and their whole path in brief."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qat
from qat.integer import IntegerLinear, trace_codes
from qat.networks import NETWORKS, create
from qat.optimizer import Optimizer
from qat.registry import BACKENDS, installed


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("lenet", 61_684),  # MindSpore's tutorial
        ("mnist_cnn", 16_842),  # Himax's example for the WE-I Plus
        ("resnet8", 78_666 - 480),  # MLPerf Tiny counts the running statistics too
        ("resnet20", 272_474),  # He et al. say 0.27 M
        (
            "svhn_cnn",
            13_552 + 2 * (3 + 16 + 16 + 24 + 42 + 64) + 10,
        ),  # the document's weights, batch norms and output biases
    ],
)
def test_published_parameter_counts(name: str, weights: int) -> None:
    assert create(name).graph().count_trainable() == weights


def test_mnist_cnn_has_the_products_and_the_input_of_its_document() -> None:
    graph = qat.convert_quant_network(create("mnist_cnn"))
    integers = qat.to_integer(graph, graph.observed_params())
    linear = [node for node in integers.nodes if isinstance(node, IntegerLinear)]
    places = [int(np.prod(node.output.shape[1:])) for node in linear]
    assert sum(count * node.weight.size for count, node in zip(places, linear, strict=True)) == 203_552
    assert integers.input.grid.zero_point == 128  # the code of a pixel is pixel - 128


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("backend_name", [name for name, entry in BACKENDS.items() if installed(entry)])
def test_every_network_is_quantized_trained_exported_and_equal(backend_name: str, name: str, tmp_path: Path) -> None:
    backend, onnx = qat.backend(backend_name), qat.target("ONNX")
    graph = qat.convert_quant_network(create(name), quant_delay=2)
    shape = graph.shapes[graph.inputs[0].name]
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (8, *shape), np.uint8)
    step = backend.make_step(backend.lower(graph), Optimizer())
    for _ in range(5):
        assert np.isfinite(step(images, generator.integers(0, 10, 8), 0.01))
    integers = qat.to_integer(graph, backend.read(step.model))
    onnx.export(integers, tmp_path / "net.onnx")
    tensors = [node.output for node in integers.nodes]
    reference = trace_codes(integers, images, [tensor.name for tensor in tensors])
    by_backend = backend.trace(step.model, images, tensors)
    by_onnx = onnx.trace(tmp_path / "net.onnx", images, tensors)
    assert len(by_onnx) == len(tensors) - 1
    for tensor in tensors[1:]:
        np.testing.assert_array_equal(
            by_backend[tensor.name], reference[tensor.name], err_msg=f"{backend_name}, {tensor.name}"
        )
        np.testing.assert_array_equal(by_onnx[tensor.name], reference[tensor.name], err_msg=f"ONNX, {tensor.name}")

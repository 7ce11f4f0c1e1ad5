"""Transposed convolutions are PyTorch's, in value, gradient and shape, and each code is that of one convolution's phases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frameworks import HERE, but_long
from graphs import Traced, chain

import qat
from qat.integer import IntegerConv2d, IntegerPick, evaluate
from qat.passes.equalize_channels import equalize_channels
from qat.passes.fold_batch_norm import fold_batch_norm
from qat.pruning import l1_importance, prune_weights
from qat.registry import TARGETS, installed
from qat.vocabulary.arrays import as_tuple

F = np.float32
TORCH = qat.backend("torch")
GEOMETRIES = {
    "U-Net's": {"kernel_size": 2, "stride": 2},
    "doubling, even kernel": {"kernel_size": 4, "stride": 2, "padding": 1},
    "doubling, odd kernel": {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    "tripling with gaps": {"kernel_size": 2, "stride": 3},
    "one phase": {"kernel_size": 3, "padding": 1},
    "sides that differ": {"kernel_size": (3, 5), "stride": (2, 1), "padding": (0, 2), "output_padding": (1, 0)},
    "dilated": {"kernel_size": 3, "stride": 2, "padding": 2, "dilation": 2, "output_padding": 1},
    "groups": {"kernel_size": 4, "stride": 2, "padding": 1, "group": 2},
    "depthwise": {"kernel_size": 3, "stride": 2, "group": 4},
}


def theirs(fields: dict[str, Any]) -> torch.nn.ConvTranspose2d:
    torch.manual_seed(0)
    return torch.nn.ConvTranspose2d(4, 8, **{"groups" if key == "group" else key: x for key, x in fields.items()})


def lowered(fields: dict[str, Any], layer: torch.nn.ConvTranspose2d) -> Any:
    """A float network of the cell alone, over real numbers, with the layer's own parameters."""
    cell = qat.ConvTranspose2dBnAct(4, 8, has_bias=True, **fields)
    graph = chain(cell, shape=(4, 5, 6))
    first = replace(graph.nodes[0], cell=qat.Input((4, 5, 6), dtype="float32"))
    graph = qat.Graph((first, *graph.nodes[1:]), graph.outputs)
    return graph, {"c0.weight": layer.weight.detach().numpy(), "c0.bias": layer.bias.detach().numpy()}


@pytest.mark.parametrize("fields", GEOMETRIES.values(), ids=list(GEOMETRIES))
def test_values_and_gradients_are_those_of_pytorch(fields: dict[str, Any]) -> None:
    """With weights as PyTorch holds them."""
    layer, x = theirs(fields), torch.randn(2, 4, 5, 6)
    model = TORCH.lower(*lowered(fields, layer))
    y, found = layer(x), model(x)
    np.testing.assert_allclose(found.detach().numpy(), y.detach().numpy(), rtol=1e-4, atol=1e-5)
    cotangent = torch.randn_like(y)
    wanted = torch.autograd.grad(y, [layer.weight, layer.bias], cotangent)
    parameters = dict(model.named_parameters())
    given = torch.autograd.grad(found, [parameters[name] for name in sorted(parameters, reverse=True)], cotangent)
    for mine, other in zip(given, wanted, strict=True):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("target", [name for name in ("ONNX", "TFLITE") if installed(TARGETS[name])])
@pytest.mark.parametrize("fields", GEOMETRIES.values(), ids=list(GEOMETRIES))
def test_a_float_file_computes_it(fields: dict[str, Any], target: str, tmp_path: Path) -> None:
    """By the format's own operator, but in TFLite where that has no groups and no dilation."""
    layer = theirs(fields)
    graph, params = lowered(fields, layer)
    x, path = np.random.default_rng(1).normal(size=(2, 4, 5, 6)).astype(F), tmp_path / f"net{TARGETS[target].suffix}"
    qat.target(target).export_float(graph, params, path)
    found = as_tuple(qat.target(target).predict(path, x))[0]
    np.testing.assert_allclose(found, layer(torch.from_numpy(x)).detach().numpy(), rtol=1e-4, atol=1e-5)
    own = {"ONNX": b"ConvTranspose", "TFLITE": None}[target]
    assert own is None or own in path.read_bytes()


def phases(**fields: Any) -> tuple[list[int], bool]:
    """Outputs and kernel of the convolution that it becomes, and whether a part of the blocks is cut out."""
    graph = qat.convert_quant_network(chain(qat.ConvTranspose2dBnAct(4, 8, **fields), shape=(4, 5, 6)))
    nodes = qat.to_integer(graph, graph.observed_params()).nodes
    conv = next(node for node in nodes if isinstance(node, IntegerConv2d))
    return [conv.weight.shape[0], *conv.weight.shape[2:]], any(isinstance(node, IntegerPick) for node in nodes)


def test_it_costs_what_its_kernel_costs() -> None:
    """No product with a stuffed zero: where the stride divides the kernel, there are as many products as its MACs."""
    assert phases(kernel_size=2, stride=2) == ([32, 1, 1], False)
    assert phases(kernel_size=4, stride=2, padding=1) == ([32, 2, 2], True)
    assert phases(kernel_size=3, stride=2, padding=1, output_padding=1) == ([32, 2, 2], False)
    assert phases(kernel_size=3, padding=1) == ([8, 3, 3], False)


def test_the_weight_is_pytorchs_and_its_scales_are_of_outputs() -> None:
    cell = qat.ConvTranspose2dBnAct(4, 6, (2, 3), has_bias=True)
    assert cell.float_params()["weight"].shape == (4, 6, 2, 3)
    quantized = qat.convert_quant_network(chain(cell, shape=(4, 5, 6)), weight_quantizer=qat.LSQWeightQuantizer())
    shapes = {name: param.shape for name, param in quantized.params.items()}
    assert shapes["c0.weight"] == (4, 6, 2, 3)
    integers = qat.to_integer(quantized, quantized.observed_params())
    conv = next(node for node in integers.nodes if isinstance(node, IntegerConv2d))
    assert conv.weight_scale.shape == (6,)


def decoder(**fields: Any) -> Traced:
    """Down and up again."""
    return Traced(
        lambda self, x: self.c(self.b(self.a(x))),
        inputs=qat.Input((3, 8, 8), mean=0.5, std=0.25),
        a=qat.Conv2dBnAct(3, 8, 3, stride=2, has_bn=True, activation="relu"),
        b=qat.ConvTranspose2dBnAct(8, 6, 4, stride=2, padding=1, has_bn=True, activation="relu", **fields),
        c=qat.Conv2dBnAct(6, 2, 1, has_bias=True),
    )


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric weights", "affine weights"])
@pytest.mark.parametrize("group", [1, 2])
def test_all_engines_give_its_codes(group: int, symmetric: bool, tmp_path: Path) -> None:
    graph = qat.convert_quant_network(decoder(group=group), symmetric=(symmetric, False))
    params = graph.observed_params()
    rng = np.random.default_rng(3)
    params["b.gamma"] = rng.uniform(-1, 1, 6).astype(F)
    integers, pixels = qat.to_integer(graph, params), rng.integers(0, 256, (4, 3, 8, 8), np.uint8)
    expected = as_tuple(evaluate(integers, pixels))[0]
    assert len(np.unique(expected)) > 20
    found = TORCH.predict_codes(TORCH.lower(graph, params), pixels)
    np.testing.assert_array_equal(as_tuple(found)[0], expected)
    path = tmp_path / "net.onnx"
    qat.target("ONNX").export(integers, path)
    found = integers.output.grid.codes_of(as_tuple(qat.target("ONNX").predict(path, pixels))[0])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "backend", but_long([name for name in HERE if name != "mindspore"], lambda name: name != "torch")
)
def test_an_autoencoder_with_it_trains(backend: str) -> None:
    """Pictures of squares come back: it learns, its weights pruned, and no code differs from NumPy's.

    MindSpore takes about ten seconds for each of the steps, too many for a test; tests/test_ops_conformance.py has its
    gradients there.
    """
    rng = np.random.default_rng(0)
    places, images = rng.integers(0, 5, (256, 2)), np.zeros((256, 3, 8, 8), np.uint8)
    for image, (row, column) in zip(images, places, strict=True):
        image[:, row : row + 4, column : column + 4] = 255
    split = qat.Split(images, (images[:, 0] > 0).astype(np.int64))
    graph, params = decoder().graph(), decoder().graph().initial_params(0)
    pruner = qat.pruning.MagnitudePruner(0.3, schedule="constant", begin=0)
    graph, params = prune_weights(graph, params, pruner, ("b",))
    graph = qat.convert_quant_network(graph)
    start = qat.Checkpoint(graph, {name: params.get(name, array) for name, array in graph.initial_params(0).items()})
    task, engine = qat.tasks.Segmentation(), qat.backend(backend)
    data = qat.Dataset("made", "here", split, split)
    found = qat.train(engine, start, data, qat.Recipe(epochs=12, batch_size=32, lr=0.02), task=task)
    integers = qat.to_integer(found.graph, found.params)
    expected = as_tuple(evaluate(integers, images))[0]
    codes = engine.predict_codes(engine.lower(found.graph, found.params), images)
    np.testing.assert_array_equal(as_tuple(codes)[0], expected)
    assert (expected.argmax(1) == split.labels).mean() > 0.9
    assert (found.params["b.weight_mask"] == 0).sum() == round(0.3 * 8 * 6 * 16)


def test_passes_know_where_its_outputs_are() -> None:
    """Folding, equalizing and ranking take channels of outputs, which are the weight's second axis."""
    graph = decoder().graph()
    rng, params = np.random.default_rng(5), graph.initial_params(0)
    for name in params:
        if not name.endswith("weight"):
            params[name] = rng.uniform(0.5, 2.0, params[name].shape).astype(F)
    pixels = rng.integers(0, 256, (2, 3, 8, 8), np.uint8)
    expected = TORCH.predict(TORCH.lower(graph, params), pixels)
    for changed in (fold_batch_norm(graph, params), (graph, equalize_channels(graph, params))):
        found = TORCH.predict(TORCH.lower(*changed), pixels)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    params["b.weight"][:, 2] = 0.0
    ranks = l1_importance(graph, params)["b"]
    assert ranks.shape == (6,)
    assert ranks.argmin() == 2


def test_wrong_uses_are_said() -> None:
    for words, fields in {
        r"padding 3 cuts off more than the 2 places": {"padding": 3},
        r"output_padding is 2; use numbers from 0 to below stride": {"stride": 2, "output_padding": 2},
        r"group 3 divides 4 input and 8 output channels unevenly": {"group": 3},
    }.items():
        with pytest.raises(qat.QatError, match=rf"^ConvTranspose2dBnAct: {words}"):
            qat.ConvTranspose2dBnAct(4, 8, 3, **fields)
    with pytest.raises(qat.QatError, match=r"cuts all of its output for an input \(4, 1, 1\); use less padding"):
        qat.ConvTranspose2dBnAct(4, 8, 3, padding=2).output_shape((4, 1, 1))

"""What makes a channel important, against transcriptions and autograd; and slimming, which makes some unimportant."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_pruning_weights import BACKENDS, TORCH, Small, pixels, pruned

import qat
from qat.data import Split, load
from qat.integer import evaluate
from qat.networks import create
from qat.pruning import channel_groups, l1_importance, prune_channels, slimming_importance, taylor_importance
from qat.pruning.training import PruningInTraining, prunable_gammas, shrink
from qat.training.loop import train
from qat.training.recipe import Recipe

Array = npt.NDArray[Any]
F = np.float32


def parameters(graph: qat.Graph) -> dict[str, Array]:
    """Gammas of any sign and size."""
    rng = np.random.default_rng(0)
    params = graph.initial_params()
    return {n: rng.normal(0, 1, a.shape).astype(F) if n.endswith("gamma") else a for n, a in params.items()}


def test_slimming_goes_by_the_size_of_gamma() -> None:
    graph = Small().graph()
    params = parameters(graph)
    found = slimming_importance(graph, params)
    assert set(found) == {"conv", "depthwise"}
    np.testing.assert_array_equal(found["conv"], np.abs(params["conv.gamma"]).astype(float))
    with pytest.raises(qat.QatError, match=r"LeNet5 has no batch normalisation, .* use the method l1 or taylor"):
        slimming_importance(create("lenet").graph(), create("lenet").graph().initial_params())


def test_l1_sums_the_sizes_of_a_filter_s_weights() -> None:
    graph, params = pruned(Small().graph())
    dirty = params | {"fc.weight": params["fc.weight"] + (1 - params["fc.weight_mask"])}
    found = l1_importance(graph, dirty)
    for name in ("conv", "depthwise", "fc"):
        expected = [sum(abs(float(w)) for w in row.ravel()) for row in params[f"{name}.weight"]]
        np.testing.assert_allclose(found[name], expected, rtol=1e-12)


def test_the_importance_of_a_unit_is_the_sum_over_its_channels() -> None:
    graph = Small().graph()
    scores = {"conv": np.array([1.0, 2, 3, 4, 5, 6]), "depthwise": np.array([9.0, 0, 0, 0, 0, 0])}
    _, kept = prune_channels(graph, graph.initial_params(), scores, ratio=1 / 6)
    np.testing.assert_array_equal(kept["conv.weight"], graph.initial_params()["conv.weight"][[0, 2, 3, 4, 5]])


def gradients(graph: qat.Graph, params: dict[str, Array], images: Array, labels: Array) -> dict[str, Array]:
    """By torch's autograd."""
    model = TORCH.lower(graph, params).train()
    loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(images)), torch.from_numpy(labels))
    loss.backward()
    return {n: t.grad.numpy().astype(float) for n, t in model.tensors.items() if t.grad is not None}


@pytest.mark.parametrize("has_bn", [True, False], ids=["batch norm", "bias"])
@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_taylor_importance_is_the_square_of_the_first_order_term(backend: ModuleType, has_bn: bool) -> None:
    graph = Small(has_bn=has_bn).graph()
    params = parameters(graph)
    split = Split(*pixels(48))
    found = taylor_importance(backend, graph, params, split, batches=3, batch_size=16, seed=5)
    expected = {name: np.zeros_like(scores) for name, scores in found.items()}
    for images, labels in split.batches(16, 5, 1):
        g = gradients(graph, params, images, labels)
        for name in expected:
            own = ("gamma", "beta") if has_bn and name != "fc" else ("weight", "bias")
            terms = [g[f"{name}.{x}"] * params[f"{name}.{x}"] for x in own]
            expected[name] += sum(t.reshape(len(t), -1).sum(axis=1) for t in terms) ** 2 / 3
            if has_bn and name == "conv":  # why gamma and beta: normalised weights have no such term
                w = (g["conv.weight"] * params["conv.weight"]).reshape(6, -1).sum(axis=1)
                assert np.abs(w).max() < 1e-2 * np.abs(terms[0]).max()
    for name, scores in found.items():
        # g is a difference of float32 parameters, whose sums over a filter are squared.
        np.testing.assert_allclose(scores, expected[name], rtol=2e-3, atol=1e-4 * expected[name].max(), err_msg=name)
    assert expected["conv"].max() > 1e-8


def test_taylor_importance_needs_images_and_leaves_dropout_reproducible() -> None:
    network = create("ds_cnn").graph()
    split = Split(np.random.default_rng(0).integers(0, 256, (8, 1, 49, 10), np.uint8), np.arange(8))
    both = [
        taylor_importance(TORCH, network, network.initial_params(), split, batches=2, batch_size=4) for _ in range(2)
    ]
    for name, scores in both[0].items():
        np.testing.assert_array_equal(scores, both[1][name])
    with pytest.raises(qat.QatError, match="there are 8 images, and batch_size is 9"):
        taylor_importance(TORCH, network, network.initial_params(), split, batch_size=9)
    with pytest.raises(qat.QatError, match="at least one batch"):
        taylor_importance(TORCH, network, network.initial_params(), split, batches=0)


@pytest.mark.parametrize("criterion", [slimming_importance, l1_importance])
def test_a_quantized_network_has_no_importance(criterion: Any) -> None:
    graph = qat.convert_quant_network(Small())
    with pytest.raises(qat.QatError, match="is quantized, and channels are removed from float networks"):
        criterion(graph, graph.initial_params())


# -- slimming ---------------------------------------------------------------------------------------------------------


@given(arrays(F, 5, elements=st.floats(-3, 3, width=32)), st.floats(0, 2, width=32))
def test_the_proximal_step_is_its_definition(gamma: Array, threshold: float) -> None:
    """argmin over x of (x - gamma)^2 / 2 + threshold |x|: no other number on a fine grid does better."""
    found = shrink(gamma, threshold)
    assert found.dtype == F
    grid = np.linspace(-4, 4, 401)
    for x, g in zip(found.astype(float), gamma.astype(float), strict=True):
        cost = (x - g) ** 2 / 2 + threshold * abs(x)
        assert cost <= ((grid - g) ** 2 / 2 + threshold * np.abs(grid)).min() + 1e-6


def test_only_scales_of_channels_that_can_go_are_drawn_to_0() -> None:
    assert prunable_gammas(create("autoencoder").graph()) == [f"layers.{i}.gamma" for i in range(9)]
    zoo = qat.Conv2dBnAct(1, 3, 1, has_bn=True)

    class Ends(qat.Network):
        def __init__(self) -> None:
            self.inputs, self.conv = qat.Input((1, 4, 4)), zoo

        def construct(self, x: Any) -> Any:
            return self.conv(x)

    for graph in (Ends().graph(), create("lenet").graph()):
        with pytest.raises(qat.QatError, match="leave --slimming out"):
            PruningInTraining(TORCH, None, graph, 0.1)
    with pytest.raises(qat.QatError, match="is quantized"):
        PruningInTraining(TORCH, None, qat.convert_quant_network(Small()), 0.1)


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_slimming_makes_scales_exactly_0(backend: ModuleType) -> None:
    graph = Small().graph()
    start, dataset = qat.Checkpoint(graph, graph.initial_params()), load("digits")
    shares = []
    for slimming in (0.0, 2.0):
        end = train(backend, start, dataset, Recipe(epochs=1, lr=0.05, slimming=slimming))
        shares.append(float(np.mean([end.params[f"{name}.gamma"] == 0 for name in ("conv", "depthwise")])))
    assert shares[0] == 0.0
    assert shares[1] > 0.0


@pytest.mark.parametrize("slimming", [-1.0, float("nan"), float("inf")])
def test_a_wrong_penalty_is_refused(slimming: float) -> None:
    with pytest.raises(qat.QatError, match="slimming is"):
        Recipe(slimming=slimming)


# -- the whole chain --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_slimmed_pruned_tuned_quantized_and_equal_in_a_file(backend: ModuleType, tmp_path: Any) -> None:
    graph, dataset = Small().graph(), load("digits")
    slim = train(backend, qat.Checkpoint(graph, graph.initial_params()), dataset, Recipe(epochs=1, slimming=0.05))
    smaller, params = prune_channels(slim.graph, slim.params, slimming_importance(slim.graph, slim.params), ratio=0.5)
    assert [len(group) for group in channel_groups(smaller)] == [3]
    smaller, params = qat.pruning.prune_weights(
        smaller, params, qat.pruning.MagnitudePruner(0.5, begin=2, end=12, frequency=5)
    )
    tuned = train(backend, qat.Checkpoint(smaller, params), dataset, Recipe(epochs=1))
    qgraph = qat.convert_quant_network(tuned.graph, quant_delay=4)
    end = train(backend, qat.Checkpoint(qgraph, qgraph.params_from(tuned.params)), dataset, Recipe(epochs=1, lr=0.005))
    integers = qat.to_integer(qgraph, end.params)
    images = dataset.test.images
    expected = evaluate(integers, images)
    np.testing.assert_array_equal(backend.predict_codes(backend.lower(qgraph, end.params), images), expected)
    qat.target("ONNX").export(integers, tmp_path / "net.onnx")
    found = integers.output.grid.codes_of(qat.target("ONNX").predict(tmp_path / "net.onnx", images))
    np.testing.assert_array_equal(found, expected)
    zeros, weights = qat.pruning.count_zeros(qgraph, end.params)
    assert (zeros, weights) == (round(27 / 2) * 2 + 240, 27 * 2 + 480)

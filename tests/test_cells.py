"""Every cell and folding, together: trained, turned into integers, exported, and equal everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qat
from qat.integer import trace_codes
from qat.networks import LeNet5
from qat.passes.fold_batch_norm import fold_batch_norm
from qat.training.optimizer import Optimizer
from qat.vocabulary.activations import FUSED

TORCH, ONNX = qat.backend("torch"), qat.target("ONNX")
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (48, 3, 16, 16), np.uint8)
LABELS = RNG.integers(0, 10, 48)


class Everything(qat.Network):
    """Each cell at least once; residual additions of three kinds."""

    def __init__(self, activation: str = "hswish") -> None:
        self.inputs = qat.Input((3, 16, 16), mean=0.5, std=0.25)
        self.norm = qat.BatchNorm(3)
        self.conv1 = qat.Conv2dBnAct(3, 8, 3, has_bn=True, activation=activation)
        self.conv2 = qat.Conv2dBnAct(8, 8, 3, has_bn=True, has_bias=True)
        self.add = qat.Add("relu")
        self.conv3 = qat.Conv2dBnAct(8, 8, 3, has_bn=True, activation="leaky_relu")
        self.depthwise = qat.Conv2dBnAct(8, 8, 3, group=8, has_bn=True, activation="relu6")
        self.mean = qat.AvgPool2d(2)
        self.largest = qat.MaxPool2d(2)
        self.concat = qat.Concat()
        self.tanh = qat.Activation("tanh")
        self.dropout = qat.Dropout(0.1)
        self.everywhere = qat.GlobalAvgPool2d()
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(16, 10, has_bn=True)

    def construct(self, x):
        x = self.conv1(self.norm(x))
        x = self.add(self.conv2(x), x)
        x = x + self.conv3(x)
        x = self.concat(self.mean(x), self.largest(self.depthwise(x)))
        x = self.dropout(self.tanh(x))
        return self.fc(self.flatten(self.everywhere(x)))


def trained(network: qat.Network, steps: int = 12, **settings: object):
    """A graph and its parameters after a few steps, the first of which are float."""
    graph = qat.convert_quant_network(network, quant_delay=4, **settings)
    step = TORCH.make_step(TORCH.lower(graph), Optimizer())
    for name, position, value in (("gamma", 0, 0.0), ("gamma", 1, -0.7), ("gamma", 2, 1e-9)):
        step.model.tensors[f"conv2.{name}"].data[position] = value
    for _ in range(steps):
        assert np.isfinite(step(IMAGES, LABELS, 0.02))
    return graph, TORCH.read(step.model), step.model


def assert_equal_everywhere(graph: qat.Graph, params: dict[str, np.ndarray], model: object, folder: Path) -> None:
    """Every code of every node: NumPy, torch, ONNX Runtime."""
    integers = qat.to_integer(graph, params)
    tensors = [node.output for node in integers.nodes]
    reference = trace_codes(integers, IMAGES, [tensor.name for tensor in tensors])
    ONNX.export(integers, folder / "net.onnx")
    by_torch = TORCH.trace(model, IMAGES, tensors)
    by_onnx = ONNX.trace(folder / "net.onnx", IMAGES, tensors)
    assert len(by_onnx) == len(tensors) - 1  # all but the input
    for name, codes in reference.items():
        np.testing.assert_array_equal(by_torch[name], codes, err_msg=f"torch, {name}")
        if name in by_onnx:
            np.testing.assert_array_equal(by_onnx[name], codes, err_msg=f"ONNX Runtime, {name}")
    final = integers.output.grid.codes_of(ONNX.predict(folder / "net.onnx", IMAGES))
    np.testing.assert_array_equal(final, reference[integers.output.name])


@pytest.mark.parametrize(
    "settings",
    [
        {"one_conv_fold": False},
        {"one_conv_fold": True},
        {"bn_fold": False},
        {"one_conv_fold": False, "freeze_bn": 8},
        {"bn_fold": False, "symmetric": False},
        {"symmetric": True},
        {"num_bits": (4, 6), "per_channel": False},
    ],
    ids=str,
)
def test_every_setting_gives_equal_codes(settings: dict[str, object], tmp_path: Path) -> None:
    assert_equal_everywhere(*trained(Everything(), **settings), tmp_path)


@pytest.mark.parametrize("activation", FUSED)
def test_every_activation_gives_equal_codes(activation: str, tmp_path: Path) -> None:
    assert_equal_everywhere(*trained(Everything(activation)), tmp_path)


@pytest.mark.parametrize("settings", [{"one_conv_fold": False}, {"one_conv_fold": True}, {"bn_fold": False}], ids=str)
def test_the_integers_compute_what_the_float_network_computes(settings: dict[str, object]) -> None:
    """With 8 bits the integers stay near the float network of the same parameters, whichever way BN was folded.

    Tolerance: the mean error is below 8 % of the spread of the outputs; of a network with one gamma changed it is not.
    """
    _, params, model = trained(Everything(), **settings)
    float_graph = Everything().graph()
    own = {name: params[name] for name in float_graph.params}

    def error(params_of_float: dict[str, np.ndarray]) -> float:
        expected = TORCH.predict(TORCH.lower(float_graph, params_of_float), IMAGES)
        return float(np.abs(TORCH.predict(model, IMAGES) - expected).mean() / expected.std())

    assert error(own) < 0.08
    assert error(own | {"conv1.gamma": -own["conv1.gamma"]}) > 0.08


def test_folding_changes_nothing() -> None:
    """fold_batch_norm gives the same function: 1e-5 of outputs of about 1, with gammas of 0, 1e-9 and below 0."""
    _, params, _ = trained(Everything())
    float_graph = Everything().graph()
    own = {name: params[name] for name in float_graph.params}
    folded, folded_params = fold_batch_norm(float_graph, own)
    assert not any("gamma" in name for name in folded.params)
    expected = TORCH.predict(TORCH.lower(float_graph, own), IMAGES)
    found = TORCH.predict(TORCH.lower(folded, folded_params), IMAGES)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    wrong = folded_params | {"conv1.bias": folded_params["conv1.bias"] + 0.01}
    assert np.abs(TORCH.predict(TORCH.lower(folded, wrong), IMAGES) - expected).max() > 1e-5


def test_the_float_onnx_file_computes_the_float_network(tmp_path: Path) -> None:
    _, params, _ = trained(Everything())
    graph = Everything().graph()
    own = {name: params[name] for name in graph.params}
    ONNX.export_float(graph, own, tmp_path / "float.onnx")
    expected = TORCH.predict(TORCH.lower(graph, own), IMAGES)
    np.testing.assert_allclose(ONNX.predict(tmp_path / "float.onnx", IMAGES), expected, rtol=0, atol=1e-4)


def test_the_output_is_the_one_that_construct_returns() -> None:
    """Not the last node that was computed; what the output does not need is left out."""

    class Detour(qat.Network):
        def __init__(self) -> None:
            self.inputs = qat.Input((1, 4, 4))
            self.flatten = qat.Flatten()
            self.out = qat.DenseBnAct(16, 6)
            self.aside = qat.DenseBnAct(6, 3)

        def construct(self, x):
            y = self.out(self.flatten(x))
            self.aside(y)
            return y

    graph = qat.convert_quant_network(Detour())
    params = graph.initial_params() | {
        name: np.array(1.0 if name.endswith("max") else -1.0, np.float32) for name in graph.params if "fake" in name
    }
    integers = qat.to_integer(graph, params)
    assert integers.output.name == "out"
    assert [node.name for node in integers.nodes] == ["input", "flatten", "out"]


def test_added_tensors_share_their_grid_and_no_sum_is_a_tie() -> None:
    graph, params, _ = trained(Everything())
    integers = qat.to_integer(graph, params)
    sums = [node for node in integers.nodes if type(node).__name__ == "IntegerAdd"]
    assert len(sums) == 2
    for node in sums:
        a, b = node.inputs
        assert a.grid == b.grid
        codes = np.arange(2 * a.grid.low, 2 * a.grid.high + 1) * float(a.grid.scale) / float(node.output.grid.scale)
        inside = codes[(codes > node.output.grid.low) & (codes < node.output.grid.high)]
        assert np.abs(inside - np.floor(inside) - 0.5).min() > 2.0**-13


def test_ties_are_moved_away_even_where_the_ranges_ask_for_them(tmp_path: Path) -> None:
    """The output's scale is twice the inputs': every odd sum would be a tie."""

    class Twice(qat.Network):
        def __init__(self) -> None:
            self.inputs = qat.Input((3, 16, 16))
            self.a = qat.Conv2dBnAct(3, 4, 1)
            self.b = qat.Conv2dBnAct(3, 4, 1)

        def construct(self, x):
            return self.a(x) + self.b(x)

    graph = qat.convert_quant_network(Twice())
    params = graph.initial_params(3)
    for name in graph.params:
        if "fake_quant" in name:
            params[name] = np.array((2.0 if "add" in name else 1.0) * (1 if "max" in name else -1), np.float32)
    assert_equal_everywhere(graph, params, TORCH.lower(graph, params), tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("conv1.weight", np.inf, "'conv1.weight' holds inf"),
        ("conv2.bias", np.nan, "'conv2.bias' holds nan"),
        ("conv3.moving_variance", np.inf, "'conv3.moving_variance' holds inf"),
    ],
)
def test_parameters_that_are_no_numbers_are_refused(name: str, value: float, message: str) -> None:
    graph, params, _ = trained(Everything())
    params[name] = params[name].copy()
    params[name].flat[0] = value
    with pytest.raises(qat.QatError, match=message):
        qat.to_integer(graph, params)


def test_scales_whose_quotient_is_no_number_are_refused() -> None:
    """A bias of 1e38 over an activation that is always 0: its scale is far below what float32 can divide by."""
    graph = qat.convert_quant_network(LeNet5())
    params = graph.initial_params() | {
        name: np.array(-1.0 if name.endswith("min") else 1.0, np.float32) for name in graph.params if "fake" in name
    }
    params["fc1.fake_quant.max"] = np.zeros((), np.float32)
    params["fc2.bias"] = np.full(84, 1e38, np.float32)
    with pytest.raises(qat.QatError, match=r"fc2: its biases reach 1e\+38 where its input's codes have scale"):
        qat.to_integer(graph, params)


def test_dropout_drops_in_training_only() -> None:
    class Dropped(qat.Network):
        def __init__(self) -> None:
            self.inputs = qat.Input((1, 8, 8))
            self.dropout = qat.Dropout(0.5)
            self.flatten = qat.Flatten()

        def construct(self, x):
            return self.flatten(self.dropout(x))

    model = TORCH.lower(Dropped())
    images = np.full((64, 1, 8, 8), 255, np.uint8)
    import torch

    dropped = model.train()(torch.tensor(images)).numpy()
    assert set(np.unique(dropped)) == {0.0, 2.0}
    assert abs(dropped.mean() - 1.0) < 0.1  # 4,096 draws: five standard deviations are 0.08
    np.testing.assert_array_equal(TORCH.predict(model, images), np.ones((64, 64), np.float32))

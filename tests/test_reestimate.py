"""Statistics of batch normalisation estimated anew: those of all images, with weights, scales and ranges as they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from command import run

import qat
from qat.data import Split
from qat.training.optimizer import Optimizer
from qat.vocabulary.numpy_ops import NUMPY_OPS

Array = npt.NDArray[Any]
TORCH = qat.backend("torch")
STATISTICS = ("moving_mean", "moving_variance")


class Small(qat.Network):
    """Two normalised layers with dropout between them."""

    def __init__(self) -> None:
        self.inputs = qat.Input((1, 6, 6), mean=0.3, std=0.3)
        self.conv = qat.Conv2dBnAct(1, 4, 3, has_bn=True, activation="relu")
        self.dropout = qat.Dropout(0.5)
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(144, 3, has_bn=True)

    def construct(self, x):
        return self.fc(self.flatten(self.dropout(self.conv(x))))


class Shared(qat.Network):
    """One normalised layer that is used twice."""

    def __init__(self) -> None:
        self.inputs = qat.Input((1, 6, 6))
        self.norm = qat.BatchNorm(1)

    def construct(self, x):
        return self.norm(self.norm(x))


def images(count: int = 50) -> Array:
    return np.random.default_rng(0).integers(0, 256, (count, 1, 6, 6), np.uint8)


def dataset() -> qat.Dataset:
    split = Split(images(), np.arange(50) % 3)
    return qat.Dataset("noise", "from Python", split, split)


def trained(bn_fold: bool | None = None, per_channel: bool = True) -> qat.Checkpoint:
    graph = qat.convert_quant_network(
        Small(),
        weight_quantizer=qat.LSQWeightQuantizer(3, per_channel=per_channel, narrow_range=True),
        activation_quantizer=qat.LSQActivationQuantizer(4),
        bn_fold=bn_fold,
    )
    start = qat.Checkpoint(graph, graph.params_from(Small().graph().initial_params(1)))
    return qat.train(TORCH, start, dataset(), qat.Recipe(epochs=1, batch_size=10, lr=0.02))


def by_hand(checkpoint: qat.Checkpoint, x: Array) -> tuple[Array, Array]:
    """Mean and variance of the first layer's sums over all images, from the integers of its weight and input."""
    node: Any = {each.name: each for each in qat.to_integer(checkpoint.graph, checkpoint.params).nodes}["conv"]
    factor = checkpoint.params["conv.gamma"] / np.sqrt(checkpoint.params["conv.moving_variance"] + 1e-5)
    weight = node.weight * (node.weight_scale / factor).reshape(-1, 1, 1, 1).astype(np.float64)  # real, not folded
    grid = node.inputs[0].grid
    real = (x.astype(np.float64) - grid.zero_point) * float(grid.scale)
    padded = np.pad(real, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, 0]
    sums = np.einsum("nhwij,oij->nohw", windows, weight[:, 0])
    return sums.mean(axis=(0, 2, 3)), sums.var(axis=(0, 2, 3))


@pytest.mark.parametrize("batch_size", [50, 16])
def test_the_statistics_are_those_of_all_images(batch_size: int) -> None:
    """By hand, from the deployed integers; also where batches are of unequal size."""
    begin = trained()
    end = qat.reestimate_batch_norm(begin, images(), batch_size=batch_size)
    mean, variance = by_hand(begin, images())
    np.testing.assert_allclose(end.params["conv.moving_mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(end.params["conv.moving_variance"], variance, rtol=1e-4)
    wrong, _ = by_hand(begin, images()[:40])
    assert not np.allclose(end.params["conv.moving_mean"], wrong, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bn_fold", [False, True])
def test_nothing_else_changes(bn_fold: bool) -> None:
    begin = trained(bn_fold)
    end = qat.reestimate_batch_norm(begin, images())
    changed = {name for name in begin.params if (begin.params[name] != end.params[name]).any()}
    scales = ("weight_initial_scale", "weight_scale_change") if bn_fold else ()
    assert changed == {f"{cell}.{name}" for cell in ("conv", "fc") for name in (*STATISTICS, *scales)}
    assert qat.to_integer(end.graph, end.params).nodes  # and the integers follow


@pytest.mark.parametrize("bn_fold", [None, True])
def test_every_vocabulary_finds_the_same(bn_fold: bool | None) -> None:
    """NumPy's and PyTorch's, but for the last bits of their sums."""
    begin = trained(bn_fold)
    found = [qat.reestimate_batch_norm(begin, images(), ops=ops) for ops in (NUMPY_OPS, TORCH.evaluation_ops("CPU"))]  # type: ignore[attr-defined]
    for name in STATISTICS:
        one, other = (each.params[f"fc.{name}"] for each in found)
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weights", ["minmax", "learned"])
def test_folded_weights_keep_their_codes_where_each_output_has_a_scale(weights: str) -> None:
    begin = trained(bn_fold=True)
    if weights == "minmax":
        graph = qat.convert_quant_network(Small(), num_bits=3, bn_fold=True)
        begin = qat.train(
            TORCH,
            qat.Checkpoint(graph, graph.params_from(begin.params)),
            dataset(),
            qat.Recipe(epochs=1, batch_size=10),
        )
    end = qat.reestimate_batch_norm(begin, images())
    before, after = (dict(_weights(each)) for each in (begin, end))
    assert list(before) == ["conv", "fc"]
    for name, codes in before.items():
        np.testing.assert_array_equal(after[name], codes)
    assert any((begin.params[name] != end.params[name]).any() for name in begin.params)


def test_folded_weights_of_one_scale_are_coded_by_the_new_statistics() -> None:
    begin = trained(bn_fold=True, per_channel=False)
    wide = begin.params | {"conv.moving_variance": begin.params["conv.moving_variance"] * np.float32(1.5)}
    begin = replace(begin, params=wide)
    once = qat.reestimate_batch_norm(begin, images())
    twice = qat.reestimate_batch_norm(once, images())
    off = [
        np.abs(x.params["conv.moving_variance"] / twice.params["conv.moving_variance"] - 1).max() for x in (begin, once)
    ]
    assert off[1] < 0.5 * off[0]


def _weights(checkpoint: qat.Checkpoint) -> Any:
    nodes: Any = qat.to_integer(checkpoint.graph, checkpoint.params).nodes
    return [(node.name, node.weight) for node in nodes if hasattr(node, "weight")]


def test_a_float_network_and_a_cell_used_twice() -> None:
    graph = Shared().graph()
    begin = qat.Checkpoint(graph, graph.initial_params())
    end = qat.reestimate_batch_norm(begin, images(), batch_size=50, ops=NUMPY_OPS)
    x = images().astype(np.float64) / 255
    normal = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    both = np.concatenate([x, normal])  # of both uses
    assert end.params["norm.moving_mean"][0] == pytest.approx(both.mean(), rel=1e-4)
    assert end.params["norm.moving_variance"][0] == pytest.approx(both.var(), rel=1e-4)


def test_averaged_weights_get_statistics_of_their_own() -> None:
    """The integers that are returned have the statistics of the averages, not averages of statistics."""
    begin = trained()
    recipe = qat.Recipe(epochs=2, batch_size=10, lr=0.05, optimizer=Optimizer(ema=0.9), reestimate_bn=50)
    end = qat.train(TORCH, begin.derived(begin.graph, begin.params), dataset(), recipe)
    assert end.progress.finished
    mean, variance = by_hand(end, images())
    np.testing.assert_allclose(end.params["conv.moving_mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(end.params["conv.moving_variance"], variance, rtol=1e-4)


def test_resuming_repeats_and_does_not_go_further(tmp_path: Path) -> None:
    begin = trained()
    begin = begin.derived(begin.graph, begin.params)
    recipe = qat.Recipe(epochs=2, batch_size=10, lr=0.05, lr_schedule="constant", reestimate_bn=30)
    end = qat.train(TORCH, begin, dataset(), recipe)
    half = qat.train(TORCH, begin, dataset(), recipe, stop_after=1)
    assert not half.progress.finished
    saved: list[qat.Checkpoint] = []
    resumed = qat.train(TORCH, half, dataset(), recipe, save=saved.append)
    for name, array in end.params.items():
        np.testing.assert_array_equal(resumed.params[name], array)
    for name, array in qat.train(TORCH, saved[-2], dataset(), recipe).params.items():  # killed before the end
        np.testing.assert_array_equal(array, end.params[name])
    with pytest.raises(qat.QatError, match="statistics estimated anew"):
        qat.train(TORCH, end, dataset(), replace(recipe, epochs=3))


def test_what_cannot_be_estimated_is_refused() -> None:
    begin = trained()
    with pytest.raises(qat.QatError, match="over 1 of 1 image: two are the fewest"):
        qat.reestimate_batch_norm(begin, images(1))
    with pytest.raises(qat.QatError, match="over 99 of 50 images"):
        qat.train(
            TORCH, begin.derived(begin.graph, begin.params), dataset(), qat.Recipe(batch_size=10, reestimate_bn=99)
        )
    graph = qat.networks.LeNet5().graph()
    with pytest.raises(qat.QatError, match="has no batch normalisation"):
        qat.reestimate_batch_norm(qat.Checkpoint(graph, graph.initial_params()), np.zeros((4, 1, 32, 32), np.uint8))
    with pytest.raises(qat.QatError, match="reestimate_bn is -1"):
        qat.Recipe(reestimate_bn=-1)


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source, path = tmp_path / "float.ckpt", tmp_path / "quant.ckpt"
    base = ["--data_path", "digits", "--epochs", 1]
    status, _, error = run(capsys, "train", "--network", "lenet_bn", *base, "--save_path", source)
    assert status == 0, error
    command = ["train-quant", "--ckpt_path", source, *base, "--num_bits", 4, "--save_path", path]
    status, _, error = run(capsys, *command, "--reestimate_bn", 500)
    assert status == 0, error
    saved = qat.Checkpoint.load(path)
    assert saved.history[0]["reestimate_bn"] == 500
    status, _, error = run(capsys, *command)
    assert status == 0, error
    assert qat.Checkpoint.load(path).history[0]["reestimate_bn"] == 0
    assert any((qat.Checkpoint.load(path).params[name] != saved.params[name]).any() for name in saved.params)

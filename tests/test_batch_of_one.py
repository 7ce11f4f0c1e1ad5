"""Batch normalisation over a single number for each channel is refused, wherever a network would be trained with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from frameworks import HERE

import qat
from qat.analysis.merge_batch_norm import merge_batch_norm
from qat.data import load
from qat.training.forward import Forward
from qat.training.loop import train
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe
from qat.training.workers import JointOps
from qat.vocabulary.numpy_ops import NUMPY_OPS, NumpyOps

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), np.uint8)
LABELS = np.arange(4)
REFUSED = (
    r"^norm: its batch normalisation .* a single number for each channel, a batch of 1 with outputs \(4.*freeze_bn"
)


def network(norm: qat.Cell, *before: qat.Cell) -> qat.Graph:
    class Net(qat.Network):
        inputs = qat.Input((3, 8, 8), mean=0.5, std=0.25)

        def __init__(self) -> None:
            self.conv, self.pool, self.before, self.norm = (
                qat.Conv2dBnAct(3, 4, 3, activation="relu"),
                qat.GlobalAvgPool2d(),
                list(before),
                norm,
            )
            self.flatten = qat.Flatten()

        def construct(self, x):
            x = self.pool(self.conv(x))
            for cell in self.before:
                x = cell(x)
            return self.flatten(self.norm(x))

    return Net().graph()


DENSE = network(qat.DenseBnAct(4, 4, has_bn=True), qat.Flatten())
NETWORKS = {
    "dense": DENSE,
    "1x1 convolution": network(qat.Conv2dBnAct(4, 4, 1, has_bn=True, activation="relu")),
    "BatchNorm": network(qat.BatchNorm(4)),
}
SETTINGS: dict[str, Any] = {
    "float": None,
    "two convolutions": {"one_conv_fold": False},
    "one convolution": {"one_conv_fold": True},
    "not folded": {"bn_fold": False},
    "delayed": {"quant_delay": 5},
}


def quantized(graph: qat.Graph, settings: dict[str, Any] | None) -> qat.Graph:
    return graph if settings is None else qat.convert_quant_network(graph, **settings)


def outputs(graph: qat.Graph, count: int, ops: NumpyOps = NUMPY_OPS, *, training: bool = True) -> Any:
    params = {name: ops.from_numpy(a, graph.params[name].kind) for name, a in graph.observed_params().items()}
    return Forward(graph, ops)(params, (IMAGES[:count].astype(np.float32),), training=training, phase=0)[0][0]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_single_number_is_refused_in_every_form(name: str, settings: str) -> None:
    graph = quantized(NETWORKS[name], SETTINGS[settings])
    with pytest.raises(qat.QatError, match=REFUSED):
        outputs(graph, 1)
    assert np.isfinite(outputs(graph, 2)).all()
    assert outputs(graph, 1, training=False).shape == (1, 4)


def test_statistics_that_are_frozen_or_of_several_places_need_no_batch() -> None:
    assert outputs(quantized(DENSE, {"freeze_bn": 0}), 1).shape == (1, 4)
    padded = network(qat.Conv2dBnAct(4, 4, 1, pad_mode="pad", padding=1, has_bn=True))
    assert outputs(padded, 1).shape == (1, 36)


def test_a_merged_normalisation_is_refused_too() -> None:
    graph = network(qat.BatchNorm(4), qat.Conv2dBnAct(4, 4, 1))
    merged, _ = merge_batch_norm(graph, graph.observed_params(), IMAGES)
    assert len(merged.nodes) < len(graph.nodes)
    with pytest.raises(qat.QatError, match=r"^before\.0: its batch normalisation"):
        outputs(merged, 1)


@pytest.mark.parametrize("backend_name", HERE)
def test_every_backend_refuses_it_and_goes_on(backend_name: str) -> None:
    graph, backend = quantized(DENSE, {}), qat.backend(backend_name)
    model = backend.lower(graph)
    step = backend.make_step(model, Optimizer())
    step(IMAGES, LABELS, 0.01)
    before = backend.read(model)
    with pytest.raises(qat.QatError, match=REFUSED):
        step(IMAGES[:1], LABELS[:1], 0.01)
    for name, array in backend.read(model).items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    step(IMAGES[:2], LABELS[:2], 0.01)
    assert backend.predict(model, IMAGES[:1]).shape == (1, 4)


@pytest.mark.skipif("keras" not in HERE, reason="Keras is not installed")
def test_keras_fit_refuses_a_last_batch_of_one() -> None:
    """Traced for batches of any size; the error is TensorFlow's own, with our words."""
    import keras
    import tensorflow as tf

    model = qat.backend("keras").lower(DENSE)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss, jit_compile=False)
    model.fit(IMAGES, LABELS, batch_size=2, verbose=0)
    with pytest.raises((tf.errors.InvalidArgumentError, qat.QatError), match="single number for each channel"):
        model.fit(IMAGES[:3], LABELS[:3], batch_size=2, verbose=0)


def test_the_numbers_of_all_workers_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class Joint(JointOps, NumpyOps):
        def sum_over_workers(self, x):
            return x * 2.0

        def largest_over_workers(self, x):
            return x

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert outputs(DENSE, 1, Joint()).shape == (1, 4)


def test_a_training_with_batches_of_one_is_refused_before_anything_is_saved() -> None:
    class Net(qat.Network):
        inputs = qat.Input((1, 8, 8))

        def __init__(self) -> None:
            self.flatten, self.norm = qat.Flatten(), qat.DenseBnAct(64, 10, has_bn=True)

        def construct(self, x):
            return self.norm(self.flatten(x))

    graph, saved = Net().graph(), []
    start = qat.Checkpoint(graph, graph.initial_params())
    with pytest.raises(qat.QatError, match=r"^norm: its batch normalisation"):
        train(qat.backend("torch"), start, load("digits"), Recipe(epochs=1, batch_size=1), save=saved.append)
    assert not saved

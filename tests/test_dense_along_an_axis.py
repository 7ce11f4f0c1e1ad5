"""The dense layer along any axis: what it computes, and its codes in every target."""

import numpy as np
import pytest
from graphs import Traced

import qat
from qat.integer import evaluate
from qat.networks import Dense
from qat.registry import TARGETS, installed

AXES = pytest.mark.parametrize(
    ("shape", "axis"), [((7, 4), -1), ((4, 7), 0), ((3, 5, 4), 2), ((3, 4, 5), 1), ((4,), -1)]
)


def network(shape, axis):
    return Traced(
        lambda self, x: self.dense(x), qat.Input(shape, dtype="float32"), dense=Dense(4, 6, axis, activation="relu")
    )


@AXES
def test_in_float_it_multiplies_along_the_axis(shape, axis):
    graph, module = network(shape, axis).graph(), qat.backend("torch")
    params = graph.initial_params(1)
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    (weight,) = (array for name, array in params.items() if name.endswith("weight"))
    along = axis % len(shape) + 1
    product = np.moveaxis(np.moveaxis(x, along, -1) @ weight[:, :, 0, 0].T, -1, along)
    found = module.predict(module.lower(graph, params), x)
    np.testing.assert_allclose(found, np.maximum(product, 0.0), atol=1e-5)


@AXES
@pytest.mark.parametrize("engine", [name for name in ("ONNX", "TFLITE", "C") if installed(TARGETS[name])])
def test_codes_of_every_target(engine, shape, axis, tmp_path):
    graph = qat.convert_quant_network(network(shape, axis))
    integers = qat.to_integer(graph, graph.observed_params())
    x = np.random.default_rng(0).normal(size=(16, *shape)).astype(np.float32)
    target, path = qat.target(engine), tmp_path / f"net{TARGETS[engine].suffix}"
    target.export(integers, path)
    found = integers.output.grid.codes_of(target.predict(path, x))
    np.testing.assert_array_equal(found, evaluate(integers, x))


@pytest.mark.parametrize("axis", [0, 2, -3])
def test_an_axis_that_does_not_fit(axis):
    with pytest.raises(
        qat.QatError, match=rf"a Dense of 4 inputs takes samples with as many along axis {axis}, but gets \(7, 4\)"
    ):
        network((7, 4), axis).graph()

"""The functions of the Keras backend that are fused give what the vocabulary's finer ones give, and their gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch  # noqa: F401  (has to be imported before tensorflow)

from qat.vocabulary.ops import Array, Ops

tf = pytest.importorskip("tensorflow")
from qat.backends.keras.ops import KerasOps  # noqa: E402

RNG = np.random.default_rng(0)
EPS = 1e-2  #: so large that the gradient of the scale, which a normalisation all but undoes, is more than rounding
TOLERANCE = 2e-5  #: of the largest number
OF_SUM = 2e-3  #: the finer functions sum the gradient of the scale from numbers that all but cancel
SHAPES = {"images": (6, 4, 3, 5), "series": (6, 4, 7), "features": (40, 4)}


class Fine(KerasOps):
    """With the vocabulary's own definitions."""

    batch_norm, normalized, requantize, rectified = Ops.batch_norm, Ops.normalized, Ops.requantize, Ops.rectified


def gradients(ops: KerasOps, kind: str, scale: Array, bounds: tuple[float, float]) -> list[Array]:
    """Codes, extremes and statistics of a normalisation, and the gradients of all that it depends on."""
    rng = np.random.default_rng(1)
    shape = SHAPES[kind]
    x = ops.from_numpy(rng.integers(-90, 91, shape), "activation")
    cotangent = ops.from_numpy(rng.normal(size=shape), "activation")
    gamma, beta = tf.constant([0.8, -0.6, 1.0, 0.5]), tf.constant([0.3, 0.2, -0.1, 0.1])
    given = [x, tf.constant(scale, tf.float32), gamma, beta, tf.constant(20.0)]

    def compute(*given: object) -> list[object]:
        with tf.GradientTape() as tape:
            tape.watch(given)
            x, scale, gamma, beta, multiplier = given
            found = ops.normalized(x, scale, gamma, beta, EPS)
            codes = found.codes(multiplier, *bounds, open_low=bounds[0] == 0.0)
        wanted = tape.gradient(codes, given, cotangent)
        return [codes, found.largest(), found.smallest(), found.mean, found.variance, *wanted]

    return [found.numpy() for found in compute(*given)]


@pytest.mark.parametrize("scale", [0.02, [0.02, 0.01, 0.03, 0.005]], ids=["one scale", "a scale for each channel"])
@pytest.mark.parametrize("bounds", [(0.0, 30.0), (-20.0, 19.0)], ids=["of a ReLU", "of both signs"])
@pytest.mark.parametrize("kind", SHAPES)
def test_codes_of_a_normalisation_and_their_gradients(kind: str, bounds: tuple[float, float], scale: Array) -> None:
    fused, fine = (gradients(ops, kind, np.array(scale), bounds) for ops in (KerasOps(), Fine()))
    names = "codes", "largest", "smallest", "mean", "variance", "x", "scale", "gamma", "beta", "multiplier"
    assert np.array_equal(fused[0], fine[0])
    assert len(np.unique(fused[0])) > 20, "most codes lie inside the bounds"
    for name, own, wanted in zip(names, fused, fine, strict=True):
        assert own.shape == wanted.shape, name
        atol = (OF_SUM if name == "scale" else TOLERANCE) * np.abs(wanted).max()
        np.testing.assert_allclose(own, wanted, rtol=0.0, atol=atol, err_msg=name)


def test_a_normalisation_without_a_scale_gives_codes_too() -> None:
    x, ones = tf.constant(RNG.normal(size=(8, 4)), tf.float32), tf.ones(4)
    made = [ops.normalized(x, None, ones, ones, EPS) for ops in (KerasOps(), Fine())]
    assert np.array_equal(*(each.codes(tf.constant(9.0), -9.0, 9.0, open_low=False) for each in made))


@pytest.mark.parametrize("bound", [6.0, np.inf])
def test_rectified(bound: float) -> None:
    x = tf.constant([-np.inf, -1.0, 0.0, 0.5, 5.0, 7.0, np.inf])
    for ops in (KerasOps(), Fine()):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = ops.rectified(x, bound)
        assert np.array_equal(y, np.clip(x, 0.0, bound))
        assert np.array_equal(tape.gradient(y, x), [0, 0, 0, 1, 1, float(bound > 7.0), float(bound > 7.0)])

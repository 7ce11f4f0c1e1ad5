"""A network of the fixed arithmetic is trained, evaluated and measured in it, on every backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from calibrations import calibrate
from frameworks import HERE
from sequential import ALWAYS, Chain, Setup, calibrated

import qat
from qat.deploy.verify import backend_engine, compare
from qat.integer import Evaluator, IntegerLinear, evaluate, trace_codes
from qat.training.forward import Forward, NodeLoop
from qat.training.optimizer import Optimizer
from qat.vocabulary.numpy_ops import NUMPY_OPS

by_backend = pytest.mark.parametrize("name", HERE)


class Mixed(qat.Network):
    """Every way in which accumulators become codes: convolutions, means of unlike windows, a sum, a difference, products."""

    inputs = qat.Input((2, 6, 6), mean=0.5, std=0.25)

    def __init__(self) -> None:
        self.a, self.b = qat.Conv2dBnAct(2, 4, 3, has_bias=True, activation="relu6"), qat.Conv2dBnAct(2, 4, 1)
        self.pool, self.fc = qat.AvgPool2d(3, 2, "pad", 1, count_include_pad=False), qat.DenseBnAct(36, 5)

    def construct(self, x):
        a, b = self.a(x), self.b(x)
        return self.fc((self.pool(a * b) + self.pool(a - b)).reshape(-1, 36))


def few_bits(arithmetic: str = "fixed") -> Setup:
    """Few bits, where rounding is coarse and both arithmetics are far apart."""
    setup = calibrated(Mixed(), images=60, num_bits=4, arithmetic=arithmetic)
    # The range of a sum of few codes is a multiple of their scale, and ties are many; to_integer moves away from them.
    moved = {name: value * np.float32(1.03) for name, value in setup.params.items() if name.startswith("add.")}
    assert moved
    return replace(setup, params=setup.params | moved)


def told_apart(setup: Setup) -> np.ndarray:
    """The output codes in the fixed arithmetic, many of which are others in the float one."""
    by_float, by_fixed = (evaluate(setup.integer, setup.pixels, arithmetic=x) for x in ("float", "fixed"))
    assert (by_float != by_fixed).mean() > 0.02
    return by_fixed


def test_the_reference_computes_in_the_arithmetic_of_the_graph() -> None:
    setup = few_bits()
    np.testing.assert_array_equal(evaluate(setup.integer, setup.pixels), told_apart(setup))
    name = setup.integer.output.name
    np.testing.assert_array_equal(trace_codes(setup.integer, setup.pixels, [name])[name], told_apart(setup))


@by_backend
def test_a_backend_computes_in_the_arithmetic_of_the_graph(name: str) -> None:
    setup, backend = few_bits(), qat.backend(name)
    expected, model = told_apart(setup), backend.lower(setup.graph, setup.params)
    np.testing.assert_array_equal(backend.predict_codes(model, setup.pixels), expected)
    np.testing.assert_array_equal(backend.predict(model, setup.pixels), setup.integer.output.grid.dequantize(expected))
    tensors = [node.output for node in setup.integer.nodes]
    codes = trace_codes(setup.integer, setup.pixels, [x.name for x in tensors], arithmetic="fixed")
    for node, found in backend.trace(model, setup.pixels, tensors).items():
        np.testing.assert_array_equal(found, codes[node], err_msg=node)


@by_backend
def test_accumulators_beyond_2_to_the_24_are_exact(name: str) -> None:
    """With a multiplier that makes their last bits visible: most codes would be others of sums rounded to float32."""
    network = Chain(qat.Input((4096,)), fc=qat.DenseBnAct(4096, 8, has_bias=False))
    setup = calibrated(network, arithmetic="fixed")
    node, grid = setup.integer.nodes[1], setup.integer.output.grid
    weight = np.full_like(node.weight, 127)
    weight[:, 2048:] = -127
    weight[:, 0] = np.arange(-4, 4)
    one = np.float32(grid.scale / setup.integer.input.grid.scale)
    scale, requantize = np.full(8, one), node.requantize._replace(multiplier=np.ones(8, np.float32))
    changed = replace(node, weight=weight, weight_scale=scale, requantize=requantize)
    graph = replace(setup.integer, nodes=(setup.integer.nodes[0], changed))
    pixels = np.full((2, 4096), 255, np.uint8)
    pixels[:, 0], pixels[:, 1] = 1, (255, 254)
    ops = qat.backend(name).lower(setup.graph, setup.params)._deployment.ops
    found = Evaluator(graph, ops)(ops.from_numpy(pixels.astype(np.float32), "activation"))[graph.output.name]
    centred = pixels.astype(np.int64) - setup.integer.input.grid.zero_point
    sums = centred @ (weight.astype(np.int64).T)
    np.testing.assert_array_equal(ops.to_numpy(found, "activation"), np.clip(sums, grid.low, grid.high))


def measured(setup: Setup) -> tuple[qat.Checkpoint, qat.Split]:
    """A checkpoint, and images whose labels are what it says of them in the fixed arithmetic."""
    labels = told_apart(setup).argmax(1)
    assert (evaluate(setup.integer, setup.pixels, arithmetic="float").argmax(1) != labels).any()
    return qat.Checkpoint(setup.graph, setup.params), qat.Split(setup.pixels, labels)


@by_backend
def test_metrics_are_those_of_the_codes_that_are_deployed(name: str) -> None:
    checkpoint, split = measured(few_bits())
    assert qat.evaluate_accuracy(qat.backend(name), checkpoint, split) == 1.0
    assert qat.evaluate_metrics(qat.backend(name), checkpoint, split)["top-1"] == 1.0


def test_a_certificate_compares_a_backend_in_the_arithmetic_of_the_network() -> None:
    setup = few_bits()
    checkpoint, split = measured(setup)
    engine = backend_engine(qat.backend("torch"), checkpoint, "CPU")
    assert engine.arithmetic == "fixed"
    certificate = compare([engine], setup.integer, split, data="own")
    assert (certificate.passed, certificate.arithmetic) == (True, "fixed")
    assert certificate.comparisons[0].metrics["top-1"] == 1.0


def test_what_the_arithmetic_cannot_compute_has_no_integers() -> None:
    """An output whose range is far too small for its accumulators."""
    setup = calibrated(Chain(qat.Input((3000,)), fc=qat.DenseBnAct(3000, 2)), arithmetic="fixed")
    tiny = {x: np.float32(v * 1e-9) if "fake_quant" in x else v for x, v in setup.params.items()}
    with pytest.raises(
        qat.QatError, match=r"^fc: its accumulator may reach .* the fixed arithmetic would overflow int32"
    ):
        qat.to_integer(setup.graph, tiny)
    qat.to_integer(replace(setup.graph, arithmetic="float"), tiny)


# -- training -----------------------------------------------------------------------------------------------------------


def differing(setup: Setup, arithmetic: str) -> float:
    """The share of codes that a training pass, given the deployed codes before each, makes otherwise than deployment."""
    graph = replace(setup.graph, arithmetic=arithmetic)
    loop, deployed = NodeLoop(graph, NUMPY_OPS), setup.integer
    context = loop.load(setup.params, ALWAYS)
    grids = {node.name: node.output.grid for node in deployed.nodes}
    codes = trace_codes(deployed, setup.pixels, list(grids))
    values, differ, count = loop.begin(loop.pixels((setup.pixels,))), 0, 0
    aliases = {node.inputs[0]: node.name for node in graph.nodes if isinstance(node.cell, qat.FakeQuant)}
    for step in loop.steps:
        loop.advance(step, context, values)
        value = values[step.node.name]
        source = next((x for x, y in aliases.items() if y == step.node.name), step.node.name)
        if isinstance(step.node.cell, qat.FakeQuant) and source in codes:
            own = codes[source].astype(np.float32) - grids[source].zero_point
            differ, count = differ + np.count_nonzero(value.data != own), count + own.size
            values[step.node.name] = value.with_data(own)
    assert count > 1000
    return differ / count


def test_a_training_pass_rounds_as_the_fixed_arithmetic_does() -> None:
    """But beside ties of float32: one code in thousands. A pass of the float arithmetic has other codes, many of them."""
    setup = few_bits()
    assert differing(setup, "fixed") < 0.0005
    assert differing(setup, "float") > 0.02


@pytest.mark.parametrize("settings", [{"one_conv_fold": True}, {"one_conv_fold": False}, {"bn_fold": False}], ids=str)
def test_a_pass_with_the_batch_s_own_statistics_knows_the_steps_of_deployed_accumulators(
    settings: dict[str, bool],
) -> None:
    """In which it rounds, though its own numbers are no integers then."""
    chain = Chain(qat.Input((2, 6, 6)), conv=qat.Conv2dBnAct(2, 8, 3, has_bn=True, activation="relu"))
    setup = calibrated(chain, arithmetic="fixed", **settings)
    forward, values = Forward(setup.graph, NUMPY_OPS), {}
    params = forward.load(setup.params, ALWAYS).params
    values = forward.begin(forward.pixels((setup.pixels,)))
    for step in forward.steps:
        forward.advance(step, forward.context(params, training=True, phase=0), values)
    (node,) = (node for node in setup.integer.nodes if isinstance(node, IntegerLinear))
    expected = node.weight_scale * node.inputs[0].grid.scale
    conv = next(value for name, value in values.items() if name.startswith("conv") and not value.codes)
    assert conv.scale is None
    np.testing.assert_allclose(np.broadcast_to(conv.step, expected.shape), expected, rtol=1e-6)


def test_a_channel_whose_gamma_is_0_is_trained_and_deployed_alike() -> None:
    """As the last ones of residual blocks often begin. Its accumulators stand for nothing; its codes are those of beta."""
    conv = qat.Conv2dBnAct(2, 8, 3, has_bn=True, activation="relu")
    graph = Chain(qat.Input((2, 6, 6)), conv=conv, flatten=qat.Flatten(), fc=qat.DenseBnAct(288, 5)).graph()
    params = graph.initial_params()
    params["conv.gamma"][:4], params["conv.beta"][2:6] = 0.0, 0.3
    pixels = np.random.default_rng(0).integers(0, 256, (20, 2, 6, 6), np.uint8)
    found = calibrate(graph, params, pixels, arithmetic="fixed")
    assert differing(Setup(found.graph, found.params, pixels), "fixed") < 0.001
    backend = qat.backend(HERE[0])
    step = backend.make_step(backend.lower(found.graph, found.params), Optimizer())
    assert np.isfinite([step(pixels, np.arange(20) % 5, 0.01) for _ in range(2)]).all()


def test_a_network_of_few_bits_is_measured_as_it_is_deployed_while_it_is_trained() -> None:
    """Three steps with 4 bits, each evaluated on the backend: none of its codes is another than deployment's."""
    setup, backend = few_bits(), qat.backend("torch")
    model = backend.lower(setup.graph, setup.params)
    step = backend.make_step(model, Optimizer())
    for _ in range(3):
        step(setup.pixels, np.arange(60) % 5, 0.05)
        deployed = evaluate(qat.to_integer(setup.graph, backend.read(model)), setup.pixels, arithmetic="fixed")
        np.testing.assert_array_equal(backend.predict_codes(model, setup.pixels), deployed)

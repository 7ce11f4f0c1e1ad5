"""LayerNorm and RMSNorm: equal in every target for codes of any grids, and next to what they compute in real numbers."""

import numpy as np
import pytest
from every_cell import IMAGE, quantized
from frameworks import FILES_HERE, HERE, but_long
from graphs import Traced, chain

import qat
from qat.integer import Grid, IntegerGraph, IntegerInput, IntegerNorm, IntegerTensor, Norm, evaluate, trace_codes
from qat.registry import TARGETS
from qat.vocabulary.numpy_ops import NUMPY_OPS, NumpyOps

F = np.float32
CENTRED = pytest.mark.parametrize("centred", [True, False], ids=["layer", "rms"])


def norm_of(shape, source, output, centred, seed=0, eps=1e-5, num_groups=None):
    """An integer graph of an input of codes and its normalisation, with gammas and betas of any sign."""
    rng = np.random.default_rng(seed)
    entry = IntegerInput("x", (), IntegerTensor("x", shape, source), "uint8")
    gamma, beta = rng.normal(1, 0.5, shape[0]), rng.normal(0, 0.5, shape[0]) * centred
    pending = Norm("y", entry.output, gamma, beta, eps, centred, num_groups)
    node = pending.requantized(output)
    node.check_range()
    return IntegerGraph((entry, node), (entry.output,), (node.output,)), pending


def samples(shape, seed=0):
    """Of all spreads: constant ones, single outliers, two values, and codes anywhere."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (16, *shape))
    spread = np.array([0, 1, 2, 3, 5, 10, 30, 100]).reshape(-1, *(1,) * len(shape))
    x[:8] = rng.integers(0, 256, (8, *(1,) * len(shape))) + np.rint(rng.normal(size=(8, *shape)) * spread)
    x[8], x[9], x[10] = 0, 255, rng.integers(0, 2, shape) * 255
    x[11], x[11, 0] = 7, 255
    return np.clip(x, 0, 255).astype(np.uint8)


def real(pending, x):
    """In float64."""
    shape, count = x.shape, x.shape[1] // (pending.num_groups or 1)
    axes = {"axis": 1 if pending.num_groups is None else tuple(range(2, x.ndim + 1)), "keepdims": True}
    x = x if pending.num_groups is None else x.reshape(len(x), pending.num_groups, count, *x.shape[2:])
    d = (x.astype(np.float64) - pending.input.grid.zero_point) * float(pending.input.grid.scale)
    d = d - d.mean(**axes) if pending.centred else d
    columns = (-1, *(1,) * (len(shape) - 2))
    y = (d / np.sqrt((d * d).mean(**axes) + pending.eps)).reshape(shape)
    return y * pending.gamma.reshape(columns) + pending.beta.reshape(columns)


@CENTRED
@pytest.mark.parametrize(("engine", "arithmetic"), FILES_HERE)
def test_codes_of_every_target(engine, arithmetic, centred, tmp_path):
    module = qat.target(engine)
    options = {"arithmetic": arithmetic} if engine in ("TFLITE", "C") else {}
    #: Shapes, scales and zero points of the input, and scales of the output: dead ones, ordinary ones and some that saturate.
    cases = [
        ((64, 4, 5), 0.02, 100, 0.03),
        ((1, 7), 1.0, 0, 0.5),
        ((200,), 1e-4, 255, 1e-3),
        ((5, 3, 2), 2.0**-60, 0, 0.03),
    ]
    cases += [((3, 6), 30.0, 128, 2.0**-60)]
    for seed, (shape, scale, zero, output) in enumerate(cases):
        graph, _ = norm_of(shape, Grid(F(scale), zero, 0, 255), Grid(F(output), 120, 0, 255), centred, seed)
        x = samples(shape, seed)
        path = tmp_path / f"net{seed}{TARGETS[engine].suffix}"
        module.export(graph, path, **options)
        found = graph.output.grid.codes_of(module.predict(path, x, **options))
        np.testing.assert_array_equal(found, evaluate(graph, x, arithmetic=arithmetic), err_msg=f"{shape}")


@pytest.mark.parametrize(("engine", "arithmetic"), FILES_HERE)
def test_codes_of_groups_in_every_target(engine, arithmetic, tmp_path):
    module = qat.target(engine)
    options = {"arithmetic": arithmetic} if engine in ("TFLITE", "C") else {}
    cases = [((6, 4, 5), 3), ((6, 4, 5), 1), ((4, 7), 4), ((6,), 2), ((4,), 4), ((8, 16, 16), 2)]
    for seed, (shape, groups) in enumerate(cases):
        graph, _ = norm_of(
            shape, Grid(F(0.02), 100, 0, 255), Grid(F(0.03), 120, 0, 255), centred=True, seed=seed, num_groups=groups
        )
        x = samples(shape, seed)
        path = tmp_path / f"net{seed}{TARGETS[engine].suffix}"
        module.export(graph, path, **options)
        found = graph.output.grid.codes_of(module.predict(path, x, **options))
        np.testing.assert_array_equal(found, evaluate(graph, x, arithmetic=arithmetic), err_msg=f"{shape}, {groups}")


@pytest.mark.parametrize(("shape", "groups"), [((8, 5, 5), 2), ((6, 20), 6), ((16, 8, 8), 1)])
def test_groups_are_near_real_numbers(shape, groups):
    graph, pending = norm_of(
        shape, Grid(F(0.02), 100, 0, 255), Grid(F(0.04), 128, 0, 255), centred=True, num_groups=groups
    )
    x = samples(shape)[3:8]
    found = evaluate(graph, x).astype(np.float64)
    expected = np.clip(np.rint(real(pending, x) / 0.04) + 128, 0, 255)
    assert np.abs(found - expected).max() <= 1, "of codes"
    assert (found != expected).mean() < 0.1


@pytest.mark.parametrize("backend", but_long(HERE, lambda name: name != "torch"))
def test_groups_in_float_are_those_of_pytorch(backend):
    torch = pytest.importorskip("torch")
    graph = chain(qat.GroupNorm(4, 2), shape=(4, 5, 3))
    params = {"c0.gamma": F([1, 0.5, -2, 1.5]), "c0.beta": F([0, 1, 2, -1])}
    x = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), np.uint8)
    module = qat.backend(backend)
    found = module.predict(module.lower(graph, params), x)
    weight, bias = (torch.from_numpy(params[f"c0.{name}"]) for name in ("gamma", "beta"))
    expected = torch.nn.functional.group_norm(torch.from_numpy(x / F(255)), 2, weight, bias, 1e-5)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


@CENTRED
@pytest.mark.parametrize("channels", [16, 64, 192, 768])
def test_near_real_numbers(channels, centred):
    """Within a code, where the numbers are spread over two codes and more; and nearly all of them rounded right."""
    source, output = Grid(F(0.02), 100, 0, 255), Grid(F(0.04), 128, 0, 255)
    graph, pending = norm_of((channels, 20), source, output, centred)
    x = samples((channels, 20))[3 - centred : 8]
    found = evaluate(graph, x).astype(np.float64)
    expected = np.clip(np.rint(real(pending, x) / 0.04) + 128, 0, 255)
    assert np.abs(found - expected).max() <= 1, "of codes"
    assert (found != expected).mean() < 0.1


class Careless(NumpyOps):
    """Whose roots are off, as a runtime's may be."""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def sqrt(self, x):
        return (np.sqrt(x) * F(1 + self.by)).astype(F)


@pytest.mark.parametrize("by", [-1e-5, 1e-5])
def test_a_runtime_whose_roots_are_off_gives_the_same_codes(by):
    graph, _ = norm_of((64, 40), Grid(F(0.02), 100, 0, 255), Grid(F(0.002), 120, 0, 255), centred=True)
    node = graph.nodes[-1]
    x = samples((64, 40)).astype(F) - 100
    constants = {name: np.asarray(array, F) for name, (array, _) in node.constants().items()}
    np.testing.assert_array_equal(node.evaluate(Careless(by), constants, x), node.evaluate(NUMPY_OPS, constants, x))


@pytest.mark.parametrize("backend", but_long(HERE, lambda name: name == "mindspore"))
def test_every_backend_trains_and_evaluates(backend):
    """Gradients flow, and evaluation gives the integers' codes."""
    network = Traced(
        lambda self, x: self.group(self.rms(self.b(self.layer(self.a(x))))),
        a=qat.Conv2dBnAct(1, 4, 1, has_bias=True),
        b=qat.Conv2dBnAct(4, 4, 1),
        layer=qat.LayerNorm(4),
        rms=qat.RMSNorm(4),
        group=qat.GroupNorm(4, 2),
    )
    graph = qat.convert_quant_network(network)
    params = graph.observed_params()
    params["layer.gamma"], params["rms.gamma"] = F([1, 0.5, -2, 1.5]), F([0.1, 1, 1, 1])
    x = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), np.uint8)
    module = qat.backend(backend)
    integers = qat.to_integer(graph, params)
    assert sum(isinstance(node, IntegerNorm) for node in integers.nodes) == 3
    np.testing.assert_array_equal(module.predict_codes(module.lower(graph, params), x), evaluate(integers, x))


@pytest.mark.parametrize(
    "cell", [qat.LayerNorm(4), qat.RMSNorm(4), qat.GroupNorm(4, 2), qat.Softmax(axis=2)], ids=lambda cell: cell.describe
)
def test_codes_of_12_bits(cell, tmp_path):
    """Which C stores in two bytes, and TFLite as int16."""
    integers = qat.to_integer(*quantized(cell, num_bits=(8, 12)))
    pixels = np.random.default_rng(0).integers(0, 256, (8, *IMAGE), np.uint8)
    for engine in ("C", "TFLITE"):
        target, path = qat.target(engine), tmp_path / f"net{TARGETS[engine].suffix}"
        options = {"arithmetic": "fixed"}
        target.export(integers, path, **options)
        found = target.trace(path, pixels, [node.output for node in integers.nodes], **options)
        expected = trace_codes(integers, pixels, list(found), arithmetic="fixed")
        for name, codes in found.items():
            np.testing.assert_array_equal(codes, expected[name], err_msg=f"{engine}, {name}")


def test_a_matrix_product_of_12_bits_is_refused_in_the_fixed_arithmetic(tmp_path):
    integers = qat.to_integer(*quantized(qat.MatMul(transpose_b=True), num_bits=(8, 12)))
    with pytest.raises(qat.QatError, match="cell: multiplies matrices of codes of more than 8 bits"):
        qat.target("C").export(integers, tmp_path / "net.c", arithmetic="fixed")


def test_sums_that_float32_does_not_hold_are_refused():
    with pytest.raises(qat.QatError, match="y: normalises 65800 channels of codes of up to 255"):
        norm_of((65_800,), Grid(F(1), 0, 0, 255), Grid(F(1), 0, 0, 255), centred=True)


def test_what_does_not_fit():
    with pytest.raises(qat.QatError, match=r"normalises over 4 channels but gets \(3, 8, 8\)"):
        qat.LayerNorm(4).output_shape((3, 8, 8))
    with pytest.raises(qat.QatError, match="GroupNorm: 3 groups do not divide 4 channels"):
        qat.GroupNorm(4, 3)
    with pytest.raises(qat.QatError, match="RMSNorm: eps is 0"):
        qat.RMSNorm(4, eps=0.0)

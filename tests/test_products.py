"""Products of two tensors of codes: every pair of codes, in every target, and squeeze and excitation trained and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from calibrations import calibrate
from conformance import ADAPTERS
from frameworks import FILES, HERE
from graphs import Traced
from test_zoo import after_numpy_step

import qat
from qat.integer import Adjustments, Grid, IntegerGraph, IntegerInput, IntegerTensor, Product, evaluate, products_tie
from qat.training.optimizer import Optimizer
from qat.vocabulary.numpy_ops import NUMPY_OPS

Array = npt.NDArray[Any]
F = np.float32
KINDS = {
    "equal": ((1, 256, 256),) * 2,
    "gate right": ((256, 256, 1), (256, 1, 1)),
    "gate left": ((256, 1, 1), (256, 256, 1)),
}


def product(multiplier: float, kind: str, seed: int, *, adjust: bool = True) -> IntegerGraph:
    """Two inputs of codes and their product, whose scale makes the multiplier; zero points anywhere, at the ends mostly."""
    rng = np.random.default_rng(seed)
    low = int(rng.choice([-128, 0]))
    zeros = [int(rng.choice([low, low + 255, low + 128, rng.integers(low, low + 256)])) for _ in range(3)]
    scales = F(10 ** rng.uniform(-4, 1, 2))
    grids = [
        Grid(s, z, low, low + 255) for s, z in zip([*scales, F(scales[0] * scales[1] / multiplier)], zeros, strict=True)
    ]
    a, b = (IntegerTensor(name, shape, grid) for name, shape, grid in zip("ab", KINDS[kind], grids, strict=False))
    pending = Product("y", (a, b), max(a.shape, b.shape) if kind != "equal" else a.shape)
    grid = grids[2]
    while adjust:
        wanted = Adjustments()
        pending.adjust(grid, "y", wanted, keep_scale=False)
        grid = grid._replace(scale=wanted.floors.get("y", F(grid.scale * F(1 + 2.0**-16 * wanted.nudges["y"]))))
        adjust = bool(wanted.floors or wanted.nudges)
    node = pending.requantized(grid)
    dtype = "int8" if low else "uint8"
    inputs = tuple(IntegerInput(x.name, (), x, dtype) for x in (a, b))
    return IntegerGraph((*inputs, node), (a, b), (node.output,))


def pairs(graph: IntegerGraph, kind: str) -> tuple[Array, Array]:
    """All 65,536 pairs of codes, in one sample."""
    low = graph.inputs[0].grid.qmin
    codes = np.arange(low, low + 256).astype(graph.entries[0].dtype)
    if kind == "equal":
        return tuple(np.ascontiguousarray(x).reshape(1, 1, 256, 256) for x in np.meshgrid(codes, codes, indexing="ij"))
    whole, gate = np.tile(codes, (256, 1)).reshape(1, 256, 256, 1), codes.reshape(1, 256, 1, 1)
    return (whole, gate) if kind == "gate right" else (gate, whole)


def differing(graph: IntegerGraph, engine: str, arithmetic: str, x: tuple[Array, ...], path: Path) -> int:
    """How many codes of an exported file are not those of NumPy."""
    x = x[0] if len(x) == 1 else x
    target = qat.target(engine)
    options = {"arithmetic": arithmetic} if engine in ("TFLITE", "C") else {}
    target.export(graph, path, **options)
    found = graph.output.grid.codes_of(target.predict(path, x, **options))  # type: ignore[arg-type]
    return int((found != evaluate(graph, x, arithmetic=arithmetic)).sum())


def expected(graph: IntegerGraph, x: tuple[Array, Array]) -> Array:
    """In float64, where every product and its multiple is exact: y = clip(rint(a b m))."""
    (a, b), grid, m = (x.grid for x in graph.inputs), graph.output.grid, graph.nodes[-1].requantize.multiplier[0]
    product = (x[0].astype(np.int64) - a.zero_point) * (x[1].astype(np.int64) - b.zero_point)
    rounded = np.rint((product.astype(F) * m).astype(np.float64))
    return np.clip(rounded + grid.zero_point, grid.qmin, grid.qmax)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("engine", "arithmetic"), FILES)
def test_every_pair_of_codes(engine: str, arithmetic: str, kind: str, tmp_path: Path) -> None:
    """An ordinary multiplier, one above 1, and one so large that the scale has to give way."""
    for seed, multiplier in enumerate((0.0071, 3.7, 900.0)):
        graph = product(multiplier, kind, seed)
        x = pairs(graph, kind)
        np.testing.assert_array_equal(evaluate(graph, x), expected(graph, x))
        assert differing(graph, engine, arithmetic, x, tmp_path / f"net{qat.target(engine).SUFFIX}") == 0


@pytest.mark.sweep
@pytest.mark.parametrize(("engine", "arithmetic"), FILES)
def test_every_pair_of_codes_for_many_multipliers(engine: str, arithmetic: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    for seed in range(20 if engine == "MINDIR" else 60):  # its runtime compiles each file for a second
        kind = list(KINDS)[seed % 3]
        graph = product(2.0 ** rng.uniform(-15.9, 8.5), kind, seed, adjust=seed % 4 > 0)
        found = differing(graph, engine, arithmetic, pairs(graph, kind), tmp_path / f"net{qat.target(engine).SUFFIX}")
        assert found == 0, (seed, kind)


@pytest.mark.parametrize("backend", HERE)
def test_every_pair_on_a_backend(backend: str) -> None:
    """Of 8 bits, and a sample of those of 16, whose products float32 rounds; ties too."""
    ops = ADAPTERS[backend].ops
    a = np.arange(-255, 256, dtype=F)
    for codes, multiplier in (
        (a, 2.0**-8),
        (a, 0.00731),
        (np.random.default_rng(0).integers(-(2**16), 2**16, 700), 3.1e-5),
    ):
        x, y = np.meshgrid(codes.astype(F), codes.astype(F))
        m = np.full(1, multiplier, F)

        def compute(ops: Any, x: Array = x, y: Array = y, m: Array = m) -> Array:
            left, right = (ops.from_numpy(each, "activation") for each in (x, y))
            return ops.to_numpy(
                ops.requantize(left * right, ops.from_numpy(m, "scalar"), -32768.0, 32767.0), "activation"
            )

        np.testing.assert_array_equal(compute(ops), compute(NUMPY_OPS))


def test_powers_of_two_have_ties_and_are_equal_all_the_same(tmp_path: Path) -> None:
    """ONNX Runtime's QLinearMul adds the zero point before it rounds: an odd one would turn ties around."""
    grids = [Grid(F(s), z, 0, 255) for s, z in ((2.0**-3, 0), (2.0**-4, 0), (2.0**-1, 3))]
    a, b = (IntegerTensor(name, (1, 256, 256), grid) for name, grid in zip("ab", grids, strict=False))
    node = Product("y", (a, b), a.shape).requantized(grids[2])
    graph = IntegerGraph((IntegerInput("a", (), a), IntegerInput("b", (), b), node), (a, b), (node.output,))
    assert products_tie(node.inputs, node.output.grid)
    for engine, arithmetic in FILES:
        path = tmp_path / f"net{qat.target(engine).SUFFIX}"
        assert differing(graph, engine, arithmetic, pairs(graph, "equal"), path) == 0, engine


def test_the_scale_gives_way_to_ties() -> None:
    """A margin of nothing would let products lie on half a code; nudged scales have none near one."""
    graph = product(2.0**-9, "equal", 3, adjust=False)
    assert products_tie(graph.nodes[-1].inputs, graph.output.grid)
    nudged = product(2.0**-9, "equal", 3)
    assert not products_tie(nudged.nodes[-1].inputs, nudged.output.grid)
    assert 1.0 < nudged.output.grid.scale / graph.output.grid.scale < 1.003


def test_where_it_is_hardest_every_fourth_scale_will_do() -> None:
    """Unsigned codes, m from 2^-9 to 2^-8; docs/numerics.md has the figure."""
    rng, free = np.random.default_rng(0), 0
    for _ in range(60):
        a, b = 0.02 * np.exp(rng.normal(0, 0.5, 2))
        inputs = tuple(IntegerTensor(name, (4,), Grid(F(s), 0, 0, 255)) for name, s in (("a", a), ("b", b)))
        free += not products_tie(inputs, Grid(F(a * b * 2.0 ** rng.uniform(8, 9)), 0, 0, 255))
    assert 0.15 < free / 60 < 0.45


def test_too_small_a_multiplier_is_refused_where_another_kernel_would_take_it(tmp_path: Path) -> None:
    graph = product(2.0**-17, "equal", 0, adjust=False)
    with pytest.raises(
        qat.QatError, match=r"y: multiplies by 7.6\S*e-06 to requantize, and XNNPACK takes 1.5\S*e-05 and more"
    ):
        qat.target("TFLITE").export(graph, tmp_path / "net.tflite")
    x = pairs(graph, "equal")
    for engine, arithmetic in FILES:
        if (engine, arithmetic) != ("TFLITE", "float"):
            assert differing(graph, engine, arithmetic, x, tmp_path / f"n{qat.target(engine).SUFFIX}") == 0


@pytest.mark.parametrize(
    ("a", "b"),
    [((4,), (1,)), ((4, 6, 6), (4, 6, 1)), ((4, 6, 6), (1, 1, 1)), ((4, 6, 6), (4,)), ((4, 6, 6), (3, 1, 1))],
)
def test_shapes_that_do_not_fit(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    for shapes in ((a, b), (b, a)):
        with pytest.raises(qat.QatError, match=r"multiplies equal shapes, or \(C, H, W\) and \(C, 1, 1\), but gets"):
            qat.Mul().output_shape(*shapes)


# -- in a network -----------------------------------------------------------------------------------------------------


class SqueezeAndExcite(qat.Network):
    """The block of MobileNetV3 (Howard et al., arXiv 1905.02244, section 5.3), and a product of rows."""

    inputs = qat.Input((3, 10, 10), mean=0.5, std=0.25)

    def __init__(self) -> None:
        self.conv = qat.Conv2dBnAct(3, 8, 3, has_bn=True, activation="hswish")
        self.squeeze = qat.Conv2dBnAct(8, 4, 1, has_bias=True, activation="relu")
        self.excite = qat.Conv2dBnAct(4, 8, 1, has_bias=True, activation="hsigmoid")
        self.mean, self.flatten = qat.GlobalAvgPool2d(), qat.Flatten()
        self.one, self.two, self.fc = (
            qat.DenseBnAct(8, 6),
            qat.DenseBnAct(8, 6, activation="sigmoid"),
            qat.DenseBnAct(6, 4),
        )

    def construct(self, x):
        x = self.conv(x)
        x = x * self.excite(self.squeeze(self.mean(x)))
        x = self.flatten(self.mean(x))
        return self.fc(self.one(x) * self.two(x))


IMAGES = np.random.default_rng(0).integers(0, 256, (40, 3, 10, 10), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 4, 40)


@pytest.mark.parametrize("settings", [{}, {"num_bits": (4, 6)}, {"symmetric": True}], ids=str)
def test_squeeze_and_excitation(settings: dict[str, Any], tmp_path: Path) -> None:
    """Trained; every node's codes are NumPy's in PyTorch, ONNX Runtime, LiteRT and C."""
    torch, graph = qat.backend("torch"), qat.convert_quant_network(SqueezeAndExcite(), quant_delay=2, **settings)
    step = torch.make_step(torch.lower(graph), Optimizer())
    losses = [step(IMAGES, LABELS, 0.05) for _ in range(12)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    integers = qat.to_integer(graph, torch.read(step.model))
    assert [node.kind for node in integers.nodes].count("a product") == 2
    tensors = [node.output for node in integers.nodes]
    for arithmetic in ("float", "fixed"):
        reference = qat.integer.trace_codes(integers, IMAGES, [x.name for x in tensors], arithmetic=arithmetic)
        found: dict[str, dict[str, Array]] = {}
        if arithmetic == "float":
            found["torch"] = torch.trace(step.model, IMAGES, tensors)
        for engine, own in FILES:
            if own == arithmetic:
                target, options = qat.target(engine), {"arithmetic": arithmetic} if engine in ("TFLITE", "C") else {}
                path = tmp_path / f"net{target.SUFFIX}"
                target.export(integers, path, **options)
                found[engine] = target.trace(path, IMAGES, tensors, **options)
        for engine, codes in found.items():
            assert len(codes) >= len(tensors) - 2, engine
            for name, array in codes.items():
                np.testing.assert_array_equal(array, reference[name], err_msg=f"{engine}, {name}")


class ResidualGate(qat.Network):
    """x + x g: the product shares its grid with x, through any number of cells that only move codes."""

    inputs = qat.Input((3, 10, 10), mean=0.5, std=0.25)

    def __init__(self) -> None:
        self.conv = qat.Conv2dBnAct(3, 8, 3)
        self.excite = qat.Conv2dBnAct(8, 8, 1, has_bias=True, activation="hsigmoid")
        self.mean, self.larger = qat.GlobalAvgPool2d(), qat.Upsample(2)

    def construct(self, x):
        x = self.conv(x)
        gate = self.excite(self.mean(x))
        x = self.larger(x)
        return x + x * gate


@pytest.mark.parametrize("seed", range(6))
def test_of_a_product_that_shares_an_inputs_grid_the_other_scale_gives_way(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its multiplier is the other's scale, whatever the shared one is."""
    monkeypatch.setattr("qat.passes.to_integer.MOST_ROUNDS", 6)
    found = calibrate(ResidualGate(), ResidualGate().graph().initial_params(seed), IMAGES)
    integers = qat.to_integer(found.graph, found.params)
    (node,) = (each for each in integers.nodes if each.kind == "a product")
    assert not products_tie(node.inputs, node.output.grid)
    learned = float(found.params["conv.fake_quant.max"] - found.params["conv.fake_quant.min"]) / 255
    assert abs(node.output.grid.scale / learned - 1) < 2e-4  # which stays as it was


def test_a_power_of_two_does_not_give_way() -> None:
    """Where the other scale has to stay one, ties stay too, which files compute all the same."""
    layers = {"excite*": {"activation_quantizer": qat.GTCActivationQuantizer(4)}}
    graph = qat.convert_quant_network(ResidualGate(), layers=layers)
    integers = qat.to_integer(graph, graph.observed_params())
    (node,) = (each for each in integers.nodes if each.kind == "a product")
    assert products_tie(node.inputs, node.output.grid)
    assert np.log2(node.inputs[1].grid.scale) % 1.0 == 0.0


@pytest.mark.parametrize("backend", HERE)
def test_every_backend_evaluates_it_alike(backend: str) -> None:
    graph = qat.convert_quant_network(SqueezeAndExcite())
    params = after_numpy_step(graph, graph.initial_params(), (IMAGES,))
    module = qat.backend(backend)
    found = module.predict_codes(module.lower(graph, params), IMAGES)
    np.testing.assert_array_equal(found, evaluate(qat.to_integer(graph, params), IMAGES))


@pytest.mark.parametrize("bits", [12, 16])
def test_wide_codes(bits: int, tmp_path: Path) -> None:
    """PyTorch, C, and LiteRT's reference kernels; unsigned ones of 16 bits have products that no int32 holds."""
    graph = qat.convert_quant_network(SqueezeAndExcite(), num_bits=(8, bits), symmetric=(True, True))
    params = after_numpy_step(graph, graph.initial_params(), (IMAGES,))
    integers, torch = qat.to_integer(graph, params), qat.backend("torch")
    found = torch.predict_codes(torch.lower(graph, params), IMAGES)
    np.testing.assert_array_equal(found, evaluate(integers, IMAGES))
    for arithmetic in ("float", "fixed"):
        assert differing(integers, "C", arithmetic, (IMAGES,), tmp_path / "net.c") == 0
    assert differing(integers, "TFLITE", "fixed", (IMAGES,), tmp_path / "net.tflite") == 0
    with pytest.raises(qat.QatError, match="float arithmetic computes exactly with at most 8"):
        qat.target("TFLITE").export(integers, tmp_path / "net.tflite")


def test_unsigned_codes_of_16_bits_are_refused_in_the_fixed_arithmetic(tmp_path: Path) -> None:
    network = Traced(lambda self, x: self.a(x) * self.a(x), a=qat.Activation("relu"))
    graph = qat.convert_quant_network(network, num_bits=16)
    integers = qat.to_integer(graph, graph.observed_params())
    with pytest.raises(qat.QatError, match=r"mul: the products of its codes may reach 4294836225, times"):
        qat.target("C").export(integers, tmp_path / "net.c", arithmetic="fixed")


# -- numbers in a construct -------------------------------------------------------------------------------------------


def test_numbers_that_follow_one_another_are_one_node() -> None:
    network = Traced(lambda self, x: self.c((-(2.0 * x) + 0.5) * 4), c=qat.Conv2dBnAct(1, 1, 1))
    graph = qat.convert_quant_network(network)
    (node,) = (node for node in graph.nodes if isinstance(node.cell, qat.Activation))
    assert (node.cell.function, node.cell.alpha, node.cell.beta) == ("linear", -8.0, 2.0)
    assert node.inputs == ("input",)
    assert sum(isinstance(node.cell, qat.FakeQuant) for node in graph.nodes) == 2


def test_numbers_whose_first_result_is_used_too_stay_two_nodes() -> None:
    def construct(self, x):
        y = x * 2.0
        return y + 1.0, y

    graph = qat.convert_quant_network(Traced(construct))
    assert sum(isinstance(node.cell, qat.Activation) for node in graph.nodes) == 2


def test_a_first_number_whose_codes_are_to_be_of_another_kind_stays() -> None:
    """A pattern that names it means something, or is at least no error."""
    network = Traced(lambda self, x: self.c(x * 2.0 + 1.0), c=qat.Conv2dBnAct(1, 1, 1))
    first, second = (node.name for node in network.graph().nodes if isinstance(node.cell, qat.Activation))

    def bits(layers: dict[str, Any]) -> dict[str, int]:
        graph = qat.convert_quant_network(network, layers=layers)
        return {node.name: node.cell.quantizer.num_bits for node in graph.nodes if isinstance(node.cell, qat.FakeQuant)}

    assert bits({first: {"num_bits": 6}}) == {f"{first}.fake_quant": 6, f"{second}.fake_quant": 8, "c.fake_quant": 8}
    for same in ({first: {"num_bits": 8}}, {first: {"num_bits": 6}, second: {"num_bits": 6}}, {"*": {"num_bits": 4}}):
        assert bits(same).keys() == {f"{second}.fake_quant", "c.fake_quant"}
    with pytest.raises(qat.QatError, match=f"'nothing' fits no cell of Traced that is quantized; those are {first}, "):
        bits({"nothing": {"num_bits": 4}})


def test_a_number_that_is_none_is_refused() -> None:
    for wrong in (True, "2", None, [1.0]):
        with pytest.raises(
            qat.QatError, match="a construct computes with outputs of cells and single numbers; for a number"
        ):
            Traced(lambda self, x, wrong=wrong: x * wrong).graph()

"""The matrix product of two activations: equal in every target, for codes of any grids, transposed or not."""

import itertools

import numpy as np
import pytest
from frameworks import FILES_HERE, HERE
from graphs import Traced

import qat
from qat.integer import (
    Grid,
    IntegerGraph,
    IntegerInput,
    IntegerMatMul,
    IntegerTensor,
    MatrixProduct,
    evaluate,
)
from qat.registry import TARGETS, installed
from qat.vocabulary.ops import EXACT_INTEGERS

F = np.float32
TRANSPOSED = list(itertools.product([False, True], repeat=2))


def product_of(shapes, transpose, grids, output, name="y"):
    """An integer graph of one product of two inputs."""
    entries = []
    for index, (shape, grid) in enumerate(zip(shapes, grids, strict=True)):
        x = IntegerTensor(f"x{index}", shape, grid)
        entries.append(IntegerInput(x.name, (), x, "uint8"))
    cell = qat.MatMul(*transpose)
    pending = MatrixProduct(name, tuple(e.output for e in entries), cell.output_shape(*shapes), transpose)
    node = pending.requantized(output)
    node.check_range()
    return IntegerGraph((*entries, node), tuple(entry.output for entry in entries), (node.output,))


def shapes_of(before, rows, length, columns, transpose):
    a, b = (rows, length), (length, columns)
    return (*before, *(a[::-1] if transpose[0] else a)), (*before, *(b[::-1] if transpose[1] else b))


def grids(rng):
    """Two grids of inputs, and one whose codes the sums of 9 products reach."""

    def zero():
        return int(rng.choice([0, 255, rng.integers(0, 256)]))

    a, b = (Grid(F(rng.uniform(0.01, 0.1)), zero(), 0, 255) for _ in range(2))
    return (a, b), Grid(F(a.scale * b.scale * rng.choice([1e-4, 0.5, 100.0, 700.0, 5000.0])), zero(), 0, 255)


@pytest.mark.parametrize(("target", "arithmetic"), FILES_HERE)
@pytest.mark.parametrize("before", [(), (3,)], ids=["pair", "batch"])
def test_codes_of_every_target(target, arithmetic, before, tmp_path):
    rng = np.random.default_rng(len(before))
    module = qat.target(target)
    for transpose in TRANSPOSED:
        shapes = shapes_of(before, 5, 9, 7, transpose)
        given, output = grids(rng)
        graph = product_of(shapes, transpose, given, output)
        x = tuple(rng.integers(0, 256, (4, *shape), np.uint8) for shape in shapes)
        path = tmp_path / f"net{TARGETS[target].suffix}"
        options = {"arithmetic": arithmetic} if target in ("TFLITE", "C") else {}
        module.export(graph, path, **options)
        found = graph.output.grid.codes_of(module.predict(path, x, **options))
        np.testing.assert_array_equal(found, evaluate(graph, x, arithmetic=arithmetic), err_msg=f"{transpose}")


def test_formula():
    """By int64, one product after another."""
    rng = np.random.default_rng(3)
    (a, b), y = grids(rng)
    y = y._replace(scale=F(a.scale * b.scale * 300))
    for before, transpose in itertools.product([(), (2,)], TRANSPOSED):
        shapes = shapes_of(before, 3, 4, 5, transpose)
        graph = product_of(shapes, transpose, (a, b), y)
        x = tuple(rng.integers(0, 256, (2, *shape), np.uint8) for shape in shapes)
        first, second = (each.astype(np.int64) - g.zero_point for each, g in zip(x, (a, b), strict=True))
        first = first.swapaxes(-1, -2) if transpose[0] else first
        second = second.swapaxes(-1, -2) if transpose[1] else second
        sums = (first[..., :, None, :] * np.swapaxes(second, -1, -2)[..., None, :, :]).sum(-1)
        m = F(F(a.scale * b.scale) / y.scale)
        expected = np.clip(np.rint(sums.astype(F) * m), y.low, y.high) + y.zero_point
        np.testing.assert_array_equal(evaluate(graph, x), expected)


@pytest.mark.parametrize("target", [name for name in ("ONNX", "C") if installed(TARGETS[name])])
def test_sums_beyond_float32(target, tmp_path):
    """300 products of 255 and 255 pass 2^24."""
    grid = Grid(F(0.5), 0, 0, 255)
    graph = product_of(((2, 300), (300, 2)), (False, False), (grid, grid), Grid(F(20_000.0), 0, 0, 255))
    x = tuple(np.random.default_rng(0).integers(200, 256, (64, *shape), np.uint8) for shape in ((2, 300), (300, 2)))
    assert graph.nodes[-1].wide
    path = tmp_path / f"net{TARGETS[target].suffix}"
    module = qat.target(target)
    module.export(graph, path)
    found = graph.output.grid.codes_of(module.predict(path, x))
    np.testing.assert_array_equal(found, evaluate(graph, x))


@pytest.mark.parametrize("target", [name for name in ("TFLITE", "MINDIR") if installed(TARGETS[name])])
def test_sums_that_a_runtime_would_round_are_refused(target, tmp_path):
    grid = Grid(F(0.5), 0, 0, 255)
    graph = product_of(((2, 300), (300, 2)), (False, False), (grid, grid), Grid(F(20_000.0), 0, 0, 255))
    with pytest.raises(qat.QatError, match=rf"^y: its sums may reach 19507500, .*{EXACT_INTEGERS}"):
        qat.target(target).export(graph, tmp_path / f"net{TARGETS[target].suffix}")


@pytest.mark.skipif(not installed(TARGETS["TFLITE"]), reason="LiteRT is not installed")
def test_a_tflite_file_of_the_other_arithmetic_is_not_run_with_xnnpack(tmp_path):
    """Its own matrix product of codes rounds in a way of its own."""
    given, output = grids(np.random.default_rng(0))
    shape = (4, 3, 3)
    graph = product_of((shape, shape), (False, True), given, output)
    x = tuple(np.random.default_rng(1).integers(0, 256, (4, *shape), np.uint8) for _ in range(2))
    path, tflite = tmp_path / "net.tflite", qat.target("TFLITE")
    tflite.export(graph, path, arithmetic="fixed")
    with pytest.raises(qat.QatError, match=r"net\.tflite: was exported for the fixed arithmetic: its matrix products"):
        tflite.predict(path, x, arithmetic="float")
    tflite.export(graph, path)
    found = graph.output.grid.codes_of(tflite.predict(path, x))
    np.testing.assert_array_equal(found, evaluate(graph, x))


def test_sums_beyond_int32_are_refused():
    grid = Grid(F(0.5), 0, 0, 255)
    with pytest.raises(qat.QatError, match="y: adds 40000 products of codes, which may reach 2601000000"):
        product_of(((1, 40_000), (40_000, 1)), (False, False), (grid, grid), grid)


@pytest.mark.parametrize("backend", HERE)
def test_evaluation_on_every_backend(backend):
    for before, transpose in ((), (False, True)), ((2,), (True, False)):
        size = (4, 6, 6) if before else (4, 8, 8)
        cell = qat.MatMul(*transpose)
        shape = size if before else (4, 64)
        network = Traced(
            lambda self, x, cell=cell, shape=shape: cell(self.a(x).reshape(-1, *shape), self.b(x).reshape(-1, *shape)),
            inputs=qat.Input((1, *size[1:])),
            a=qat.Conv2dBnAct(1, 4, 1, has_bias=True),
            b=qat.Conv2dBnAct(1, 4, 1, has_bias=True),
        )
        graph = qat.convert_quant_network(network)
        integers = qat.to_integer(graph, params := graph.observed_params())
        x = np.random.default_rng(0).integers(0, 256, (3, 1, *size[1:]), np.uint8)
        module = qat.backend(backend)
        codes = module.predict_codes(module.lower(graph, params), x)
        assert any(isinstance(node, IntegerMatMul) for node in integers.nodes)
        np.testing.assert_array_equal(codes, evaluate(integers, x))


def test_notation():
    network = Traced(lambda self, x: (y := x.reshape(-1, 8, 8)) @ y.transpose(1, 2))
    assert isinstance(network.graph().nodes[-1].cell, qat.MatMul)


def test_what_does_not_fit():
    with pytest.raises(qat.QatError, match=r"multiplies 3 columns of \(2, 3\) by 2 rows of \(2, 3\).*transpose_a"):
        qat.MatMul().output_shape((2, 3), (2, 3))
    with pytest.raises(qat.QatError, match=r"multiplies matrices.*gets \(8,\) and \(8,\)"):
        qat.MatMul().output_shape((8,), (8,))
    with pytest.raises(qat.QatError, match="for as many matrices"):
        qat.MatMul().output_shape((2, 3, 3), (3, 3, 3))


def test_cost():
    network = Traced(lambda self, x: qat.MatMul(transpose_b=True)(x, x), inputs=qat.Input((4, 6, 5)))
    assert qat.metrics.macs(network) == {"mat_mul": 4 * 6 * 5 * 6}

"""What TFLite files take and give: every code equal in LiteRT, whatever the types of their inputs and outputs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from sequential import Chain
from test_tflite import differences, everything, model_of, operators

import qat
from qat.integer import (
    Grid,
    IntegerAdd,
    IntegerGraph,
    IntegerInput,
    IntegerPad,
    IntegerTensor,
    Requantize,
    trace_codes,
)
from qat.integer.ends import Ends
from qat.targets.common import to_hwc
from qat.targets.tflite.file import pack_model, set_metadata
from qat.vocabulary.arrays import as_arrays, as_tuple
from qat.vocabulary.ops import Array

F = np.float32
TFLITE = qat.target("TFLITE")
ARITHMETICS = TFLITE.ARITHMETICS
KERNELS = (OpResolverType.AUTO, OpResolverType.BUILTIN_REF, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
STORED = ("float32", "int8", "uint8", "int16")
COLUMNS = 256


def entering(dtype: str, grid: Grid, multiplier: float | None = None, offset: int = 0, name: str = "x") -> IntegerGraph:
    """A graph that gives the codes of its input; multiplier: where it makes them of other numbers."""
    x = IntegerTensor(name, (COLUMNS,), grid)
    requantize = None if multiplier is None else Requantize(np.full(1, multiplier, F), grid.low, grid.high)
    scale = 1.0 if multiplier is None or dtype == "float32" else float(F(multiplier) * grid.scale)
    return IntegerGraph((IntegerInput(name, (), x, dtype, requantize, offset, scale),), (x,), (x,))


def every_code(dtype: str) -> Array:
    info = np.iinfo(dtype)
    return np.arange(info.min, info.max + 1).astype(dtype).reshape(-1, COLUMNS)


def hard_numbers(multiplier: float, low: int, high: int, seed: int = 0, count: int = 100_000) -> Array:
    """Real numbers next to every tie, one step of float32 beside it on both sides, extremes, denormals, and random ones."""
    rng = np.random.default_rng(seed)
    ties = (np.arange(low - 3, high + 3, dtype=np.float64) + 0.5) / np.float64(F(multiplier))
    ties = ties[rng.permutation(len(ties))[:20_000]].astype(F)
    largest, tiny, least = np.finfo(F).max, np.finfo(F).tiny, np.finfo(F).smallest_subnormal
    extremes = np.array([0.0, -0.0, largest, -largest, tiny, -tiny, least, -least, 1.5 * 2**23, -(2**24), 1e30], F)
    spread = rng.uniform(low - 9, high + 9, count // 2) / multiplier
    wild = rng.choice([-1.0, 1.0], count // 2) * 10.0 ** rng.uniform(-38, 38, count // 2)
    bits = rng.integers(0, 2**32, 5000, np.uint32).view(F)
    parts = [ties, np.nextafter(ties, F(np.inf)), np.nextafter(ties, F(-np.inf)), extremes, spread.astype(F)]
    x = np.concatenate([*parts, wild.astype(F), bits[np.isfinite(bits)]])
    return np.resize(x, (-(-len(x) // COLUMNS), COLUMNS))


def in_kernels(path: Path, samples: tuple[Array, ...], kernels: Any) -> list[Array]:
    """What some kernels of LiteRT give for what the network takes: real numbers."""
    ends = Ends.from_json(TFLITE.read_metadata(path)["ends"])
    model = Interpreter(str(path), experimental_op_resolver_type=kernels)
    for entry, x in zip(model.get_input_details(), ends.encode(samples), strict=True):
        model.resize_tensor_input(entry["index"], to_hwc(x).shape)
    model.allocate_tensors()
    for entry, x in zip(model.get_input_details(), ends.encode(samples), strict=True):
        model.set_tensor(entry["index"], to_hwc(x))
    model.invoke()
    return list(ends.decode([model.get_tensor(entry["index"]) for entry in model.get_output_details()]))


def assert_codes(graph: IntegerGraph, samples: Array, folder: Path, **types: str) -> None:
    """No code that the file gives differs, in either arithmetic and in all of LiteRT's kernels; nor does a real number."""
    (x,) = graph.outputs
    expected = trace_codes(graph, samples, [x.name])[x.name]
    real = x.grid.dequantize(expected)
    for arithmetic in ("fixed",) if any(node.output.grid.wide for node in graph.nodes) else ARITHMETICS:
        path = folder / "net.tflite"
        TFLITE.export(graph, path, arithmetic=arithmetic, **types)
        assert TFLITE.input_specs(path) == list(graph.input_specs)
        np.testing.assert_array_equal(TFLITE.predict(path, samples, arithmetic=arithmetic), real)
        traced = TFLITE.trace(path, samples, [x], arithmetic=arithmetic)
        assert set(traced) == ({"x"} if "MUL" in operators(path) else set())
        for codes in traced.values():
            np.testing.assert_array_equal(codes, expected)
        for kernels in KERNELS if "ends" in TFLITE.read_metadata(path) else ():
            np.testing.assert_array_equal(in_kernels(path, (samples,), kernels)[0], real)


# -- codes of single inputs -------------------------------------------------------------------------------------------

BYTES = Grid(F(0.0371), 3, -128, 127)
FEW = Grid(F(0.31), 2, 0, 15)
WIDE = Grid(F(0.00217), 0, -32768, 32767)


@pytest.mark.parametrize("multiplier", [1.0, 0.125, float(F(1 / 0.0371)), 2.0**-100, 2.0**60], ids=str)
def test_real_numbers_next_to_every_tie(multiplier: float, tmp_path: Path) -> None:
    """Products that are ties exactly, products that overflow, and numbers below float32's normal ones, which LiteRT takes for
    0: 2^-60 is the smallest scale that a quantizer makes.
    """
    graph = entering("float32", BYTES, multiplier)
    x = hard_numbers(multiplier, BYTES.low, BYTES.high)
    assert_codes(graph, x, tmp_path)


def test_ties_are_ties(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The sweep has ties that round either way: with an addition that rounds otherwise, codes differ."""
    graph, x = entering("float32", BYTES, 0.125), hard_numbers(0.125, BYTES.low, BYTES.high)
    assert np.count_nonzero(np.abs(x.astype(np.float64) * 0.125) % 1 == 0.5) > 200
    monkeypatch.setattr("qat.targets.tflite.integer.ROUNDING", 1.5 * 2.0**22)
    with pytest.raises(AssertionError):
        assert_codes(graph, x, tmp_path)


@pytest.mark.parametrize("grid", [FEW, WIDE], ids=["4 bits", "16 bits"])
def test_real_numbers_of_few_and_many_bits(grid: Grid, tmp_path: Path) -> None:
    for multiplier in (0.25, float(F(1) / grid.scale)):
        assert_codes(entering("float32", grid, multiplier), hard_numbers(multiplier, grid.low, grid.high), tmp_path)


@pytest.mark.parametrize("offset", [0, -5, 32767])
@pytest.mark.parametrize("dtype", ["int16", "uint16"])
def test_every_code_of_16_bits(dtype: str, offset: int, tmp_path: Path) -> None:
    """1 / 256 makes a tie of every 256th number."""
    for grid in (BYTES, WIDE):
        for multiplier in (2.0**-8, 0.5, float(F(0.0123))):
            assert_codes(entering(dtype, grid, multiplier, offset), every_code(dtype), tmp_path)


ENTRIES = [
    ("uint8", Grid(F(0.0123), 37, 0, 255), None, 0),
    ("int8", Grid(F(0.0123), -9, -128, 127), None, 0),
    ("float32", BYTES, float(F(1) / BYTES.scale), 0),
    ("float32", FEW, float(F(1) / FEW.scale), 0),
    ("float32", WIDE, float(F(1) / WIDE.scale), 0),
    ("int16", BYTES, 0.0117, 12),
    ("uint16", FEW, 0.00117, 12),
    ("uint16", WIDE, 0.73, 12),
]


@pytest.mark.parametrize("entry", ENTRIES, ids=[f"{dtype} {grid.qmin}..{grid.qmax}" for dtype, grid, *_ in ENTRIES])
def test_every_type_of_input_and_output(entry: tuple[Any, ...], tmp_path: Path) -> None:
    """All that are allowed; the others are refused, with what to use instead."""
    dtype, grid, multiplier, _ = entry
    graph = entering(*entry)
    x = hard_numbers(multiplier, grid.low, grid.high, count=5000) if dtype == "float32" else every_code(dtype)
    refused = set()
    for taken in ("own", *STORED):
        for given in ("own", *STORED) if taken == "own" else ("own",):
            try:
                assert_codes(graph, x, tmp_path, input_type=taken, output_type=given)
            except qat.QatError as error:
                refused.add((taken, given))
                assert re.search(rf"x: --(input|output)_type ({taken}|{given})[:,] .*use ", str(error))  # noqa: PT017
    raw = {("float32", "own")} if dtype in ("int16", "uint16") else set()
    narrow = {("own", stored) for stored in ("int8", "uint8")} | {(stored, "own") for stored in ("int8", "uint8")}
    assert refused == raw | (narrow if grid.wide else set())


@pytest.mark.parametrize("zero_point", [0, 1, 128, 255])
def test_codes_and_zero_points_at_the_ends(zero_point: int, tmp_path: Path) -> None:
    graph = entering("uint8", Grid(F(0.31), zero_point, 0, 255))
    for taken in STORED:
        assert_codes(graph, every_code("uint8"), tmp_path, input_type=taken, output_type="float32")


@pytest.mark.parametrize("given", ["own", *STORED])
def test_codes_of_8_bits_in_a_network_of_int16(given: str, tmp_path: Path) -> None:
    """Where some node has more bits, all codes are int16 in between."""
    graph = entering("uint8", Grid(F(0.0123), 37, 0, 255))
    (x,) = graph.inputs
    y = IntegerTensor("y", (COLUMNS,), WIDE)
    node = IntegerAdd("y", (x, x), y, Requantize(np.full(1, x.grid.scale / WIDE.scale, F), WIDE.low, WIDE.high))
    graph = IntegerGraph((*graph.nodes, node), (x,), (x,))
    for taken in ("own", *STORED):
        assert_codes(graph, every_code("uint8"), tmp_path, input_type=taken, output_type=given)


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(100))
def test_many_random_scales(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    scale = F(10.0 ** rng.uniform(-17, 17))
    zero_point = int(rng.integers(-128, 128))
    grid = Grid(scale, zero_point, -128, 127) if seed % 2 else Grid(scale, 0, -32768, 32767)
    multiplier = float(F(1) / scale)
    assert_codes(entering("float32", grid, multiplier), hard_numbers(multiplier, grid.low, grid.high, seed), tmp_path)


# -- whole networks ---------------------------------------------------------------------------------------------------


class Senses(qat.Network):
    """Inputs of every kind, one of which is an output too."""

    inputs = (
        qat.Input((3, 5, 4), mean=0.5, std=0.25),
        qat.Input((2, 5, 4), dtype="float32"),
        qat.Input((6,), dtype="int8", scale=0.5847, zero_point=83),
        qat.Input((6,), dtype="int16", scale=0.0031, zero_point=-7),
        qat.Input((6,), dtype="uint16", scale=0.0001, zero_point=30000),
    )

    def __init__(self) -> None:
        self.conv, self.other = qat.Conv2dBnAct(3, 4, 3, activation="relu"), qat.Conv2dBnAct(2, 4, 3)
        self.add, self.flatten, self.fc = qat.Add(), qat.Flatten(), qat.DenseBnAct(80, 6)
        self.dense = [qat.DenseBnAct(6, 6) for _ in range(3)]
        self.sums, self.last = [qat.Add() for _ in range(3)], qat.DenseBnAct(6, 5)

    def construct(self, pixels, real, codes, words, counts):
        image = self.add(self.conv(pixels), self.other(real))
        row = self.fc(self.flatten(image))
        for dense, total, x in zip(self.dense, self.sums, (codes, words, counts), strict=True):
            row = total(row, dense(x))
        return self.last(row), real


def samples_of(graph: qat.Graph, count: int = 7) -> tuple[Array, ...]:
    rng = np.random.default_rng(2)
    found = []
    for spec in graph.input_specs:
        shape = (count, *spec.shape)
        if spec.dtype == "float32":
            found.append(rng.normal(0, 3, shape).astype(F))
        else:
            info = np.iinfo(spec.dtype)
            found.append(rng.integers(info.min, info.max + 1, shape).astype(spec.dtype))
    return tuple(found)


def sensing(**options: Any) -> tuple[IntegerGraph, tuple[Array, ...]]:
    setup = everything(Senses(), samples=samples_of, **options)
    return setup.integer, setup.pixels


@pytest.mark.parametrize("taken", ["own", "int8", "uint8", "int16"])
@pytest.mark.parametrize("bits", [8, 12])
def test_a_network_with_inputs_of_every_kind(bits: int, taken: str, tmp_path: Path) -> None:
    graph, samples = sensing(num_bits=(8, bits))
    for arithmetic in ("fixed",) if bits > 8 else ARITHMETICS:
        for given in ("own", "float32", "int16"):
            if bits > 8 and taken in ("int8", "uint8"):
                with pytest.raises(qat.QatError, match=f"--input_type {taken}: its codes, .* do not fit; use int16"):
                    TFLITE.export(graph, tmp_path / "net.tflite", arithmetic=arithmetic, input_type=taken)
                continue
            path = tmp_path / "net.tflite"
            TFLITE.export(graph, path, arithmetic=arithmetic, input_type=taken, output_type=given)
            assert differences(graph, path, samples, arithmetic) == []


def test_what_other_tools_read_of_a_file(tmp_path: Path) -> None:
    """Interpreter.get_input_details()["quantization"] is the grid: code = real / scale + zero point."""
    graph, _ = sensing()
    path = tmp_path / "net.tflite"

    def details(of: str) -> list[tuple[Any, ...]]:
        model = Interpreter(str(path))
        found = model.get_input_details() if of == "input" else model.get_output_details()
        return [(np.dtype(x["dtype"]).name, *x["quantization"]) for x in found]

    grids = {x.name: x.grid for x in (*graph.inputs, *graph.outputs)}
    inputs = [grids[x.name] for x in graph.inputs]
    TFLITE.export(graph, path)
    pixels, _, codes, words, counts = (float(grid.scale) for grid in inputs)
    assert details("input") == [
        ("int8", pixels, 0),  # that of 128, the mean
        ("float32", 0.0, 0),
        ("int8", F(0.5847), 83),
        ("int16", F(0.0031), -7),
        ("uint16", F(0.0001), 30000),
    ]
    lowest = {"int8": -128, "uint8": 0}
    for stored in ("int8", "uint8", "int16"):
        TFLITE.export(graph, path, input_type=stored, output_type=stored)
        for of, ends in (("input", graph.inputs), ("output", graph.outputs)):
            expected = [(stored, float(x.grid.scale), lowest.get(stored, x.grid.low) - x.grid.low) for x in ends]
            if (of, stored) == ("input", "int16"):  # the network's own words stay
                expected[3] = ("int16", F(0.0031), -7)
            assert details(of) == expected
    TFLITE.export(graph, path, output_type="float32")
    assert details("output") == [("float32", 0.0, 0)] * 2
    assert min(codes, words, counts) > 0


def test_the_form_of_ends(tmp_path: Path) -> None:
    """What is needed, and where nothing changes nothing is written."""
    path = tmp_path / "net.tflite"
    forms = {
        ("uint8", "own", "own"): {"RESHAPE": 1},
        ("uint8", "uint8", "uint8"): {"QUANTIZE": 2},
        ("uint8", "own", "float32"): {"QUANTIZE": 1, "DEQUANTIZE": 1},
        ("int8", "own", "int8"): {"RESHAPE": 1},
    }
    for (dtype, taken, given), expected in forms.items():
        grid = Grid(F(0.1), 3, *((0, 255) if dtype == "uint8" else (-128, 127)))
        TFLITE.export(entering(dtype, grid), path, input_type=taken, output_type=given)
        assert operators(path) == expected
        assert ("ends" in TFLITE.read_metadata(path)) == ((dtype, taken, given) != ("uint8", "own", "own"))


def test_infinite_numbers_and_other_types_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    TFLITE.export(entering("float32", BYTES, 0.5), path, input_type="int8")
    x = np.zeros((2, COLUMNS), F)
    x[1, 7] = np.nan
    with pytest.raises(qat.QatError, match=r"net\.tflite: sample 1 holds nan at \[7\]"):
        TFLITE.predict(path, x)
    with pytest.raises(qat.QatError, match=r"takes float32 \(N, 256\), but got int8"):
        TFLITE.predict(path, np.zeros((2, COLUMNS), np.int8))
    with pytest.raises(qat.QatError, match="--input_type 'int4' is unknown: choose one of own, float32"):
        TFLITE.export(entering("float32", BYTES, 0.5), path, input_type="int4")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"stored": "int8"', '"stored": "uint8"'),
        ('"dtype": "float32"', '"dtype": "float64"'),
        ('"zero_point": 3', '"zero_point": 4'),
        ('"shape": [256]', '"shape": [255]'),
        ('"low": -131', '"low": -1000000'),
        ('"multiplier": 0.5', '"multiplier": NaN'),
        ('"inputs": [', '"inputs": [7, '),
        ('"outputs"', '"output"'),
        ("{", "["),
    ],
)
def test_metadata_that_do_not_fit_the_tensors_are_refused(old: str, new: str, tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    TFLITE.export(entering("float32", BYTES, 0.5), path, input_type="int8")
    text, model = TFLITE.read_metadata(path)["ends"], model_of(path)
    assert old in text
    set_metadata(model, "qat.ends", text.replace(old, new, 1).encode())
    path.write_bytes(pack_model(model))
    for read in (TFLITE.input_specs, lambda file: TFLITE.predict(file, np.zeros((2, COLUMNS), F))):
        with pytest.raises(qat.QatError, match=r"net\.tflite: .*export it again"):
            read(path)


def test_float_networks_take_what_the_network_takes(tmp_path: Path) -> None:
    graph, path = Senses().graph(), tmp_path / "net.tflite"
    params, samples = graph.initial_params(), samples_of(graph)
    TFLITE.export_float(graph, params, path)
    assert TFLITE.input_specs(path) == list(graph.input_specs)
    model = Interpreter(str(path))
    assert [np.dtype(x["dtype"]).name for x in model.get_input_details()] == [
        "uint8",
        "float32",
        "int8",
        "int16",
        "uint16",
    ]
    assert [x["quantization"] for x in model.get_input_details()][2:] == [
        (F(0.5847), 83), (F(0.0031), -7), (F(0.0001), 30000)
    ]  # fmt: skip
    found = TFLITE.predict(path, samples)
    expected = qat.backend("torch").predict(qat.backend("torch").lower(graph, params), samples)
    np.testing.assert_array_equal(found[1], samples[1])
    subgraph = model_of(path).subgraphs[0]
    assert not set(subgraph.inputs) & set(subgraph.outputs), "LiteRT's inputs may not be outputs"
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-4)


class Normalized(qat.Network):
    """Pixels whose channels differ, before a convolution that pads, and a row of them before a dense cell."""

    inputs = (
        qat.Input((3, 6, 5), mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
        qat.Input((4,), mean=(0.1, 0.9, 0.5, 0.0), std=(0.3, 0.2, 0.1, 1.0)),
    )

    def __init__(self) -> None:
        self.conv, self.pool = qat.Conv2dBnAct(3, 5, 3, activation="relu"), qat.MaxPool2d(2)
        self.fc, self.last = qat.DenseBnAct(4, 3, activation="relu"), qat.DenseBnAct(3, 2)

    def construct(self, pixels, row):
        return self.pool(self.conv(pixels)), self.last(self.fc(row))


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("taken", ["own", "float32"])
def test_channels_that_are_normalised_differently(taken: str, bits: int, tmp_path: Path) -> None:
    """The convolution takes a fourth channel, one code everywhere, which the file adds."""
    setup, path = everything(Normalized(), num_bits=(8, bits)), tmp_path / "net.tflite"
    assert any(isinstance(node, IntegerPad) for node in setup.integer.nodes)
    for arithmetic in ARITHMETICS if bits == 8 else ("fixed",):
        TFLITE.export(setup.integer, path, arithmetic=arithmetic, input_type=taken)
        assert operators(path)["PADV2"] == 1
        assert differences(setup.integer, path, setup.pixels, arithmetic) == []


class Further(qat.Network):
    """A further channel that a user has asked for."""

    inputs = qat.Input((2, 4, 5), dtype="float32")

    def __init__(self) -> None:
        self.further, self.conv = qat.ConstantChannel(0.5), qat.Conv2dBnAct(3, 4, 3)

    def construct(self, x):
        return self.conv(self.further(x))


@pytest.mark.parametrize("network", [Normalized, Further])
def test_float_networks_normalise_each_channel(network: type[qat.Network], tmp_path: Path) -> None:
    graph, path = network().graph(), tmp_path / "net.tflite"
    params, samples = graph.initial_params(), samples_of(graph)
    TFLITE.export_float(graph, params, path)
    torch = qat.backend("torch")
    expected = as_tuple(torch.predict(torch.lower(graph, params), as_arrays(samples)))
    for found, wanted in zip(as_tuple(TFLITE.predict(path, as_arrays(samples))), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_network_of_real_numbers_is_verified(tmp_path: Path) -> None:
    """As a user has it: features that are measured, a dense network, a file that takes them."""
    network = Chain(qat.Input((COLUMNS,), dtype="float32"), fc=qat.DenseBnAct(COLUMNS, 4))
    setup = everything(network, samples=samples_of)
    for taken in STORED:
        TFLITE.export(setup.integer, tmp_path / "net.tflite", input_type=taken, output_type=taken)
        assert differences(setup.integer, tmp_path / "net.tflite", setup.pixels, "float") == []

"""Weight and activation codes of more than 8 bits: the integers, and that every engine that takes them computes the same."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from frameworks import HERE
from hypothesis import given, settings
from sequential import Setup as Sequential
from sequential import setups
from test_cells import Everything
from test_integer import dense_node
from test_tflite import everything
from test_zoo import Setup
from transcription import transcribed_codes

import qat
from qat.integer import EXACT_LONG, Adjustments, Grid, IntegerBuilder, IntegerGraph, IntegerLinear, trace_codes
from qat.integer.fixed_point import linear_multiplier
from qat.integer.widths import bits_of, weight_bits
from qat.networks import LeNet5
from qat.registry import TARGETS, installed
from qat.vocabulary.arrays import as_tuple
from qat.vocabulary.numpy_ops import NUMPY_OPS

TFLITE = qat.target("TFLITE")
WIDTHS = [(16, 16), (8, 16), (16, 8), (9, 9), (10, 10), (11, 11), (12, 12), (13, 13), (14, 14), (15, 15)]


@cache
def network(bits: tuple[int, int], symmetric: bool) -> Setup:
    """Every kind of cell, of weights and activations of so many bits."""
    return everything(Everything("hswish"), num_bits=bits, symmetric=(True, symmetric))


def reference(graph: IntegerGraph, pixels: tuple[np.ndarray, ...], arithmetic: str = "float") -> dict[str, np.ndarray]:
    return trace_codes(graph, pixels, [node.name for node in graph.nodes], arithmetic=arithmetic)


@settings(max_examples=60)
@given(setups(most=16))
def test_evaluation_computes_the_transcribed_formulas(setup: Sequential) -> None:
    expected = transcribed_codes(setup)
    graph = setup.integer
    names = {name for name in expected if name in {node.name for node in graph.nodes}}
    found = trace_codes(graph, setup.pixels, names)
    assert found
    for name, codes in found.items():
        np.testing.assert_array_equal(codes, expected[name], err_msg=name)


@pytest.mark.parametrize("symmetric", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("bits", WIDTHS, ids=str)
@pytest.mark.parametrize("backend", HERE)
def test_every_backend_evaluates_the_integers_of_numpy(backend: str, bits: tuple[int, int], symmetric: bool) -> None:
    setup = network(bits, symmetric)
    graph = setup.integer
    expected = reference(graph, setup.pixels)
    module = qat.backend(backend)
    found = module.trace(module.lower(setup.graph, setup.params), setup.pixels, [node.output for node in graph.nodes])
    for name, codes in expected.items():
        np.testing.assert_array_equal(found[name], codes, err_msg=name)


@pytest.mark.parametrize("bits", [9, 12, 16])
def test_codes_use_their_whole_width(bits: int) -> None:
    """Else the others would prove nothing: the largest weight of a channel has the largest code, and biases stay codes."""
    graph = network((bits, bits), False).integer
    layers = [node for node in graph.nodes if isinstance(node, IntegerLinear) and "conv" in node.name]
    assert layers
    for node in layers:
        assert node.weight.dtype == np.int16
        assert np.abs(node.weight.astype(np.int64)).max() == 2 ** (bits - 1) - 1, node.name
        assert node.output.grid.dtype == np.uint16
    codes = reference(graph, network((bits, bits), False).pixels)
    assert max(int(codes[node.name].max()) for node in layers) > 2 ** (bits - 1)


def test_accumulators_beyond_float64_are_refused_by_name() -> None:
    """The largest accumulator that float64 adds exactly, and one more."""
    grid, largest = Grid(np.float32(1), 0, 0, 65535), 2**31 - 1
    inputs, rest = divmod(EXACT_LONG, 65535 * largest)
    weight = np.array([[largest] * inputs + [rest // 65535]], np.int32)
    left = rest % 65535
    IntegerBuilder({}, Adjustments()).add(dense_node(weight, [left], grid))
    with pytest.raises(qat.QatError, match=rf"^fc7: its accumulator may reach {EXACT_LONG + 1}, beyond what float64"):
        IntegerBuilder({}, Adjustments()).add(dense_node(weight, [left + 1], grid, name="fc7"))


@pytest.mark.parametrize("name", [name for name, entry in TARGETS.items() if installed(entry) and name != "C"])
@pytest.mark.parametrize(("bits", "what"), [((12, 8), "weights"), ((8, 11), "activations")])
def test_a_target_of_bytes_refuses_them_by_name(name: str, bits: tuple[int, int], what: str, tmp_path: Path) -> None:
    wide = max(bits)
    with pytest.raises(
        qat.QatError, match=rf"^\w+: its {what} have codes of {wide} bits, where .* at most 8; .* C"
    ) as raised:
        qat.target(name).export(network(bits, True).integer, tmp_path / "net")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_bits_of_numbers() -> None:
    for low, high, bits in [
        (0, 1, 1),
        (0, 255, 8),
        (0, 256, 9),
        (-128, 127, 8),
        (-127, 127, 8),
        (-129, 0, 9),
        (-1, 0, 1),
    ]:
        assert bits_of(low, high) == bits, (low, high)
    assert weight_bits(np.array([-1, 1])) == 1
    assert weight_bits(np.array([-1, 0, 1])) == 2


@pytest.mark.parametrize("bits", [(8, 16), (8, 15), (4, 12), (8, 9)], ids=str)
@pytest.mark.parametrize("symmetric", [True, False], ids=["signed", "unsigned"])
def test_litert_computes_16_bit_activations_in_the_fixed_arithmetic(
    bits: tuple[int, int], symmetric: bool, tmp_path: Path
) -> None:
    """Weights of 8 bits and fewer, int16 activations around 0, biases of int64: its reference kernels."""
    graph, pixels = network(bits, symmetric).integer, network(bits, symmetric).pixels
    path = tmp_path / "net.tflite"
    if bits[1] == 16 and not symmetric:  # 0 to 65535, or around a zero point
        with pytest.raises(qat.QatError, match=r"around the zero point, where TFLite's int16 holds -32768 to 32767"):
            TFLITE.export(graph, path, arithmetic="fixed")
        return
    TFLITE.export(graph, path, arithmetic="fixed")
    expected = reference(graph, pixels, "fixed")
    found = TFLITE.trace(path, pixels, [node.output for node in graph.nodes], arithmetic="fixed")
    assert set(found) >= set(expected) - {x.name for x in graph.inputs}
    for name, codes in found.items():
        np.testing.assert_array_equal(codes, expected[name], err_msg=name)
    real = as_tuple(TFLITE.predict(path, pixels, arithmetic="fixed"))
    for x, y in zip(graph.outputs, real, strict=True):
        np.testing.assert_array_equal(x.grid.codes_of(y), expected[x.name])


def test_litert_refuses_bytes_between_wide_codes_by_name(tmp_path: Path) -> None:
    """In a file of int16 activations it would not compute them by the fixed arithmetic."""
    layers = {"conv1": {"num_bits": 8}}
    graph = qat.convert_quant_network(LeNet5(), num_bits=(8, 12), layers=layers)
    integers = qat.to_integer(graph, graph.observed_params())
    with pytest.raises(qat.QatError, match=r"^conv1: computes codes of 8 bits from such in a network that has wider"):
        TFLITE.export(integers, tmp_path / "net.tflite", arithmetic="fixed")


def test_the_long_multiplier_is_the_formula() -> None:
    """(x round(m 2^(15 - e)) + 2^(14 - e)) >> (15 - e) with 2^(e-1) <= m < 2^e, in Python's integers."""
    rng = np.random.default_rng(0)
    for real in [0.5, 1.0, 100.0, 2.0**-20, 0.99999, *10.0 ** rng.uniform(-7, 2, 50)]:
        scales = (np.float32(1), np.array([real], np.float32), np.float32(1))
        bound = int(min(2**46, 2**29 / real))
        fixed = linear_multiplier("x", *scales, bound, long=True)
        exponent = int(np.frexp(np.float32(real))[1])
        m = min(int(np.floor(float(np.float32(real)) * 2.0 ** (15 - exponent) + 0.5)), 0x7FFF)
        for x in [0, 1, -1, bound, -bound, *map(int, rng.integers(-bound, bound, 20))]:
            expected = (x * m + (1 << (14 - exponent))) >> (15 - exponent)
            found = fixed.apply(NUMPY_OPS, fixed.constants(), np.array([x], np.int64))
            assert int(found[0]) == expected, (real, x)
    for bound, real in [(2**47, 0.5), (2**40, 1.0), (1000, 300.0), (2**40, 2.0**-40)]:
        with pytest.raises(qat.QatError, match=r"^fc7: its accumulator may reach"):
            linear_multiplier("fc7", np.float32(1), np.array([real], np.float32), np.float32(1), bound, long=True)

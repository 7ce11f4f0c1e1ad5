"""Weight and activation codes of more than 8 bits: the integers, and that every engine that takes them computes the same."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from test_cells import Everything
from test_integer import Setup as Sequential
from test_integer import dense_node, setups, transcribed_codes
from test_tflite import everything
from test_zoo import Setup

import qat
from qat.integer import EXACT_LONG, Adjustments, Grid, IntegerBuilder, IntegerGraph, IntegerLinear, trace_codes
from qat.registry import BACKENDS, TARGETS, installed
from qat.widths import bits_of, weight_bits

HERE = [name for name, entry in BACKENDS.items() if installed(entry)]
WIDTHS = [(16, 16), (8, 16), (16, 8), (9, 9), (10, 10), (11, 11), (12, 12), (13, 13), (14, 14), (15, 15)]


@cache
def network(bits: tuple[int, int], symmetric: bool) -> Setup:
    """Every kind of cell, of weights and activations of so many bits."""
    return everything(Everything("hswish"), num_bits=bits, symmetric=(True, symmetric))


def reference(graph: IntegerGraph, pixels: tuple[np.ndarray, ...], profile: str = "float") -> dict[str, np.ndarray]:
    return trace_codes(graph, pixels, [node.name for node in graph.nodes], profile=profile)


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

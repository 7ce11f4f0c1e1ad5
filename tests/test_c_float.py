"""C files of the float arithmetic: every sum has the code of training, whatever compiles it and whatever computes it."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from frameworks import but_long
from test_c import FLAGS, differences, emulated
from test_c_sweep import SETTINGS, command

import qat
from qat.integer import (
    INT32_MAX,
    Grid,
    IntegerDense,
    IntegerGraph,
    IntegerInput,
    IntegerNode,
    IntegerTensor,
    Requantize,
    evaluate,
)
from qat.networks import create
from qat.targets.c.cortex_m.cores import CORES
from qat.targets.c.cortex_m.measure import measure
from qat.targets.c.linear import float_bits

C = qat.target("C")
F = np.float32
Array = np.ndarray[Any, Any]


# -- sums whose codes are easily got wrong ----------------------------------------------------------------------------


class Sums(NamedTuple):
    """Sums, what each is multiplied by, and the range of codes."""

    sums: Array
    multipliers: Array
    grid: tuple[int, int, int]  #: zero point, lowest, highest


def near_ties(grid: tuple[int, int, int], largest: int, count: int, rng: np.random.Generator) -> Sums:
    """Products at ties, at the neighbours of ties, and anywhere; sums that float32 does not hold; the largest and smallest."""
    zero, low, high = grid
    codes = rng.integers(low - zero - 1, high - zero + 2, count // 4)
    size = np.floor(2.0 ** rng.uniform(0, np.log2(largest), count // 4)).astype(np.int64)
    wanted = (np.abs(codes) + 0.5) / size.astype(F)
    sums, multipliers = [], []
    for steps in range(-2, 3):  # the float32 next to what makes a tie of each sum, and those beside it
        m = wanted.astype(F)
        for _ in range(abs(steps)):
            m = np.nextafter(m, F(np.copysign(np.inf, steps)))
        sums.append(np.where(codes < 0, -size, size))
        multipliers.append(m)
    odd = 2 * rng.integers(0, max(high - zero, 1), count // 8) + 1  # exact ties: odd 2^a times 2^-(a + 1)
    a = rng.integers(0, max(int(np.log2(largest / odd.max())), 1), count // 8)
    off = rng.integers(-1, 2, count // 8) * (np.int64(1) << np.maximum(a - 24, 0)) * rng.integers(0, 2, count // 8)
    sums.append((odd << a) * rng.choice([-1, 1], count // 8) + off)
    multipliers.append((2.0 ** -(a + 1.0)).astype(F))
    edges = np.array([0, 1, -1, largest, -largest, 2**24, 2**24 + 1, -(2**24) - 1, 2**24 + 3, 2**25 + 2, 2**25 + 6])
    edges = edges[np.abs(edges) <= largest]
    for m in (2.0**-126, 2.0**-32, 2.0**-24, 2.0**-10, 0.4999999, 0.5, 1.0, 1.5, 255.0, 2.0**8, 2.0**60):
        sums.append(edges)
        multipliers.append(np.full(len(edges), m, F))
    sums.append(rng.integers(-largest, largest + 1, count // 4))
    multipliers.append((2.0 ** rng.uniform(-32, 8, count // 4)).astype(F))
    found = np.clip(np.concatenate(sums), -largest, largest)
    return Sums(found.astype(np.int64), np.maximum(np.concatenate(multipliers), np.finfo(F).tiny), grid)


def layer(name: str, case: Sums, entering: IntegerInput, weight: Array, bias: Array) -> list[IntegerNode]:
    """A dense layer with a multiplier for each sum."""
    count = len(case.sums)
    y = IntegerTensor(name, (count,), Grid(F(1), *case.grid))
    requantize = Requantize(case.multipliers, y.grid.low, y.grid.high)
    dense = IntegerDense(
        name,
        (entering.output,),
        y,
        weight=weight,
        bias=bias.astype(np.int32),
        weight_scale=np.ones(count, F),
        weight_zero_point=np.zeros(count, np.int32),
        requantize=requantize,
    )
    return [entering, dense]


def of_biases(case: Sums, name: str) -> tuple[list[IntegerNode], Array]:
    """Whose sums are its biases, and its sample."""
    x = IntegerTensor(f"{name}_x", (4,), Grid(F(1), 0, 0, 255))
    weight = np.eye(len(case.sums), 4, dtype=np.int8)
    return layer(name, case, IntegerInput(x.name, (), x), weight, case.sums), np.zeros((1, 4), np.uint8)


LONG = 2**35  #: what 63 products of 15 bits and 15 bits hold, and more


def of_products(case: Sums, name: str) -> tuple[list[IntegerNode], Array]:
    """The same of sums up to ``LONG``: products of codes of 16 bits."""
    x = IntegerTensor(f"{name}_x", (64,), Grid(F(1), 0, 0, 65535))
    size = np.abs(case.sums)
    left = (size >> 15)[:, None] - 32767 * np.arange(63)
    weight = np.concatenate([(size & 32767)[:, None], np.clip(left, 0, 32767)], axis=1) * np.sign(case.sums)[:, None]
    sample = np.array([[1] + [2**15] * 63], np.uint16)
    np.testing.assert_array_equal(weight @ sample[0].astype(np.int64), case.sums)
    entering = IntegerInput(x.name, (), x, dtype="uint16")
    return layer(name, case, entering, weight.astype(np.int16), np.zeros(len(size))), sample


GRIDS = [(0, -128, 127), (128, 0, 255), (0, 0, 255), (7, 0, 15), (0, -1, 1)]
WIDE = [(32768, 0, 65535), (0, -2048, 2047)]


def every_sum(count: int) -> tuple[IntegerGraph, tuple[Array, ...]]:
    """Layers of such sums side by side, bytes and wide ones, and what enters."""
    rng = np.random.default_rng(0)
    layers = [of_biases(near_ties(grid, INT32_MAX, count, rng), f"y{i}") for i, grid in enumerate([*GRIDS, *WIDE])]
    layers += [of_products(near_ties(grid, LONG, count // 4, rng), f"long{i}") for i, grid in enumerate(WIDE)]
    nodes = [node for pair, _ in layers for node in pair]
    inputs, outputs = ([node.output for node in nodes[first::2]] for first in (0, 1))
    return IntegerGraph(tuple(nodes), tuple(inputs), tuple(outputs)), tuple(sample for _, sample in layers)


#: Rounds upward wherever the processor is asked for its mode.
UPWARD = """
#include <xmmintrin.h>
static void __attribute__((constructor)) upward(void) { _mm_setcsr((_mm_getcsr() & ~0x6000u) | 0x4000u); }
"""
CARELESS = "-ffast-math -ffp-contract=fast"
BUILDS = {
    "checked": ("cc", FLAGS["portable"]),
    "checked, native": ("cc", FLAGS["native"]),
    "checked, integers": ("cc", f"{FLAGS['portable']} -DWITHOUT_FLOATS"),
    "gcc": ("gcc", "-O3"),
    "gcc, small": ("gcc", "-Os"),
    "gcc, fast": ("gcc", f"-std=gnu11 -O3 -march=native {CARELESS}"),
    "gcc, integers": ("gcc", f"-O3 -march=native -DWITHOUT_FLOATS {CARELESS}"),
    "clang": ("clang", "-O0"),
    "clang, fast": ("clang", f"-std=gnu11 -O3 -march=native {CARELESS}"),
    "clang, integers": ("clang", f"-Os -DWITHOUT_FLOATS {CARELESS}"),
    "x87": ("32 bits", "-O2 -mno-sse -mfpmath=387"),
    "x87 beside SSE, fast": ("32 bits", f"-O3 -msse2 -mfpmath=387 {CARELESS}"),
}
if platform.machine() == "x86_64":
    BUILDS |= {
        "gcc, AVX2, fast": ("gcc", f"-O3 -march=haswell {CARELESS}"),
        "clang, AVX2": ("clang", "-O2 -march=haswell"),
        "integers, rounding upward": ("gcc", "-O2 -DWITHOUT_FLOATS -include upward.h"),
    }


QUICK = ("checked, integers", "gcc, fast", "clang, fast", "x87", "integers, rounding upward")


@pytest.mark.parametrize("build", but_long(BUILDS, lambda build: build not in QUICK))
def test_sums_have_the_codes_of_training(build: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of processors with float32, of those without, and of careless options."""
    compiler, options = BUILDS[build]
    if compiler == "32 bits":
        words = command(SETTINGS["32 bits, x87"], tmp_path)
        compiler = " ".join(words[: words.index("-std=c99")])
    elif shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed (apt-get install {compiler})")
    (tmp_path / "upward.h").write_text(UPWARD)
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("CFLAGS", options.replace("upward.h", str(tmp_path / "upward.h")))
    graph, samples = every_sum(4000)
    C.export(graph, tmp_path / "net.c", arithmetic="float")
    assert differences(graph, tmp_path / "net.c", samples) == []


def test_the_sums_are_at_the_edges() -> None:
    """Ties are among them, products that are rounded to ties, sums that float32 does not hold, and most codes."""
    graph, samples = every_sum(4000)
    for node in graph.nodes[1::2]:
        assert isinstance(node, IntegerDense)
        m, low, high = node.requantize
        x = samples[graph.outputs.index(node.output)][0].astype(np.float64)
        sums = node.weight.astype(np.float64) @ x + node.bias
        product = sums.astype(F) * m
        exact = np.clip(np.rint(sums * m.astype(np.float64)), low, high)
        within = (product > low) & (product < high)
        assert np.count_nonzero(within & (np.abs(product % 1) == 0.5)) > 30, node.name
        assert np.count_nonzero(within & (np.clip(np.rint(product), low, high) != exact)) > 3, "rounded but once"
        assert np.count_nonzero(sums.astype(F) != sums) > 100
        assert {low, high} <= set(np.clip(np.rint(product), low, high).tolist())


@emulated
@pytest.mark.parametrize("core", but_long(CORES, lambda core: core not in ("m3", "m4f", "m55")))
def test_sums_on_emulated_microcontrollers(core: str, tmp_path: Path) -> None:
    """With a unit for float32, with Helium, and without."""
    graph, samples = every_sum(400)
    C.export(graph, tmp_path / "net.c", arithmetic="float")
    found = measure(tmp_path / "net.c", samples, core, options=["-ffast-math"]).outputs
    for x, codes, expected in zip(graph.outputs, found, evaluate(graph, samples), strict=True):
        np.testing.assert_array_equal(codes, expected, err_msg=x.name)


def test_no_product_is_infinite() -> None:
    """A multiplier that takes every sum but 0 to a bound is as large as need be."""
    bits = float_bits(Requantize(np.array([1e38, 255.75, 255.5, 0.1], F), 0, 255))
    assert bits.astype(np.int32).view(F).tolist() == [255.75, 255.75, 255.5, F(0.1)]


# -- networks ---------------------------------------------------------------------------------------------------------


NETWORKS = ["lenet", "resnet8", "mobilenet_v3", "detector"]


@pytest.mark.parametrize("name", but_long(NETWORKS, lambda name: name == "mobilenet_v3"))
def test_codes_are_those_of_onnx_runtime(name: str, tmp_path: Path) -> None:
    graph = qat.convert_quant_network(create(name))
    integers = qat.to_integer(graph, graph.observed_params())
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (3, *integers.input.shape), np.uint8)
    onnx = qat.target("ONNX")
    onnx.export(integers, tmp_path / "net.onnx")
    C.export(integers, tmp_path / "net.c")
    assert C.arithmetic_of(tmp_path / "net.c") == "float"
    tensors = [node.output for node in integers.nodes]
    expected, found = (
        target.trace(path, x, tensors) for target, path in ((onnx, tmp_path / "net.onnx"), (C, tmp_path / "net.c"))
    )
    assert len(expected) > 5
    for key in expected.keys() & found.keys():
        np.testing.assert_array_equal(found[key], expected[key], err_msg=key)

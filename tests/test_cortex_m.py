"""Emulated Cortex-M processors: instructions are counted exactly, and everything of a file is measured there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sequential import Chain, calibrated
from test_c import STRICT, Everything, emulated, everything
from test_packed_weights import SETTINGS
from test_tflite import PIXEL, one_node

import qat
from qat.errors import QatError
from qat.integer import Grid, IntegerGraph, IntegerInput, IntegerTensor, Requantize, evaluate
from qat.networks import LeNet5, create
from qat.targets.c import file as c_file
from qat.targets.c.cortex_m.cores import CORES
from qat.targets.c.cortex_m.measure import measure
from qat.targets.c.text import MODEL, comment

C = qat.target("C")

#: What an exported file might be: 3 instructions for each unit of its pixel, 5 more, 24 bytes of stack.
LOOP = """
__asm__(".text\\n.syntax unified\\n.thumb\\n.global net_run\\n.thumb_func\\n.type net_run, %function\\nnet_run:\\n"
        "ldrb r2, [r0]\\n push {r0-r3, r4, lr}\\n strb r2, [r1]\\n"
        "1: nop\\n subs r2, #1\\n bne 1b\\n"
        "add sp, #16\\n pop {r4, pc}\\n");
"""


def write_file(path: Path, code: str) -> None:
    """What ``export`` might have written: a network of one byte, of that code."""
    end = {"name": "x", "shape": [1], "stored": [1], "scale": 1.0, "grid": [0, 0, 255]}
    model = {"name": "net", "inputs": [end], "outputs": [end], "nodes": [end]}
    header = b"#include <stdint.h>\nvoid net_run(const uint8_t *, uint8_t *);\n"
    c_file.write(path, f'#include "net.h"\n{code}\n{comment(MODEL, model)}', header, {})


@emulated
@pytest.mark.parametrize("core", CORES)
def test_instructions_of_a_loop_are_counted_exactly(core: str, tmp_path: Path) -> None:
    write_file(tmp_path / "net.c", LOOP)
    pixels = np.array([[1], [2], [255], [100]], np.uint8)
    found = measure(tmp_path / "net.c", pixels, core)
    assert found.instructions == tuple(3 * int(pixel) + 5 for pixel in pixels[:, 0])
    np.testing.assert_array_equal(found.outputs[0], pixels)
    assert found.functions == {"net_run": 8}
    assert (found.ram, found.stack) == (0, 24)


@emulated
@pytest.mark.parametrize("arithmetic", C.ARITHMETICS)
@pytest.mark.parametrize("core", CORES)
def test_every_core_computes_the_same_codes(core: str, arithmetic: str, tmp_path: Path) -> None:
    setup = everything(Everything("hswish"), symmetric=False, images=3)
    C.export(setup.integer, tmp_path / "net.c", output_type="float32", arithmetic=arithmetic)
    found = measure(tmp_path / "net.c", setup.pixels, core)
    expected = evaluate(setup.integer, setup.pixels, arithmetic=arithmetic)
    np.testing.assert_array_equal(found.outputs[0], setup.integer.output.grid.dequantize(expected))


@emulated
def test_the_count_of_layers_is_that_of_the_whole(tmp_path: Path) -> None:
    setup = calibrated(LeNet5(), images=2)
    C.export(setup.integer, tmp_path / "net.c")
    found, again = (measure(tmp_path / "net.c", setup.pixels, layers=True) for _ in range(2))
    assert found.instructions == again.instructions
    assert sum(found.functions.values()) == found.instructions[0]
    assert list(found.layers) == [*(node.name for node in setup.integer.nodes), "outputs"]
    assert sum(found.layers.values()) == pytest.approx(found.instructions[0], rel=0.1)
    assert found.layers["conv1"] > 28 * 28 * 6 * 25
    assert found.ram == C.arena_bytes(setup.integer)


@emulated
@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "void net_run(const uint8_t *x, uint8_t *y) { static uint8_t more[5 << 20]; *y = more[*x]++; }",
            "RAM.*overflowed",
        ),
        (
            "void net_run(const uint8_t *x, uint8_t *y) { (void)x; (void)y; *(volatile int *)0xFFFFFFF0u = 1; }",
            "it ended",
        ),
        ("void net_run(const uint8_t *x, uint8_t *y) { (void)x; y = 1.0; }", "error: incompatible types"),
    ],
    ids=["too large", "a fault", "no C"],
)
def test_what_cannot_run_is_said_in_a_line(code: str, message: str, tmp_path: Path) -> None:
    write_file(tmp_path / "net.c", code)
    with pytest.raises(QatError, match=message) as raised:
        measure(tmp_path / "net.c", np.zeros((1, 1), np.uint8))
    assert "\n" not in str(raised.value)


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "net.c", LOOP)
    with pytest.raises(QatError, match="core 'm5' is unknown, perhaps m"):
        measure(tmp_path / "net.c", np.zeros((1, 1), np.uint8), "m5")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(QatError, match=r"needs arm-none-eabi-gcc, qemu-system-arm.*apt-get install gcc-arm-none-eabi"):
        measure(tmp_path / "net.c", np.zeros((1, 1), np.uint8))


#: Weights of 4, 2 and 1 bits, as progressions and, of values that are none, in tables.
PACKED = {case: SETTINGS[case] for case in ("4 bits", "3 bits, whole layers", "affine, 2 bits", "ternary", "binary")}
PACKED |= {"powers of two": {"weight_quantizer": qat.GTCWeightQuantizer()}}


@emulated
@pytest.mark.parametrize("core", ["m4", "m55"])
@pytest.mark.parametrize("case", PACKED)
def test_packed_weights_on_microcontrollers(case: str, core: str, tmp_path: Path) -> None:
    graph = qat.convert_quant_network(create("mnist_cnn").graph(), **PACKED[case])
    integers = qat.to_integer(graph, graph.observed_params())
    C.export(integers, tmp_path / "net.c")
    pixels = np.random.default_rng(0).integers(0, 256, (1, *integers.input.shape), np.uint8)
    found = measure(tmp_path / "net.c", pixels, core, options=STRICT)
    np.testing.assert_array_equal(found.outputs[0], evaluate(integers, pixels, arithmetic=integers.arithmetic))


@emulated
@pytest.mark.parametrize("options", [["-DNO_ASSEMBLY"], ["-O0"], ["-O3"], ["-fno-omit-frame-pointer"]], ids=" ".join)
def test_the_assembly_of_a_cortex_m4_computes_what_its_c_does(options: list[str], tmp_path: Path) -> None:
    graph = qat.convert_quant_network(create("ds_cnn").graph())
    integers = qat.to_integer(graph, graph.observed_params())
    C.export(integers, tmp_path / "net.c", arithmetic="fixed")
    pixels = np.random.default_rng(1).integers(0, 256, (1, *integers.input.shape), np.uint8)
    found = measure(tmp_path / "net.c", pixels, "m4", options=options)
    np.testing.assert_array_equal(found.outputs[0], evaluate(integers, pixels, arithmetic="fixed"))


@emulated
@pytest.mark.parametrize("core", ["m4", "m55"])
def test_the_largest_of_any_number_of_channels(core: str, tmp_path: Path) -> None:
    """Whole words and vectors, and what is left of them; windows at the border."""
    few, more = qat.MaxPool2d(2, 1, "pad", (1, 0, 1, 0)), qat.MaxPool2d((3, 2), (2, 3))
    convolution, last = qat.Conv2dBnAct(3, 39, 1), qat.Conv2dBnAct(39, 39, 1)
    setup = calibrated(Chain(qat.Input((3, 7, 9)), few=few, convolution=convolution, more=more, last=last))
    C.export(setup.integer, tmp_path / "net.c")
    found = measure(tmp_path / "net.c", setup.pixels, core)
    np.testing.assert_array_equal(found.outputs[0], evaluate(setup.integer, setup.pixels))


@emulated
@pytest.mark.parametrize("zero", [-128, 3])
@pytest.mark.parametrize("kind", ["convolution", "depthwise"])
def test_sums_of_a_cortex_m4_at_every_edge(kind: str, zero: int, tmp_path: Path) -> None:
    """At ties of both signs and next to 2^30; codes of negative numbers, or none."""
    graph, _ = one_node(kind, 16, 2**20)
    channels, size = (16, 3) if kind == "depthwise" else (1, 1)
    x = IntegerTensor("x", (channels, 5, 5), PIXEL)
    y = IntegerTensor("y", (16, 6 - size, 6 - size), Grid(PIXEL.scale, zero, -128, 127))
    bits, largest = np.repeat([2, 5, 12, 21], 4), 2**30 - 40_000
    bias = np.stack([-(2 ** (bits - 1)), 3 * 2 ** (bits - 1), bits * 0 + largest, bits * 0 - largest])
    scale = (2.0**-bits).astype(np.float32)
    node = replace(
        graph.nodes[1],
        inputs=(x,),
        output=y,
        weight=np.random.default_rng(0).integers(-2, 3, (16, 1, size, size)).astype(np.int8),
        bias=bias[np.arange(16) % 4, np.arange(16)].astype(np.int32),
        weight_scale=scale,
        requantize=Requantize(scale, y.grid.low, y.grid.high),
    )
    graph = IntegerGraph((IntegerInput("x", (), x), node), (x,), (y,))
    pixels = np.random.default_rng(1).integers(0, 256, (4, *x.shape), np.uint8)
    pixels[0] = x.grid.zero_point - x.grid.qmin  # sums are the biases
    C.export(graph, tmp_path / "net.c", arithmetic="fixed")
    assert f"ANY_TIES {int(zero > -128)}\n" in (tmp_path / "net.c").read_text(encoding="utf-8")
    found = measure(tmp_path / "net.c", pixels)
    np.testing.assert_array_equal(found.outputs[0], evaluate(graph, pixels, arithmetic="fixed"))

"""C files: every code of the fixed arithmetic equal when compiled for the host and for a microcontroller; memory; refusals."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameworks import but_long
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sequential import Chain, calibrated
from test_cells import Everything
from test_packed_weights import SETTINGS as PACKED
from test_tflite import Windows, everything, one_node
from test_zoo import Setup, after_numpy_step, random_params, setups

import qat
from qat.data import Split
from qat.deploy.floats import export_float
from qat.deploy.verify import export_verified, verify
from qat.integer import Grid, IntegerGraph, IntegerInput, IntegerSoftmax, IntegerTensor, evaluate, trace_codes
from qat.integer.memory import Buffer, activation_memory, plan_memory
from qat.networks import LeNet5
from qat.targets.c import file as c_file
from qat.targets.c import target as c_target
from qat.targets.c.cortex_m.cores import CORES, missing_tools
from qat.targets.c.cortex_m.measure import measure
from qat.targets.c.text import MODEL, comment
from qat.vocabulary.arrays import Arrays, as_tuple

C, TORCH = qat.target("C"), qat.backend("torch")
SANITIZERS = "-O0 -fsanitize=address,undefined -fno-sanitize-recover=all"
#: The portable C, and what this machine's processor has beyond it, with every access and every operation checked. Only
#: test_random_networks compiles as users do too, unchecked, in turn with these.
FLAGS = {"portable": SANITIZERS, "native": f"{SANITIZERS} -march=native"}
if platform.machine() == "x86_64":
    FLAGS["avx2"] = f"{SANITIZERS} -march=haswell"


@pytest.fixture(autouse=True, params=list(FLAGS))
def flags(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How files are compiled."""
    monkeypatch.setenv("CFLAGS", FLAGS.get(request.param, request.param))


once = pytest.mark.parametrize("flags", ["portable"], indirect=True)


def differences(graph: IntegerGraph, path: Path, pixels: Arrays) -> list[str]:
    """Nodes and outputs of the file that differ from NumPy's integers, with how many codes."""
    tensors = [node.output for node in graph.nodes]
    reference = trace_codes(graph, pixels, [x.name for x in tensors], arithmetic=C.arithmetic_of(path))
    traced = C.trace(path, pixels, tensors)
    assert set(traced) == set(reference)
    real = as_tuple(C.predict(path, pixels))
    found = list(traced.items())
    found += [(x.name, x.grid.codes_of(y)) for x, y in zip(graph.outputs, real, strict=True)]
    result = []
    for name, codes in found:
        assert codes.shape == reference[name].shape, name
        differ = np.count_nonzero(codes != reference[name])
        if differ:
            result.append(f"{name}: {differ} of {codes.size}")
    return result


def assert_equal(setup: Setup, folder: Path) -> None:
    """No code of any node differs, in either arithmetic."""
    for arithmetic in C.ARITHMETICS:
        C.export(setup.integer, folder / "net.c", arithmetic=arithmetic)
        assert differences(setup.integer, folder / "net.c", setup.pixels) == [], arithmetic


# -- whole networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("bits", [8, 5])
def test_lenet5(symmetric: bool, bits: int, tmp_path: Path) -> None:
    assert_equal(calibrated(LeNet5(), images=8, symmetric=(True, symmetric), num_bits=(8, bits)), tmp_path)


@pytest.mark.parametrize(
    ("activation", "options"),
    [
        ("relu6", {}),
        ("hswish", {"per_channel": False}),
        ("leaky_relu", {"symmetric": True}),
        ("relu6", {"num_bits": (4, 6)}),
        ("hswish", {"symmetric": False}),
    ],
    ids=str,
)
def test_every_kind_of_cell(activation: str, options: dict[str, Any], tmp_path: Path) -> None:
    """With affine weights too, whose centred codes may not fit into a byte."""
    assert_equal(everything(Everything(activation), **options), tmp_path)


def test_every_window_and_two_inputs_and_four_outputs(tmp_path: Path) -> None:
    assert_equal(everything(Windows()), tmp_path)


@once
def test_random_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn from all cells and settings; what the arithmetic cannot hold is refused, and that is seldom."""
    counts: Counter[str] = Counter()

    @settings(max_examples=30, suppress_health_check=list(HealthCheck))
    @given(setups())
    def check(setup: Setup) -> None:
        graph, arithmetic = setup.integer, C.ARITHMETICS[counts.total() % 2]
        try:
            C.export(graph, tmp_path / "network.c", arithmetic=arithmetic)
        except qat.QatError as error:
            counts["refused" if arithmetic == "fixed" and "would overflow int32" in str(error) else str(error)] += 1
            return
        flags = [*FLAGS.values(), "-O2 -march=native"]  # as users compile it, too
        monkeypatch.setenv("CFLAGS", flags[counts.total() // 2 % len(flags)])
        found = differences(graph, tmp_path / "network.c", setup.pixels)
        assert not found, "\n".join([*found, setup.note])
        counts["equal"] += 1

    check()
    assert set(counts) <= {"equal", "refused"}
    assert counts["refused"] < 0.15 * counts.total(), counts


# -- single nodes -----------------------------------------------------------------------------------------------------


def together(graphs: list[IntegerGraph]) -> IntegerGraph:
    """Graphs side by side in one, which is compiled once."""

    def numbered(tensor: IntegerTensor, number: int) -> IntegerTensor:
        return tensor._replace(name=f"{tensor.name}{number}")

    return IntegerGraph(
        tuple(
            replace(
                node,
                name=f"{node.name}{number}",
                inputs=tuple(numbered(x, number) for x in node.inputs),
                output=numbered(node.output, number),
            )
            for number, graph in enumerate(graphs)
            for node in graph.nodes
        ),
        tuple(numbered(x, number) for number, graph in enumerate(graphs) for x in graph.inputs),
        tuple(numbered(x, number) for number, graph in enumerate(graphs) for x in graph.outputs),
    )


@pytest.mark.parametrize("kind", ["dense", "convolution", "depthwise"])
def test_accumulators_of_every_size(kind: str, tmp_path: Path) -> None:
    graphs, pixels = zip(*(one_node(kind, 256, 2**bits) for bits in (10, 20, 23, 28)), strict=True)
    for arithmetic in C.ARITHMETICS:
        C.export(together(graphs), tmp_path / "net.c", arithmetic=arithmetic)
        assert differences(together(graphs), tmp_path / "net.c", pixels) == []


def test_requantization_at_every_edge(tmp_path: Path) -> None:
    """Multipliers from 2^-32 to above 1, accumulators at ties, at 0 and at the largest, of both signs."""
    graph, pixels = one_node("dense", 64, 2**20)
    node, graphs = graph.nodes[1], []
    rng = np.random.default_rng(5)
    for bits in (-3, 0, 1, 2, 8, 20, 31):
        largest = (2**30 >> max(1 - bits, 0)) - 255 * 127
        scale = (rng.uniform(0.5, 1, 64) * 2.0**-bits).astype(np.float32)
        scale[:8] = np.float32(2.0**-bits)
        bias = rng.integers(-largest, largest, 64) >> rng.integers(0, 29, 64)
        weight_scale = (scale * np.float64(node.output.grid.scale) / np.float64(node.inputs[0].grid.scale)).astype(
            np.float32
        )
        bias[:8] = [0, 1, -1, largest, -largest, 2 ** max(bits - 1, 0), -(2 ** max(bits - 1, 0)), 3]
        changed = replace(
            node,
            bias=np.clip(bias, -largest, largest).astype(np.int32),
            weight_scale=weight_scale,
            requantize=node.requantize._replace(multiplier=scale),
        )
        graphs.append(replace(graph, nodes=(graph.nodes[0], changed)))
    C.export(together(graphs), tmp_path / "net.c", arithmetic="fixed")
    assert differences(together(graphs), tmp_path / "net.c", (pixels,) * len(graphs)) == []


@once
def test_softmax_of_every_size(tmp_path: Path) -> None:
    """Quotient and product are rounded in integers as float32 rounds them."""
    rng = np.random.default_rng(0)
    for channels in (1, 2, 3, 10, 257):
        graphs = []
        for scale in (1e-4, 0.01, 0.1, 2.0):
            x = IntegerTensor("x", (channels,), Grid(np.float32(scale), 128, 0, 255))
            parts = min(2.0**16, 2.0**24 / 2.0 ** int(np.ceil(np.log2(channels))))
            table = np.rint(parts * np.exp(-np.arange(256) * scale)).astype(np.float32)
            y = IntegerTensor("y", (channels,), Grid(np.float32(1 / 256), 0, 0, 255))
            graphs.append(IntegerGraph((IntegerInput("x", (), x), IntegerSoftmax("y", (x,), y, table)), (x,), (y,)))
        C.export(together(graphs), tmp_path / "net.c")
        pixels = tuple(rng.integers(0, 256, (400, channels), np.uint8) for _ in graphs)
        assert differences(together(graphs), tmp_path / "net.c", pixels) == []


# -- memory -----------------------------------------------------------------------------------------------------------


@st.composite
def lifetimes(draw: st.DrawFn) -> list[Buffer]:
    buffers = []
    for i in range(draw(st.integers(0, 12))):
        first = draw(st.integers(0, 10))
        buffers.append(Buffer(str(i), draw(st.integers(1, 100)), first, first + draw(st.integers(0, 5))))
    return buffers


def peak(buffers: list[Buffer], alignment: int) -> int:
    """What the fullest step needs: no plan can do with less."""
    aligned = {b.name: -(-b.size // alignment) * alignment for b in buffers}
    return max((sum(aligned[b.name] for b in buffers if b.first <= step <= b.last) for step in range(16)), default=0)


@once
@given(lifetimes(), st.sampled_from([1, 4, 16]))
def test_no_two_buffers_overlap_that_are_needed_together(buffers: list[Buffer], alignment: int) -> None:
    plan = plan_memory(buffers, alignment)
    assert set(plan.offsets) == {b.name for b in buffers}
    for i, a in enumerate(buffers):
        assert plan.offsets[a.name] % alignment == 0
        assert plan.offsets[a.name] + a.size <= plan.size
        for b in buffers[:i]:
            if a.first <= b.last and b.first <= a.last:
                begin, other = plan.offsets[a.name], plan.offsets[b.name]
                assert begin + a.size <= other or other + b.size <= begin
    assert peak(buffers, alignment) <= plan.size <= sum(-(-b.size // alignment) * alignment for b in buffers)


@once
def test_the_memory_of_lenet5() -> None:
    """The fullest step is the first pooling: 6 x 28 x 28 codes and 6 x 14 x 14."""
    graph = calibrated(LeNet5(), images=2).integer
    assert activation_memory(graph).size == 6 * 28 * 28 + 6 * 14 * 14
    assert activation_memory(graph).size < sum(int(np.prod(node.output.shape)) for node in graph.nodes)


def macros(header: Path) -> dict[str, str]:
    return dict(re.findall(r"^#define (\w+) (\S+)", header.read_text(), re.MULTILINE))


@once
def test_the_arena_is_known_without_a_file(tmp_path: Path) -> None:
    """The header's figure: scratch memory comes on top of the activations, images that are read in place do not."""
    for network in (LeNet5(), RowsAndImages(), Everything("hswish")):
        for options in ({}, PACKED["4 bits"], DOREFA, {"num_bits": 16}):
            graph = everything(network, **options).integer
            for packing in ("packed", "bytes"):
                C.export(graph, tmp_path / "net.c", packing=packing)
                said = C.arena_bytes(graph, packing=packing)
                assert said == int(macros(tmp_path / "net.h")["NET_ARENA_BYTES"])
    graph = calibrated(LeNet5(), images=2).integer
    assert (activation_memory(graph).size, C.arena_bytes(graph)) == (5880, 6052)


@once
def test_the_header_says_what_the_network_is(tmp_path: Path) -> None:
    setup = calibrated(LeNet5(), images=2)
    C.export(setup.integer, tmp_path / "Le-Net.5.c")
    found = macros(tmp_path / "Le-Net.5.h")
    x, y = setup.integer.input, setup.integer.output
    assert [int(found[f"LE_NET_5_INPUT_{side}"]) for side in ("CHANNELS", "HEIGHT", "WIDTH")] == list(x.shape)
    assert np.float32(found["LE_NET_5_INPUT_SCALE"].rstrip("f")) == x.grid.scale
    assert np.float32(found["LE_NET_5_OUTPUT_SCALE"].rstrip("f")) == y.grid.scale
    assert found["LE_NET_5_OUTPUT_ZERO_POINT"] == f"({y.grid.zero_point})"
    assert int(found["LE_NET_5_OUTPUT_SIZE"]) == 10
    weights = sum(node.weight.size for node in setup.integer.nodes if hasattr(node, "weight"))
    assert weights < int(found["LE_NET_5_CONSTANT_BYTES"]) < 1.05 * weights
    assert 6 * 28 * 28 + 6 * 14 * 14 <= int(found["LE_NET_5_ARENA_BYTES"]) < 6200
    assert C.input_specs(tmp_path / "Le-Net.5.c") == [((1, 32, 32), "uint8")]


# -- a microcontroller ------------------------------------------------------------------------------------------------

emulated = pytest.mark.skipif(bool(missing_tools()), reason=missing_tools())
STRICT = ("-Wall", "-Wextra", "-Werror")


@once
@emulated
@pytest.mark.parametrize(
    ("name", "core", "arithmetic"),
    [
        ("lenet", "m4", "fixed"),
        ("everything", "m4", "fixed"),
        ("windows", "m4", "fixed"),
        ("lenet", "m4", "float"),
        ("lenet", "m4f", "float"),
        ("windows", "m4f", "float"),
    ],
)
def test_a_cortex_m4_computes_the_same_codes(
    name: str, core: str, arithmetic: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = {
        "lenet": lambda: calibrated(LeNet5(), images=50),
        "everything": lambda: everything(Everything("hswish"), symmetric=False, images=20),
        "windows": lambda: everything(RowsAndImages(), symmetric=False, images=20),
    }[name]()
    graph = setup.integer
    C.export(graph, tmp_path / f"{name}.c", arithmetic=arithmetic)
    (pixels,) = as_tuple(setup.pixels)
    found = measure(tmp_path / f"{name}.c", pixels, core, options=STRICT)
    np.testing.assert_array_equal(found.outputs[0], evaluate(graph, pixels, arithmetic=arithmetic))
    assert len(np.unique(found.outputs[0])) > 4
    header = macros(tmp_path / f"{name}.h")
    assert found.ram == int(header[f"{name.upper()}_ARENA_BYTES"])
    assert found.flash < int(header[f"{name.upper()}_CONSTANT_BYTES"]) + 14_000
    with capsys.disabled():
        print(f" [{name} on a {CORES[core].name}: {found.flash:,} bytes of flash, {found.ram:,} of RAM]", end="")


class RowsAndImages(qat.Network):
    """Groups, dilations, uneven padding, pooling; the output is an image."""

    inputs = (qat.Input((4, 9, 7), mean=0.5, std=0.25),)

    def __init__(self) -> None:
        self.grouped = qat.Conv2dBnAct(4, 6, 3, group=2, dilation=2, activation="relu")
        self.doubled = qat.Conv2dBnAct(6, 20, (2, 3), group=2, stride=(1, 2), has_bias=True)
        self.deep = qat.Conv2dBnAct(20, 20, 3, group=20, has_bias=True)
        self.uneven = qat.Conv2dBnAct(20, 5, 3, pad_mode="pad", padding=(2, 0, 1, 3), activation="relu6")
        self.largest = qat.MaxPool2d(3, 2, pad_mode="pad", padding=(2, 1, 0, 2))

    def construct(self, x):
        return self.largest(self.uneven(self.deep(self.doubled(self.grouped(x)))))


def test_groups_and_wide_blocks(tmp_path: Path) -> None:
    for symmetric in (True, False):
        assert_equal(everything(RowsAndImages(), symmetric=(symmetric, False)), tmp_path)


@pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang")
@pytest.mark.parametrize("flags", ["-O0 -march=native -fsanitize=undefined -fsanitize-trap=undefined"], indirect=True)
def test_clang_finds_nothing_undefined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds more than GCC does, as an offset to a null pointer: of a pooling, which has no weights."""
    monkeypatch.setenv("CC", "clang")
    pooled = Chain(qat.Input((16, 9, 7)), mean=qat.AvgPool2d(3, 1), conv=qat.Conv2dBnAct(16, 6, 3))
    for setup in (calibrated(pooled), everything(RowsAndImages())):
        assert_equal(setup, tmp_path)


# -- packed weights ---------------------------------------------------------------------------------------------------

#: Of DoReFa's there is no 0 among the weights, so that rows are filled up by inputs of 0.
DOREFA = {"weight_quantizer": qat.DoReFaWeightQuantizer(2), "bn_fold": False}


@pytest.mark.parametrize("case", [*PACKED, "DoReFa"])
def test_packed_weights(case: str, tmp_path: Path) -> None:
    """All kinds of cells; groups, several blocks, and blocks of an odd number of outputs."""
    options = PACKED.get(case, DOREFA)
    for network in (Everything("hswish"), RowsAndImages()):
        assert_equal(everything(network, **options), tmp_path)
        assert re.search(r"multiply[124]\(", (tmp_path / "net.c").read_text())


@once
@pytest.mark.parametrize("case", [*PACKED, "DoReFa"])
def test_packed_weights_of_depthwise_convolutions(case: str, tmp_path: Path) -> None:
    """A part of a block, a whole one, several and a part; an odd number of taps; as many bytes as packing leaves."""
    for channels in (3, 16, 37):
        network = Chain(
            qat.Input((channels, 7, 6)),
            one=qat.Conv2dBnAct(channels, channels, 3, 2, group=channels, activation="relu"),
            two=qat.Conv2dBnAct(channels, channels, (3, 2), pad_mode="valid", group=channels, dilation=(1, 2)),
        )
        setup = calibrated(network, images=20, **PACKED.get(case, DOREFA))
        assert_equal(setup, tmp_path)
        assert "unpack(" in (tmp_path / "net.c").read_text()
        sizes = [sum(C.storage(setup.integer, packing=packing).values()) for packing in ("packed", "bytes")]
        bits = 1 if case == "binary" else 2 if case in ("2 bits", "affine, 2 bits", "ternary") else 4
        # Beside the indices stand the values of each layer, and of affine weights the zero point of each channel.
        tables = 2 * 2**bits + (2 * 2 * channels if "affine" in case else 0)
        assert sizes[1] - sizes[0] >= channels * (9 + 6) * (8 - bits) // 8 - tables - 2


@once
def test_a_layer_stores_what_its_values_need(tmp_path: Path) -> None:
    """LeNet-5's constants, to a few per cent: 61,470 weights, and 236 biases, multipliers and shifts."""
    expected = {"4 bits": 61470 // 2, "2 bits": 61470 // 4, "ternary": 61470 // 4, "binary": 61470 // 8}
    for case, least in expected.items():
        C.export(calibrated(LeNet5(), **PACKED[case]).integer, tmp_path / "net.c")
        assert least < int(macros(tmp_path / "net.h")["NET_CONSTANT_BYTES"]) < least * 1.03 + 236 * 7, case
    C.export(calibrated(LeNet5(), **PACKED["4 bits"]).integer, tmp_path / "net.c", packing="bytes")
    assert int(macros(tmp_path / "net.h")["NET_CONSTANT_BYTES"]) > 61470


@once
def test_constants_are_as_small_as_their_values(tmp_path: Path) -> None:
    """One scale for each layer: one multiplier and one shift of it. Biases take two bytes where these hold them."""
    setup = calibrated(LeNet5(), per_channel=False)
    C.export(setup.integer, tmp_path / "net.c", arithmetic="fixed")
    source = (tmp_path / "net.c").read_text()
    assert re.findall(r"int32_t \w+_multiplier\[(\d+)\]", source) == ["1"] * 5
    assert re.findall(r"uint8_t \w+_right\[(\d+)\]", source) == ["1"] * 5
    assert "static const int16_t node1_conv1_bias[6]" in source


# -- wide codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [(16, 16), (8, 16), (16, 8), (9, 9), (12, 13)], ids=str)
def test_codes_of_more_than_a_byte(bits: tuple[int, int], tmp_path: Path) -> None:
    """Every kind of cell, with accumulators of int32 and int64; narrow layers between wide ones."""
    for symmetric in ((True, True), (False, False)):
        setup = everything(Everything("hswish"), num_bits=bits, symmetric=symmetric)
        assert_equal(setup, tmp_path)
    assert ("int64_t sum" in (tmp_path / "net.c").read_text()) == (bits == (16, 16))
    layers = {"conv1": {"num_bits": 8}, "fc": {"num_bits": (4, 8)}}
    assert_equal(calibrated(LeNet5(), num_bits=bits, layers={"conv1": layers["conv1"], "fc1": layers["fc"]}), tmp_path)


@once
@emulated
def test_wide_codes_on_a_cortex_m4(tmp_path: Path) -> None:
    setup = calibrated(LeNet5(), images=3, num_bits=16, layers={"fc3": {"num_bits": (16, 8)}})
    C.export(setup.integer, tmp_path / "net.c")
    found = measure(tmp_path / "net.c", setup.pixels, options=STRICT)
    np.testing.assert_array_equal(found.outputs[0], evaluate(setup.integer, setup.pixels))


# -- the certificate, files and errors --------------------------------------------------------------------------------


@pytest.fixture
def certified(tmp_path: Path) -> tuple[qat.Checkpoint, Split]:
    setup = calibrated(LeNet5(), images=100)
    labels = np.random.default_rng(0).integers(0, 10, 100)
    return qat.Checkpoint(setup.graph, setup.params, 1, 1, {}, ()), Split(setup.pixels, labels)


@once
@pytest.mark.parametrize("arithmetic", C.ARITHMETICS)
def test_the_certificate(arithmetic: str, certified: tuple[qat.Checkpoint, Split], tmp_path: Path) -> None:
    checkpoint, split = certified
    path = tmp_path / "net.c"
    certificate = export_verified(path, C, TORCH, checkpoint, split, data="noise /* **/ ??/", arithmetic=arithmetic)
    assert certificate.passed
    assert certificate.arithmetic == arithmetic
    deployed, trained = certificate.comparisons
    assert (deployed.codes, deployed.differ, deployed.arithmetic) == (1000, 0, arithmetic)
    assert deployed.engine == C.runtime()
    assert re.match(r"C, .*\d+\.\d+.* \(-std=c99 -O2 -O0 -fsanitize", C.runtime())
    assert (trained.differ, trained.arithmetic) == (0, "float")
    kept = C.read_metadata(path)
    assert kept["graph"] == checkpoint.graph.digest
    assert json.loads(kept["certificate"])["data"] == "noise /* **/ ??/"
    assert verify(path, C, TORCH, checkpoint, split, data="noise").passed  # it still compiles


@once
def test_a_changed_weight_is_detected_and_named(certified: tuple[qat.Checkpoint, Split], tmp_path: Path) -> None:
    checkpoint, split = certified
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    (position,) = (i for i, node in enumerate(integers.nodes) if node.name == "fc1")
    node = integers.nodes[position]
    weight = node.weight.copy()
    weight[:, 3] += 5 * (weight[:, 3] < 100)
    nodes = (*integers.nodes[:position], replace(node, weight=weight), *integers.nodes[position + 1 :])
    C.export(replace(integers, nodes=nodes), tmp_path / "net.c")
    certificate = verify(tmp_path / "net.c", C, TORCH, checkpoint, split, data="noise")
    assert not certificate.passed
    assert certificate.comparisons[0].divergence.startswith("first at fc1, image ")


@once
def test_files_that_were_changed_are_refused(tmp_path: Path) -> None:
    setup = calibrated(LeNet5(), images=2)
    path = tmp_path / "net.c"
    C.export(setup.integer, path)
    source, header = path.read_bytes(), path.with_suffix(".h").read_bytes()
    (pixels,) = as_tuple(setup.pixels)
    for changed, changed_header, message in (
        (source.replace(b"sums", b"SUMS", 1), header, "are not what their digest says"),
        (source, header.replace(b"SIZE 10", b"SIZE 11"), "are not what their digest says"),
        (source[:-3], header, "does not end with its metadata and digest"),
        (b"", header, "does not end with its metadata and digest"),
        (source, None, r"net\.h: cannot be read"),
    ):
        path.write_bytes(changed)
        path.with_suffix(".h").unlink()
        if changed_header is not None:
            path.with_suffix(".h").write_bytes(changed_header)
        with pytest.raises(qat.QatError, match=message):
            C.predict(path, pixels)
        path.with_suffix(".h").write_bytes(header)


@once
@pytest.mark.parametrize(
    ("key", "field", "value", "message"),
    [
        ("nodes", "stored", None, "KeyError: 'stored'"),
        ("nodes", "stored", "x", "stored is"),
        ("nodes", "stored", [2], "is stored of"),
        ("nodes", "stored", [-10], "stored is"),
        ("nodes", "stored", [10.0], "stored is"),
        ("nodes", "stored", [], "stored is"),
        ("nodes", "name", 3, "holds the name 3"),
        ("inputs", "shape", [-1, 32, -32], "shape is"),
        ("inputs", "shape", [0, 32, 32], "shape is"),
        ("outputs", "shape", "x", "shape is"),
        ("outputs", "scale", "nan", "scale is 'nan'; use a finite number"),
        ("outputs", "scale", float("nan"), "scale is nan"),
        ("outputs", "scale", 0.0, "scale is 0"),
        ("outputs", "scale", -1.0, "scale is -1"),
        ("outputs", "scale", 1e-60, "scale is 1e-60"),
        ("outputs", "scale", 1e60, "scale is 1e"),
        ("outputs", "scale", True, "scale is True"),
        ("outputs", "grid", [0, 1], "grid is"),
    ],
    ids=str,
)
def test_a_sealed_file_describes_what_export_writes(
    key: str, field: str, value: object, message: str, tmp_path: Path
) -> None:
    setup = calibrated(LeNet5(), images=2)
    path = tmp_path / "net.c"
    C.export(setup.integer, path)
    file = c_file.load(path)
    entry = file.model[key][-1]
    if value is None:
        del entry[field]
    else:
        entry[field] = value
    source = "".join(line for line in file.source.splitlines(True) if not line.startswith(f"/* {MODEL}: "))
    c_file.write(path, source + comment(MODEL, file.model), file.header, file.metadata)
    (pixels,) = as_tuple(setup.pixels)
    tensors = [node.output for node in setup.integer.nodes]
    for read in (C.input_specs, lambda path: C.predict(path, pixels), lambda path: C.trace(path, pixels, tensors)):
        with pytest.raises(qat.QatError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")


@once
def test_a_file_is_read_once_for_what_is_computed_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no codes of one export are scaled as another's that replaces it meanwhile."""
    one, other = (calibrated(LeNet5(), images=2, symmetric=symmetric) for symmetric in (True, False))
    path = tmp_path / "net.c"
    C.export(one.integer, path)
    expected, load = C.predict(path, one.pixels), c_target.load

    def replaced_behind(path: Path) -> object:
        file = load(path)
        C.export(other.integer, path)
        return file

    monkeypatch.setattr(c_target, "load", replaced_behind)
    np.testing.assert_array_equal(C.predict(path, one.pixels), expected)


@once
def test_a_header_and_a_source_of_two_exports_are_not_compiled(tmp_path: Path) -> None:
    """As a compiler would find them that comes between the two files of an export."""
    setup = calibrated(LeNet5(), images=2)
    for name, graph in (("a", setup.integer), ("b", calibrated(LeNet5(), images=2, symmetric=False).integer)):
        (tmp_path / name).mkdir()
        C.export(graph, tmp_path / name / "net.c")
    compiler = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-c", "net.c"]
    for name in "ab":
        subprocess.run(compiler, cwd=tmp_path / name, check=True)
    shutil.copy(tmp_path / "a" / "net.h", tmp_path / "b")
    done = subprocess.run(compiler, cwd=tmp_path / "b", capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "this file and its header are of two exports: export again" in done.stderr
    C.export(setup.integer, tmp_path / "a" / "net.c")  # the same export again is the same
    assert (tmp_path / "a" / "net.h").read_bytes() == (tmp_path / "b" / "net.h").read_bytes()
    C.write_metadata(tmp_path / "a" / "net.c", {"graph": "abc"})
    subprocess.run(compiler, cwd=tmp_path / "a", check=True)


@once
def test_files_behind_symbolic_links_are_run_and_renewed_there(tmp_path: Path) -> None:
    setup = calibrated(LeNet5(), images=2)
    (tmp_path / "store").mkdir()
    for suffix in (".c", ".h"):
        (tmp_path / f"net{suffix}").symlink_to(f"store/v1{suffix}")
    C.export(setup.integer, tmp_path / "net.c")
    assert differences(setup.integer, tmp_path / "net.c", setup.pixels) == []
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["v1.c", "v1.h"]


@once
def test_an_export_that_cannot_be_verified_leaves_the_old_files_as_they_are(
    certified: tuple[qat.Checkpoint, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file appears without its certificate."""
    checkpoint, split = certified
    path = tmp_path / "net.c"
    with monkeypatch.context() as patch:
        patch.setenv("CC", "no-such-compiler")
        with pytest.raises(qat.QatError, match="no-such-compiler"):
            export_verified(path, C, TORCH, checkpoint, split, data="noise")
    assert list(tmp_path.iterdir()) == []
    export_verified(path, C, TORCH, checkpoint, split, data="noise")
    before = path.read_bytes(), path.with_suffix(".h").read_bytes()
    monkeypatch.setenv("CFLAGS", "-Dstatic=nonsense")
    with pytest.raises(qat.QatError, match=rf"^{path}: cc cannot compile it"):
        export_verified(path, C, TORCH, checkpoint, split, data="other noise")
    assert (path.read_bytes(), path.with_suffix(".h").read_bytes()) == before
    assert sorted(x.name for x in tmp_path.iterdir()) == ["net.c", "net.h"]


@once
def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certified: tuple[qat.Checkpoint, Split]) -> None:
    checkpoint, split = certified
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    path = tmp_path / "net.c"
    with pytest.raises(
        qat.QatError, match=r"^LeNet5: C holds integers only; export the float network to ONNX or TFLITE$"
    ):
        export_float(C, LeNet5().graph(), {}, path)
    with pytest.raises(qat.QatError, match=r"^LeNet5: arithmetic 'fast' is unknown; use one of float, fixed$"):
        C.export(integers, path, arithmetic="fast")
    C.export(integers, path)
    for arithmetic in ("fixed", "fast"):
        with pytest.raises(
            qat.QatError, match=r"net\.c: was exported for the float arithmetic and computes no other; leave"
        ):
            C.predict(path, split.images, arithmetic=arithmetic)
    with pytest.raises(qat.QatError, match=r"net\.c: takes raw pixels, uint8 \(N, 1, 32, 32\), but got"):
        C.predict(path, np.zeros((1, 1, 28, 28), np.uint8))
    monkeypatch.setenv("CC", "no-such-compiler --fast")
    with pytest.raises(qat.QatError, match=r"^no-such-compiler: \$CC is not found, .*install one"):
        C.predict(path, split.images)
    monkeypatch.delenv("CC")
    monkeypatch.setenv("CFLAGS", "-Dstatic=nonsense")
    with pytest.raises(qat.QatError, match=r"net\.c: cc cannot compile it \(.*error"):
        C.predict(path, split.images)
    monkeypatch.setenv("CFLAGS", "-c")
    with pytest.raises(qat.QatError, match=r"net\.c: what cc made of it does not run here"):
        C.predict(path, split.images)


@once
def test_the_certificate_says_what_compiled_it_and_with_which_options(
    certified: tuple[qat.Checkpoint, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's own, since it is their compiler that has to get the file right; wrong ones are told in one line."""
    checkpoint, split = certified
    path = tmp_path / "net.c"
    monkeypatch.setenv("CC", "gcc -fwrapv")
    monkeypatch.setenv("CFLAGS", "-O3 -march=native")
    certificate = export_verified(path, C, TORCH, checkpoint, split, data="noise")
    assert certificate.passed
    assert re.match(r"C, gcc .*\(-std=c99 -O2 -O3 -march=native\)$", certificate.comparisons[0].engine)
    kept = json.loads(C.read_metadata(path)["certificate"])
    assert kept["comparisons"][0]["engine"] == certificate.comparisons[0].engine
    for variable, value, message in (
        ("CFLAGS", "-O3 -march=nonsense", r"net\.c: gcc cannot compile it \(.*nonsense.*look at \$CC and \$CFLAGS"),
        (
            "CFLAGS",
            "-O3 '-march=native",
            r"^\$CFLAGS \"-O3 '-march=native\": is no list of words \(no closing quotation\)",
        ),
        ("CC", "gcc 'x", r"^\$CC \"gcc 'x\": is no list of words"),
    ):
        with monkeypatch.context() as changed:
            changed.setenv(variable, value)
            with pytest.raises(qat.QatError, match=message) as raised:
                C.predict(path, split.images)
        assert "\n" not in str(raised.value)


# -- compilers --------------------------------------------------------------------------------------------------------

#: Of either compiler, what says that something may go wrong; each is an error here, and nowhere else.
WARNINGS = {
    "gcc": "-Wall -Wextra -pedantic -Wconversion -Wsign-conversion -Wshadow -Wcast-qual -Wcast-align -Wundef -Wpointer-arith "
    "-Wstrict-prototypes -Wmissing-prototypes -Wvla -Wdouble-promotion -Wlogical-op -Wduplicated-cond",
    "clang": "-Wall -Wextra -pedantic -Wconversion -Wsign-conversion -Wshadow-all -Wcast-qual -Wcast-align -Wundef "
    "-Wpointer-arith -Wstrict-prototypes -Wmissing-prototypes -Wmissing-variable-declarations -Wvla -Wdouble-promotion "
    "-Wimplicit-fallthrough -Wcomma -Wunused -Wunreachable-code-aggressive -Wconditional-uninitialized -Wfloat-equal "
    "-Wtautological-compare -Wassign-enum -Wover-aligned -Wnewline-eof",
}


class NarrowImage(qat.Network):
    """A window wider than the image: it never lies within."""

    inputs = (qat.Input((4, 3, 3)),)

    def __init__(self) -> None:
        self.conv = qat.Conv2dBnAct(4, 4, 3, group=2, dilation=3)

    def construct(self, x):
        return self.conv(x)


class OneLayer(qat.Network):
    """Of which few kernels are needed."""

    inputs = (qat.Input((5,)),)

    def __init__(self, cell: qat.Cell) -> None:
        self.cell = cell

    def construct(self, x):
        return self.cell(x)


KINDS: dict[str, tuple[Callable[[], qat.Network], dict[str, Any]]] = {
    "all cells, affine": (lambda: Everything("hswish"), {"symmetric": False}),
    "windows": (Windows, {}),
    "never within": (NarrowImage, {}),
    "4 bits": (RowsAndImages, PACKED["4 bits"]),
    "affine, 2 bits": (RowsAndImages, PACKED["affine, 2 bits"]),
    "binary": (RowsAndImages, PACKED["binary"]),
    "DoReFa": (RowsAndImages, DOREFA),
    "wide": (lambda: Everything("hswish"), {"num_bits": 16}),
    "wide, affine": (RowsAndImages, {"num_bits": (8, 9), "symmetric": False}),
    "wide, dense alone": (lambda: OneLayer(qat.DenseBnAct(5, 3)), {"num_bits": (12, 12)}),
    "a table alone": (lambda: OneLayer(qat.Activation("tanh")), {}),
}


@once
@pytest.mark.parametrize("compiler", WARNINGS)
@pytest.mark.parametrize(
    ("options", "arithmetic"),
    but_long(
        product(["-O0", "-O3 -march=native"], C.ARITHMETICS),
        lambda options, way: (options[:3], way) == ("-O3", "float"),
    ),
)
def test_compilers_have_nothing_to_say(compiler: str, options: str, arithmetic: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed (apt-get install {compiler})")
    command = [compiler, "-std=c99", *options.split(), *WARNINGS[compiler].split(), "-Werror", "-c"]
    said = []
    for what, (network, settings_) in KINDS.items():
        C.export(everything(network(), **settings_).integer, tmp_path / "net.c", arithmetic=arithmetic)
        defines = [[], ["-DNET_MAIN", "-DNET_TRACE"]] if what == "windows" else [[]]
        defines += [["-DWITHOUT_FLOATS"]] if arithmetic == "float" and options == "-O0" else []
        for define in defines:
            done = subprocess.run(
                [*command, *define, "net.c"], cwd=tmp_path, capture_output=True, text=True, check=False
            )
            said += [f"{what}: {line}" for line in done.stderr.splitlines() if "error" in line]
    assert said == []


@once
@pytest.mark.parametrize("standard", ["c11", "c17", "c++"])
def test_other_standards_have_nothing_to_say(standard: str, tmp_path: Path) -> None:
    C.export(everything(Everything("hswish"), symmetric=False).integer, tmp_path / "net.c")
    warnings = ["-Wall", "-Wextra", "-Wshadow", "-pedantic", "-Werror"]
    if standard == "c++":  # the header alone has to be C++ too
        if shutil.which("g++") is None:
            pytest.skip("g++ is not installed (apt-get install g++)")
        (tmp_path / "use.cpp").write_text('#include "net.h"\nint main() { return NET_ARENA_BYTES == 0; }\n')
        subprocess.run(["g++", *warnings, "use.cpp", "-o", "use"], cwd=tmp_path, check=True)
        return
    subprocess.run(["cc", f"-std={standard}", "-O2", *warnings, "-c", "net.c"], cwd=tmp_path, check=True)


@once
def test_warnings_refuse_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler of another year has other warnings, and the file is right for all that."""
    setup = everything(NarrowImage())
    C.export(setup.integer, tmp_path / "net.c")
    monkeypatch.setenv("CFLAGS", "-Wall -Wextra -Wunused-macros -DNET_TRACE=1 -UNET_TRACE")
    assert differences(setup.integer, tmp_path / "net.c", setup.pixels) == []
    assert not [option for option in C.runtime().split() if "Werror" in option]


#: Tap by tap and channel by channel, more taps than a vector has bytes; and of wide codes.
LONG_ROWS = {
    "3 channels": ((3, 1, 31), (qat.Conv2dBnAct(3, 3, (1, 23), group=3, pad_mode="valid"),), {}),
    "8 channels": ((8, 1, 40), (qat.Conv2dBnAct(8, 8, (1, 16), group=8, pad_mode="valid"),), {}),
    "8 channels, padded": ((8, 1, 40), (qat.Conv2dBnAct(8, 8, (1, 16), group=8, pad_mode="same"),), {}),
    "mean": ((3, 8, 20), (qat.GlobalAvgPool2d(),), {}),
    "padded mean": ((3, 9, 21), (qat.AvgPool2d((3, 20), 1, "same"),), {}),
    "wide outputs": ((64, 4, 5), (qat.Conv2dBnAct(64, 5, 3, pad_mode="same"),), {"num_bits": (8, 16)}),
    "wide dense": ((40, 2, 2), (qat.Flatten(), qat.DenseBnAct(160, 7)), {"num_bits": (8, 16)}),
    "wide weights": ((40, 2, 2), (qat.Flatten(), qat.DenseBnAct(160, 7)), {"num_bits": (12, 8)}),
}


#: Processors that multiply an unsigned by a signed byte, by what /proc/cpuinfo says of one that computes as they do.
PROCESSORS = {"icelake-server": "avx512_vnni"}


def has(feature: str) -> bool:
    """True where this machine's processor has a feature."""
    info = Path("/proc/cpuinfo")
    return info.exists() and feature in info.read_text().split()


@pytest.mark.parametrize(
    "flags",
    [
        "-O3 -march=native",
        *(
            pytest.param(f"-O3 -march={name}", marks=pytest.mark.skipif(not has(feature), reason=f"needs {feature}"))
            for name, feature in PROCESSORS.items()
        ),
    ],
    indirect=True,
)
@pytest.mark.parametrize("case", LONG_ROWS)
def test_inputs_whose_zero_point_is_128(
    case: str, flags: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of sums of products (x - 128) w GCC 12 makes other ones with AVX-512 VNNI; the files have none."""
    shape, cells, options = LONG_ROWS[case]
    names = [f"c{i}" for i in range(len(cells))]
    network = Chain(qat.Input(shape, mean=0.5), **dict(zip(names, cells, strict=True)))
    setup = calibrated(network, symmetric=True, **options)
    assert setup.integer.input.grid.zero_point == 128
    assert_equal(setup, tmp_path)


# -- what constants hold ----------------------------------------------------------------------------------------------


def affine(network: qat.Network, weights: dict[str, Any], **options: Any) -> Setup:
    """With weights quantized between their own ends and some parameters given."""
    graph = qat.convert_quant_network(network, symmetric=False, **options)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, *graph.shapes[graph.inputs[0].name]), np.uint8)
    params = random_params(graph, rng, frozenset()) | {k: np.asarray(v, np.float32) for k, v in weights.items()}
    return Setup(graph, after_numpy_step(graph, params, (pixels,)), (pixels,), frozenset())


def few_affine_weights() -> list[Setup]:
    """Layers with fewer different raw codes than centred ones; raw codes reach 255."""
    dense = qat.DenseBnAct(2, 3)
    rows = [[-300, 0], [0, -1.2], [-300, -1.2]]
    setups_ = [
        affine(Chain(qat.Input((2,)), fc=dense), {"fc.weight": rows}, per_channel=(per_channel, False))
        for per_channel in (True, False)
    ]
    setups_.append(affine(Chain(qat.Input((2,)), fc=dense), {"fc.weight": np.negative(rows)}))
    for seed in range(4):
        rng = np.random.default_rng(seed)
        weight = rng.normal(0, 1, (4, 2))
        network = Chain(qat.Input((2,), mean=0.5, std=0.25), fc=qat.DenseBnAct(2, 4))
        setups_.append(affine(network, {"fc.weight": weight}, narrow_range=(True, False)))
    gammas = {
        "norm.gamma": [1, -0.7, 0.4, -2],
        "conv.gamma": [-1, 2, -0.5, 1],
        "conv.weight": [[[[3]]], [[[-2]]], [[[1]]], [[[4]]]],
    }
    normed = Chain(
        qat.Input((4, 5, 5), mean=0.5),
        norm=qat.BatchNorm(4),
        conv=qat.Conv2dBnAct(4, 4, 1, group=4, has_bn=True),
    )
    return [*setups_, *(affine(normed, gammas, bn_fold=fold) for fold in (True, False))]


@pytest.mark.parametrize("flags", ["-O1"], indirect=True)
def test_raw_codes_of_affine_weights_reach_255(tmp_path: Path) -> None:
    """Stored in a table of the few that there are, or as bytes."""
    tables = 0
    for setup in few_affine_weights():
        for packing in ("packed", "bytes"):
            C.export(setup.integer, tmp_path / "net.c", packing=packing)
            assert differences(setup.integer, tmp_path / "net.c", setup.pixels) == []
            tables += "_values[" in (tmp_path / "net.c").read_text()
    assert tables > 4


@once
def test_no_file_has_a_constant_beyond_its_type(tmp_path: Path) -> None:
    """What a kernel takes as int16 does not hold this zero point; no file is left that computes with another."""
    graph, _ = one_node("dense", 8, 2**10)
    node = replace(graph.nodes[1], weight_zero_point=np.full(8, 40_000, np.int32))
    with pytest.raises(
        qat.QatError, match=r"node1_y_excess has values from -\d+ to -\d+, which int16_t does not hold"
    ) as raised:
        C.export(replace(graph, nodes=(graph.nodes[0], node)), tmp_path / "net.c")
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@once
def test_a_file_and_its_header_may_be_renamed(tmp_path: Path) -> None:
    graph = qat.convert_quant_network(LeNet5())
    integers = qat.to_integer(graph, graph.observed_params())
    qat.target("C").export(integers, tmp_path / "lenet.c")
    for suffix in (".c", ".h"):
        (tmp_path / f"lenet{suffix}").rename(tmp_path / f"other{suffix}")
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 32, 32), np.uint8)
    codes = integers.output.grid.codes_of(qat.target("C").predict(tmp_path / "other.c", images))
    np.testing.assert_array_equal(codes, qat.evaluate(integers, images))

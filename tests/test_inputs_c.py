"""C files whose inputs and outputs are real numbers, or codes of any type: no code differs from NumPy's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sequential import ALWAYS, Chain, calibrated
from test_c import FLAGS, WARNINGS, differences, emulated, macros, together
from test_c_sweep import SETTINGS, Drawn, check, command, files_of

import qat
from qat.data import Split
from qat.deploy.verify import export_verified, verify
from qat.integer import Grid, IntegerGraph, IntegerInput, IntegerPad, IntegerTensor, Requantize, trace_codes
from qat.integer.ends import Ends
from qat.integer.entry import LARGEST_MULTIPLIER, SMALLEST_MULTIPLIER
from qat.targets.c import file as c_file
from qat.targets.c.cortex_m.measure import measure
from qat.targets.c.ends import literal
from qat.training.forward import Forward
from qat.vocabulary.numpy_ops import NUMPY_OPS

C = qat.target("C")
F = np.float32
Array = np.ndarray[Any, Any]

# -- numbers at every edge --------------------------------------------------------------------------------------------

#: Zero point and codes: signed, unsigned, of few bits, of 12 and of 16, those of one sign.
GRIDS = [
    (0, -128, 127),
    (128, 0, 255),
    (7, 0, 15),
    (0, -2048, 2047),
    (40000, 0, 65535),
    (-128, -128, 127),
    (0, -127, 127),
]
#: 1 / scale: powers of 2 have exact ties, others nearly; the largest and the smallest that there are.
MULTIPLIERS = [8.0, 2.0**-20, 1 / 0.0371, 1 / 3.3e5, 1 / 7e-8, LARGEST_MULTIPLIER, SMALLEST_MULTIPLIER]
COUNT = 15_000  #: numbers for each input


def numbers(m: np.float32, low: int, high: int, rng: np.random.Generator, count: int = COUNT) -> Array:
    """Real numbers whose codes are easily got wrong: all ties and what lies beside them, the ends, the largest and smallest."""
    halves = rng.choice(np.arange(low - 2, high + 3), count // 8) + 0.5
    with np.errstate(over="ignore"):
        ties = np.clip(halves / np.float64(m), -np.finfo(F).max, np.finfo(F).max).astype(F)
        steps = [ties]
        for _ in range(2):
            steps = [np.nextafter(steps[0], F(-np.inf)), *steps, np.nextafter(steps[-1], F(np.inf))]
        within = (rng.uniform(1.2 * low - 1, 1.2 * high + 1, count // 8) / np.float64(m)).astype(F)
    anything = rng.integers(0, 2**32, count, np.uint32).view(F)
    info = np.finfo(F)
    edges = np.asarray([0.0, -0.0, info.max, info.min, info.tiny, -info.tiny, info.smallest_subnormal, 1e-40], F)
    found = np.concatenate([edges, *steps, within, anything])
    return found[np.isfinite(found)][:count]


def words(dtype: str, rng: np.random.Generator, count: int = COUNT) -> Array:
    """Words of 16 bits, the ends among them."""
    info = np.iinfo(dtype)
    return np.concatenate([[info.min, info.max, 0], rng.integers(info.min, info.max + 1, count - 3)]).astype(dtype)


def entry(
    name: str, dtype: str, grid: tuple[int, int, int], m: float, offset: int = 0, count: int = COUNT
) -> IntegerInput:
    """Where numbers enter that become codes."""
    scale = np.clip(1 / m, 1e-30, 1e30)  # so that real outputs stay finite
    x = IntegerTensor(name, (count,), Grid(F(scale), *grid))
    return IntegerInput(name, (), x, dtype, Requantize(np.full(1, m, F), x.grid.low, x.grid.high), offset)


def every_edge(count: int = COUNT) -> tuple[IntegerGraph, tuple[Array, ...]]:
    """A graph of inputs alone, which are its outputs, and what enters."""
    rng = np.random.default_rng(0)
    nodes = [
        entry(f"real{i}", "float32", grid, m, 0, count)
        for i, (grid, m) in enumerate(zip(GRIDS, MULTIPLIERS, strict=True))
    ]
    nodes += [
        entry("int16", "int16", GRIDS[0], 2.0**-8, -3, count),
        entry("uint16", "uint16", GRIDS[1], 0.0039, 31234, count),
        entry("wide", "int16", GRIDS[3], 0.0625, 1000, count),
    ]
    samples = []
    for node in nodes:
        assert node.requantize is not None
        m, low, high = node.requantize
        samples.append(
            numbers(m[0], low, high, rng, count) if node.dtype == "float32" else words(node.dtype, rng, count)
        )
    tensors = tuple(node.output for node in nodes)
    return IntegerGraph(tuple(nodes), tensors, tensors), tuple(x[None] for x in samples)


#: As users compile, and as careless ones do: contracted, reassociated, with denormals taken for 0, with more bits.
BUILDS = {
    "checked": ("cc", FLAGS["native"]),
    "fast": ("gcc", "-std=gnu11 -O3 -march=native -ffast-math -ffp-contract=fast"),
    "clang, fast": ("clang", "-std=gnu11 -O3 -march=native -ffast-math -ffp-contract=fast"),
    "x87": (None, "-std=gnu99 -O2 -mno-sse -mfpmath=387"),
    "x87, fast": (None, "-std=gnu99 -O3 -mno-sse -mfpmath=387 -ffast-math"),
}


@pytest.fixture
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """How files are compiled: the options."""
    compiler, options = BUILDS[request.param]
    if compiler is None:
        words_ = command(SETTINGS["32 bits, x87"], tmp_path)
        compiler = " ".join(words_[: words_.index("-std=c99")])
    elif shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed (apt-get install {compiler})")
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("CFLAGS", options)
    return options


@pytest.mark.parametrize("build", BUILDS, indirect=True)
def test_numbers_at_every_edge_have_the_codes_of_numpy(build: str, tmp_path: Path) -> None:
    """Where denormals are taken for 0 too, as -ffast-math has it."""
    graph, samples = every_edge()
    C.export(graph, tmp_path / "net.c")
    assert sum(x.size for x in samples) >= 100_000
    with np.errstate(over="ignore"):
        assert differences(graph, tmp_path / "net.c", samples) == []


def test_the_numbers_are_at_the_edges() -> None:
    """Ties are among them, products that overflow, denormals; both ends of a grid; and most codes of a small one."""
    graph, samples = every_edge()
    for node, x in list(zip(graph.nodes, samples, strict=True))[:5]:
        assert isinstance(node, IntegerInput)
        assert node.requantize is not None
        m, low, high = node.requantize
        with np.errstate(over="ignore"):
            product = x * m
        codes = np.clip(np.rint(product), low, high)
        assert {low, high} <= set(codes.ravel().tolist())
        near = product[np.abs(product) < 2**20]
        assert np.count_nonzero(np.abs(near % 1 - 0.5) < 1e-3) > 50, node.name
        assert (np.abs(x)[x != 0] < np.finfo(F).tiny).any()
    with np.errstate(over="ignore"):
        assert np.isinf(samples[5] * F(MULTIPLIERS[5])).any()


@emulated
@pytest.mark.parametrize("output", ["own", "float32"])
@pytest.mark.parametrize("case", [0, 2, 7], ids=["ties", "nearly ties", "words"])
def test_a_cortex_m4_without_floating_point_unit_has_the_same_codes(case: int, output: str, tmp_path: Path) -> None:
    graph, samples = every_edge(2000)
    node, x = graph.nodes[case], samples[case]
    one = IntegerGraph((node,), (node.output,), (node.output,))
    C.export(one, tmp_path / "net.c", output_type=output)
    with np.errstate(over="ignore"):
        (codes,) = trace_codes(one, x, [node.name]).values()
    (found,) = measure(tmp_path / "net.c", x).outputs
    expected = codes if output == "own" else node.output.grid.dequantize(codes)
    np.testing.assert_array_equal(found, expected)


def test_literals_are_exact() -> None:
    rng = np.random.default_rng(0)
    values = [*rng.integers(1, 0x7F800000, 1000, np.uint32).view(F), np.finfo(F).tiny, np.finfo(F).max, F(1), F(1e-45)]
    for value in values:
        text = literal(value)
        assert re.fullmatch(r"0x1(\.[0-9a-f]+)?p[+-]\d+f", text)
        assert F(float.fromhex(text[:-1])) == value


# -- every type of network and file -----------------------------------------------------------------------------------

INPUTS = {
    "uint8": {"mean": 0.5, "std": 0.25},
    "int8": {"dtype": "int8", "scale": 0.05, "zero_point": 7},
    "uint16": {"dtype": "uint16", "scale": 1e-4, "zero_point": 32768},
    "int16": {"dtype": "int16", "scale": 3e-4, "zero_point": -5},
    "float32": {"dtype": "float32"},
}


def of_dtype(dtype: str, rng: np.random.Generator, shape: Sequence[int]) -> Array:
    """Samples of a dtype."""
    if dtype == "float32":
        return rng.normal(0, 2, shape).astype(F)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def network(dtype: str, **options: Any) -> tuple[qat.Graph, dict[str, Array], Array]:
    """Images of several channels in, an image out, quantized, with samples and the ranges that they have."""
    chain = Chain(
        qat.Input((3, 5, 4), **INPUTS[dtype]),
        conv=qat.Conv2dBnAct(3, 4, 2, activation="relu"),
        last=qat.Conv2dBnAct(4, 3, 1),
    )
    graph = qat.convert_quant_network(chain, **options)
    rng = np.random.default_rng(len(dtype))
    x = of_dtype(dtype, rng, (20, 3, 5, 4))
    params = graph.initial_params(0)
    tensors = {name: NUMPY_OPS.from_numpy(params[name], param.kind) for name, param in graph.params.items()}
    _, ranges = Forward(graph, NUMPY_OPS)(tensors, (x.astype(F),), training=True, phase=ALWAYS)
    params |= {name: np.asarray(value, F).reshape(()) * F(0.8) for name, value in ranges.items()}
    return graph, params, x


def integers_of(dtype: str, **options: Any) -> tuple[IntegerGraph, Array]:
    """The integers of such a network, and samples."""
    graph, params, x = network(dtype, **options)
    return qat.to_integer(graph, params), x


#: What files may take of a network; each with other outputs in turn.
ALLOWED = {
    "own": ("own", ["uint8", "int8", "uint16", "int16", "float32"]),
    "float32": ("float32", ["uint8", "int8", "float32"]),
    "int8": ("int8", ["uint8", "int8", "uint16", "int16", "float32"]),
    "uint8": ("uint8", ["uint8", "int8", "uint16", "int16", "float32"]),
    "int16": ("int16", ["uint8", "int8", "uint16", "int16", "float32"]),
}


@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
@pytest.mark.parametrize("input_type", ALLOWED)
def test_every_type_of_input_and_output(input_type: str, symmetric: bool, tmp_path: Path) -> None:
    output_type, dtypes = ALLOWED[input_type]
    graphs, samples = zip(*(integers_of(dtype, symmetric=(True, symmetric)) for dtype in dtypes), strict=True)
    graph = together(list(graphs))
    path = tmp_path / "net.c"
    C.export(graph, path, input_type=input_type, output_type=output_type)
    assert C.input_specs(path) == [(x.shape[1:], x.dtype.name) for x in samples]
    header = (tmp_path / "net.h").read_text()
    for i, dtype in enumerate(dtypes):
        stored = dtype if input_type == "own" else input_type
        kind = "float" if stored == "float32" else f"{stored}_t"
        assert re.search(rf"const {kind} \*\w+input{i}\b", header), (dtype, kind)
    outputs = {"own": "int8_t" if symmetric else "uint8_t", "float32": "float"}
    assert len(re.findall(rf"(?<!const )\b{outputs.get(output_type, f'{output_type}_t')} \*\w", header)) == len(dtypes)
    tensors = [node.output for node in graph.nodes]
    codes = trace_codes(graph, samples, [x.name for x in tensors])
    traced = C.trace(path, samples, tensors)
    assert traced.keys() == codes.keys()
    for name, found in traced.items():
        np.testing.assert_array_equal(found, codes[name])
    for y, x in zip(C.predict(path, samples), graph.outputs, strict=True):
        assert y.dtype == F
        np.testing.assert_array_equal(y, x.grid.dequantize(codes[x.name]))


QUICK = ("s390x, big-endian",)  #: another order of bytes; the rest is swept


@pytest.mark.parametrize("setting", [pytest.param(x, marks=() if x in QUICK else pytest.mark.sweep) for x in SETTINGS])
def test_every_type_however_it_is_compiled(setting: str, tmp_path: Path) -> None:
    """Bytes are the machine's own, and so is the unit that multiplies."""
    drawn = [
        Drawn(
            *(together(list(part)) if i == 0 else tuple(part) for i, part in enumerate(parts)),
            (input_type, output_type),
        )
        for input_type, (output_type, dtypes) in ALLOWED.items()
        for parts in [list(zip(*(integers_of(dtype, symmetric=False) for dtype in dtypes), strict=True))]
    ]
    with np.errstate(over="ignore"):
        check(setting, files_of([*drawn, Drawn(*every_edge(3000))], tmp_path), tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("dtype", "options", "types", "message"),
    [
        ("int16", {}, {"input_type": "float32"}, r"^input: --input_type float32, but the network takes codes, int16"),
        ("uint16", {}, {"input_type": "float32"}, r"^input: --input_type float32, but the network takes codes, uint16"),
        (
            "float32",
            {"num_bits": (8, 12)},
            {"input_type": "int8"},
            r"^input: --input_type int8: its codes, .* do not fit",
        ),
        (
            "uint8",
            {"num_bits": (8, 12)},
            {"output_type": "uint8"},
            r"^last: --output_type uint8: its codes, .* do not fit",
        ),
        ("uint8", {}, {"input_type": "double"}, r"^--input_type 'double' is unknown: choose one of own, float32"),
        ("uint8", {}, {"output_type": "uint16"}, r"^--output_type 'uint16' is unknown"),
    ],
)
def test_types_that_do_not_hold_the_codes_are_refused_and_no_file_is_left(
    dtype: str, options: dict[str, Any], types: dict[str, str], message: str, tmp_path: Path
) -> None:
    graph, _ = integers_of(dtype, **options)
    with pytest.raises(qat.QatError, match=message):
        C.export(graph, tmp_path / "net.c", **types)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bits", [4, 12, 16])
def test_codes_of_few_and_many_bits(bits: int, tmp_path: Path) -> None:
    """A quantizer of the input's own; wide codes go through the arena as words."""
    layers = {"input": {"num_bits": (8, bits)}}
    graphs, samples = zip(
        *(integers_of(dtype, layers=layers, symmetric=False) for dtype in ("float32", "int16")), strict=True
    )
    graph = together(list(graphs))
    assert all(x.grid.qmax - x.grid.qmin == 2**bits - 1 for x in graph.inputs)
    for input_type in ("own", "int16") if bits < 16 else ("own",):  # 16 affine bits fit no int16
        C.export(graph, tmp_path / "net.c", input_type=input_type)
        assert differences(graph, tmp_path / "net.c", samples) == []


@pytest.mark.parametrize("build", ["checked"], indirect=True)
@pytest.mark.parametrize("pad_mode", ["same", "valid"])
def test_a_mean_for_each_channel(build: str, pad_mode: str, tmp_path: Path) -> None:
    """Where the convolution pads, the picture gets a further channel of one code."""
    pixels = qat.Input((3, 6, 5), mean=(0.1, 0.5, 0.7), std=(0.2, 0.3, 0.25))
    conv = qat.Conv2dBnAct(3, 4, 3, pad_mode=pad_mode, activation="relu")
    setup = calibrated(Chain(pixels, conv=conv, last=qat.Conv2dBnAct(4, 2, 1)), images=20)
    assert any(isinstance(node, IntegerPad) for node in setup.integer.nodes) == (pad_mode == "same")
    C.export(setup.integer, tmp_path / "net.c")
    assert differences(setup.integer, tmp_path / "net.c", setup.pixels) == []


@pytest.mark.parametrize("build", ["checked"], indirect=True)
def test_codes_that_the_network_does_not_have_are_clipped(build: str, tmp_path: Path) -> None:
    """A caller's mistake is read as the nearest code: it must not reach past the end of a table."""
    x = IntegerTensor("x", (256,), Grid(F(0.5), 7, 0, 15))
    node = IntegerInput("x", (), x, "float32", Requantize(np.full(1, 2, F), -7, 8))
    C.export(IntegerGraph((node,), (x,), (x,)), tmp_path / "net.c", input_type="int8")
    subprocess.run(["cc", "-std=c99", "-DNET_MAIN", "net.c", "-o", "net"], cwd=tmp_path, check=True)
    every = np.arange(-128, 128).astype(np.int8)
    done = subprocess.run([tmp_path / "net"], input=every.tobytes(), capture_output=True, check=True)
    np.testing.assert_array_equal(np.frombuffer(done.stdout, np.uint8), np.clip(np.arange(256), 0, 15))


def test_what_is_not_finite_has_a_code(tmp_path: Path) -> None:
    """A sensor's NaN, which no array of this library has: the lowest code, and no number beyond a table."""
    x = IntegerTensor("x", (3,), Grid(F(0.5), 7, 0, 15))
    node = IntegerInput("x", (), x, "float32", Requantize(np.full(1, 2, F), -7, 8))
    C.export(IntegerGraph((node,), (x,), (x,)), tmp_path / "net.c")
    subprocess.run(["cc", "-std=c99", "-O2", "-DNET_MAIN", "net.c", "-o", "net"], cwd=tmp_path, check=True)
    given = np.asarray([np.nan, np.inf, -np.inf], F)
    done = subprocess.run([tmp_path / "net"], input=given.tobytes(), capture_output=True, check=True)
    assert list(done.stdout) == [0, 15, 0]


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiler", WARNINGS)
def test_compilers_have_nothing_to_say(compiler: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed (apt-get install {compiler})")
    options = [compiler, "-std=c99", "-O2", *WARNINGS[compiler].split(), "-Werror", "-c", "-DNET_MAIN"]
    edges, _ = every_edge(30)
    said = []
    for input_type, output_type in (("own", "own"), ("own", "float32"), ("int16", "int16"), ("int16", "own")):
        graphs = [integers_of(dtype, symmetric=False)[0] for dtype in ("uint8", "int8", "int16", "float32")]
        graph = edges if (input_type, output_type) == ("own", "own") else together(graphs)
        C.export(graph, tmp_path / "net.c", input_type=input_type, output_type=output_type)
        done = subprocess.run([*options, "net.c"], cwd=tmp_path, capture_output=True, text=True, check=False)
        said += [line for line in done.stderr.splitlines() if "error" in line]
    assert said == []


def test_the_header_describes_what_the_caller_gives(tmp_path: Path) -> None:
    """Codes have a scale and a zero point; of real numbers it says which are clipped; codes of inputs are in the arena."""
    graph, _x = integers_of("float32", symmetric=False)
    grid = graph.input.grid
    C.export(graph, tmp_path / "net.c", output_type="float32", arithmetic="fixed")
    header, found = (tmp_path / "net.h").read_text(), macros(tmp_path / "net.h")
    assert "void net_run(const float *input, float *output)" in header
    assert "floating point only" in header
    assert "no floating point" not in header
    assert not {"NET_INPUT_SCALE", "NET_INPUT_ZERO_POINT", "NET_OUTPUT_SCALE"} & set(found)
    said = re.search(r"real numbers, float; those beyond (\S+) to (\S+) are clipped", header)
    assert said
    assert np.allclose([float(n) for n in said.groups()], [grid.low * grid.scale, grid.high * grid.scale])
    arena = C.arena_bytes(graph)
    assert arena == int(found["NET_ARENA_BYTES"])
    C.export(graph, tmp_path / "net.c", input_type="uint8", output_type="int8", arithmetic="fixed")
    header, found = (tmp_path / "net.h").read_text(), macros(tmp_path / "net.h")
    assert "void net_run(const uint8_t *input, int8_t *codes)" in header
    assert "no heap and no floating point" in header
    assert " quantize(" not in (tmp_path / "net.c").read_text()
    assert (F(found["NET_INPUT_SCALE"][:-1]), found["NET_INPUT_ZERO_POINT"]) == (grid.scale, f"({-grid.low})")
    assert found["NET_OUTPUT_ZERO_POINT"] == f"({-128 - graph.output.grid.low})"
    assert C.arena_bytes(graph, input_type="uint8") == int(found["NET_ARENA_BYTES"]) < arena


def test_files_that_do_not_say_what_they_take_are_read_as_before(tmp_path: Path) -> None:
    """An older release's: pixels, and the network's own codes."""
    for symmetric in (True, False):
        graph, x = integers_of("uint8", symmetric=(True, symmetric))
        graph, path = replace(graph, arithmetic="fixed"), tmp_path / "net.c"  # as older releases had it alone
        C.export(graph, path)
        expected, file = C.predict(path, x), c_file.load(path)
        c_file.write(path, file.source, file.header, {"graph": "abc"})
        assert C.read_metadata(path) == {"graph": "abc"}
        assert c_file.load(path).ends == file.ends
        assert differences(graph, path, x) == []
        np.testing.assert_array_equal(C.predict(path, x), expected)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shape": [3, 4, 5]}, "its inputs are not those that it describes"),
        ({"stored": "float64"}, "has dtypes .*float64"),
        ({"dtype": "nonsense"}, "has dtypes .*nonsense"),
        ({"scale": 0.0}, r"a scale is no positive float32 but one of \(0.0"),
        ({"scale": "x"}, "scale is 'x'"),
        ({"multiplier": float("nan")}, "multiplier is nan"),
        ({"more": 1}, "has no field 'more'"),
        ({"zero_point": 1 << 40}, "which 16 bits do not hold"),
    ],
    ids=str,
)
def test_what_a_file_says_of_its_ends_is_checked(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    graph, x = integers_of("float32")
    path = tmp_path / "net.c"
    C.export(graph, path)
    file = c_file.load(path)
    ends = {key: [asdict(end) for end in ends] for key, ends in asdict_of(file.ends).items()}
    ends["inputs"][0] |= changed
    c_file.write(path, file.source, file.header, {"ends": json.dumps(ends)})
    with pytest.raises(qat.QatError, match=message) as raised:
        C.predict(path, x)
    assert str(raised.value).startswith(f"{path}: ")


def asdict_of(ends: Ends) -> dict[str, Any]:
    return {"inputs": ends.inputs, "outputs": ends.outputs}


@pytest.mark.parametrize(("input_type", "output_type"), [("own", "own"), ("int8", "float32")])
def test_the_certificate(input_type: str, output_type: str, tmp_path: Path) -> None:
    """Of a network of real numbers: verified as every other, and detected where a multiplier is another."""
    graph, params, x = network("float32")
    checkpoint = qat.Checkpoint(graph, params, 1, 1, {}, ())
    split = Split(x, np.zeros(len(x), np.int64))
    options = {"input_type": input_type, "output_type": output_type}
    path, torch = tmp_path / "net.c", qat.backend("torch")
    integers = qat.to_integer(graph, params)
    with_head = export_verified(path, C, torch, checkpoint, split, data="noise", options=options, integers=integers)
    assert with_head.passed
    assert verify(path, C, torch, checkpoint, split, data="noise").passed
    node = integers.nodes[0]
    assert isinstance(node, IntegerInput)
    assert node.requantize is not None
    wrong = replace(node, requantize=node.requantize._replace(multiplier=node.requantize.multiplier * F(1.01)))
    C.export(replace(integers, nodes=(wrong, *integers.nodes[1:])), path, **options)
    assert not verify(path, C, torch, checkpoint, split, data="noise").passed

"""The source of C files: constants as literals and in a file of their own, read back before a file is written."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sequential import Chain, calibrated
from test_c import STRICT, WARNINGS, differences, emulated, together
from test_packed_weights import SETTINGS as PACKED
from test_tflite import one_node
from test_zoo import Setup

import qat
from qat.cli import main
from qat.data import Split
from qat.deploy.verify import export_verified, verify
from qat.integer import IntegerGraph, evaluate
from qat.networks import LeNet5
from qat.targets.c import constants, linear
from qat.targets.c import file as c_file
from qat.targets.c.codes import check_codes
from qat.targets.c.constants import LONGEST, Constant, as_literals, as_numbers
from qat.targets.c.cortex_m.measure import measure

C, TORCH = qat.target("C"), qat.backend("torch")


def small(**options: Any) -> Setup:
    """A convolution of several blocks, a depthwise one, a dense layer."""
    network = Chain(
        qat.Input((3, 8, 8), mean=0.5, std=0.25),
        conv=qat.Conv2dBnAct(3, 20, 3, activation="relu"),
        deep=qat.Conv2dBnAct(20, 20, 3, 2, group=20, activation="relu"),
        flatten=qat.Flatten(),
        fc=qat.DenseBnAct(320, 10),
    )
    return calibrated(network, images=20, **options)


# -- literals ---------------------------------------------------------------------------------------------------------

#: Every byte before every other one, more than one literal of Microsoft's; and what would be a trigraph or an escape.
PAIRS = np.stack(np.meshgrid(np.arange(256), np.arange(256)), -1).astype(np.uint8).tobytes()
DATA = {
    "pairs": PAIRS + b'??/??=\\\\"\0' + b"\0019\0010\00017" + b"\1",
    "no 0": bytes(range(1, 256)) * 300,
    "only 0": bytes(70_000),
    "one": b"?",
    "one 0": b"\0",
}


def compilers(*names: str) -> list[Any]:
    """Parameters, those that are not installed skipped."""
    return [
        pytest.param(
            name, marks=pytest.mark.skipif(shutil.which(name.split()[0]) is None, reason=f"needs {name.split()[0]}")
        )
        for name in names
    ]


@pytest.mark.parametrize("compiler", compilers("gcc", "clang", "gcc -funsigned-char", "s390x-linux-gnu-gcc -static"))
def test_compilers_and_we_read_the_bytes_that_were_written(compiler: str, tmp_path: Path) -> None:
    parts, writing, expected = [], [], b""
    for i, data in enumerate(DATA.values()):
        for kind in ("int8_t", "uint8_t"):
            name = f"{kind}{i}"
            text, size = as_literals(kind, name, data, "ALIGNED ")
            assert len(data) <= size <= len(data) + 1, "a byte for the 0 at the end, where there is none"
            (found,) = constants.constants(f"\n{text}", b"").values()
            assert found.kind == kind
            assert found.values.tobytes()[: len(data)] == data
            parts.append(text)
            writing.append(f"    fwrite({name}, 1, {len(data)}, stdout);")
            expected += data
    source = "\n".join(
        [
            "#include <stdint.h>\n#include <stdio.h>\n",
            *constants.before({"LITERALS", "ALIGNED"}, "net", "net.bin"),
            *parts,
            "int main(void)\n{",
            *writing,
            "    return 0;\n}\n",
        ]
    )
    assert max(map(len, source.splitlines())) <= 128
    (tmp_path / "x.c").write_text(source)
    options = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Wcast-qual", "-Werror"]
    subprocess.run([*compiler.split(), *options, "x.c", "-o", "x"], cwd=tmp_path, check=True)
    run = [tool] if (tool := shutil.which("qemu-s390x")) and "s390x" in compiler else []
    if "s390x" in compiler and not run:
        pytest.skip("needs qemu-s390x (apt-get install qemu-user)")
    assert subprocess.run([*run, tmp_path / "x"], capture_output=True, check=True).stdout == expected


def test_literals_are_short() -> None:
    """Of bytes that are all alike frequent, line ends and all; as numbers they take more than four."""
    data = np.random.default_rng(0).integers(0, 256, 100_000, np.uint8)
    assert len(as_literals("uint8_t", "x", data.tobytes())[0]) < 3.05 * data.size
    assert len(as_numbers("int8_t", "x", data.view(np.int8))) > 4.5 * data.size


def test_a_literal_is_no_longer_than_every_compiler_takes() -> None:
    for name, data in DATA.items():
        text, _ = as_literals("uint8_t", "x", data)
        sizes = [int(size) for size in re.findall(r"(?:part\d+|x)\[(\d+)\]", text)]
        assert max(sizes) <= LONGEST or name == "no 0", "where no byte is a 0 that can be an end"
        assert len(sizes) > 1 or len(data) <= LONGEST or name == "no 0"


def test_numbers_are_read_back() -> None:
    for kind, values in (
        ("int32_t", [-(2**31), 2**31 - 1, -1, 0]),
        ("uint32_t", [2**32 - 1, 0]),
        ("int16_t", [-(2**15)]),
        ("int8_t", list(range(-128, 128))),
    ):
        text = as_numbers(kind, "x", np.array(values))
        assert constants.constants(f"\n{text}", b"")["x"].values.tolist() == values
        constants.check("net", f"\n{text}", b"", {"x": Constant(kind, np.array(values))})


def test_weights_begin_at_a_line_of_the_cache(tmp_path: Path) -> None:
    for weights_file in ("no", "yes"):
        C.export(small().integer, tmp_path / "net.c", weights_file=weights_file)
        subprocess.run(["cc", "-std=c99", "-O0", "-c", "net.c"], cwd=tmp_path, check=True)
        listed = subprocess.run(["nm", "net.o"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        found = re.findall(r"^(\w+) \w \w*node\d+_\w+_weight$", listed, re.MULTILINE)
        assert len(found) == 3
        assert [address for address in found if int(address, 16) % 64] == []


# -- constants that would be others -----------------------------------------------------------------------------------


def spoiled(text: str) -> str:
    """The last digit that may be less is less by one."""
    return re.sub(r"([1-9])(?=[^1-9]*\Z)", lambda digit: str(int(digit[0]) - 1), text)


def of_text(function: Callable[..., str]) -> Callable[..., str]:
    return lambda *arguments: spoiled(function(*arguments))


def in_file(array: Callable[..., str]) -> Callable[..., str]:
    def spoiling(self: Any, *arguments: Any, **options: Any) -> str:
        text = array(self, *arguments, **options)
        if options.get("weights"):
            self.weights_file[-1] ^= 1
        return text

    return spoiling


FAULTS: dict[str, tuple[Any, str, Callable[[Any], Any], str]] = {
    "a number": (constants, "lines", of_text, r"_bias has -?\d+ in it where -?\d+ belongs"),
    "a literal": (constants, "literal", of_text, r"_weight has -?\d+ in it where -?\d+ belongs \(1 of "),
    "too short": (
        linear,
        "as_numbers",
        lambda f: lambda *a: re.sub(r"-?\d+,\n}", "\n}", f(*a)),
        "node1_conv_bias has 0 numbers in it, not 20",
    ),
    "a name": (
        linear,
        "as_numbers",
        lambda f: lambda *a: f(*a).replace("_bias", "_base"),
        "_bias is not found",
    ),
    "a type": (
        linear,
        "as_numbers",
        lambda f: lambda *a: f(*a).replace("int32_t", "int16_t"),
        "stands in it as int16_t",
    ),
    "a byte of the file": (linear.LinearWriter, "array", in_file, "_weight has"),
    "blocks": (linear, "blocks", lambda f: lambda *a: np.roll(f(*a), 4), "node1_conv would meet other weights"),
    "too many": (
        linear,
        "blocks",
        lambda f: lambda *a: np.append(f(*a), [0] * 4),
        "node1_conv would meet other weights",
    ),
    "taps": (linear, "pack", lambda f: lambda *a: f(*a)[::-1], "node2_deep would meet other weights"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_writer_that_errs_writes_no_file(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though nothing is compiled."""
    where, name, change, message = FAULTS[fault]
    graph = small(**(PACKED["4 bits"] if fault == "taps" else {})).integer
    monkeypatch.setattr(where, name, change(getattr(where, name)))
    with pytest.raises(qat.QatError, match=message) as raised:
        C.export(graph, tmp_path / "net.c", weights_file="yes" if "file" in fault else "no")
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_type_that_does_not_hold_its_values_is_found_in_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a compiler would wrap them, were they written."""
    graph, _ = one_node("dense", 8, 2**10)
    graph = replace(
        graph, nodes=(graph.nodes[0], replace(graph.nodes[1], weight_zero_point=np.full(8, 40_000, np.int32)))
    )
    monkeypatch.setattr(linear, "fits", lambda kind, values: True)
    with pytest.raises(qat.QatError, match=r"_excess has 2\d+ in it where -3\d+ belongs \(8 of 8 differ\)"):
        C.export(graph, tmp_path / "net.c")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("grid", "bounds", "message"),
    [
        ({"zero_point": 300}, {}, "has the zero point 300, which is none of its codes"),
        ({"qmax": 70_000}, {}, "has codes from 0 to 70000, which uint16_t does not hold"),
        ({}, {"high": 256}, r"clips to -?\d+ to 256, where it has no codes"),
        ({}, {"low": -129}, r"clips to -129 to \d+, where it has no codes"),
    ],
    ids=str,
)
def test_codes_that_are_not_stored_as_they_are_are_refused(
    grid: dict[str, int], bounds: dict[str, int], message: str
) -> None:
    graph, _ = one_node("dense", 8, 2**10)
    node = graph.nodes[1]
    own = node.output.grid._replace(qmin=0, qmax=255, zero_point=128)._replace(**grid)
    node = replace(node, output=node.output._replace(grid=own), requantize=node.requantize._replace(**bounds))
    with pytest.raises(qat.QatError, match=f": y {message}, so that"):
        check_codes(replace(graph, nodes=(graph.nodes[0], node), outputs=(node.output,)))


@pytest.mark.parametrize("change", ["short", "far"])
def test_tables_are_read_by_the_codes_that_there_are(change: str, tmp_path: Path) -> None:
    network = Chain(qat.Input((6,)), fc=qat.DenseBnAct(6, 4), act=qat.Activation("tanh"))
    graph = calibrated(network, images=20).integer
    node = graph.nodes[-1]
    table = node.table[:-1] if change == "short" else np.where(node.table == node.table.max(), 500, node.table)
    with pytest.raises(qat.QatError, match=r"has a table (of 255 entries for 256 codes|from -?\d+ to 500, where)"):
        C.export(replace(graph, nodes=(*graph.nodes[:-1], replace(node, table=table))), tmp_path / "net.c")
    assert list(tmp_path.iterdir()) == []


# -- weights in a file of their own -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["bytes", "4 bits", "affine, 2 bits", "wide"])
def test_weights_in_a_file_give_the_same_codes(case: str, tmp_path: Path) -> None:
    options = {"bytes": {}, "wide": {"num_bits": (16, 16)}}.get(case) or PACKED.get(case, {})
    setup = small(**options)
    C.export(setup.integer, tmp_path / "net.c", weights_file="yes")
    assert differences(setup.integer, tmp_path / "net.c", setup.pixels) == []
    source, taken = (tmp_path / "net.c").read_text(), (tmp_path / "net.bin").stat().st_size
    places = re.findall(r"^FROM_FILE\(u?int8_t, \w+_weight, (\d+), (\d+)\);$", source, re.MULTILINE)
    assert sum(int(size) for _, size in places) == taken
    assert len(places) == (0 if case == "wide" else 3)
    assert not re.search(r'^ +"\\', source, re.MULTILINE)


@pytest.mark.parametrize("compiler", [*compilers(*WARNINGS)])
@pytest.mark.parametrize("options", ["-O0", "-O2 -fPIC"])
def test_it_is_compiled_in_any_folder_and_beside_others(compiler: str, options: str, tmp_path: Path) -> None:
    """Two networks with layers of the same names in one program, without a word; where -I is missing, a word."""
    one, other = small(), small(symmetric=(False, False))
    (tmp_path / "a file").mkdir()
    use = ""
    for name, setup in (("one", one), ("other", other)):
        C.export(setup.integer, tmp_path / "a file" / f"{name}.c", weights_file="yes")
        use += f'#include "{name}.h"\n'
    calls = "".join(f"    {name}_run(pixels, codes);\n    fwrite(codes, 1, 10, stdout);\n" for name in ("one", "other"))
    begin = "#include <stdio.h>\n" + use + "int main(void)\n{\n    static uint8_t pixels[192], codes[10];\n"
    begin = begin.replace("codes[10]", "bytes[10];\n    void *codes = bytes")
    (tmp_path / "main.c").write_text(f"{begin}    fread(pixels, 1, 192, stdin);\n{calls}    return 0;\n}}\n")
    command = [compiler, "-std=c99", *options.split()]
    for name in ("one", "other"):
        warnings = [*WARNINGS[compiler].split(), "-Werror"]
        source = ["-c", f"a file/{name}.c", "-o", f"{name}.o"]
        subprocess.run([*command, *warnings, "-Ia file", *source], cwd=tmp_path, check=True)
        done = subprocess.run(
            [*command, *source[:2], "-o", "x.o"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode != 0
        assert re.search(rf"(file not found|find incbin file).*{name}\.bin", done.stderr)
    subprocess.run([*command, "-Ia file", "main.c", "one.o", "other.o", "-o", "x"], cwd=tmp_path, check=True)
    pixels = one.pixels[:1]
    said = subprocess.run(
        [tmp_path / "x"], input=pixels.transpose(0, 2, 3, 1).tobytes(), capture_output=True, check=True
    )
    expected = b""
    for setup in (one, other):
        codes = evaluate(setup.integer, pixels)
        expected += codes.astype(setup.integer.output.grid.dtype).tobytes()
    assert said.stdout == expected


MACHINES = {
    "s390x-linux-gnu-gcc": "qemu-s390x",
    "aarch64-linux-gnu-gcc": "qemu-aarch64",
    "arm-linux-gnueabihf-gcc": "qemu-arm",
}


@pytest.mark.parametrize("compiler", MACHINES)
def test_other_processors_take_it_in(compiler: str, tmp_path: Path) -> None:
    """Bytes are the same whatever the order of bytes in a word."""
    if shutil.which(compiler) is None or shutil.which(MACHINES[compiler]) is None:
        pytest.skip(f"needs {compiler} and {MACHINES[compiler]}")
    setup = small()
    C.export(setup.integer, tmp_path / "net.c", weights_file="yes")
    subprocess.run([compiler, "-std=c99", "-O2", "-static", "-DNET_MAIN", "net.c", "-o", "x"], cwd=tmp_path, check=True)
    pixels = setup.pixels.transpose(0, 2, 3, 1).tobytes()
    said = subprocess.run([MACHINES[compiler], tmp_path / "x"], input=pixels, capture_output=True, check=True).stdout
    expected = evaluate(setup.integer, setup.pixels)
    assert said == expected.astype(setup.integer.output.grid.dtype).tobytes()


@pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang")
def test_a_mac_takes_it_in(tmp_path: Path) -> None:
    """As far as an object file of its format tells."""
    C.export(small().integer, tmp_path / "net.c", weights_file="yes")
    declared = "#include <stddef.h>\nvoid *memcpy(void *, const void *, size_t);\nvoid *memset(void *, int, size_t);\n"
    (tmp_path / "string.h").write_text(declared)
    options = ["-ffreestanding", "-I.", "-std=c99", "-O2", "-Wall", "-Wextra", "-pedantic", "-Werror"]
    for machine in ("x86_64", "arm64"):
        subprocess.run(["clang", f"--target={machine}-apple-macos", *options, "-c", "net.c"], cwd=tmp_path, check=True)
        assert (tmp_path / "net.bin").read_bytes()[:500] in (tmp_path / "net.o").read_bytes()


@emulated
def test_a_cortex_m4_takes_it_in(tmp_path: Path) -> None:
    """In as much flash."""
    setup, flash = small(), {}
    for weights_file in ("no", "yes"):
        C.export(setup.integer, tmp_path / "net.c", weights_file=weights_file)
        found = measure(tmp_path / "net.c", setup.pixels, options=STRICT)
        np.testing.assert_array_equal(found.outputs[0], evaluate(setup.integer, setup.pixels))
        flash[weights_file] = found.flash
    assert abs(flash["yes"] - flash["no"]) <= 5 * 4


def test_layers_with_the_same_weights_share_them(tmp_path: Path) -> None:
    """As the steps of a recurrence."""
    graph, pixels = one_node("dense", 64, 2**20)
    double: IntegerGraph = together([graph, graph])
    sizes = []
    for own in (graph, double):
        C.export(own, tmp_path / "net.c", weights_file="yes")
        sizes.append((tmp_path / "net.bin").stat().st_size)
    assert sizes[0] == sizes[1] > 0
    assert differences(double, tmp_path / "net.c", (pixels, pixels)) == []


def test_the_three_files_belong_together(tmp_path: Path) -> None:
    """Each is checked before anything is computed; metadata change nothing; all may be renamed."""
    setup = small()
    path = tmp_path / "net.c"
    C.export(setup.integer, path, weights_file="yes")
    weights = tmp_path / "net.bin"
    data = weights.read_bytes()
    C.write_metadata(path, {"graph": "abc"})
    assert (C.read_metadata(path)["graph"], weights.read_bytes()) == ("abc", data)
    for changed in (data[:-1] + bytes([data[-1] ^ 1]), data + b"\0", data[:-1], b"", None):
        weights.unlink()
        if changed is not None:
            weights.write_bytes(changed)
        message = r"net\.bin: cannot be read \(.*with the \.h file and the \.bin file beside it"
        with pytest.raises(
            qat.QatError, match=message if changed is None else r"it and net\.h and net\.bin are not what"
        ):
            C.predict(path, setup.pixels)
        weights.write_bytes(data)
    for suffix in (".c", ".h", ".bin"):
        path.with_suffix(suffix).rename(tmp_path / f"other{suffix}")
    assert differences(setup.integer, tmp_path / "other.c", setup.pixels) == []
    C.export(setup.integer, tmp_path / "other.c")  # no longer needs the file, which stays
    (tmp_path / "other.bin").write_bytes(b"of someone else")
    assert c_file.load(tmp_path / "other.c").weights is None
    assert differences(setup.integer, tmp_path / "other.c", setup.pixels) == []


def test_the_certificate_is_of_all_three(tmp_path: Path) -> None:
    setup = calibrated(LeNet5(), images=20)
    checkpoint = qat.Checkpoint(setup.graph, setup.params, 1, 1, {}, ())
    split, path = Split(setup.pixels, np.zeros(20, np.int64)), tmp_path / "net.c"
    assert export_verified(path, C, TORCH, checkpoint, split, data="noise", options={"weights_file": "yes"}).passed
    assert sorted(x.name for x in tmp_path.iterdir()) == ["net.bin", "net.c", "net.h"]
    assert verify(path, C, TORCH, checkpoint, split, data="noise").passed
    with pytest.raises(qat.QatError, match=r"^--weights_file True is unknown: choose one of no, yes$"):
        C.export(setup.integer, path, weights_file=True)


def test_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup = small()
    checkpoint = str(tmp_path / "net.ckpt")
    qat.Checkpoint(setup.graph, setup.params, 1, 1, {}, ()).save(checkpoint)
    for flag, there in ((["--weights_file"], True), (["--weights_file", "no"], False), ([], False)):
        name = tmp_path / f"net{len(flag)}"
        command = ["export", "--ckpt_path", checkpoint, "--file_format", "C", "--file_name", str(name), "--no_verify"]
        assert main([*command, *flag]) == 0
        assert name.with_suffix(".bin").exists() == there
    command[4] = "ONNX"
    assert main([*command, "--weights_file"]) == 2
    assert "--weights_file: format ONNX has no such choice" in capsys.readouterr().err

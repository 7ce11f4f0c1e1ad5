"""Exported files without this library: programs of examples/deploy are built and run, and give the codes of ``qat run``; and
what files say of how they are fed, which these programs read.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
import pytest
from flatbuffers import number_types as N
from PIL import Image
from sequential import Chain, calibrated

import qat
from qat.cli import main
from qat.data import Preparation
from qat.data.pictures import read_picture
from qat.data.preparation import PLAIN
from qat.deploy.recipe import RECIPE, in_words, metadata_of, recipe_of
from qat.integer import IntegerGraph, evaluate
from qat.integer.ends import FileInput
from qat.targets.tflite.file import LABELS, OFFICIAL, load
from qat.training.checkpoint import Checkpoint

ROOT = Path(__file__).parent.parent
EXAMPLES, PAGES = ROOT / "examples" / "deploy", ROOT / "docs" / "deploy"
NAMES = ("cat", 'a "dög" */ ??/ \\', "%d bird")
SHAPE = (1, 12, 12)
#: Pictures that are taken as they are, enlarged, and stretched.
SIZES = {"same": (12, 12), "small": (7, 9), "wide": (12, 5)}


@cache
def network(arithmetic: str) -> tuple[Checkpoint, IntegerGraph]:
    """A small classifier of pictures of one channel, with names for its classes."""
    layers = Chain(
        qat.Input(SHAPE, mean=0.1307, std=0.3081),
        conv=qat.Conv2dBnAct(1, 4, 3, stride=2, activation="relu"),
        flatten=qat.Flatten(),
        fc=qat.DenseBnAct(144, 3),
    )
    setup = calibrated(layers, images=8, arithmetic=arithmetic)
    return Checkpoint(setup.graph, setup.params, class_names=NAMES), setup.integer


def exported(file_format: str, path: Path, arithmetic: str = "float", checkpoint: Any = None, **options: str) -> Path:
    """A file with its metadata, as ``qat export`` writes it."""
    target, (made, integers) = qat.target(file_format), network(arithmetic)
    target.export(integers, path, **options)
    target.write_metadata(path, metadata_of(path, target, checkpoint or made, arithmetic))
    return path


def pictures(folder: Path) -> list[Path]:
    """PGM files of several sizes."""
    rng = np.random.default_rng(1)
    paths = []
    for name, size in SIZES.items():
        paths.append(folder / f"{name}.pgm")
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(paths[-1])
    return paths


def codes_of(paths: Sequence[Path], arithmetic: str) -> np.ndarray:
    """The network's codes for pictures, as ``qat run`` prepares them."""
    pixels = np.stack([read_picture(path, SHAPE)[0] for path in paths])
    return evaluate(network(arithmetic)[1], pixels, arithmetic=arithmetic)


def printed(output: str) -> np.ndarray:
    """The numbers of the lines that begin with "values" or "codes"."""
    rows = re.findall(r"^(?:values|codes) (.*)$", output, re.MULTILINE)
    assert rows, output
    return np.array([[float(x) for x in row.split()] for row in rows])


def run(*command: str | Path, **options: Any) -> str:
    """Standard output of a command that ends well."""
    found = subprocess.run(
        [str(x) for x in command], capture_output=True, encoding="utf-8", check=False, timeout=100, **options
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def run_example(name: str, *arguments: Path) -> str:
    """An example in Python, in a process that cannot import this library."""
    code = f"import sys; sys.modules['qat'] = None; sys.path.insert(0, {str(EXAMPLES)!r}); import {name}; "
    return run(sys.executable, "-c", f"{code}{name}.main(*sys.argv[1:])", *arguments)


def same_codes(values: np.ndarray, codes: np.ndarray, entry: Mapping[str, Any], arithmetic: str) -> None:
    """Values of a file's output are those codes, in the type that the file gives."""
    grid = network(arithmetic)[1].output.grid
    if entry["dtype"] == "float32":
        np.testing.assert_array_equal(values.astype(np.float32), grid.dequantize(codes))
    else:
        np.testing.assert_array_equal(values - entry["zero_point"], codes.astype(np.int32) - grid.zero_point)


def recipe_in(file_format: str, path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(qat.target(file_format).read_metadata(path)[RECIPE])
    return found


# -- the examples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file_format", "suffix", "arithmetic", "options"),
    [
        ("litert", "TFLITE", ".tflite", "float", {}),
        ("litert", "TFLITE", ".tflite", "fixed", {}),
        ("litert", "TFLITE", ".tflite", "float", {"input_type": "float32", "output_type": "float32"}),
        ("ort", "ONNX", ".onnx", "float", {}),
        ("ort", "ONNX", ".onnx", "float", {"input_type": "int8", "output_type": "uint8"}),
        ("mindir", "MINDIR", ".mindir", "float", {}),
    ],
)
def test_python(
    name: str, file_format: str, suffix: str, arithmetic: str, options: dict[str, str], tmp_path: Path
) -> None:
    file, paths = exported(file_format, tmp_path / f"net{suffix}", arithmetic, **options), pictures(tmp_path)
    output = run_example(name, file, *paths)
    (given,) = recipe_in(file_format, file)["outputs"]
    codes = codes_of(paths, arithmetic)
    same_codes(printed(output), codes, given, arithmetic)
    assert f"small.pgm: class {NAMES[codes[1].argmax()]}, " in output
    with pytest.raises(AssertionError):  # of other pictures
        same_codes(printed(output), codes[::-1], given, arithmetic)


cmake = pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("cc")), reason="needs cmake and a C compiler")
BOARD = ("arm-none-eabi-gcc", "qemu-system-arm")
emulated = pytest.mark.skipif(not all(map(shutil.which, BOARD)), reason=f"needs {', '.join(BOARD)}")


def built(folder: Path, model: Path, *options: str) -> Path:
    """The program of examples/deploy/c around an exported file, compiled with all warnings."""
    flags = ["-DCMAKE_C_FLAGS_RELEASE=-O2 -Wall -Wextra -Werror", *options]
    run("cmake", "-S", EXAMPLES / "c", "-B", folder, f"-DMODEL={model}", *flags)
    run("cmake", "--build", folder)
    return folder / "classify"


@cmake
@pytest.mark.parametrize("arithmetic", ["float", "fixed"])
def test_c_on_a_host(arithmetic: str, tmp_path: Path) -> None:
    model, paths = exported("C", tmp_path / "net.c", arithmetic), pictures(tmp_path)
    output = run(built(tmp_path / "build", model), *paths)
    codes = codes_of(paths, arithmetic)
    np.testing.assert_array_equal(printed(output), codes)
    names = [line.removeprefix("class ").rpartition(",")[0] for line in output.splitlines()[::2]]
    assert names == [NAMES[row.argmax()] for row in codes]


@cmake
@emulated
def test_c_on_a_microcontroller(tmp_path: Path) -> None:
    model, (_, small, _) = exported("C", tmp_path / "net.c", "fixed"), pictures(tmp_path)
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={EXAMPLES / 'c' / 'cortex_m4.cmake'}"
    program = built(tmp_path / "build", model, toolchain, f"-DPICTURE={small}")
    board = ("-machine", "mps2-an386", "-nographic", "-semihosting-config", "enable=on,target=native")
    output = run("qemu-system-arm", *board, "-kernel", program, stdin=subprocess.DEVNULL)
    np.testing.assert_array_equal(printed(output), codes_of([small], "fixed"))


#: What the sketch uses of Arduino's functions; their text goes to standard output, and a loop ends the program.
ARDUINO = """
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
struct Port {
  void begin(long) {}
  explicit operator bool() const { return true; }
  bool operator!() const { return false; }
  void print(const char *text) { fputs(text, stdout); }
  void print(int number) { printf("%d", number); }
  void print(double number, int digits) { printf("%.*f", digits, number); }
  template <class T> void println(T what) { print(what); println(); }
  void println(unsigned long number) { printf("%lu\\n", number); }
  void println() { puts(""); }
};
static Port Serial;
static unsigned long millis() { return 0; }
static unsigned long micros() { return 7; }
static void delay(unsigned long) { exit(0); }
"""


@pytest.mark.skipif(not (shutil.which("cc") and shutil.which("c++")), reason="needs a C and a C++ compiler")
@pytest.mark.parametrize("output_type", ["own", "float32"])
def test_an_arduino_library(output_type: str, tmp_path: Path) -> None:
    model, library = exported("C", tmp_path / "net.c", "fixed", output_type=output_type), tmp_path / "library"
    files = qat.target("C").arduino_library(model, library)
    sketch = library / "examples" / "net" / "net.ino"
    assert files == [library / "src" / "net.c", library / "src" / "net.h", library / "library.properties", sketch]
    properties = dict(line.split("=", 1) for line in files[2].read_text().splitlines())
    assert {"name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url"} <= properties.keys()
    (tmp_path / "Arduino.h").write_text(ARDUINO)
    include = (f"-I{tmp_path}", f"-I{library / 'src'}", "-Wall", "-Wextra", "-Werror")
    whole = f'#include "Arduino.h"\n#include "{sketch}"\nint main() {{ setup(); for (;;) loop(); }}\n'
    (tmp_path / "main.cc").write_text(whole)
    run("cc", *include, "-c", library / "src" / "net.c", "-o", tmp_path / "net.o")
    run("c++", *include, tmp_path / "main.cc", tmp_path / "net.o", "-o", tmp_path / "sketch")
    output = run(tmp_path / "sketch")
    pixels = (np.arange(144) % 256).astype(np.uint8).reshape(1, *SHAPE)
    codes = evaluate(network("fixed")[1], pixels, arithmetic="fixed")
    grid = network("fixed")[1].output.grid
    expected = codes if output_type == "own" else np.round(grid.dequantize(codes).astype(np.float64), 6)
    np.testing.assert_array_equal(printed(output), expected)
    assert f"class {NAMES[codes[0].argmax()]}\n" in output
    assert output.endswith("microseconds 0\n")
    if shutil.which("arm-none-eabi-g++"):
        arm = ("-mcpu=cortex-m4", "-mthumb", "-Os", *include, "-c")
        run("arm-none-eabi-g++", *arm, tmp_path / "main.cc", "-o", tmp_path / "arm.o")
        run("arm-none-eabi-gcc", *arm, library / "src" / "net.c", "-o", tmp_path / "net.o")


def test_what_arduino_does_not_build_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = exported("C", tmp_path / "net.c", weights_file="yes")
    with pytest.raises(qat.QatError, match="weights are in a file of their own"):
        qat.target("C").arduino_library(model, tmp_path / "library")
    network("float")[0].save(tmp_path / "net.ckpt")
    command = ["export", "--ckpt_path", str(tmp_path / "net.ckpt"), "--file_name", str(tmp_path / "x"), "--no_verify"]
    assert main([*command, "--file_format", "ONNX", "--arduino", str(tmp_path / "library")]) == 2
    assert "--arduino: ONNX is nothing that Arduino builds" in capsys.readouterr().err
    assert main([*command, "--file_format", "C", "--weights_file", "--arduino", str(tmp_path / "library")]) == 2
    assert not (tmp_path / "library").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "library.properties").write_text("name=mine")
    assert main([*command, "--file_format", "C", "--arduino", str(tmp_path / "mine")]) == 2
    assert not (tmp_path / "x.c").exists()
    for _ in range(2):  # its own is replaced
        assert main([*command, "--file_format", "C", "--arduino", str(tmp_path / "library")]) == 0
    assert (tmp_path / "library" / "src" / "x.c").read_bytes() == (tmp_path / "x.c").read_bytes()


def headers(variable: str, header: str) -> Path:
    """The folder of a runtime's headers, which no package brings."""
    folder = os.environ.get(variable, "")
    if not (folder and Path(folder, header).exists()):
        pytest.skip(f"needs {header} below ${variable}, which the Python package does not bring")
    return Path(folder)


def picture_object(folder: Path) -> Path:
    run("cc", "-std=c99", "-O2", "-c", EXAMPLES / "c" / "picture.c", "-o", folder / "picture.o")
    return folder / "picture.o"


def test_onnx_runtime_in_c(tmp_path: Path) -> None:
    include = headers("ONNXRUNTIME_INCLUDE", "onnxruntime_c_api.h")
    import onnxruntime

    (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")
    (tmp_path / "libonnxruntime.so.1").symlink_to(library)
    model, paths = exported("ONNX", tmp_path / "net.onnx"), pictures(tmp_path)
    source, program = EXAMPLES / "onnxruntime" / "classify.c", tmp_path / "classify"
    libraries = (tmp_path / "libonnxruntime.so.1", f"-Wl,-rpath,{tmp_path}", "-lm")
    warnings = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-isystem", include)
    run("cc", *warnings, source, picture_object(tmp_path), *libraries, "-o", program)
    values = printed("".join(run(program, model, path) for path in paths))
    same_codes(values, codes_of(paths, "float"), {"dtype": "float32"}, "float")


def test_litert_in_c_plus_plus(tmp_path: Path) -> None:
    include = headers("LITERT_INCLUDE", "litert/c/litert_compiled_model.h")
    import ai_edge_litert

    folder = Path(ai_edge_litert.__file__).parent
    model, paths = exported("TFLITE", tmp_path / "net.tflite"), pictures(tmp_path)
    source, program = EXAMPLES / "litert" / "classify.cc", tmp_path / "classify"
    libraries = (f"-L{folder}", "-lLiteRt", f"-Wl,-rpath,{folder}", "-lm")
    warnings = ("-std=c++17", "-Wall", "-Wextra", "-Werror", "-isystem", include)
    run("c++", *warnings, source, picture_object(tmp_path), *libraries, "-o", program)
    values = printed("".join(run(program, model, path) for path in paths))
    (given,) = recipe_in("TFLITE", model)["outputs"]
    same_codes(values, codes_of(paths, "float"), given, "float")


def test_pages_show_the_files() -> None:
    """Every longer block of code on the pages is a part of a file of examples/deploy, word for word."""
    files = [path.read_text() for path in EXAMPLES.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    blocks = []
    for page in PAGES.glob("*.md"):
        blocks += re.findall(r"^```(?:c|cpp|cmake|python)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    long = [block for block in blocks if block.count("\n") > 8]
    assert len(long) >= 5
    for block in long:
        assert any(block.strip("\n") in file for file in files), block


# -- pictures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def examples() -> Any:
    """The module examples/deploy/picture.py."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        import picture
    finally:
        sys.path.remove(str(EXAMPLES))
    return picture


@pytest.mark.parametrize("how", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("interpolation", ["linear", "bilinear", "bicubic", "nearest", "area"])
def test_the_example_prepares_pictures_as_the_commands_do(
    examples: Any, how: str, interpolation: str, tmp_path: Path
) -> None:
    preparation = Preparation(how, interpolation=interpolation)
    picture = {"height": 12, "width": 16, "channels": "RGB", **preparation.to_json()}
    rng = np.random.default_rng(2)
    for size in ((9, 7), (12, 16), (40, 30), (10, 33)):
        path = tmp_path / "x.ppm"
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
        expected = read_picture(path, (3, 12, 16), preparation)[0].transpose(1, 2, 0)
        np.testing.assert_array_equal(examples.load(str(path), {"picture": picture}), expected)


RESIZER = """
#include "picture.h"
#include <stdio.h>
#include <stdlib.h>
int main(int count, char **argument)
{
    static uint8_t file[1 << 16], made[1 << 16];
    FILE *const from = fopen(argument[1], "rb");
    int c, h, w, y = atoi(argument[2]), x = atoi(argument[3]);
    const uint8_t *const pixels = picture_in(file, fread(file, 1, sizeof file, from), &c, &h, &w);
    (void)count;
    if (!pixels || picture_resize(pixels, h, w, c, made, y, x))
        return 1;
    return fwrite(made, 1, (size_t)(y * x * c), stdout) == 0;
}
"""


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_the_example_in_c_resizes_as_the_commands_do(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(RESIZER)
    c, program = EXAMPLES / "c", tmp_path / "resize"
    flags = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsanitize=undefined,address", f"-I{c}")
    run("cc", *flags, tmp_path / "main.c", c / "picture.c", "-lm", "-o", program)
    rng = np.random.default_rng(3)
    for channels, old, new in [
        (1, (28, 28), (32, 32)),
        (3, (5, 9), (16, 9)),
        (1, (1, 1), (3, 2)),
        (3, (30, 25), (10, 8)),
        (1, (9, 40), (12, 12)),
    ]:
        path = tmp_path / "x.pnm"
        pixels = rng.integers(0, 256, (*old, channels), np.uint8)
        Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(path, "PPM")
        expected = PLAIN.apply_to_picture(Image.open(path), new).transpose(1, 2, 0)
        output = subprocess.run([program, path, *map(str, new)], capture_output=True, check=True).stdout
        made = np.frombuffer(output, np.uint8).reshape(expected.shape)
        smaller = new[0] < old[0] or new[1] < old[1]
        difference = np.abs(made.astype(int) - expected).max()
        assert difference <= (1 if smaller else 0), (
            f"{old} to {new}"
        )  # which axis is first, differs with Pillow's version
    assert subprocess.run([program, tmp_path / "main.c", "4", "4"], check=False).returncode == 1


# -- the recipe -------------------------------------------------------------------------------------------------------


def test_the_recipe_of_each_end_makes_what_the_file_takes(examples: Any) -> None:
    rng = np.random.default_rng(4)
    pixels = rng.integers(0, 256, (1, 3, 4, 5), np.uint8)
    reals = rng.normal(0, 2, (1, 3, 4, 5)).astype(np.float32)
    words = rng.integers(-30000, 30000, (1, 3, 4, 5), np.int16)
    cases = [
        (pixels, FileInput((3, 4, 5), "uint8", "uint8", 0.5, -33, -33, 222, None, 33)),
        (pixels, FileInput((3, 4, 5), "uint8", "int8", 0.5, -95, -33, 222, None, 33)),
        (pixels, FileInput((3, 4, 5), "uint8", "float32", 0.3, 0, -33, 222, None, 33)),
        (pixels, FileInput((3, 4, 5), "uint8", "int16", 0.3, 0, -33, 222, None, 33)),
        (reals, FileInput((3, 4, 5), "float32", "int8", 0.03, 5, -133, 122, 1 / 0.03, 0)),
        (reals, FileInput((3, 4, 5), "float32", "float32", 0.03, 0, -133, 122, 1 / 0.03, 0)),
        (words, FileInput((3, 4, 5), "int16", "uint8", 0.03, 128, -128, 127, 0.004, 7)),
    ]
    for samples, end in cases:
        for last in (False, True):
            tensors = qat.integer.ends.FileTensors(qat.integer.ends.Ends((end,), ()), ("x",), (), last)
            (entry,) = recipe_of(tensors)["inputs"]
            expected = np.moveaxis(end.encode(samples), 1, -1) if last else end.encode(samples)
            made = examples.encoded(samples[0].transpose(1, 2, 0), entry)
            np.testing.assert_array_equal(made, expected)
            assert (list(made.shape), made.dtype) == (entry["shape"], expected.dtype)


def test_the_recipe_says_how_pictures_are_resized() -> None:
    def told(**options: Any) -> str:
        made, integers = network("float")
        del integers
        made = replace(made, preparation=Preparation(**options))
        tensors = qat.deploy.recipe.tensors_of(made.graph)
        return " ".join(in_words(recipe_of(tensors, made.preparation)))

    assert "its shorter side has 13 pixels, then cut 12 x 12 from the middle. Interpolate by Pillow's BICUBIC." in told(
        interpolation="bicubic"
    )
    assert "its shorter side has 20 pixels" in told(resize_to=20)
    assert "lay it on black" in told(resize="pad")
    assert "OpenCV's INTER_LINEAR" in told(resize="stretch", interpolation="linear")


@pytest.mark.parametrize(("file_format", "suffix"), [("MINDIR", ".mindir"), ("ASCEND_ONNX", ".ascend.onnx")])
def test_other_formats_hold_the_recipe_too(file_format: str, suffix: str, tmp_path: Path) -> None:
    target, profile = qat.target(file_format), {"ASCEND_ONNX": {"profile": "ascend"}}.get(file_format, {})
    layers = Chain(qat.Input((3, 4, 4)), flatten=qat.Flatten(), fc=qat.DenseBnAct(48, 3))
    setup = calibrated(layers, **profile)
    checkpoint, path = Checkpoint(setup.graph, setup.params, class_names=NAMES), tmp_path / f"net{suffix}"
    target.export(setup.integer, path)
    target.write_metadata(path, metadata_of(path, target, checkpoint, "float"))
    recipe = recipe_in(file_format, path)
    (taken,), (given,) = recipe["inputs"], recipe["outputs"]
    assert (taken["layout"], taken["dtype"], given["dtype"]) == ("NCHW", "uint8", "float32")
    assert recipe["picture"]["channels"] == "RGB"
    assert tuple(json.loads(target.read_metadata(path)["class_names"])) == NAMES


def test_an_air_file_keeps_the_preparation_alone(tmp_path: Path) -> None:
    """Its inputs say the rest, and nobody but this library reads its attributes."""
    target, path = qat.target("AIR"), tmp_path / "net.air"
    setup = calibrated(Chain(qat.Input((3, 4, 4)), flatten=qat.Flatten(), fc=qat.DenseBnAct(48, 3)), profile="ascend")
    target.export(setup.integer, path)
    checkpoint = Checkpoint(setup.graph, setup.params, preparation=Preparation(resize="pad"))
    target.write_metadata(path, metadata_of(path, target, checkpoint, "float"))
    metadata = target.read_metadata(path)
    assert RECIPE not in metadata
    assert Preparation.from_json(json.loads(metadata["preparation"])).resize == "pad"


# -- TensorFlow Lite --------------------------------------------------------------------------------------------------


def field(table: flatbuffers.table.Table, number: int) -> int:
    """Where a field of a table is; 0 where it is not there."""
    offset = table.Offset(4 + 2 * number)
    return offset and table.Pos + offset


def child(table: flatbuffers.table.Table, number: int) -> flatbuffers.table.Table:
    return flatbuffers.table.Table(table.Bytes, table.Indirect(field(table, number)))


def items(table: flatbuffers.table.Table, number: int) -> list[flatbuffers.table.Table]:
    offset = table.Offset(4 + 2 * number)
    start = table.Vector(offset)
    return [flatbuffers.table.Table(table.Bytes, table.Indirect(start + 4 * i)) for i in range(table.VectorLen(offset))]


def text(table: flatbuffers.table.Table, number: int) -> str:
    return table.String(field(table, number)).decode()


def number(table: flatbuffers.table.Table, place: int, kind: Any) -> Any:
    return table.Get(kind, field(table, place))


def float_of(table: flatbuffers.table.Table, place: int) -> float:
    return table.Get(N.Float32Flags, table.Vector(table.Offset(4 + 2 * place)))


@pytest.mark.parametrize("arithmetic", ["float", "fixed"])
@pytest.mark.parametrize(
    ("options", "least"), [({}, -128), ({"input_type": "uint8"}, 0), ({"input_type": "float32"}, None)]
)
def test_tensorflow_lite_metadata(options: dict[str, str], least: int | None, arithmetic: str, tmp_path: Path) -> None:
    """Its tables by the numbers of their fields, as metadata_schema.fbs has them."""
    path = exported("TFLITE", tmp_path / "net.tflite", arithmetic, **options)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [LABELS]
        assert archive.read(LABELS).decode().splitlines() == list(NAMES)
    model = load(path).model
    (content,) = [bytes(model.buffers[x.buffer].data) for x in model.metadata if x.name.decode() == OFFICIAL]
    assert content[4:8] == b"M001"
    root = flatbuffers.table.Table(content, flatbuffers.encode.Get(N.UOffsetTFlags.packer_type, content, 0))
    assert (text(root, 0), text(root, 7)) == (network(arithmetic)[1].name, "1.0.0")
    assert text(root, 1) == "\n".join(in_words(recipe_in("TFLITE", path)))
    (graph,) = items(root, 3)
    ((taken,), (given,)) = items(graph, 2), items(graph, 3)
    assert (text(taken, 0), text(given, 0)) == ("input", "fc")
    content_of = child(taken, 3)
    assert number(content_of, 0, N.Uint8Flags) == 2, "an image"
    image = child(content_of, 1)
    assert number(image, 0, N.Int8Flags) == 2, "grayscale"
    assert [number(child(image, 1), i, N.Uint32Flags) for i in (0, 1)] == [12, 12]
    (unit,) = items(taken, 4)
    assert number(unit, 0, N.Uint8Flags) == 1, "normalisation"
    mean, std = float_of(child(unit, 1), 0), float_of(child(unit, 1), 1)
    grid = network(arithmetic)[1].inputs[0].grid
    assert mean == grid.zero_point
    assert 1 / std == pytest.approx(float(grid.scale), rel=1e-6)
    if least is None:
        assert not field(taken, 5)
    else:
        assert [float_of(child(taken, 5), i) for i in (0, 1)] == [least + 255, least]
    (file,) = items(given, 6)
    assert (text(file, 0), number(file, 2, N.Int8Flags)) == (LABELS, 2)


def test_a_tflite_file_stays_sealed_and_named(tmp_path: Path) -> None:
    """Every tensor has a name, the signature those of the ends, and new metadata keep the archive."""
    for arithmetic in ("float", "fixed"):
        path = exported("TFLITE", tmp_path / "net.tflite", arithmetic)
        qat.target("TFLITE").write_metadata(path, {"graph": "other"})
        model = load(path).model
        assert all(tensor.name for tensor in model.subgraphs[0].tensors)
        (signature,) = model.signatureDefs
        assert signature.signatureKey == b"serving_default"
        assert [x.name for x in (*signature.inputs, *signature.outputs)] == [b"input", b"fc"]
        assert zipfile.ZipFile(path).read(LABELS).decode().splitlines() == list(NAMES)
        content = bytearray(path.read_bytes())
        content[content.rindex(b"bird")] ^= 1  # in the archive
        path.write_bytes(content)
        with pytest.raises(qat.QatError, match="not what its digest says"):
            load(path)


def test_an_onnx_file_describes_its_ends(tmp_path: Path) -> None:
    model = onnx.load(exported("ONNX", tmp_path / "net.onnx"))
    assert model.graph.input[0].doc_string == "NCHW, as it is"
    assert model.graph.output[0].doc_string == "NC, as it is"
    assert "Resize any other size to 12 x 12" in model.doc_string


def test_a_header_says_how_it_is_fed_once(tmp_path: Path) -> None:
    path = exported("C", tmp_path / "net.c", input_type="int8")
    header = path.with_suffix(".h").read_text()
    assert "Input input: int8 1 x 12 x 12 x 1 NHWC, value = pixel - 128." in header
    assert "#define NET_INPUT_SUBTRACT (128)" in header
    target, (checkpoint, _) = qat.target("C"), network("float")
    target.write_metadata(path, metadata_of(path, target, replace(checkpoint, class_names=()), "float"))
    again = path.with_suffix(".h").read_text()
    assert again.count("how to feed it ---- */") == 2
    assert "NET_CLASSES" in header
    assert "NET_CLASSES" not in again

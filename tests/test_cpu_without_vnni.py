"""x86 CPUs without VNNI, emulated by qemu-user: the form with uint8 weights gives equal codes there."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qat
from qat.networks import LeNet5

QEMU = shutil.which("qemu-x86_64")
CPU = "Haswell,-pcid,-x2apic,-tsc-deadline,-hle,-invpcid,-rtm"  # AVX2; less what the emulator does not have
RUN = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
numpy.save(sys.argv[3], session.run(None, {"input": numpy.load(sys.argv[2])})[0])
"""


@pytest.mark.skipif(
    QEMU is None or platform.machine() != "x86_64", reason="needs qemu-x86_64 (apt-get install qemu-user)"
)
def test_uint8_weights_are_exact_where_int8_weights_are_not(tmp_path: Path) -> None:
    graph = qat.convert_quant_network(LeNet5())
    params = graph.observed_params()
    # Large weights of one sign, so that sums of two products pass 16 bits.
    params["conv2.weight"] = np.abs(params["conv2.weight"])
    for name in ("conv1", "conv2", "fc1", "fc2"):
        params[f"{name}.fake_quant.max"] = np.float32(3.0)
    integers = qat.to_integer(graph, params)
    pixels = np.random.default_rng(0).integers(0, 256, (100, 1, 32, 32), np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    expected = qat.evaluate(integers, pixels)
    differ = {}
    for weights in ("int8", "uint8"):
        file, output = tmp_path / f"{weights}.onnx", tmp_path / f"{weights}.npy"
        qat.target("ONNX").export(integers, file, weights=weights)
        here = integers.output.grid.codes_of(qat.target("ONNX").predict(file, pixels))
        np.testing.assert_array_equal(here, expected) if weights == "uint8" else None
        command = [QEMU, "-cpu", CPU, sys.executable, "-c", RUN, file, tmp_path / "pixels.npy", output]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        differ[weights] = int((integers.output.grid.codes_of(np.load(output)) != expected).sum())
    assert differ["uint8"] == 0
    assert differ["int8"] > 0  # otherwise this test would show nothing

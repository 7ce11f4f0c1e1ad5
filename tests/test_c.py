"""C files: every code of the fixed profile equal when compiled for the host and for a microcontroller; memory; refusals."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cells import Everything
from test_integer import Chain, calibrated
from test_tflite import Windows, everything, one_node
from test_zoo import Setup, setups

import qat
from qat.arrays import Arrays, as_tuple
from qat.backends import c_target
from qat.data import Split
from qat.integer import IntegerGraph, trace_codes
from qat.memory import Buffer, activation_memory, plan_memory
from qat.networks import LeNet5
from qat.verify import export_verified, verify

C, TORCH = qat.target("C"), qat.backend("torch")
SANITIZERS = "-O1 -fsanitize=address,undefined -fno-sanitize-recover=all"


@pytest.fixture(autouse=True)
def _sanitized(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every access and every operation is checked."""
    monkeypatch.setenv("CFLAGS", SANITIZERS)


def differences(graph: IntegerGraph, path: Path, pixels: Arrays) -> list[str]:
    """Nodes and outputs of the file that differ from NumPy's integers, with how many codes."""
    tensors = [node.output for node in graph.nodes]
    reference = trace_codes(graph, pixels, [x.name for x in tensors], profile="fixed")
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
    """No code of any node differs."""
    C.export(setup.integer, folder / "net.c")
    assert differences(setup.integer, folder / "net.c", setup.pixels) == []


# -- whole networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("bits", [8, 5])
def test_lenet5(symmetric: bool, bits: int, tmp_path: Path) -> None:
    assert_equal(calibrated(LeNet5(), images=8, symmetric=(True, symmetric), num_bits=(8, bits)), tmp_path)


@pytest.mark.parametrize(
    "options",
    [{}, {"per_channel": False}, {"symmetric": True}, {"num_bits": (4, 6)}, {"symmetric": False}],
    ids=str,
)
@pytest.mark.parametrize("activation", ["hswish", "relu6"])
def test_every_kind_of_cell(activation: str, options: dict[str, Any], tmp_path: Path) -> None:
    """With affine weights too, whose centred codes may not fit into a byte."""
    assert_equal(everything(Everything(activation), **options), tmp_path)


def test_every_window_and_two_inputs_and_four_outputs(tmp_path: Path) -> None:
    assert_equal(everything(Windows()), tmp_path)


def test_random_networks(tmp_path: Path) -> None:
    """Drawn from all cells and settings; what the profile cannot hold is refused, and that is seldom."""
    counts: Counter[str] = Counter()

    @settings(max_examples=30, suppress_health_check=list(HealthCheck))
    @given(setups())
    def check(setup: Setup) -> None:
        graph = setup.integer
        try:
            C.export(graph, tmp_path / "network.c")
        except qat.QatError as error:
            counts["refused" if "would overflow int32" in str(error) else str(error)] += 1
            return
        found = differences(graph, tmp_path / "network.c", setup.pixels)
        assert not found, "\n".join([*found, setup.note])
        counts["equal"] += 1

    check()
    assert set(counts) <= {"equal", "refused"}
    assert counts["refused"] < 0.15 * counts.total(), counts

"""benchmarks/official_networks.py: its commands are understood, and what it makes of samples is what the commands read."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from benchmark_scripts import loaded
from PIL import Image

import qat
from qat.scripts import import_model


@pytest.fixture(scope="module")
def official() -> ModuleType:
    return loaded("official_networks")


def test_its_flags_are_those_of_the_command(official: ModuleType) -> None:
    parser = argparse.ArgumentParser()
    import_model.add_arguments(parser)
    for network in (*official.NETWORKS, official.LITE0):
        parser.parse_args(["--model", network.source, *network.flags, "--data_path", "d", "--ckpt_path", "c"])


def test_samples_are_converted_into_what_the_commands_read(official: ModuleType, tmp_path: Path) -> None:
    given = argparse.Namespace(data=str(tmp_path), models=str(tmp_path), photographs=str(tmp_path))
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "kws01", x=rng.integers(-128, 128, (6, 49, 10, 1), np.int8), y=np.arange(6) % 2)
    recordings = rng.normal(size=(4, 200 * 128)).astype(np.float32)
    np.savez(tmp_path / "ad01", x=recordings, y=np.array([0, 0, 1, 1]))
    specs = rng.normal(size=(6, 30, 1, 40)).astype(np.float32)
    np.savez(tmp_path / "calibration_samples", specs=specs, labels=np.arange(6.0) % 3)
    rows = ["file,class_index,class_name"]
    for number in range(50):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{2 * number},name {number}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    out = tmp_path / "out"
    out.mkdir()

    def read(name: str) -> qat.Dataset:
        return qat.data.load(official.samples_of(name, given, out))

    words = read("kws01.npz")
    assert (words.train.images.shape[1:], words.scale, words.zero_point) == ((1, 49, 10), pytest.approx(0.5847029), 83)
    sounds = read("ad01.npz")
    assert (sounds.train.images.shape, sounds.test.images.shape) == ((4 * 4, 640), (4 * 196, 640))
    np.testing.assert_array_equal(sounds.test.images[196 + 7], recordings[1, 7 * 128 : 12 * 128])
    assert (np.asarray(sounds.test.groups)[[0, 195, 196]] == [0, 0, 1]).all()
    wake = read("str_ww.npz")
    assert wake.train.images.shape[1:] == (40, 30)
    assert any(np.array_equal(wake.train.images[0], each[:, 0].T) for each in specs)
    stream = np.asarray(read("str_ww_stream.npz").test.images)
    assert stream.shape == (3 * (6 * 30 - 29), 40, 30)
    np.testing.assert_array_equal(stream[1:151, :, :-1], stream[:150, :, 1:])  # moves by one frame
    assert all(any(np.array_equal(window, each[:, 0].T) for each in specs) for window in stream[:151:30])
    few = read(f"photographs/{official.FEW}")  # which makes both of them
    pictures = read("photographs")
    assert (len(pictures.train), len(pictures.test), len(few.test)) == (10, 50, 2)
    assert np.asarray(pictures.test.labels)[:3].tolist() == [0, 2, 4]


def test_figures_are_read_from_what_commands_print(official: ModuleType) -> None:
    assert official.quality("AUC: 0.9119\nerror: 10.54\n") == pytest.approx(91.19)
    assert official.quality("note: x\nAccuracy: 87.00 on 100 pictures\n") == 87.0
    assert official.figure(r"([\d,]+) differ", "1,000 codes compared, 0 differ; 1,200 differ") == 1200
    exported = (
        "bytes\n1,200 codes compared in C, cc 12 (-std=c99 -O2), 1,001 differ\n"
        "1,200 codes compared in PyTorch, 0 differ from the float arithmetic, 3 from the fixed arithmetic"
    )
    assert official.compared([exported, exported.replace("1,001", "0")]) == (1200, [1001, 0])
    with pytest.raises(qat.QatError, match="no codes compared"):
        official.compared(["wrote a file"])
    with pytest.raises(qat.QatError, match="no 'x'"):
        official.figure("x", "nothing")

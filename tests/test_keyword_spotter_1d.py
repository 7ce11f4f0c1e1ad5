"""benchmarks/keyword_spotter_1d.py and its network: causal, over (C, L), the same codes in every file."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from benchmark_scripts import loaded
from calibrations import calibrate
from test_zoo import random_params

import qat
from qat.deploy.floats import export_float
from qat.integer import trace_codes
from qat.networks import DSCNN1d, create
from qat.training.recipe import Recipe

ARGS = argparse.Namespace(backend="torch", device_target="CPU")


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return loaded("keyword_spotter_1d")


@pytest.fixture(scope="module")
def kws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As kws01.npz: codes from 0 on rise along time, so that places can be told."""
    path = tmp_path_factory.mktemp("kws") / "kws01.npz"
    x = np.random.default_rng(0).integers(-128, 128, (40, 49, 10, 1), np.int8)
    x[:, :, 0, 0] = np.arange(49)
    np.savez(path, x=x, y=np.arange(40) % 12, names=np.array(["w"] * 40))
    return path


@pytest.mark.parametrize("arrays", [{}, {"x": np.zeros((5, 3)), "y": np.zeros(5)}])
def test_other_archives_are_refused(arrays: dict[str, np.ndarray], benchmark: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, **arrays)
    with pytest.raises(qat.QatError, match=r"other\.npz: .*give kws01\.npz") as error:
        benchmark.words_of(path)
    assert "\n" not in str(error.value)


def test_words_are_moved_and_mixed_and_each_fifth_is_a_test(benchmark: ModuleType, kws: Path) -> None:
    x, y = (np.load(kws)[name] for name in "xy")
    data = benchmark.words_of(kws, copies=3)
    train, test = np.asarray(data.train.images), np.asarray(data.test.images)
    assert (train.shape, train.dtype, test.shape) == ((96, 10, 49), np.int8, (9 * 8, 10, 49))
    assert (data.scale, data.zero_point) == (pytest.approx(0.5847029), 83)
    for place, by in enumerate(range(-4, 5)):  # the word later by so many frames, its first one repeated
        expected = x[::5, :, :, 0][:, np.clip(np.arange(49) - by, 0, 48)].transpose(0, 2, 1)
        np.testing.assert_array_equal(test[8 * place : 8 * place + 8], expected)
    assert data.test.labels.tolist() == y[::5].tolist() * 9
    known = np.arange(40) % 5 > 0
    assert data.train.labels.tolist() == y[known].tolist() * 3
    starts = train[:, 0, 10].astype(int) - 10
    assert (starts.min(), starts.max()) == (-5, 5)
    words = x[known][:, :, 1:, 0].transpose(0, 2, 1)
    for number, mixed in enumerate(train[:, 1:]):  # the larger part is the word whose label it has, somewhere in time
        own = [benchmark.moved(words[number % 32][None], np.array([by]))[0] for by in range(-5, 6)]
        assert max(np.corrcoef(mixed.ravel(), each.ravel())[0, 1] for each in own) > 0.6, number


def test_no_output_of_a_causal_convolution_sees_a_later_step() -> None:
    """All that comes before the mean over time, in integers too."""
    graph = create("ds_cnn1d").graph()
    rng = np.random.default_rng(0)
    params = random_params(graph, rng, frozenset())
    x = rng.normal(0, 1, (4, 10, 49)).astype(np.float32)
    checkpoint = calibrate(graph, params, x)
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    later = x.copy()
    later[:, :, 24:] += 1.0
    names = ["pool@picture", "blocks.1.pointwise@picture", "wide.1.pointwise@picture"]
    codes = [trace_codes(integers, each, names) for each in (x, later)]
    for name, seen in zip(names, (12, 12, 6), strict=True):
        one, other = (each[name] for each in codes)
        np.testing.assert_array_equal(one[..., :seen], other[..., :seen])
        assert (one[..., seen] != other[..., seen]).any(), name


def test_a_tiny_one_is_trained_and_no_code_of_its_file_differs(
    benchmark: ModuleType, kws: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "FILES", ("ONNX",))
    how = benchmark.Trained(Recipe(1, 24, lr=0.003), Recipe(1, 24, lr=0.001))
    data = benchmark.words_of(kws, copies=1)
    network = DSCNN1d(qat.Input((10, 49), **benchmark.CODES), width=4)
    rows = [*benchmark.measured(network.graph(), data, how, tmp_path, ARGS)]
    assert [(row.codes, row.differ) for row in rows] == [(72 * 12, 0)] * 2
    assert [row.engine.split()[0] for row in rows] == ["ONNX", "PyTorch"]
    assert (tmp_path / "words.onnx").exists()


@pytest.mark.sweep
def test_every_file_after_lessons_of_a_teacher(benchmark: ModuleType, kws: Path, tmp_path: Path) -> None:
    teacher = create("ds_cnn").graph()
    taught = qat.networks.DSCNN(input=qat.Input((1, 49, 10), dtype="float32")).graph()
    assert teacher.outputs == taught.outputs
    export_float(qat.target("TFLITE"), taught, taught.initial_params(0), tmp_path / "teacher.tflite")
    how = benchmark.Trained(Recipe(1, 24, lr=0.003), Recipe(1, 24, lr=0.001))
    network = DSCNN1d(qat.Input((10, 49), **benchmark.CODES), width=8)
    data = benchmark.words_of(kws, copies=1)
    rows = [*benchmark.measured(network.graph(), data, how, tmp_path, ARGS, tmp_path / "teacher.tflite")]
    assert [(row.codes, row.differ) for row in rows] == [(72 * 12, 0)] * 4

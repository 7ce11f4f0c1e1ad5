"""benchmarks/post_training.py: the network that other tools are given is ours, and the table says what was measured."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from benchmark_scripts import loaded

import qat
from qat.errors import QatError

torch = pytest.importorskip("torch")


class Tiny(qat.Network):
    """Every cell that has a plain module: a padding whose sides differ, groups, batch normalisations, an addition."""

    def __init__(self) -> None:
        self.inputs = qat.Input((3, 8, 8), mean=0.4, std=0.3)
        self.conv = qat.Conv2dBnAct(3, 4, 3, stride=2, pad_mode="same", has_bn=True, activation="relu6")
        self.depthwise = qat.Conv2dBnAct(4, 4, 3, group=4, has_bn=True, activation="relu")
        self.linear = qat.Conv2dBnAct(4, 4, 1, has_bias=True)
        self.pool = qat.AvgPool2d(2)
        self.globally = qat.GlobalAvgPool2d()
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(4, 5)
        self.softmax = qat.Softmax()

    def construct(self, x):
        x = self.conv(x)
        x = x + self.linear(self.depthwise(x))
        return self.softmax(self.fc(self.flatten(self.globally(self.pool(x)))))


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")  # it imports another one
        return loaded("post_training")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A float checkpoint and a data set."""
    folder, rng, graph = tmp_path_factory.mktemp("given"), np.random.default_rng(0), Tiny().graph()
    params = {
        name: np.abs(rng.normal(1.0, 0.2, array.shape)).astype(np.float32) if array.ndim == 1 else 2 * array
        for name, array in graph.initial_params(0).items()
    }
    qat.Checkpoint(graph, params).save(folder / "tiny.ckpt")
    images = rng.integers(0, 256, (60, 3, 8, 8), np.uint8)
    data = {"x_train": images[:24], "y_train": np.arange(24) % 5, "x_test": images[24:], "y_test": np.arange(36) % 5}
    np.savez(folder / "tiny.npz", **data)
    return str(folder / "tiny.ckpt"), str(folder / "tiny.npz")


def arguments(benchmark: ModuleType, given: tuple[str, str], *flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    return parser.parse_args(["--ckpt_path", given[0], "--data_path", given[1], *flags])


def test_the_table_has_what_was_measured(
    benchmark: ModuleType, given: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--tools", "qat", "--images", "16", "--evaluated", "30", "--only", "defaults", "min", "nearest")
    benchmark.compare(arguments(benchmark, given, *flags), tmp_path)
    printed = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if " | " in line]
    floats, *rows = printed
    assert floats[:3] + floats[4:6] == ["float", "", "32/32", "100.00 %", "-"]
    assert {(row[1], row[2]) for row in rows} >= {
        (x, y) for x in ("defaults", "nearest codes", "min/max") for y in benchmark.WIDTHS
    }
    found = {tuple(row[:3]): float(row[5].removesuffix(" dB")) for row in rows}
    assert found["qat", "min/max", "8/8"] > found["qat", "min/max", "4/8"] > 5.0
    # The same figure from the integers, by NumPy.
    checkpoint = qat.Checkpoint.load(given[0])
    graph = benchmark.logits_graph(checkpoint.graph)
    data = np.load(given[1])
    chosen = np.sort(np.random.default_rng(0).permutation(24)[:16])
    plain = {"method": "minmax", "equalize": False, "bias_correction": False, "rounding": "nearest"}
    made = qat.calibrate(graph, checkpoint.params, data["x_train"][chosen], **plain)
    tested = data["x_test"][np.linspace(0, 35, 30).astype(int)]
    integers = qat.to_integer(made.graph, made.params)
    outputs = integers.outputs[0].grid.dequantize(qat.evaluate(integers, tested))
    backend = qat.backend("torch")
    expected = benchmark.sqnr(backend.predict(backend.lower(graph, checkpoint.params), tested), outputs)
    assert found["qat", "min/max", "8/8"] == pytest.approx(expected, abs=0.006)  # two decimals are printed


def test_a_tool_that_is_not_installed_is_named(
    benchmark: ModuleType,
    given: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(benchmark.PACKAGES, "mct", ("there_is_none_of_this_name",))
    benchmark.compare(arguments(benchmark, given, "--tools", "mct", "--widths", "8/8"), tmp_path)
    assert "mct | not installed: pip install model-compression-toolkit | 8/8 | -" in capsys.readouterr().out


def test_other_tools_get_the_same_network(benchmark: ModuleType, given: tuple[str, str], tmp_path: Path) -> None:
    """Within 1e-5 of the largest output; with a weight that is 1 % larger the benchmark stops."""
    checkpoint = qat.Checkpoint.load(given[0])
    graph, images = benchmark.logits_graph(checkpoint.graph), np.load(given[1])["x_test"]
    entry = graph.inputs[0].cell
    module = benchmark.plain_module(graph, checkpoint.params)
    expected = qat.backend("torch").predict(qat.backend("torch").lower(graph, checkpoint.params), images)
    found = benchmark.in_batches(module, entry.real_numbers(images))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    whole = benchmark.plain_module

    def wrong(graph, params):
        module = whole(graph, params)
        with torch.no_grad():
            module.fc_linear.weight *= 1.01
        return module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "plain_module", wrong)
        with pytest.raises(QatError, match="PyTorch's layers give other outputs, 4"):
            benchmark.compare(arguments(benchmark, given, "--tools", "qat"), tmp_path)


def test_a_cell_without_a_plain_module_is_refused(benchmark: ModuleType) -> None:
    class Pooled(qat.Network):
        inputs = qat.Input((1, 4, 4))

        def __init__(self) -> None:
            self.pool = qat.MaxPool2d(2)

        def construct(self, x):
            return self.pool(x)

    with pytest.raises(QatError, match="pool: MaxPool2d has no plain module here"):
        benchmark.plain_module(Pooled().graph(), {})


def test_photographs_are_split_by_seed(benchmark: ModuleType, tmp_path: Path) -> None:
    rows = ["file,class_index,class_name", *(f"{number}.png,{2 * number},name" for number in range(20))]
    (tmp_path / "labels.csv").write_text("\n".join(rows))

    def split(seed: int) -> list[list[str]]:
        benchmark.split_photographs(tmp_path, tmp_path, 8, seed)
        return [(tmp_path / f"{name}.csv").read_text().splitlines()[1:] for name in ("train", "test")]

    train, test = split(0)
    assert (len(train), len(test), len({*train, *test})) == (8, 12, 20)
    assert split(0) == [train, test]
    assert split(1) != [train, test]
    assert f"{(tmp_path / '3.png').resolve()},6" in {*train, *test}


def test_what_was_kept_is_not_measured_again(
    benchmark: ModuleType, given: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--tools", "qat", "--widths", "8/8", "--only", "min", "--keep", str(tmp_path / "kept.json"))
    benchmark.compare(arguments(benchmark, given, *flags), tmp_path)
    first = capsys.readouterr().out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qat, "calibrate", None)
        benchmark.compare(arguments(benchmark, given, *flags), tmp_path)
    assert capsys.readouterr().out == first
    with pytest.raises(QatError, match="was measured of"):
        benchmark.compare(arguments(benchmark, given, *flags, "--images", "8"), tmp_path)

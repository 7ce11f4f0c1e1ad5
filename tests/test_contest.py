"""The compression contest: score, table, and one checkpoint an epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import qat
from qat.analysis.score import Measured, score
from qat.analysis.timing import Times, alternate
from qat.cli import main
from qat.data.picture_rows import Pictures
from qat.networks import LeNet3x3, create
from qat.scripts.common.contest import measure


def measured(name: str, accuracy: float, milliseconds: list[float], params: int, macs: int) -> Measured:
    return Measured(name, accuracy, Times(np.array(milliseconds)), params, macs)


REFERENCE = measured("LeNet-5", 0.980, [0.055] * 5, 60_000, 206_000)


def test_the_score_is_the_documents_formula() -> None:
    """Its example, with the columns of its table the right way round."""
    result = score(REFERENCE, measured("YourNet", 0.986, [0.049] * 5, 13_000, 61_000))
    expected = 60 + 0.006 * 2000 + (0.055 - 0.049) / 0.055 * 50 + (60 - 13) / 13 * 2 + (206 - 61) / 61 * 2
    assert result.worse == ()
    assert result.uncapped == pytest.approx(expected, abs=1e-9)
    assert result.points == pytest.approx(expected, abs=1e-9)
    assert result.points == pytest.approx(89.5, abs=0.1)  # what the document gives, of rounded figures


def test_the_score_is_capped() -> None:
    result = score(REFERENCE, measured("small", 0.99, [0.02] * 5, 1_000, 30_000))
    assert result.uncapped > 180
    assert result.points == 100


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (measured("a", 0.979, [0.05] * 5, 100, 100), "accuracy 97.90 % < 98.00 %"),
        (measured("a", 0.99, [0.056] * 5, 100, 100), "time 1.02 times"),
        (measured("a", 0.99, [0.05] * 5, 60_001, 100), "parameters 60,001 > 60,000"),
        (measured("a", 0.99, [0.05] * 5, 100, 206_001), "MACs 206,001 > 206,000"),
    ],
)
def test_an_item_that_is_worse_makes_it_nothing_and_is_named(model: Measured, words: str) -> None:
    result = score(REFERENCE, model)
    assert (result.uncapped, result.points) == (0, 0)
    assert len(result.worse) == 1
    assert words in result.worse[0]


def test_a_time_within_the_spread_is_not_worse() -> None:
    noisy = measured("a", 0.99, [0.050, 0.054, 0.058, 0.062, 0.066], 100, 100)
    assert score(REFERENCE, noisy).worse == ()


def test_equal_is_not_worse() -> None:
    assert score(REFERENCE, REFERENCE).uncapped == 60


def test_calls_take_turns_and_the_first_are_not_counted() -> None:
    order: list[str] = []
    times = alternate({name: lambda name=name: order.append(name) for name in "ab"}, blocks=3, repeats=2, warm_up=1)
    assert "".join(order) == "aabb" * 4
    assert {name: own.seconds.shape for name, own in times.items()} == {"a": (3,), "b": (3,)}
    ratios = times["a"].over(times["b"])
    np.testing.assert_array_equal(ratios.seconds, times["a"].seconds / times["b"].seconds)
    assert Times(np.array([1.0, 2.0, 3.0, 4.0, 9.0])).quartiles == (2.0, 4.0)
    assert Times(np.array([1.0, 2.0, 3.0, 4.0, 9.0])).median == 3.0


COMMON = ["--data_path", "digits", "--batch-size", "128"]


def test_an_epoch_is_a_checkpoint_and_any_can_be_gone_on_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["train-lenet5", *COMMON, "--checkpoint-dir", str(whole), "--epoch-end", "3"]) == 0
    assert sorted(path.name for path in whole.glob("*.ckpt")) == [f"epoch-{i}.ckpt" for i in range(3)]
    assert main(["train-lenet5", *COMMON, "--checkpoint-dir", str(parts), "--epoch-end", "1"]) == 0
    again = ["--epoch-start", "1", "--last-checkpoint", str(parts / "epoch-0.ckpt"), "--epoch-end", "3"]
    assert main(["train-lenet5", *COMMON, "--checkpoint-dir", str(parts), *again]) == 0
    ends = [qat.Checkpoint.load(folder / "epoch-2.ckpt") for folder in (whole, parts)]
    for name, array in ends[0].params.items():
        np.testing.assert_array_equal(array, ends[1].params[name])
    assert ends[0].graph == LeNet3x3().graph()
    capsys.readouterr()
    assert main(["test-lenet5", *COMMON, "--best-checkpoint", str(whole / "epoch-2.ckpt"), "--blocks", "2"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "epoch-2" in line)
    assert "0.0601" in row  # parameters in millions
    assert "0.2060" in row  # MACs


def test_a_stage_ends_and_the_next_begins_within_the_epochs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The float epochs, then the quantized ones, in one go or stopped in each; all the same bits."""
    from qat.scripts import train_yournet

    monkeypatch.setattr(train_yournet, "FLOAT_EPOCHS", 2)
    monkeypatch.setattr(train_yournet, "QUANTIZED_EPOCHS", 2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    common = ["train-yournet", *COMMON, "--hold_back", "200"]
    assert main([*common, "--checkpoint-dir", str(whole)]) == 0
    for start in range(4):
        own = ["--checkpoint-dir", str(parts), "--epoch-start", str(start), "--epoch-end", str(start + 1)]
        own += ["--last-checkpoint", str(parts / f"epoch-{start - 1}.ckpt")] if start else []
        assert main([*common, *own]) == 0
    for epoch, quantized in enumerate((False, False, True, True)):
        one, other = (qat.Checkpoint.load(folder / f"epoch-{epoch}.ckpt") for folder in (whole, parts))
        assert one.graph.is_quantized == quantized
        for name, array in one.params.items():
            np.testing.assert_array_equal(array, other.params[name])
    capsys.readouterr()
    assert main(["test-yournet", *COMMON, "--best-checkpoint", str(whole / "epoch-3.ckpt"), "--blocks", "1"]) == 0
    assert "0.0012" in capsys.readouterr().out  # parameters in millions
    pair = ["--reference", str(whole / "epoch-1.ckpt"), "--model", str(whole / "epoch-1.ckpt")]
    result = ["--result_path", str(tmp_path / "result.txt")]
    assert main(["score", *pair, "--data_path", "digits", "--blocks", "3", "--runtime", "torch", *result]) in (0, 1)
    printed = capsys.readouterr().out
    written = (tmp_path / "result.txt").read_text()
    score_line = next(line for line in printed.splitlines() if line.startswith("score:"))
    assert score_line in written
    trained = f"train_yournet.py --checkpoint-dir {whole} --epoch-end 2 --seed 0 --device cpu --data_path digits"
    assert f"{trained} --batch-size 128\n" in written
    assert "epoch-1.ckpt --device cpu --data_path digits --batch-size 64\n" in written
    assert "in one run: torch, 3 passes each." in written
    assert main(["score", *pair, "--data_path", "digits", "--result_path", pair[1]]) == 2
    assert "--result_path and --model name the same file" in capsys.readouterr().err
    assert len([line for line in written.splitlines() if line.startswith("# ")]) == 6, "the contest's headings"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch-start", "1"], "with a start of N + 1 give --last-checkpoint"),
        (["--last-checkpoint", "x.ckpt"], "with a start of N + 1 give --last-checkpoint"),
        (["--epoch-start", "3", "--epoch-end", "3"], "nothing lies between them; let the end be larger"),
        (["--epoch-end", "0"], "nothing lies between them"),
        (["--epoch-start", "-1"], "use 0 <= start < end"),
        (["--epoch-start", "1", "--last-checkpoint", "nowhere.ckpt"], "nowhere.ckpt: cannot be read"),
    ],
)
def test_a_wrong_epoch_is_refused_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train-lenet5", *COMMON, "--checkpoint-dir", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_epoch_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ["--checkpoint-dir", str(tmp_path)]
    assert main(["train-lenet5", *COMMON, *folder, "--epoch-end", "1"]) == 0
    wrong = ["--epoch-start", "2", "--epoch-end", "3", "--last-checkpoint", str(tmp_path / "epoch-0.ckpt")]
    assert main(["train-lenet5", *COMMON, *folder, *wrong]) == 2
    assert "is of epoch 0, but --epoch-start 2 goes on from epoch-1.ckpt" in capsys.readouterr().err


def test_a_later_stage_begins_at_the_end_of_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from qat.scripts import train_yournet

    monkeypatch.setattr(train_yournet, "FLOAT_EPOCHS", 2)
    folder = ["--checkpoint-dir", str(tmp_path)]
    assert main(["train-yournet", *COMMON, *folder, "--epoch-end", "1"]) == 0
    wrong = ["--epoch-start", "2", "--epoch-end", "3", "--last-checkpoint", str(tmp_path / "epoch-0.ckpt")]
    assert main(["train-yournet", *COMMON, *folder, *wrong]) == 2
    assert "has 1 epoch of its part" in capsys.readouterr().err
    assert not (tmp_path / "epoch-2.ckpt").exists()


def test_pictures_are_in_memory_before_passes_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 20 * number, np.uint8)).save(path)
    graph = create("lenet").graph()
    qat.Checkpoint(graph, graph.initial_params()).save(tmp_path / "a.ckpt")
    read, plain = [], Pictures.read
    monkeypatch.setattr(Pictures, "read", lambda rows, number: (read.append(number), plain(rows, number))[1])
    measure([str(tmp_path / "a.ckpt")], str(tmp_path / "data"), runtime="torch", batch_size=2, blocks=2)
    assert read == [0, 1]

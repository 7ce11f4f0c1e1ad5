"""What a calibration chooses by itself: the candidate that errs least on held-back images, said, and never silently bad."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibrations import PLAIN, PLAIN_FLAGS

import qat
from qat.analysis.calibration import _Work
from qat.analysis.choosing import CANDIDATES, FEWEST, MOMENTS, MOST_HELD, NEAREST, Judge, held_back
from qat.analysis.ranges import METHODS, Observed
from qat.cli import main
from qat.errors import QatError, QatWarning
from qat.networks import LeNet5
from qat.training.checkpoint import Checkpoint
from qat.vocabulary.arrays import batches_of
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array
from qat.vocabulary.rows import Rows


class Pair(qat.Network):
    """Two dense cells."""

    inputs = qat.Input((8,), std=0.5)

    def __init__(self) -> None:
        self.first = qat.DenseBnAct(8, 16, activation="relu")
        self.second = qat.DenseBnAct(16, 5, has_bias=False)

    def construct(self, x: Any) -> Any:
        return self.second(self.first(x))


PARAMS = Pair().graph().initial_params(1)
IMAGES = np.random.default_rng(0).integers(0, 256, (60, 8), np.uint8)


def chosen(images: Array = IMAGES, params: Any = PARAMS, network: Any = None, **settings: Any) -> Checkpoint:
    return qat.calibrate(network or Pair(), params, images, ops=NUMPY_OPS, **settings)


def record_of(checkpoint: Checkpoint) -> Any:
    return checkpoint.history[0]["calibration"]


@pytest.mark.parametrize("bias_correction", [True, False])
@pytest.mark.parametrize("equalize", [True, False])
@pytest.mark.parametrize("method", CANDIDATES)
def test_each_candidate_is_taken_where_it_errs_least(
    method: str, equalize: bool, bias_correction: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The errors are made up; what comes out is what the setting gives by itself."""
    tried: dict[int, tuple[str, bool]] = {}
    kept = []  # so that no id is used twice
    find, correct = Observed.with_ranges, _Work.corrected

    def with_ranges(self: Observed, name: str, percentile: float) -> Any:
        found = find(self, name, percentile)
        kept.append(found)
        tried[id(found)] = name, bool(np.any(self.params["first.weight"] != PARAMS["first.weight"]))
        return found

    def error(self: Judge, params: Any) -> float:
        if id(params) not in tried:  # of corrected biases
            return 1.5 - bias_correction
        return 1.0 if correcting else 0.25 + (tried[id(params)] != (method, equalize))

    def corrected(self: _Work, *given: Any) -> Any:
        nonlocal correcting
        correcting = True
        return correct(self, *given)

    correcting = False
    monkeypatch.setattr(Observed, "with_ranges", with_ranges)
    monkeypatch.setattr(Judge, "error", error)
    monkeypatch.setattr(_Work, "corrected", corrected)
    record = record_of(chosen(rounding=NEAREST))
    assert (record["method"], record["equalize"], record["bias_correction"]) == (method, equalize, bias_correction)
    assert [each["chosen"] for each in record["decisions"]] == [
        method,
        "yes" if equalize else "no",
        "yes" if bias_correction else "no",
    ]
    assert record["decisions"][0]["sqnr"][method] == round(10 * math.log10(4.0), 2)


def test_one_image_like_no_other_does_not_decide_the_ranges() -> None:
    """Its numbers are four times as large as all others."""
    images = np.random.default_rng(1).integers(96, 160, (4000, 8), np.uint8)
    used, _ = held_back(np.arange(len(images)))
    images[used[0]] = 255
    params = PARAMS | {"first.bias": -PARAMS["first.weight"].sum(axis=1) * np.float32(256 / 255)}  # 128 becomes 0
    found = chosen(images, params, num_bits=(8, 4), rounding=NEAREST)
    plain = chosen(images, params, num_bits=(8, 4), **PLAIN)
    assert record_of(found)["method"] != "minmax"
    others = np.delete(images, used[0], axis=0)[:200]
    errors = [qat.diagnose(x.graph, x.params, others, ops=NUMPY_OPS).outputs[0].sqnr for x in (found, plain)]
    assert errors[0] > errors[1] + 2.0


def test_the_error_is_that_of_its_formula() -> None:
    plain = chosen(**PLAIN, num_bits=(4, 4))
    batches = batches_of(IMAGES[:20], plain.graph.input_specs, 7, "Pair")
    judge = Judge(plain.graph, plain.params, batches, NUMPY_OPS)
    integers = qat.to_integer(plain.graph, plain.params)
    q = qat.evaluate(integers, IMAGES[:20]).astype(np.float64)
    grid = integers.outputs[0].grid
    q = (q - grid.zero_point) * float(grid.scale)
    x = IMAGES[:20].astype(np.float64) / 255 / 0.5
    f = np.maximum(x @ PARAMS["first.weight"].T + PARAMS["first.bias"], 0.0) @ PARAMS["second.weight"].T
    expected = ((f - q) ** 2).sum() / (f**2).sum()
    assert judge.error(plain.params) == pytest.approx(expected, rel=1e-4)
    assert judge.error(plain.params | {"second.weight": plain.params["second.weight"] * 1.1}) > 1.05 * expected
    assert judge.images == 20


class Several(qat.Network):
    """Two outputs of unlike size, one of them a softmax, and one that is always 0."""

    inputs = qat.Input((8,), std=0.5)

    def __init__(self) -> None:
        self.first = qat.DenseBnAct(8, 16, activation="relu")
        self.small = qat.DenseBnAct(16, 3)
        self.classes = qat.DenseBnAct(16, 4)
        self.zero = qat.DenseBnAct(16, 2)
        self.softmax = qat.Softmax()

    def construct(self, x: Any) -> Any:
        x = self.first(x)
        return self.small(x), self.softmax(self.classes(x)), self.zero(x)


def test_outputs_count_alike_logits_in_place_of_a_softmax() -> None:
    params = Several().graph().initial_params(0)
    params["small.weight"] *= np.float32(1e-3)
    params["zero.weight"] *= np.float32(0.0)
    found = chosen(params=params, network=Several(), num_bits=(4, 4))
    decisions = record_of(found)["decisions"]
    assert [each["setting"] for each in decisions] == ["method", "equalize", "rounding", "bias_correction"]
    assert all(0.0 < x < 60.0 for each in decisions for x in each["sqnr"].values())
    plain = chosen(params=params, network=Several(), num_bits=(4, 4), **PLAIN)
    judge = Judge(plain.graph, plain.params, batches_of(IMAGES, plain.graph.input_specs, 60, "Several"), NUMPY_OPS)
    before = judge.error(plain.params)
    doubled = plain.params | {"small.weight": plain.params["small.weight"] * 2.0}
    assert judge.error(doubled) == pytest.approx(before + 1 / 3, rel=0.4)  # an error as large as the small output
    assert math.isfinite(before)


def test_what_is_asked_for_is_obeyed() -> None:
    for method in METHODS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", QatWarning)
            given = record_of(chosen(method=method))
        assert given["method"] == method
        assert [each["setting"] for each in given["decisions"]] == ["equalize", "rounding", "bias_correction"]
    values = {"equalize": (True, False), "bias_correction": (True, False), "rounding": (NEAREST, MOMENTS)}
    for setting, each in values.items():
        for value in each:
            given = record_of(chosen(**{setting: value}))
            assert given[setting] == value
            assert setting not in [each["setting"] for each in given["decisions"]]
    whole = record_of(chosen(**PLAIN))
    assert (whole["decisions"], whole["held_back"]) == ([], 0)


def test_ranges_are_those_of_all_images_whatever_was_held_back() -> None:
    images = IMAGES.copy()
    _, held = held_back(np.arange(len(images)))
    images[held[0]] = np.where(
        PARAMS["first.weight"][3] > 0, 255, 0
    )  # the largest number, in an image that is held back
    found, plain = chosen(images, method="minmax", equalize=False), chosen(images, **PLAIN)
    assert found.params["first.fake_quant.max"] == plain.params["first.fake_quant.max"]


@pytest.mark.parametrize("num_bits", [(8, 8), (4, 8)])
def test_what_was_chosen_gives_the_same_bits_when_it_is_asked_for(num_bits: tuple[int, int]) -> None:
    """So what is chosen by a part of the images is then done with all of them."""
    found = chosen(num_bits=num_bits)
    settings = {name: record_of(found)[name] for name in ("method", "equalize", "rounding", "bias_correction")}
    again = chosen(num_bits=num_bits, **settings)
    assert (record_of(found)["held_back"], record_of(again)["held_back"]) == (15, 0)
    assert found.graph == again.graph
    assert all(np.array_equal(found.params[name], array) for name, array in again.params.items())


def test_few_images_choose_nothing() -> None:
    found, plain = chosen(IMAGES[: FEWEST - 1]), chosen(IMAGES[: FEWEST - 1], **PLAIN)
    record = record_of(found)
    assert (record["images"], record["held_back"], record["decisions"]) == (FEWEST - 1, 0, [])
    assert found.graph == plain.graph
    assert all(np.array_equal(found.params[name], array) for name, array in plain.params.items())
    assert record_of(chosen(IMAGES[:FEWEST]))["decisions"]
    assert record_of(chosen(IMAGES[: FEWEST - 1], equalize=True))["equalize"] is True


def test_a_choice_repeats_and_the_history_says_it(tmp_path: Path) -> None:
    first, second = chosen(), chosen()
    assert first.history == second.history
    assert all(np.array_equal(first.params[name], array) for name, array in second.params.items())
    first.save(tmp_path / "a.ckpt")
    record = record_of(Checkpoint.load(tmp_path / "a.ckpt"))
    assert record == record_of(first)
    assert (record["images"], record["held_back"]) == (60, 15)
    assert all(
        set(each["sqnr"]) in ({"yes", "no"}, set(CANDIDATES), {NEAREST, MOMENTS}) for each in record["decisions"]
    )


def test_biases_that_take_nothing_are_not_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "qat.analysis.calibration.correct_biases", lambda graph, own, *_: own
    )  # equal: the first is taken
    found = chosen()
    assert record_of(found)["bias_correction"] is False
    assert found.graph == qat.convert_quant_network(Pair())
    assert set(found.params) == set(found.graph.params)


def test_images_that_are_held_back_are_others() -> None:
    class Numbers(Rows):
        shape, dtype = (1000, 1), np.dtype(np.int64)

        def read(self, number: int) -> Array:
            return np.array([number])

    for images in (np.arange(1000)[:, None], Numbers()):
        used, held = held_back(images)
        assert (len(used), len(held)) == (1000 - MOST_HELD, MOST_HELD)
        assert sorted([*used[:][:, 0], *held[:][:, 0]]) == [*range(1000)]
    several = held_back((np.arange(20), np.arange(20) * 2))
    assert all(np.array_equal(a * 2, b) for a, b in several)


def test_ranges_that_ruin_a_network_are_said() -> None:
    with pytest.warns(QatWarning, match=r"^Pair: with ranges of the method percentile the outputs have") as found:
        chosen(method="percentile", percentile=75.0)
    assert len(found) == 1
    assert "\n" not in str(found[0].message)
    with pytest.warns(QatWarning, match="name no method"):
        chosen(**PLAIN | {"method": "percentile"}, percentile=75.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen(method="minmax")
        chosen(method="mse")
        chosen(percentile=75.0)  # is tried and not taken
        chosen(method="percentile", percentile=99.9, num_bits=16)  # far below minmax, but good


def test_the_command_says_what_it_chose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = LeNet5().graph()
    Checkpoint(graph, graph.initial_params()).save(tmp_path / "a.ckpt")
    command = ["calibrate", "--data_path", "digits", "--ckpt_path", str(tmp_path / "a.ckpt")]
    assert main([*command, "--images", "40"]) == 0
    out = capsys.readouterr().out
    assert "Chosen by the outputs' SQNR on 10 of 40 images" in out
    assert max(len(line) for line in out.splitlines() if "saved" not in line) <= 80
    for setting in ("method", "equalize", "rounding", "bias_correction"):
        assert setting in out
    assert out.count("chosen") == 4
    record = record_of(Checkpoint.load(tmp_path / "a_calibrated.ckpt"))
    assert (record["images"], record["seed"], record["held_back"]) == (40, 0, 10)
    assert main([*command, "--images", "8", "--method", "auto"]) == 0
    assert "8 images are too few to choose settings by" in capsys.readouterr().out
    assert main([*command, "--images", "40", *PLAIN_FLAGS, "--equalize"]) == 0
    assert "Chosen" not in capsys.readouterr().out
    record = record_of(Checkpoint.load(tmp_path / "a_calibrated.ckpt"))
    assert (record["method"], record["equalize"], record["bias_correction"]) == ("minmax", True, False)
    assert main([*command, "--equalize", "maybe"]) == 2
    assert "neither true nor false" in capsys.readouterr().err


def test_a_setting_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(QatError, match="calibrate has no setting 'bias_corection', perhaps bias_correction is meant"):
        chosen(bias_corection=True)
    with pytest.raises(QatError, match="calibrate has no setting 'num_bit', perhaps num_bits is meant"):
        chosen(num_bit=4)


def test_a_percentile_of_another_method_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = LeNet5().graph()
    Checkpoint(graph, graph.initial_params()).save(tmp_path / "a.ckpt")
    command = ["calibrate", "--data_path", "digits", "--ckpt_path", str(tmp_path / "a.ckpt"), "--images", "8"]
    assert main([*command, "--method", "mse", "--percentile", "99"]) == 2
    assert "--percentile is of the method of that name" in capsys.readouterr().err

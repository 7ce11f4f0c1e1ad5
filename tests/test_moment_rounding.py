"""Rounding by moments: what it is computed from, its formula, that errors fall, and what is left alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibrations import calibrate
from test_rounding import IMAGES, PARAMS, Small

import qat
from qat.analysis import moment_rounding
from qat.analysis.agreement import Agreement
from qat.analysis.compensation import Compensation
from qat.analysis.moment_rounding import DAMPINGS, Moment, made_up_for, steadiest, with_moments
from qat.analysis.paused_pass import PausedPass, code_ends
from qat.cells.chosen_codes import weight_grid
from qat.cli import main
from qat.errors import QatError, QatWarning
from qat.training.forward import IDLE, NodeLoop
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array
from qat.vocabulary.values import Value

DAMPING = 0.01

MOMENTS: dict[str, Any] = {"rounding": "moments", "num_bits": (3, 8)}


@pytest.mark.parametrize(
    ("cell", "shape"),
    [
        (qat.Conv2dBnAct(3, 4, 3, stride=2), (3, 8, 7)),
        (qat.Conv2dBnAct(4, 6, (3, 2), pad_mode="pad", padding=(1, 0, 2, 1), dilation=(1, 2), group=2), (4, 6, 6)),
        (qat.Conv2dBnAct(4, 4, 3, group=4, pad_mode="valid"), (4, 5, 5)),
        (qat.Conv1dBnAct(3, 5, 3, stride=2), (3, 9)),
        (qat.DenseBnAct(7, 3), (7,)),
    ],
    ids=["same", "groups", "depthwise", "series", "dense"],
)
def test_outputs_are_weighted_sums_of_the_rows(cell: Any, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=size).astype(np.float32) for size in ((3, *shape), cell.weight_shape))
    y = cell.apply(NUMPY_OPS, x, shape, w, None)
    rows = cell.input_rows(x, shape, 10**6)
    found = rows @ w.reshape(len(rows), -1, rows.shape[2]).swapaxes(1, 2)  # groups, N places, outputs of each
    expected = y.reshape(3, len(w), -1).transpose(0, 2, 1).reshape(-1, len(rows), len(w) // len(rows)).swapaxes(0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_of_large_pictures_some_places_are_taken() -> None:
    cell, x = qat.Conv2dBnAct(1, 1, 3), np.random.default_rng(0).normal(size=(2, 1, 40, 40)).astype(np.float32)
    all_rows, some = (cell.input_rows(x, (1, 40, 40), places) for places in (1600, 100))
    assert (all_rows.shape, some.shape) == ((1, 3200, 9), (1, 200, 9))
    np.testing.assert_array_equal(some.reshape(2, 10, 10, 9), all_rows.reshape(2, 40, 40, 9)[:, ::4, ::4])


def test_of_long_series_too() -> None:
    cell, x = qat.Conv1dBnAct(1, 1, 3), np.random.default_rng(0).normal(size=(2, 1, 1600)).astype(np.float32)
    all_rows, some = (cell.input_rows(x, (1, 1600), places) for places in (1600, 100))
    assert (all_rows.shape, some.shape) == ((1, 3200, 3), (1, 200, 3))
    np.testing.assert_array_equal(some.reshape(2, 100, 3), all_rows.reshape(2, 1600, 3)[:, ::16])


def given(inputs: int, outputs: int = 5, groups: int = 2, seed: int = 0) -> tuple[Array, Array, tuple[Array, ...]]:
    """Weights in steps, moments of inputs that go together, and what else ``Compensation`` takes: all weights are free."""
    rng = np.random.default_rng(seed)
    position = rng.uniform(-3.4, 3.4, (groups, outputs, inputs))
    x = rng.normal(size=(groups, 500, inputs)) + rng.normal(size=(groups, 500, 1)) * 2.0
    one = np.ones_like(position)
    return position, x.swapaxes(1, 2) @ x / 500, (one > 0, 0.0 * one, -4.0 * one, 3.0 * one)


def error(position: Array, codes: Array, moments: Array) -> Array:
    """Of each output the mean of ((w - q) x)^2."""
    off = position - codes
    found: Array = np.einsum("goi,gij,goj->go", off, moments, off)
    return found


@pytest.mark.parametrize("inputs", [9, 300])  # the latter in several blocks of columns
def test_codes_are_those_of_the_formula(inputs: int) -> None:
    """Frantar et al., equations 2 and 3: one weight after another, and its row and column leave the inverse by elimination."""
    position, moments, rest = given(inputs, outputs=2, groups=1)
    found = Compensation(moments, DAMPING).codes(position, *rest)
    damped = moments[0] + DAMPING * np.trace(moments[0]) / inputs * np.eye(inputs)
    for row, codes, rounded in zip(position[0].copy(), found.codes[0], found.position[0], strict=True):
        inverse = np.linalg.inv(damped)
        for j in np.argsort(-np.diag(moments[0]), kind="stable"):
            code = np.clip(np.rint(row[j]), -4, 3)
            assert codes[j] == code
            assert abs(rounded[j] - row[j]) < 1e-9
            row -= (row[j] - code) / inverse[j, j] * inverse[:, j]
            inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
            inverse[j], inverse[:, j], inverse[j, j] = 0.0, 0.0, 1.0


def test_the_error_is_near_the_smallest_that_there_is() -> None:
    """Of six weights every choice of the code below or above; nearest codes are far from it, since inputs go together."""
    position, moments, rest = given(6, outputs=20)
    found = error(position, Compensation(moments, DAMPING).codes(position, *rest).codes, moments)
    nearest = error(position, np.rint(position), moments)
    choices = [np.floor(position) + np.array(choice) for choice in product((0, 1), repeat=6)]
    least = np.min([error(position, codes, moments) for codes in choices], axis=0)
    assert least.mean() <= found.mean() < 1.5 * least.mean() < nearest.mean()


@pytest.mark.parametrize("inputs", [6, 300])  # the latter in several blocks of columns
def test_no_single_code_can_be_chosen_better(inputs: int) -> None:
    position, moments, (free, fixed, first, last) = given(inputs, outputs=3)
    compensation = Compensation(moments, DAMPING)
    rounded = compensation.codes(position, free, fixed, first, last)
    found = compensation.refined(position, rounded.codes, free, first, last)
    damped = moments + DAMPING * np.trace(moments, axis1=1, axis2=2)[:, None, None] / inputs * np.eye(inputs)
    least, before = error(position, found.codes, damped), error(position, rounded.codes, damped)
    assert (least <= before).all()
    assert least.sum() < before.sum()
    np.testing.assert_array_equal(found.codes, np.clip(np.rint(found.position), first, last))

    def gains(codes: Array) -> bool:
        """Whether the error falls by one code's change by 1."""
        now = error(position, codes, damped)
        for j, change in product(range(inputs), (-1, 1)):
            other = codes.copy()
            other[:, :, j] += change
            within = (other[:, :, j] >= -4) & (other[:, :, j] <= 3)
            if (error(position, other, damped) < now - 1e-9)[within].any():
                return True
        return False

    assert gains(rounded.codes)
    assert not gains(found.codes)


def test_inputs_that_have_nothing_in_common_get_nearest_codes() -> None:
    position, _, rest = given(6)
    moments = np.broadcast_to(np.diag(np.arange(6.0)), (2, 6, 6))  # one of them is always 0
    for known in (moments, 0.0 * moments):
        codes = Compensation(known, DAMPING).codes(position, *rest).codes
        np.testing.assert_array_equal(codes, np.clip(np.rint(position), -4, 3))


@pytest.mark.parametrize(("rows", "damping"), [(4000, 0.01), (8, 1.0)])
def test_moments_of_few_rows_are_trusted_less(rows: int, damping: float) -> None:
    """Inputs that have ten sources, and something of their own; of 8 rows each half shows less than half of them."""
    position, _, rest = given(60, outputs=8, groups=1)
    rng, moment = np.random.default_rng(3), Moment()
    x = 0.3 * rng.normal(size=(1, rows, 60)) + rng.normal(size=(1, rows, 10)) @ rng.normal(size=(10, 60))
    moment.add(x, x, samples=rows)
    assert steadiest((position, *rest), np.ones_like(position), moment) == damping


def test_one_image_does_not_tell_how_far_it_can_be_trusted() -> None:
    position, _, rest = given(6, groups=1)
    moment, x = Moment(), np.random.default_rng(0).normal(size=(1, 50, 6))
    moment.add(x, x, samples=1)
    assert steadiest((position, *rest), np.ones_like(position), moment) == max(DAMPINGS)


def test_codes_that_are_not_free_stay_and_the_others_are_within_bounds() -> None:
    position, moments, (free, fixed, first, last) = given(8, outputs=40)
    free = np.random.default_rng(1).random(free.shape) < 0.7
    found = Compensation(moments, DAMPING).codes(position, free, fixed + 2.0, 0.5 * first, last).codes
    assert (found[~free] == 2.0).all()
    assert (found.min(), found.max()) == (-2.0, 3.0)


def moment_of(real: Array, coded: Array) -> Moment:
    """Of rows (groups, rows, inputs), one of each sample."""
    moment = Moment()
    for at in range(0, real.shape[1], 25):
        moment.add(real[:, at : at + 25], coded[:, at : at + 25], min(25, real.shape[1] - at))
    return moment


def test_the_two_parts_of_a_moment_are_two_halves_of_the_samples() -> None:
    rng = np.random.default_rng(0)
    real, coded = (rng.normal(size=(2, 101, 3)).astype(np.float32) for _ in range(2))
    moment = moment_of(real, coded)
    wanted = np.swapaxes(coded, 1, 2) @ (real - coded)
    np.testing.assert_allclose(moment.all.missing, wanted, atol=1e-4)
    np.testing.assert_allclose(moment.all.taken, np.swapaxes(coded, 1, 2) @ coded, atol=1e-4)
    assert moment.rows == 101
    singles = Moment()
    for at in range(4):  # of batches of one sample every other
        singles.add(real[:, at : at + 1], coded[:, at : at + 1], 1)
    np.testing.assert_allclose(singles.parts[1].taken, np.swapaxes(coded[:, :4:2], 1, 2) @ coded[:, :4:2], atol=1e-5)


def test_weights_make_up_for_what_is_lost_before_them() -> None:
    """x' is a known linear function of x: weights are found with which the outputs are nearly those of x again."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 400, 6))
    mixed = x @ (np.eye(6) + 0.3 * rng.normal(size=(6, 6)))
    weight = rng.normal(size=(1, 4, 6))
    added = made_up_for(weight, moment_of(x, mixed))
    before, after = (((x[0] @ weight[0].T - mixed[0] @ w[0].T) ** 2).mean() for w in (weight, weight + added))
    assert after < 0.1 * before
    exact = np.linalg.lstsq(mixed[0], x[0] @ weight[0].T, rcond=None)[0].T
    least = ((x[0] @ weight[0].T - mixed[0] @ exact.T) ** 2).mean()
    assert least < 1e-20 < after  # what is added is held back, so that few rows cannot ask for much


def test_nothing_is_made_up_for_that_cannot_be() -> None:
    """The input is that of the float network, or what is lost has nothing to do with what is left."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 40, 30))
    weight = rng.normal(size=(1, 4, 30))
    assert not made_up_for(weight, moment_of(x, x)).any()
    assert not made_up_for(weight, moment_of(x + rng.normal(size=x.shape), x)).any()


def test_it_is_less_lost_at_the_end_than_layer_by_layer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"bias_correction": False, "equalize": False, "method": "minmax", "num_bits": (3, 4)}
    found = calibrate(Small(), PARAMS, IMAGES[:128], **settings, rounding="moments")
    monkeypatch.setattr(moment_rounding, "made_up_for", lambda weight, _: np.zeros(weight.shape))
    alone = calibrate(Small(), PARAMS, IMAGES[:128], **settings, rounding="moments")
    assert sqnr(found) > sqnr(alone) + 0.5


def test_a_pass_that_pauses_gives_what_one_that_does_not_gives() -> None:
    """Of every layer's input, codes and real numbers; a parameter that is changed meanwhile counts for what comes after."""
    checkpoint = calibrate(Small(), PARAMS, IMAGES[:40], num_bits=(8, 8))
    loop = NodeLoop(checkpoint.graph, NUMPY_OPS)
    for phase in (IDLE, max(checkpoint.graph.phase_starts)):
        context = loop.load(checkpoint.params, phase)
        paused = PausedPass(
            loop, context, [(IMAGES[:24],), (IMAGES[24:40],)], code_ends(checkpoint.graph, checkpoint.params)
        )
        places = [at for at, step in enumerate(loop.steps) if step.node.name in ("one", "two", "fc")]
        assert len(places) == 3
        for place in places:
            (name,) = loop.steps[place].node.inputs
            parts = [values[name].real(NUMPY_OPS) for values in paused.until(place)]
            straight = loop.begin(loop.pixels((IMAGES[:40],)))
            for step in loop.steps[:place]:
                loop.advance(step, context, straight)
            np.testing.assert_array_equal(np.concatenate(parts), straight[name].real(NUMPY_OPS))


def sqnr(checkpoint: qat.Checkpoint) -> float:
    """Of the integers on images that nothing was found on."""
    graph, agreement, images = Small().graph(), Agreement(), IMAGES[128:]
    backend = qat.backend("torch")
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    codes = qat.evaluate(integers, images)
    np.testing.assert_array_equal(
        backend.predict_codes(backend.lower(checkpoint.graph, checkpoint.params), images), codes
    )
    agreement.add(backend.predict(backend.lower(graph, PARAMS), images), integers.outputs[0].grid.dequantize(codes))
    return agreement.sqnr


@pytest.mark.parametrize("fold", [False, True])
def test_outputs_err_less(fold: bool) -> None:
    """With batch normalisations as they are and folded in, negative factors among them; with and without corrected biases."""
    for corrected in (False, True):
        settings = {"bn_fold": fold, "bias_correction": corrected, "num_bits": (3, 8)}
        plain, found = (
            calibrate(Small(), PARAMS, IMAGES[:128], **settings, rounding=r) for r in ("nearest", "moments")
        )
        assert sqnr(found) > sqnr(plain) + 1.0
        for name in ("first.weight", "fc.weight"):
            assert not np.array_equal(found.params[name], plain.params[name])


def test_it_is_chosen_where_the_outputs_err_less() -> None:
    found = qat.calibrate(Small(), PARAMS, IMAGES[:64], num_bits=(3, 8))
    record = found.history[0]["calibration"]
    (decision,) = (each for each in record["decisions"] if each["setting"] == "rounding")
    assert record["rounding"] == decision["chosen"] == "moments"
    assert decision["sqnr"]["moments"] > decision["sqnr"]["nearest"]
    few = qat.calibrate(Small(), PARAMS, IMAGES[:8], num_bits=(3, 8))
    assert few.history[0]["calibration"]["rounding"] == "nearest"
    with pytest.raises(QatError, match="rounding 'up' is unknown"):
        qat.calibrate(Small(), PARAMS, IMAGES, rounding="up")


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_scale_leaves_out_weights_that_are_far_off_where_outputs_err_less(per_channel: bool) -> None:
    """One weight is larger than the others, and its input is nearly 0: with it in the range, few codes are left to them."""
    rng = np.random.default_rng(0)
    cell, moment = qat.DenseBnAct(64, 4, weight_quantizer=qat.WeightQuantizer(3, per_channel=per_channel)), Moment()
    x = rng.normal(size=(1, 500, 64)).astype(np.float32)
    x[:, :, 0] *= np.float32(0.01)
    moment.add(x, x, 500)
    own = {"weight": rng.normal(size=(4, 64)).astype(np.float32), "bias": np.zeros(4, np.float32)}
    own["weight"][:, 0] = 5.0
    found = with_moments(cell, own, moment)
    assert np.abs(found["weight"]).max() < 4.0
    grids = [weight_grid(cell, each, 1.0) for each in (found, own)]
    errors = [x[0] @ (own["weight"] - grid.codes * grid.step).T for grid in grids]
    assert (errors[0] ** 2).mean() < 0.5 * (errors[1] ** 2).mean()


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize(
    "quantizer", [qat.LSQWeightQuantizer(3), qat.LearnedWidthWeightQuantizer(4)], ids=["lsq", "width"]
)
def test_quantizers_with_a_scale_of_their_own(quantizer: Any, per_channel: bool) -> None:
    settings = {"weight_quantizer": replace(quantizer, per_channel=per_channel), "num_bits": 8}
    plain, found = (calibrate(Small(), PARAMS, IMAGES[:64], **settings, rounding=r) for r in ("nearest", "moments"))
    assert sqnr(found) > sqnr(plain) + 1.0
    assert {name: x.shape for name, x in found.params.items()} == {name: x.shape for name, x in plain.params.items()}


class Measured(qat.Network):
    """Two layers of numbers that are measured."""

    def __init__(self) -> None:
        self.inputs = qat.Input((6,), dtype="float32")
        self.one, self.two = qat.DenseBnAct(6, 12, activation="relu"), qat.DenseBnAct(12, 3)

    def construct(self, x):  # type: ignore[no-untyped-def]
        return self.two(self.one(x))


def test_numbers_whose_squares_float32_does_not_hold() -> None:
    """Of inputs times a power of two the codes of the weights are the same ones."""
    images = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    params = Measured().graph().initial_params(0)
    plain, found = (calibrate(Measured(), params, x, **MOMENTS) for x in (images, images * np.float32(2.0**70)))
    for name in ("one.weight", "two.weight"):
        assert not np.array_equal(plain.params[name], params[name])
        np.testing.assert_array_equal(found.params[name], plain.params[name])


def test_where_sums_are_no_numbers_nothing_is_made_up_for() -> None:
    rng = np.random.default_rng(0)
    moment = moment_of(rng.normal(size=(1, 40, 3)), rng.normal(size=(1, 40, 3)))
    moment.parts[0].missing[0, 0, 0] = np.inf
    with np.errstate(invalid="ignore"):
        assert not made_up_for(rng.normal(size=(1, 4, 3)), moment).any()


def test_rows_of_several_images_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all at once would take much memory."""
    (node,) = (each for each in Small().graph().nodes if each.name == "first")
    rng, sizes = np.random.default_rng(0), list[int]()
    real, codes = (rng.integers(-9, 9, (5, 3, 8, 8)).astype(np.float32) for _ in range(2))
    add, values = Moment.add, (Value(real), Value(codes, np.ones((), np.float32), codes=True))
    monkeypatch.setattr(Moment, "add", lambda self, *rows: sizes.append(rows[-1]) or add(self, *rows))
    found = []
    for most in (moment_rounding.MOST_NUMBERS, 3 * 16 * 27):  # of 3 images, 16 places of each, 27 inputs
        monkeypatch.setattr(moment_rounding, "MOST_NUMBERS", most)
        found.append(Moment())
        found[-1].add_inputs(node, (3, 8, 8), values, 16, NUMPY_OPS)
    assert sizes == [5, 3, 2]
    assert found[0].rows == found[1].rows == 5 * 16
    for name in ("taken", "missing"):
        np.testing.assert_array_equal(*(getattr(each.all, name) for each in found))


def test_layers_with_too_many_inputs_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moment_rounding, "MOST_INPUTS", 32)
    found = calibrate(Small(), PARAMS, IMAGES[:64], **MOMENTS)
    changed = {name for name in PARAMS if not np.array_equal(found.params[name], PARAMS[name])}
    assert changed == {"first.weight", "fc.weight"}  # of 27 and 32 inputs; the others have 72


def test_layers_whose_codes_are_not_multiples_of_a_scale_are_left_alone() -> None:
    layers = {"one": {"weight_quantizer": qat.BinaryWeightQuantizer()}}
    found = calibrate(Small(), PARAMS, IMAGES[:64], **MOMENTS, layers=layers)
    np.testing.assert_array_equal(found.params["one.weight"], PARAMS["one.weight"])
    assert not np.array_equal(found.params["two.weight"], PARAMS["two.weight"])


def test_where_all_are_left_alone_it_says_so() -> None:
    own = {"weight_quantizer": qat.BinaryWeightQuantizer()}
    with pytest.warns(QatWarning, match="no layer has codes that it could choose"):
        found = calibrate(Small(), PARAMS, IMAGES[:64], **MOMENTS | own)
    np.testing.assert_array_equal(found.params["two.weight"], PARAMS["two.weight"])


def test_the_command_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qat.Checkpoint(Small().graph(), PARAMS).save(tmp_path / "float.ckpt")
    labels = np.arange(256) % 4
    data = {"x_train": IMAGES[:64], "y_train": labels[:64], "x_test": IMAGES[64:], "y_test": labels[64:]}
    np.savez(tmp_path / "data.npz", **data)
    flags = ["--ckpt_path", f"{tmp_path}/float.ckpt", "--data_path", f"{tmp_path}/data.npz", "--num_bits", "3", "8"]
    plain = ["--method", "minmax", "--equalize", "false", "--bias_correction", "false", "--rounding", "moments"]
    assert main(["calibrate", *flags, *plain, "--save_path", f"{tmp_path}/plain.ckpt"]) == 0
    made = qat.Checkpoint.load(tmp_path / "plain.ckpt")
    assert made.history[0]["calibration"]["rounding"] == "moments"
    assert not np.array_equal(made.params["fc.weight"], PARAMS["fc.weight"])
    capsys.readouterr()

"""GTC's powers of two: the formula, what it promises, its bits, and the command that trains LeNet-GTC."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conformance import ADAPTERS
from frameworks import HERE
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from test_quantizer_family import assert_near

import qat
from qat.cli import main
from qat.training.optimizer import learning_rate
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.values import Value

Array = npt.NDArray[np.float32]
F = np.float32
E = 1e-6
OPS = qat.backend("torch").TorchOps()
WEIGHT, ACTIVATION = qat.GTCWeightQuantizer, qat.GTCActivationQuantizer


def own(slope: float = 1.0, intercept: float = 1e-4, **state: float) -> dict[str, Array]:
    return {name: np.full(1, x, F) for name, x in {"slope": slope, "intercept": intercept, **state}.items()}


def octave(x: Array, slope: float, intercept: float) -> Array:
    """The document's r, before it is rounded."""
    return intercept + slope * np.log(np.abs(x.astype(np.float64)) + E) / np.log(2)


def document(x: Array, slope: float, intercept: float) -> Array:
    """The document's q(x) = sign(x) 2^r, sign 0 where |x| < e."""
    return np.where(np.abs(x) < E, 0.0, np.sign(x)) * 2.0 ** np.rint(octave(x, slope, intercept))


def near_a_tie(x: Array, slope: float, intercept: float) -> bool:
    """Where float32 and float64 may round to different octaves."""
    r = octave(x, slope, intercept)
    return bool((np.abs(r - np.floor(r) - 0.5) < 1e-4).any())


def weight(seed: int, shape: tuple[int, ...] = (5, 40)) -> Array:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(F)


# -- the formula ------------------------------------------------------------------------------------------------------

CASES = [(1.0, 1e-4), (0.6, 0.3), (1.3, -0.7), (0.25, 0.1)]


@pytest.mark.parametrize(("slope", "intercept"), CASES)
def test_a_weight_is_the_document_s_within_its_octaves(slope: float, intercept: float) -> None:
    x = weight(1)
    x = np.where(np.abs(x) < 0.01, F(0.01), x)
    codes = WEIGHT(5).quantize(NUMPY_OPS, x, None, own(slope, intercept))
    assert not near_a_tie(x, slope, intercept)
    expected = document(x, slope, intercept)
    assert np.abs(expected).max() / np.abs(expected).min() <= 2.0**14  # 15 octaves
    np.testing.assert_array_equal(codes.centred * codes.scale, expected.astype(F))
    np.testing.assert_array_equal(codes.centred, expected / np.abs(expected).min())  # as the document deploys it


def test_what_lies_below_the_octaves_is_zero() -> None:
    x = np.array([[1.0, -0.5, 2.0**-6, 2.0**-7, -(2.0**-12), 0.0]], F)
    for bits, expected in ((2, [1, 0, 0, 0, 0, 0]), (3, [2, -1, 0, 0, 0, 0]), (4, [64, -32, 1, 0, 0, 0])):
        codes = WEIGHT(bits).quantize(NUMPY_OPS, x, None, own())
        np.testing.assert_array_equal(codes.centred, [expected])
        assert codes.scale == 1.0 / max(expected)


@pytest.mark.parametrize(("slope", "intercept"), CASES)
def test_the_gradients_of_a_weight_are_the_formula_s(slope: float, intercept: float) -> None:
    """dq/da = q ln 2, dq/ds = q ln(|x| + e), dq/dx = q s sign(x) / (|x| + e); a line where the code is 0."""
    x, g = weight(2), weight(3)
    x[0, :5] /= 1000
    tensors = {name: torch.tensor(array[0], requires_grad=True) for name, array in own(slope, intercept).items()}
    data = torch.tensor(x, requires_grad=True)
    codes = WEIGHT(3).quantize(OPS, data, None, tensors)
    value = codes.centred * codes.scale
    (value * torch.tensor(g)).sum().backward()
    q, wide = value.detach().numpy().astype(np.float64), x.astype(np.float64)
    zero = q == 0
    assert zero.any()
    smallest = np.abs(wide[~zero]).min()
    of_x = np.where(zero, float(codes.scale) * slope / smallest, slope * np.abs(q) / (np.abs(wide) + E))
    assert_near(data.grad.numpy(), g * of_x, "gradient of x")
    assert_near(tensors["intercept"].grad.numpy(), (g * q).sum() * np.log(2), "gradient of the intercept")
    assert_near(tensors["slope"].grad.numpy(), (g * q * np.log(np.abs(wide) + E)).sum(), "gradient of the slope")


def test_without_the_rounding_the_gradients_are_finite_differences() -> None:
    """The straight-through gradient is that of sign(x) 2^(a + s log2(|x| + e)), at numbers that the rounding leaves alone."""
    slope, intercept, step = 1.0, 0.0, 1e-6
    x = np.array([[0.5 - E, -0.25 + E, 2.0 - E]])
    tensors = {name: torch.tensor(array[0], requires_grad=True) for name, array in own(slope, intercept).items()}
    data = torch.tensor(x.astype(F), requires_grad=True)
    codes = WEIGHT().quantize(OPS, data, None, tensors)
    (codes.centred * codes.scale).sum().backward()

    def smooth(x: Array, slope: float, intercept: float) -> Array:
        return np.sign(x) * 2.0 ** octave(x, slope, intercept)

    of_x = (smooth(x + step, slope, intercept) - smooth(x - step, slope, intercept)) / (2 * step)
    of_slope = (smooth(x, slope + step, intercept) - smooth(x, slope - step, intercept)).sum() / (2 * step)
    of_intercept = (smooth(x, slope, intercept + step) - smooth(x, slope, intercept - step)).sum() / (2 * step)
    np.testing.assert_allclose(data.grad.numpy(), of_x, rtol=1e-4)
    np.testing.assert_allclose(tensors["slope"].grad.numpy(), of_slope, rtol=1e-4)
    np.testing.assert_allclose(tensors["intercept"].grad.numpy(), of_intercept, rtol=1e-4)


def test_an_activation_is_the_document_s_below_the_largest_that_was_seen() -> None:
    x = np.abs(weight(4))
    x[0, :3] = 0.0, 7.0, 2.0**-20
    y = ACTIVATION().quantize(NUMPY_OPS, Value(x), own(max=1.0), [], True, 40)
    expected = np.minimum(document(x, 1.0, 1e-4), 1.0)  # 7 is larger than what was seen
    expected = np.where(expected < 2.0**-6, 0.0, expected)
    assert not near_a_tie(x, 1.0, 1e-4)
    np.testing.assert_array_equal(y.data * y.scale, expected.astype(F))
    grid = qat.FakeQuant(ACTIVATION(), True).grid("x", {name: array[0] for name, array in own(max=1.0).items()})
    assert (grid.scale, grid.zero_point, grid.qmin, grid.qmax) == (2.0**-6, 0, 0, 64)


def test_the_largest_activation_follows_the_batches() -> None:
    quantizer = ACTIVATION(ema_decay=0.75)
    state = own(max=-np.inf)
    assert quantizer.unseen({name: array[0] for name, array in state.items()})
    state |= quantizer.observe(NUMPY_OPS, Value(np.array([[-8.0, 2.0]], F)), state, False, phase=0)
    assert state["max"] == 8.0
    state |= quantizer.observe(NUMPY_OPS, Value(np.array([[4.0, 2.0]], F)), state, True, phase=1)
    assert state["max"] == 7.0


# -- what it promises -------------------------------------------------------------------------------------------------

NUMBERS = st.floats(-4, 4, width=32) | st.sampled_from([0.0, -0.0, 2.0**-100, 2.0**80, -(2.0**80), float(F(1e-6))])
WEIGHTS = arrays(np.float32, array_shapes(min_dims=2, max_dims=4, max_side=4), elements=NUMBERS.map(F))
SLOPES = st.floats(-1, 3, width=32)
BITS = st.sampled_from([2, 3, 4, 5])


def assert_powers_of_two(codes: Array, quantizer: qat.GTCWeightQuantizer | qat.GTCActivationQuantizer) -> None:
    assert codes.dtype == F
    assert (np.frexp(np.abs(codes[codes != 0]))[0] == 0.5).all()
    assert (codes == np.rint(codes)).all()
    assert quantizer.qmin <= codes.min() <= codes.max() <= quantizer.qmax
    assert len(np.unique(codes)) <= 2**quantizer.num_bits - 1


@settings(max_examples=200, deadline=None)
@given(WEIGHTS, BITS, SLOPES, st.floats(-5, 5, width=32))
def test_the_codes_of_a_weight_are_powers_of_two(x: Array, bits: int, slope: float, intercept: float) -> None:
    quantizer = WEIGHT(bits)
    codes, scale, zero_point = quantizer.quantize(NUMPY_OPS, x, None, own(slope, intercept))
    assert zero_point is None
    assert_powers_of_two(codes, quantizer)
    assert scale.shape == (1,)
    assert np.frexp(scale)[0] == 0.5
    assert (np.sign(codes) * np.sign(x) >= 0).all()
    assert (codes[np.abs(x) < F(E)] == 0).all()
    if codes.any():
        assert np.abs(codes[codes != 0]).min() == 1
    order = np.argsort(x, axis=None)
    assert (np.diff(codes.reshape(-1)[order]) >= 0).all()


@settings(max_examples=100, deadline=None)
@given(
    arrays(np.float32, (1, 9), elements=st.floats(-100, 100, width=32)),
    BITS,
    SLOPES,
    st.booleans(),
    st.floats(2.0**-20, 2.0**20, width=32),
)
def test_the_codes_of_an_activation_are_powers_of_two(
    x: Array, bits: int, slope: float, non_negative: bool, largest: float
) -> None:
    quantizer = ACTIVATION(bits)
    x = np.abs(x) if non_negative else x
    state = own(slope, max=largest)
    y = quantizer.quantize(NUMPY_OPS, Value(x), state, [], non_negative, 9)
    assert_powers_of_two(y.data, quantizer)
    grid = qat.FakeQuant(quantizer, non_negative).grid("x", {name: array[0] for name, array in state.items()})
    assert y.scale == grid.scale
    assert grid.low <= y.data.min() <= y.data.max() <= grid.high


@pytest.mark.parametrize("name", HERE)
def test_training_has_the_same_codes_on_every_backend(name: str) -> None:
    """Whose logarithms differ in their last bit, which matters to a number at the border of two octaves alone."""
    ops, x, state = ADAPTERS[name].ops, weight(7, (64, 200)), own(0.7, 0.2, max=1.0)
    tensors = {key: ops.from_numpy(array[0], "scalar") for key, array in state.items()}
    found = WEIGHT(5).quantize(ops, ops.from_numpy(x, "dense_weight"), None, tensors)
    expected = WEIGHT(5).quantize(NUMPY_OPS, x, None, state)
    np.testing.assert_array_equal(ops.to_numpy(found.centred, "dense_weight"), expected.centred)
    assert float(ops.to_numpy(found.scale, "scalar")) == expected.scale
    y = ACTIVATION().quantize(ops, Value(ops.from_numpy(x, "activation")), tensors, [], False, 200)
    same = ACTIVATION().quantize(NUMPY_OPS, Value(x), state, [], False, 200)
    np.testing.assert_array_equal(ops.to_numpy(y.data, "activation"), same.data)


# -- its bits ---------------------------------------------------------------------------------------------------------


def bits_of(r: Array, zeros: bool) -> int:
    return int(1 + np.ceil(np.log2(r.max() - r.min() + 1 + zeros)))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("bits", [3, 5])
def test_bits_are_those_of_the_two_formulas(bits: int, seed: int) -> None:
    x = weight(seed, (6, 50))
    x[0, : 10 * (seed % 2)] = 0.0
    slope = (0.3, 0.7, 1.2)[seed % 3]
    r = np.rint(octave(x, slope, 1e-4))
    quantizer, state = WEIGHT(bits), own(slope)
    kept = quantizer.quantize(NUMPY_OPS, x, None, state).centred != 0
    assert quantizer.document_bits(NUMPY_OPS, x, state) == bits_of(r, False)
    assert quantizer.bits(NUMPY_OPS, x, state) == bits_of(r[kept], not kept.all())
    assert quantizer.bits(NUMPY_OPS, x, state) <= bits


def test_a_zero_is_one_level_and_not_twenty_octaves() -> None:
    x = np.array([[1.0, -0.5, 0.25, 0.0]], F)
    assert WEIGHT().bits(NUMPY_OPS, x, own()) == 3  # 1, 1/2, 1/4 and 0, and a sign
    assert WEIGHT().document_bits(NUMPY_OPS, x, own()) == 6  # 21 octaves
    nothing = np.zeros((2, 2), F)
    assert WEIGHT().bits(NUMPY_OPS, nothing, own()) == 1
    same = np.full((2, 2), 0.5, F)
    assert WEIGHT().bits(NUMPY_OPS, same, own()) == WEIGHT().document_bits(NUMPY_OPS, same, own()) == 1


def test_a_full_power_of_two_of_levels_needs_no_further_bit() -> None:
    for levels in range(1, 76):
        x = np.array([[2.0 ** (19 - k / 2) for k in range(levels)]], F)  # half octaves, of slope 2
        (found,) = WEIGHT(5).document_bits(NUMPY_OPS, x, own(2.0, 0.0))
        assert found == 1 + np.ceil(np.log2(levels)), levels


def test_the_gradients_of_bits_are_those_of_the_largest_and_the_smallest() -> None:
    """b = 1 + log2(max r - min r + 1), straight through: db/dr = 1 / (levels ln 2) at the largest, shared among equals."""
    x = np.array([[0.9, -1.1, 0.1, 0.3, -0.26]], F)
    tensors = {name: torch.tensor(array[0], requires_grad=True) for name, array in own().items()}
    data = torch.tensor(x, requires_grad=True)
    for bits, zeros in ((WEIGHT().bits, 0), (WEIGHT().document_bits, 0), (WEIGHT(3).bits, 1)):
        data.grad = tensors["slope"].grad = tensors["intercept"].grad = None
        bits(OPS, data, tensors).backward()
        r = np.rint(octave(x, 1.0, 1e-4))
        np.testing.assert_array_equal(r, [[0, 0, -3, -2, -2]])
        top, bottom = r == 0, r == (-2 if zeros else -3)
        levels = (3 if zeros else 4) + zeros
        of_r = (top / top.sum() - bottom / bottom.sum()) / (levels * np.log(2))
        wide = x.astype(np.float64)
        assert_near(data.grad.numpy(), of_r * np.sign(wide) / ((np.abs(wide) + E) * np.log(2)), "gradient of x")
        assert_near(tensors["slope"].grad.numpy(), (of_r * np.log2(np.abs(wide) + E)).sum(), "gradient of the slope")
        assert_near(tensors["intercept"].grad.numpy(), np.zeros(()), "gradient of the intercept")


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gtc")
    arguments = ["--basedirectory", str(folder), "--name_of_experiment", "one", "--data_path", "digits"]
    assert main(["train-gtc", *arguments, "--num_epochs", "3", "--batch_size", "32"]) == 0
    return folder / "one"


def test_its_models_are_checkpoints_that_every_command_takes(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    low, high = (str(trained / f"{name}_model_final.ckpt") for name in ("int", "training"))
    accuracies = []
    for command, checkpoint in (("eval-quant", low), ("eval", high)):
        assert main([command, "--data_path", "digits", "--ckpt_path", checkpoint]) == 0
        accuracies.append(float(capsys.readouterr().out.removeprefix("Accuracy: ").removesuffix(" %\n")))
    assert min(accuracies) > 60.0
    weights = qat.to_integer(qat.Checkpoint.load(low).graph, qat.Checkpoint.load(low).params).nodes
    for node in weights:
        if hasattr(node, "weight"):
            assert_powers_of_two(node.weight.astype(F), WEIGHT())
            assert np.frexp(node.weight_scale[0])[0] == 0.5
    for file_format in ("ONNX", "TFLITE", "C"):
        arguments = ["--file_format", file_format, "--file_name", str(tmp_path / "net"), "--ckpt_path", low]
        assert main(["export", *arguments]) == 0
        out = capsys.readouterr().out
        assert "3,600 codes compared" in out
        assert ", 0 differ" in out


def parameters(folder: Path) -> dict[str, dict[str, Array]]:
    return {path.name: qat.Checkpoint.load(path).params for path in folder.glob("*.ckpt")}


def test_it_resumes_reruns_and_names_its_folder_after_the_lambdas(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train-gtc", "--basedirectory", str(tmp_path), "--data_path", "digits", "--batch_size", "100"]
    arguments += ["--arithmetic", "fixed"]
    assert main([*arguments, "--num_epochs", "1", "--lambda_bit_loss", "0.25", "--print_layers_bits"]) == 0
    out = capsys.readouterr().out
    for word in ("lp_accuracy", "hp_accuracy", "total_loss", "bit_loss", "document_bit_loss", "distillation_loss"):
        assert f"{word}: " in out
    assert out.count("Bits of each layer") == 2
    (folder,) = tmp_path.iterdir()
    assert "bit_0.25_" in folder.name
    assert qat.Checkpoint.load(folder / "int_model_final.ckpt").graph.arithmetic == "fixed"
    files = parameters(folder)
    assert files.keys() == {"int_model_final.ckpt", "training_model_final.ckpt", "last.ckpt"}
    assert main([*arguments, "--num_epochs", "1", "--lambda_bit_loss", "0.25", "--resume"]) == 0
    assert main([*arguments, "--num_epochs", "1", "--lambda_bit_loss", "0.25"]) == 0
    for name, found in parameters(folder).items():
        for parameter, array in found.items():
            np.testing.assert_array_equal(array, files[name][parameter], err_msg=f"{name}, {parameter}")
    capsys.readouterr()
    assert main([*arguments, "--num_epochs", "2", "--lambda_bit_loss", "0.25", "--resume"]) == 2
    assert "trained with epochs 1, now it is 2" in capsys.readouterr().err


def test_the_document_s_rate_is_halved_each_5000_batches() -> None:
    rates = [learning_rate("halving", 2e-4, step, 20000) for step in (0, 4999, 5000, 9999, 10000)]
    assert rates == [2e-4, 2e-4, 1e-4, 1e-4, 5e-5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lambda_bit_loss", "-1"], "--lambda_bit_loss is -1.0; use 0 or a positive number"),
        (["--num_bits", "9"], "num_bits is 9; use a whole number from 2 to 5"),
        (["--data_path", "nowhere"], "nowhere: there is nothing here"),
        (["--num_epochs", "0"], "epochs is 0"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train-gtc", "--basedirectory", str(tmp_path / "new"), "--data_path", "digits", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("before", [-np.inf, 2.0])
def test_uses_in_one_pass_observe_as_one_batch(before: float) -> None:
    """As the steps of a recurrence: what is seen in the first counts as much as in the last."""
    quantizer, own = qat.GTCActivationQuantizer(4, ema_decay=0.75), {"max": np.array([before], np.float32)}
    parts = [np.array([[number]], np.float32) for number in (3.0, 8.0, -1.0)]
    with np.errstate(invalid="ignore"):  # 0 times infinity, not chosen
        expected = quantizer.observe(NUMPY_OPS, Value(np.concatenate(parts)), own, False, phase=0)
        found = own | quantizer.observe(NUMPY_OPS, Value(parts[0]), own, False, phase=0)
        for part in parts[1:]:
            found |= quantizer.observe_again(NUMPY_OPS, Value(part), own, found, False, phase=0)
    assert found["max"] == expected["max"] == (8.0 if before < 0 else 3.5)

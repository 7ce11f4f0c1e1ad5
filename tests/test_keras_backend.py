"""The lowered network as a Keras user meets it."""

from __future__ import annotations

import copy
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch  # noqa: F401  (has to be imported before tensorflow)
from hypothesis import HealthCheck, given, settings
from test_zoo import Setup, setups

import qat
from qat.cells.tracing import Traced
from qat.networks import LeNet5
from qat.training.optimizer import Optimizer

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

KERAS, TORCH = qat.backend("keras"), qat.backend("torch")
IMAGES = np.random.default_rng(0).integers(0, 256, (32, 1, 32, 32), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 10, 32)


def quantized(quant_delay: int = 0) -> keras.Model:
    return KERAS.lower(qat.convert_quant_network(LeNet5(), quant_delay=quant_delay))


def compiled(model: keras.Model, lr: float = 0.01, **options: object) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(lr, momentum=0.9), loss, metrics=["accuracy"], **options)
    return model


def fit(model: keras.Model, steps: int, **options: object) -> list[float]:
    """One whole batch a step."""
    history = model.fit(IMAGES, LABELS, batch_size=32, epochs=steps, shuffle=False, verbose=0, **options)
    return history.history["loss"]


def integers(model: keras.Model) -> qat.integer.IntegerGraph:
    return qat.to_integer(model.graph, KERAS.read(model))


def real(model: keras.Model) -> np.ndarray:
    """What is deployed, computed by NumPy."""
    deployed = integers(model)
    return deployed.output.grid.dequantize(qat.evaluate(deployed, IMAGES))


def test_it_is_a_model_with_the_graph_s_names(monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantized()
    assert isinstance(model, keras.Model)
    assert list(model.tensors) == list(model.graph.params)
    assert {w.name for w in model.trainable_weights} == {n for n, p in model.graph.params.items() if p.trainable}
    assert model.get_layer("conv1").weights[0].shape == (5, 5, 1, 6)  # HWIO
    monkeypatch.setenv("COLUMNS", "120")
    text: list[str] = []
    model.summary(print_fn=text.append)
    lines = "\n".join(text).splitlines()
    for words in (
        ("conv1 (Conv2dBnAct)", "(None, 6, 28, 28)", " 150 "),
        ("conv1.fake_quant (FakeQuant)", "(None, 6, 28, 28)"),
        ("fc1 (DenseBnAct)", "(None, 120)", " 48,120 "),
        ("Trainable params: 61,684",),
    ):
        assert any(all(word in line for word in words) for line in lines), (words, lines)


def test_compile_and_fit_train_it_and_its_codes_are_those_of_the_integers() -> None:
    model = compiled(quantized(quant_delay=5))
    losses = fit(model, 40)
    assert losses[-1] < 0.5 * losses[0]
    assert model.step == 40
    np.testing.assert_array_equal(KERAS.predict_codes(model, IMAGES), qat.evaluate(integers(model), IMAGES))
    for found in (model.predict(IMAGES, verbose=0), model(IMAGES).numpy(), KERAS.predict(model, IMAGES)):
        np.testing.assert_array_equal(found, real(model))


def test_no_convolution_or_pooling_leaves_tensorflow_s_fast_kernels() -> None:
    class Padded(qat.Network):
        inputs = (qat.Input((3, 8, 8)),)

        def __init__(self) -> None:
            self.stem = qat.Conv2dBnAct(3, 4, 7, 2, pad_mode="pad", padding=3)
            self.same = qat.Conv2dBnAct(4, 4, 3)
            self.depthwise = qat.Conv2dBnAct(4, 4, 3, 2, group=4)
            self.pool = qat.MaxPool2d(3, 2, pad_mode="pad", padding=1)
            self.same_pool = qat.MaxPool2d(3, 2, pad_mode="same")

        def construct(self, x: Traced) -> Traced:
            return self.same_pool(self.depthwise(self.same(self.pool(self.stem(x)))))

    model = KERAS.lower(Padded())
    function = tf.function(partial(model.run, phase=0)).get_concrete_function((tf.zeros((1, 3, 8, 8), tf.uint8),))
    windows = ("Conv2D", "DepthwiseConv2dNative", "MaxPool")
    found = [op.get_attr("padding").decode() for op in function.graph.get_operations() if op.type in windows]
    assert found == ["VALID", "VALID", "SAME", "SAME", "SAME"]


def test_validation_in_fit_is_of_the_deployed_integers_of_each_epoch() -> None:
    class Deployed(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.accuracies: list[float] = []

        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            self.accuracies.append(float((real(self.model).argmax(axis=1) == LABELS).mean()))

    model, callback = compiled(quantized(quant_delay=2)), Deployed()
    history = model.fit(
        IMAGES,
        LABELS,
        batch_size=32,
        epochs=15,
        shuffle=False,
        verbose=0,
        validation_data=(IMAGES, LABELS),
        callbacks=[callback],
    )
    np.testing.assert_allclose(history.history["val_accuracy"], callback.accuracies, rtol=0, atol=1e-6)
    assert len(set(callback.accuracies)) > 1


def own_loop(model: keras.Model, *, traced: bool) -> list[float]:
    """The loop that a user writes who wants no fit."""
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    loss_function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = loss_function(y, model(x, training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
        return loss

    run = tf.function(step) if traced else step
    return [float(run(IMAGES, LABELS)) for _ in range(5)]


HOWS = {
    "eager": lambda model: own_loop(model, traced=False),
    "tf.function": lambda model: own_loop(model, traced=True),
    "fit eagerly": lambda model: fit(compiled(model, run_eagerly=True), 5),
    "train_on_batch": lambda model: (
        [compiled(model).train_on_batch(IMAGES, LABELS)[0]]
        + [model.train_on_batch(IMAGES, LABELS)[0] for _ in range(4)]
    ),
    "XLA": lambda model: fit(compiled(model, jit_compile=True), 5),
}


@pytest.mark.parametrize("how", HOWS)
def test_quantization_sets_in_after_the_delay_however_it_is_trained(how: str) -> None:
    """Compiled code adds in another order: 1e-3 of losses of about 3."""
    model = quantized(quant_delay=3)
    losses = HOWS[how](model)
    assert model.step == 5
    np.testing.assert_allclose(losses, fit(compiled(quantized(quant_delay=3)), 5), rtol=0, atol=1e-3)
    float_losses = fit(compiled(KERAS.lower(LeNet5())), 5)
    np.testing.assert_allclose(losses[:3], float_losses[:3], rtol=0, atol=1e-3)
    assert abs(losses[3] - float_losses[3]) > 1e-4


def test_several_steps_in_one_execution_follow_the_delay() -> None:
    images, labels = np.concatenate([IMAGES] * 5), np.concatenate([LABELS] * 5)
    weights = []
    for together in (1, 5):
        model = compiled(quantized(quant_delay=3), steps_per_execution=together)
        model.fit(images, labels, batch_size=32, shuffle=False, verbose=0)
        assert model.step == 5
        weights.append(KERAS.read(model))
    for name, array in weights[0].items():
        np.testing.assert_allclose(weights[1][name], array, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("how", ["fit", "assign", "set_weights", "load_weights"])
def test_evaluation_follows_every_change_of_a_parameter(how: str, tmp_path: Path) -> None:
    model = compiled(quantized())
    fit(model, 2)
    before = model.predict(IMAGES, verbose=0)
    accuracy = model.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)["accuracy"]
    assert accuracy == pytest.approx((before.argmax(axis=1) == LABELS).mean())
    weight = model.get_layer("conv1").weights[0]
    if how == "fit":
        fit(model, 3)
    elif how == "assign":
        weight.assign(-weight)
    elif how == "set_weights":
        model.get_layer("conv1").set_weights([-weight.numpy()])
    else:
        other = compiled(quantized())
        fit(other, 5)
        other.save_weights(tmp_path / "other.weights.h5")
        model.load_weights(tmp_path / "other.weights.h5")
        assert model.step == 5  # so that a delay is not waited for twice
    after = model.predict(IMAGES, verbose=0)
    assert (before != after).any()
    np.testing.assert_array_equal(after, real(model))
    np.testing.assert_array_equal(KERAS.predict(model, IMAGES), after)
    accuracy = model.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)["accuracy"]
    assert accuracy == pytest.approx((after.argmax(axis=1) == LABELS).mean())


def test_evaluation_under_xla_is_exact() -> None:
    model = compiled(quantized(), jit_compile=True)
    fit(model, 2)
    np.testing.assert_array_equal(model.predict(IMAGES, verbose=0), real(model))


def test_a_network_that_never_saw_data_cannot_be_evaluated() -> None:
    for evaluate in (lambda model: KERAS.predict(model, IMAGES), lambda model: model.predict(IMAGES, verbose=0)):
        with pytest.raises(qat.QatError, match=r"^conv1\.fake_quant has never seen data[^\n]*$"):
            evaluate(quantized())


def test_a_float_network_is_evaluated_as_it_is() -> None:
    model = compiled(KERAS.lower(LeNet5()))
    fit(model, 2)
    expected = TORCH.predict(TORCH.lower(LeNet5(), KERAS.read(model)), IMAGES)
    for found in (KERAS.predict(model, IMAGES), model.predict(IMAGES, verbose=0)):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_policy_of_half_precision_does_not_touch_it() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = compiled(quantized())
        fit(model, 2)
        np.testing.assert_array_equal(model.predict(IMAGES, verbose=0), real(model))
        assert {variable.dtype for variable in model.tensors.values()} == {"float32"}
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("compile", [False, True])
def test_make_step_does_what_fit_does(compile: bool) -> None:
    """Compiled code adds in another order: 1e-3 of losses of about 3."""
    step = KERAS.make_step(quantized(quant_delay=1), Optimizer(), compile=compile)
    losses = [step(IMAGES, LABELS, 0.01) for _ in range(3)]
    expected = fit(compiled(quantized(quant_delay=1)), 3)
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-3)
    assert step.model.step == 3


def test_a_resumed_step_goes_on_with_the_same_bits() -> None:
    """``test_resume.py`` has the whole training."""
    optimizer = Optimizer(weight_decay=0.01)
    step = KERAS.make_step(quantized(quant_delay=2), optimizer)
    first = [step(IMAGES, LABELS, 0.002) for _ in range(3)]
    params, state = KERAS.read(step.model), step.state()
    rest = [step(IMAGES, LABELS, 0.002) for _ in range(3)]
    resumed = KERAS.make_step(KERAS.lower(step.model.graph, params, step=3), optimizer)
    resumed.load_state(state)
    assert [resumed(IMAGES, LABELS, 0.002) for _ in range(3)] == rest
    for found, expected in ((KERAS.read(resumed.model), KERAS.read(step.model)), (resumed.state(), step.state())):
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert found[name].tobytes() == array.tobytes(), name
    again = KERAS.make_step(quantized(quant_delay=2), optimizer)
    assert [again(IMAGES, LABELS, 0.002) for _ in range(3)] == first


def test_the_optimizer_s_state_is_canonical() -> None:
    step = KERAS.make_step(quantized(), Optimizer())
    step(IMAGES, LABELS, 0.01)
    state = step.state()
    assert state["conv1.weight.momentum"].shape == (6, 1, 5, 5)
    assert set(state) == {"optimizer.iterations"} | {f"{w.name}.momentum" for w in step.model.trainable_weights}


@pytest.mark.parametrize("how", ["deepcopy", "save"])
def test_it_is_copied_and_saved_as_any_model(how: str, tmp_path: Path) -> None:
    model = compiled(quantized(quant_delay=1))
    fit(model, 2)
    if how == "deepcopy":
        twin = copy.deepcopy(model)
    else:
        model.save(tmp_path / "network.keras")
        twin = keras.saving.load_model(tmp_path / "network.keras")
    assert twin.graph == model.graph
    assert twin.step == 2
    np.testing.assert_array_equal(twin.predict(IMAGES, verbose=0), real(model))
    assert fit(twin if how == "save" else compiled(twin), 1)[0] == pytest.approx(fit(model, 1)[0])


def test_pixels_of_another_layout_are_refused() -> None:
    model = compiled(quantized())
    message = r"^LeNet5: takes raw pixels.* \(N, 1, 32, 32\), but got .*\((32|None), 32, 32, 1\); .* transpose them"
    for use in (
        lambda x: model(x, training=True),
        lambda x: KERAS.predict(model, x),
        lambda x: model.fit(x, LABELS, verbose=0),
    ):
        with pytest.raises(qat.QatError, match=message):
            use(IMAGES.transpose(0, 2, 3, 1))


def test_images_that_are_scaled_already_are_refused() -> None:
    """They would be normalised twice, in training as in evaluation, where no integers stand for them."""
    model, scaled = compiled(quantized()), (IMAGES / 255).astype(np.float32)
    for use in (
        lambda: model(scaled, training=True),
        lambda: model(scaled),
        lambda: model.fit(scaled, LABELS, verbose=0),
    ):
        with pytest.raises(qat.QatError, match=r"LeNet5: takes raw pixels, uint8 .*, but got .*float32"):
            use()


class Dropping(qat.Network):
    def __init__(self) -> None:
        self.inputs = qat.Input((1, 32, 32), mean=0.3, std=0.3)
        self.dropout = qat.Dropout(0.5)
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(1024, 10)

    def construct(self, x):
        return self.fc(self.flatten(self.dropout(x)))


def test_seed_makes_dropout_repeat_itself() -> None:
    """Within one traced function, over several steps."""

    def losses(*numbers: int) -> list[float]:
        step = KERAS.make_step(KERAS.lower(Dropping()), Optimizer())
        found = []
        for i in range(3):
            KERAS.seed(*numbers, i)
            found.append(step(IMAGES, LABELS, 0.0))
        return found

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)
    assert len(set(losses(1))) == 3


#: |a - b| / |b| of each parameter and state after one step: frameworks add in different orders.
FLOAT_STEP, QAT_STEP = 1e-5, 1e-4


@pytest.mark.parametrize("optimizer", [Optimizer(), Optimizer(weight_decay=0.01)], ids=str)
@pytest.mark.parametrize("is_quantized", [False, True])
def test_one_step_is_the_step_of_torch(is_quantized: bool, optimizer: Optimizer) -> None:
    graph = LeNet5().graph()
    graph = qat.convert_quant_network(graph) if is_quantized else graph
    trained = {}
    for backend in (KERAS, TORCH):
        step = backend.make_step(backend.lower(graph), optimizer)
        step(IMAGES, LABELS, 0.01)
        trained[backend] = backend.read(step.model)
    start = graph.initial_params()
    for name, expected in trained[TORCH].items():
        found = trained[KERAS][name]
        assert np.linalg.norm(found - expected) <= (QAT_STEP if is_quantized else FLOAT_STEP) * np.linalg.norm(expected)
        assert not np.array_equal(found, start[name]), f"{name} was not trained"


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(setups())
def test_every_code_of_networks_drawn_at_random_is_the_integers(setup: Setup) -> None:
    tensors = [node.output for node in setup.integer.nodes]
    reference = qat.integer.trace_codes(setup.integer, setup.pixels, [tensor.name for tensor in tensors])
    found = KERAS.trace(KERAS.lower(setup.graph, setup.params), setup.pixels, tensors)
    for tensor in tensors:
        np.testing.assert_array_equal(
            found[tensor.name], reference[tensor.name], err_msg=f"{tensor.name}\n{setup.note}"
        )


class TwoWays(qat.Network):
    """Two inputs, and two outputs of which one is an image."""

    def __init__(self) -> None:
        self.inputs = (qat.Input((2, 6, 5)), qat.Input((2, 6, 5)))
        self.conv = qat.Conv2dBnAct(2, 3, 3, has_bn=True, activation="relu")
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(90, 4)

    def construct(self, x, y):
        x = self.conv(x)
        return x, self.fc(self.flatten(self.conv(y)))


def test_several_inputs_and_outputs_are_tuples_of_canonical_arrays() -> None:
    model = KERAS.lower(qat.convert_quant_network(TwoWays()))
    generator = np.random.default_rng(2)
    pixels = tuple(generator.integers(0, 256, (7, 2, 6, 5), np.uint8) for _ in range(2))
    image, logits = model(pixels, training=True)
    assert image.shape == (7, 3, 6, 5)
    assert logits.shape == (7, 4)
    deployed = model.integers()
    codes = qat.evaluate(deployed, pixels)
    expected = [x.grid.dequantize(c) for x, c in zip(deployed.outputs, codes, strict=True)]
    for found in (KERAS.predict(model, pixels), model.predict(pixels, verbose=0)):
        assert isinstance(found, tuple)
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("device", ["GPU", "Ascend"])
def test_a_device_that_is_not_there_is_refused(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with pytest.raises(
        qat.QatError, match=rf"^device_target '{device}' is not there: keras [^\n]* --device_target CPU$"
    ):
        KERAS.lower(LeNet5(), device_target=device)


def test_a_refusal_inside_a_call_is_one_line_of_our_own() -> None:
    """Keras puts lines around what is raised inside a call."""
    model = KERAS.lower(qat.convert_quant_network(LeNet5()))
    with pytest.raises(qat.QatError) as caught:
        model(np.zeros((1, 1, 32, 32), np.uint8))
    assert "has never seen data" in str(caught.value)
    assert "Exception encountered" not in str(caught.value)


def test_tensorflow_says_nothing_while_it_is_imported() -> None:
    program = "import qat, sys; qat.backend('keras'); print('own words', file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("", "own words\n")

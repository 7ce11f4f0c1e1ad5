"""What is no raw pixels of a network is refused by one line, at every entry, the first time and after others went through."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibrations import calibrate

import qat
from qat.deploy import inference
from qat.registry import TARGETS
from qat.training.optimizer import Optimizer

SHAPE = (3, 12, 8)
RIGHT = np.random.default_rng(0).integers(0, 256, (4, *SHAPE), np.uint8)
LABELS = np.zeros(4, np.int64)
TAKES = r"takes raw pixels, uint8 \(N, 3, 12, 8\), but got "
WRONG: dict[str, tuple[Any, str]] = {
    "another size": (
        np.zeros((4, 3, 16, 8), np.uint8),
        TAKES + r"uint8 \(4, 3, 16, 8\); resize the images to 12 x 8; .*resized\(\(3, 12, 8\)\)",
    ),
    "channels last": (
        RIGHT.transpose(0, 2, 3, 1),
        TAKES + r"uint8 \(4, 12, 8, 3\); images are \(N, C, H, W\) here: transpose",
    ),
    "one image": (RIGHT[0], TAKES + r"uint8 \(3, 12, 8\); give a batch, also of one: images\[None\]"),
    "other channels": (RIGHT[:, :1], TAKES + r"uint8 \(4, 1, 12, 8\); give images as they were read"),
    "floats": (RIGHT.astype(np.float32), TAKES + r"\S*[Ff]loat32 .*; give images as they were read, whole"),
    "integers": (RIGHT.astype(np.int64), TAKES + r"\S*[Ii]nt64 .*; give images as they were read"),
    "an empty batch": (RIGHT[:0], "there are no images, the batch is empty; give at least one"),
}
wrong = pytest.mark.parametrize("what", WRONG)


class Net(qat.Network):
    inputs = qat.Input(SHAPE)

    def __init__(self) -> None:
        self.conv = qat.Conv2dBnAct(3, 4, 3, activation="relu")
        self.pool = qat.GlobalAvgPool2d()
        self.flatten = qat.Flatten()

    def construct(self, x):
        return self.flatten(self.pool(self.conv(x)))


QUANTIZED = calibrate(Net(), Net().graph().initial_params(), RIGHT)
INTEGERS = qat.to_integer(QUANTIZED.graph, QUANTIZED.params)


def refused(what: str, use: Callable[[Any], Any], convert: Callable[[Any], Any] = lambda x: x) -> None:
    images, message = WRONG[what]
    with pytest.raises(qat.QatError, match=f"^{message}|: {message}") as caught:
        use(convert(images))
    assert "\n" not in str(caught.value)


@wrong
def test_numpy(what: str) -> None:
    for use in (
        lambda x: qat.evaluate(INTEGERS, x),
        lambda x: qat.evaluate(INTEGERS, x, arithmetic="fixed"),
        lambda x: calibrate(Net(), Net().graph().initial_params(), x),
    ):
        refused(what, use)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (RIGHT / 255, "these look divided by 255 or normalised, which the network does itself"),
        (RIGHT / 127.5 - 1, "these look divided by 255 or normalised, which the network does itself"),
        (RIGHT.tolist(), "has 1 input but got 4 arrays; give one for each"),
        ([RIGHT.tolist()], "but got a list; give a numpy ndarray"),
        (None, "but got a NoneType; give a numpy ndarray"),
        ((RIGHT, RIGHT), "has 1 input but got 2 arrays; give one for each"),
    ],
)
def test_what_else_is_given(images: Any, message: str) -> None:
    with pytest.raises(qat.QatError, match=message):
        qat.evaluate(INTEGERS, images)


@pytest.mark.parametrize("size", [0, -1, 2.5, "8", True])
def test_a_batch_size_is_a_whole_number(size: Any) -> None:
    with pytest.raises(qat.QatError, match=r"batch_size is .*; use a whole number of at least 1"):
        qat.evaluate(INTEGERS, RIGHT, batch_size=size)


@pytest.mark.parametrize("name", TARGETS)
def test_every_target(name: str, tmp_path: Path) -> None:
    target, checkpoint = qat.target(name), QUANTIZED
    if name in ("ASCEND_ONNX", "AIR"):
        checkpoint = calibrate(Net(), Net().graph().initial_params(), RIGHT, profile="ascend")
    integers, path = qat.to_integer(checkpoint.graph, checkpoint.params), tmp_path / f"net{TARGETS[name].suffix}"
    target.export(integers, path)
    target.predict(path, RIGHT)
    for what in WRONG:
        refused(what, lambda x: target.predict(path, x))
        refused(what, lambda x: target.trace(path, x, [node.output for node in integers.nodes]))


@pytest.mark.parametrize("backend", ["torch", "keras", "mindspore"])
def test_every_backend_s_functions(backend: str) -> None:
    module = qat.backend(backend)
    model = module.lower(QUANTIZED.graph, QUANTIZED.params)
    module.predict(model, RIGHT)
    step = module.make_step(module.lower(Net()), Optimizer())
    step(RIGHT, LABELS, 0.01)
    for what in WRONG:
        refused(what, lambda x: module.predict(model, x))
        refused(what, lambda x: module.predict_codes(model, x))
        refused(what, lambda x: inference.trace(model, x, INTEGERS.outputs))
        refused(what, lambda x: step(x, LABELS[: len(x)], 0.01))


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"
)  # torch.jit.trace, of itself
@pytest.mark.parametrize("training", [True, False])
def test_a_torch_module(training: bool) -> None:
    import torch

    model = qat.backend("torch").lower(Net()).train(training)
    traced = torch.jit.trace(model, (torch.tensor(RIGHT),))
    np.testing.assert_array_equal(traced(torch.tensor(RIGHT)).detach(), model(torch.tensor(RIGHT)).detach())
    for what in WRONG:
        refused(what, model, torch.tensor)
    for what in ("another size", "channels last", "one image", "other channels"):  # of a trace only operations are left
        with pytest.raises(RuntimeError, match=r"split_with_sizes|Dimension out of range"):
            traced(torch.tensor(WRONG[what][0]))
    with pytest.raises(qat.QatError, match="but got a ndarray; give a torch Tensor"):
        model(RIGHT)


def test_a_compiled_torch_module() -> None:
    import torch

    compiled = torch.compile(qat.backend("torch").lower(Net()), backend="eager")
    compiled(torch.tensor(RIGHT))
    for what in WRONG:
        refused(what, compiled, torch.tensor)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.onnx.export, of itself
@pytest.mark.parametrize("quantized", [False, True])
def test_torch_s_own_exports_name_the_target(quantized: bool) -> None:
    import io

    import torch

    graph = QUANTIZED.graph if quantized else Net().graph()
    model = qat.backend("torch").lower(graph, graph.observed_params()).eval()
    use = r"export\(model, 'net.onnx'\)" if quantized else r"target\('ONNX'\).export_float\(graph, params, path\)"
    message = rf"^Net: torch.*export cannot write it.*; use qat.{use}$"
    with pytest.raises(qat.QatError, match=message):
        torch.onnx.export(model, (torch.tensor(RIGHT),), io.BytesIO(), dynamo=False)
    assert model.state_dict()["_extra_state"] == {"step": 0}
    for mode, strict in itertools.product((False, True), repeat=2) if quantized else ():
        with pytest.raises(qat.QatError, match=message):
            torch.export.export(model.train(mode), (torch.tensor(RIGHT),), strict=strict)
        assert model.step == 0, "no step was counted"


@pytest.mark.parametrize("training", [True, False])
def test_a_mindspore_cell(training: bool) -> None:
    import mindspore as ms

    model = qat.backend("mindspore").lower(Net()).set_train(training)
    model(ms.Tensor(RIGHT))
    for what in WRONG:
        refused(what, model, lambda x: ms.Tensor(np.ascontiguousarray(x)))
    with pytest.raises(qat.QatError, match="but got a ndarray; give a mindspore Tensor"):
        model(RIGHT)
    outputs = model(ms.Tensor(RIGHT)).asnumpy()
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        if training:
            with pytest.raises(
                qat.QatError, match=r"Net: a loop of your own .* PYNATIVE mode.*TrainOneStepCell.*set_context"
            ):
                model(ms.Tensor(RIGHT))
        else:
            np.testing.assert_array_equal(model(ms.Tensor(RIGHT)).asnumpy(), outputs)
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)


def keras_entries(model: Any) -> dict[str, Callable[[Any], Any]]:
    """Every way in which a keras.Model is given arrays."""
    return {
        "call": lambda x: model(x),
        "call in training": lambda x: model(x, training=True),
        "predict": lambda x: model.predict(x, verbose=0),
        "predict_on_batch": lambda x: model.predict_on_batch(x),
        "fit": lambda x: model.fit(x, LABELS[: len(x)], verbose=0),
        "validation of fit": lambda x: model.fit(RIGHT, LABELS, validation_data=(x, LABELS[: len(x)]), verbose=0),
        "evaluate": lambda x: model.evaluate(x, LABELS[: len(x)], verbose=0),
        "train_on_batch": lambda x: model.train_on_batch(x, LABELS[: len(x)]),
        "test_on_batch": lambda x: model.test_on_batch(x, LABELS[: len(x)]),
    }


def keras_model(**options: Any) -> Any:
    model = qat.backend("keras").lower(QUANTIZED.graph, QUANTIZED.params)
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy", **options)
    return model


@pytest.mark.parametrize("warm", [False, True])
def test_a_keras_model(warm: bool) -> None:
    """Keras traces a function anew for other sizes, and leaves those open that were others before."""
    model = keras_model()
    for name, use in keras_entries(model).items():
        if warm:
            use(RIGHT)
        for what in WRONG:
            if (name, what) != ("validation of fit", "an empty batch"):  # Keras takes that for no validation
                refused(what, use)


@pytest.mark.parametrize("xla", [False, True])
def test_a_keras_model_and_a_dataset_whose_sizes_are_not_known(xla: bool) -> None:
    import tensorflow as tf

    model = keras_model(jit_compile=xla)

    def dataset(x: np.ndarray) -> Any:
        shapes = tf.TensorSpec([None] * x.ndim, tf.as_dtype(x.dtype)), tf.TensorSpec([None], tf.int64)
        return tf.data.Dataset.from_generator(lambda: iter([(x, LABELS[: len(x)])]), output_signature=shapes).repeat()

    for use in (
        lambda x: model.fit(dataset(x), steps_per_epoch=1, shuffle=False, verbose=0),
        lambda x: model.evaluate(dataset(x), steps=1, verbose=0),
        lambda x: model.predict(dataset(x), steps=1, verbose=0),
    ):
        use(RIGHT)
        for what in WRONG:
            refused(what, use)
    np.testing.assert_array_equal(model.predict(dataset(RIGHT), steps=1, verbose=0), model.predict(RIGHT, verbose=0))


def test_a_tf_function_of_one_s_own_gives_no_numbers_of_a_part_of_an_image() -> None:
    import tensorflow as tf

    model = keras_model()
    function = tf.function(model, input_signature=[tf.TensorSpec([None] * 4, tf.uint8)])
    np.testing.assert_array_equal(function(RIGHT), model(RIGHT))
    with pytest.raises(tf.errors.InvalidArgumentError, match="not compatible with expected shape"):
        function(np.zeros((4, 3, 16, 8), np.uint8))

"""What quantization does at which step, in the training loops of Lightning, Keras and MindSpore, and in one's own."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameworks import HERE
from torchvision_models import models

import qat
from qat.cells.oscillation import FREE, NEVER_FREEZES
from qat.errors import QatError, QatWarning
from qat.training.oscillations import OSCILLATES

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (48, 1, 4, 4), np.uint8), RNG.integers(0, 3, 48)
FREEZING = qat.Oscillations(freeze=0.02, momentum=0.1)


class Net(qat.Network):
    """With running statistics, and weights that are quantized."""

    def __init__(self) -> None:
        self.inputs = qat.Input((1, 4, 4), mean=0.5, std=0.25)
        self.conv = qat.Conv2dBnAct(1, 4, 3, has_bn=True, activation="relu")
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(64, 3)

    def construct(self, x: qat.Traced) -> qat.Traced:
        return self.fc(self.flatten(self.conv(x)))


class Norm(qat.Network):
    """The least that has both a delay and running statistics."""

    def __init__(self) -> None:
        self.inputs = qat.Input((1, 4, 4))
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(16, 3, has_bn=True)

    def construct(self, x: qat.Traced) -> qat.Traced:
        return self.fc(self.flatten(x))


class Recorder:
    """A tracker that keeps what it gets."""

    def __init__(self) -> None:
        self.params: dict[str, Any] = {}
        self.metrics: list[tuple[int, dict[str, float]]] = []

    def log_params(self, params: Mapping[str, Any]) -> None:
        self.params |= params

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.metrics.append((step, dict(metrics)))

    def close(self) -> None:
        raise AssertionError("who made it closes it")


def prepared(backend: str, **settings: Any) -> Any:
    images = IMAGES.transpose(0, 2, 3, 1) if backend == "keras" else IMAGES
    return qat.prepare(Net(), None, images, backend=backend, **settings)


def phases_of(model: Any) -> list[int]:
    """The phase of each training pass to come, as they are run (of Keras, as they are traced)."""
    seen: list[int] = []
    inner = model.run

    def watched(inputs: Any, phase: int, **options: Any) -> Any:
        seen.append(phase)
        return inner(inputs, phase, **options)

    object.__setattr__(model, "run", watched)
    return seen


# -- what is decided once -----------------------------------------------------------------------------------------------


def test_lengths_become_steps_and_the_same_integers_stay() -> None:
    model = prepared("torch")
    before = qat.backend("torch").predict_codes(model, IMAGES)
    schedule = qat.QuantSchedule(model, quant_delay="2ep", freeze_bn="50%")
    schedule.begin(epoch=6, steps=30)
    assert model.graph.quant_delay == 12
    assert {node.cell.freeze_bn for node in model.graph.nodes if getattr(node.cell, "has_bn", False)} == {15}
    assert model.graph.phase_starts == (0, 12, 15)
    np.testing.assert_array_equal(qat.backend("torch").predict_codes(model, IMAGES), before)
    assert schedule.checkpoint.graph == model.graph


def test_before_the_delay_it_trains_as_the_float_network_does() -> None:
    import torch

    model = prepared("torch", bn_fold=False)
    qat.QuantSchedule(model, quant_delay=1).begin(epoch=4, steps=4)
    params = qat.backend("torch").read(model)
    floats = Net().graph()
    other = qat.backend("torch").lower(floats, {name: params[name] for name in floats.params})
    x = torch.from_numpy(IMAGES)
    first, expected = model.train()(x), other.train()(x)
    assert torch.equal(first, expected), "of the first step"
    assert not torch.equal(model(x), other(x)), "of the second one"


def test_the_threshold_falls_until_the_training_ends_and_weights_freeze() -> None:
    import torch

    model = prepared("torch", num_bits=(2, 8), oscillations=FREEZING)
    name = "fc.weight_fake_quant_" if "fc.weight_fake_quant_freeze_threshold" in model.graph.params else None
    thresholds = [full for full in model.graph.params if full.endswith("freeze_threshold")]
    assert len(thresholds) == 2, name
    backend = qat.backend("torch")
    assert {float(backend.read(model)[full]) for full in thresholds} == {NEVER_FREEZES}
    schedule = qat.QuantSchedule(model, quant_delay=10)
    schedule.begin(epoch=20, steps=110)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    found = []
    for step in range(110):
        schedule.before_step()
        assert model.step == step
        found.append(float(backend.read(model)[thresholds[0]]))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(torch.from_numpy(IMAGES)), torch.from_numpy(LABELS)).backward()
        optimizer.step()
    assert found == pytest.approx([FREEZING.threshold(step - 10, 100) for step in range(110)])
    checkpoint = schedule.end()
    counted = qat.oscillating(checkpoint.graph, checkpoint.params)
    assert sum(each.frozen for each in counted) > 0
    frozen = [a for full, a in checkpoint.params.items() if full.endswith("frozen_code")]
    assert any((codes < FREE).any() for codes in frozen)
    assert FREEZING.freeze > OSCILLATES


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        ({}, {"quant_delay": "2eps"}, "'2eps' is no length; give steps as 900"),
        ({}, {"oscillations": FREEZING}, "but the model does not; give the same oscillations to qat.prepare"),
        ({"oscillations": qat.Oscillations()}, {"oscillations": FREEZING}, "but the model does so by Oscillation"),
        ({"oscillations": qat.Oscillations(dampen=0.1)}, {}, "dampen is 0.1, a part of the loss"),
        ({}, {"trackers": ["mlflow"]}, r"'mlflow' is a name; give qat.trackers.create\('mlflow'\)"),
        ({}, {"trackers": [object()]}, "a object has no log_params; a tracker has log_params, log_metrics, close"),
        ({}, {"save_path": "nowhere/at/all.ckpt/net.ckpt/"}, "nowhere"),
    ],
)
def test_what_makes_no_sense_is_refused(
    settings: dict[str, Any], arguments: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nowhere").write_text("a file")
    with pytest.raises(QatError, match=message):
        qat.QuantSchedule(prepared("torch", **settings), **arguments)


@pytest.mark.parametrize(
    ("arguments", "known", "message"),
    [
        (
            {"quant_delay": "2ep"},
            {},
            "quant_delay is 2ep, but how many steps an epoch has is not known here; give steps",
        ),
        ({"freeze_bn": "5%"}, {"epoch": 4}, "freeze_bn is 5%, but how many steps the training has is not known here"),
        ({"oscillations": FREEZING}, {"epoch": 4}, "falls until the training ends, and its length is not known"),
    ],
)
def test_a_length_that_is_not_known_is_refused(arguments: dict[str, Any], known: dict[str, int], message: str) -> None:
    schedule = qat.QuantSchedule(prepared("torch", oscillations=arguments.get("oscillations")), **arguments)
    with pytest.raises(QatError, match=message):
        schedule.begin(**known)


def test_a_delay_that_does_not_end_is_warned_of() -> None:
    schedule = qat.QuantSchedule(prepared("torch"), quant_delay=40)
    with pytest.warns(QatWarning, match="quantization sets in after 40 steps, but the training ends after 40"):
        schedule.begin(steps=40)
    schedule.begin(steps=41)  # warnings are errors here


def test_a_float_network_has_nothing_to_delay() -> None:
    model = qat.backend("torch").lower(Net())
    with pytest.raises(QatError, match=r"quant_delay is 3, but it is float; give what qat.prepare returned"):
        qat.QuantSchedule(model, quant_delay=3)
    with pytest.raises(QatError, match=r"has no codes; call qat.prepare first"):
        qat.QuantSchedule(object())


def test_a_backend_without_a_loop_of_its_framework_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(qat.backend("torch"), "callback")
    with pytest.raises(QatError, match=r"'torch' has no callback .* use qat.QuantSchedule in a loop of your own"):
        qat.callback(prepared("torch"))


# -- Keras --------------------------------------------------------------------------------------------------------------


def fitted(model: Any, callbacks: list[Any], whole: Any = None, **options: Any) -> Any:
    import keras

    whole = model if whole is None else whole
    if not whole.compiled:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        whole.compile(optimizer=keras.optimizers.SGD(0.05), loss=loss, metrics=["accuracy"])
    settings = {"batch_size": 12, "epochs": 3, "verbose": 0} | options
    pixels = IMAGES.transpose(0, 2, 3, 1)
    return whole.fit(pixels, LABELS, callbacks=callbacks, validation_data=(pixels, LABELS), **settings)


@pytest.mark.skipif("keras" not in HERE, reason="Keras is not installed")
def test_keras_fits_with_a_delay_in_epochs_early_stopping_and_its_own_checkpoints(tmp_path: Path) -> None:
    import keras

    model = prepared("keras", oscillations=FREEZING)
    tracker, seen = Recorder(), phases_of(model)
    callback = qat.callback(
        model, quant_delay="1ep", freeze_bn="2ep", save_path=tmp_path / "net.ckpt", trackers=[tracker]
    )
    own = [
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=5, restore_best_weights=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
    ]
    history = fitted(model, [*own, callback]).history
    assert model.graph.phase_starts == (0, 4, 8)
    assert sorted(set(seen)) == [0, 4, 8], "each phase is traced"
    assert tracker.params == {
        "qat/network": "Net",
        "qat/backend": "keras",
        "qat/quant_delay": 4,
        "qat/freeze_bn": 8,
    }
    assert [step for step, _ in tracker.metrics] == [4, 8, 12]
    assert [found["loss"] for _, found in tracker.metrics] == history["loss"]
    assert {"val_accuracy", "qat/oscillating", "qat/frozen"} <= set(tracker.metrics[-1][1])
    best = int(np.argmin(history["val_loss"])) + 1
    saved = qat.Checkpoint.load(tmp_path / "net.ckpt")
    assert (saved.graph, saved.step) == (model.graph, 4 * best)
    again = keras.models.load_model(tmp_path / f"{best}.keras")
    assert again.graph == model.graph
    np.testing.assert_array_equal(
        *(qat.backend("keras").predict_codes(each, IMAGES) for each in (again, model)), strict=True
    )
    lines: list[str] = []
    model.summary(print_fn=lines.append, line_length=80)
    shown = "\n".join(lines)
    assert "conv (Conv2dBnAct)" in shown
    assert "fc (DenseBnAct)" in shown


@pytest.mark.skipif("keras" not in HERE, reason="Keras is not installed")
def test_a_second_fit_goes_on_and_a_model_within_another_is_followed_too() -> None:
    import keras

    inner = qat.prepare(Norm(), None, IMAGES.transpose(0, 2, 3, 1), backend="keras")
    x = keras.Input((4, 4, 1), dtype="uint8")
    whole = keras.Model(x, inner(x))
    fitted(inner, [qat.callback(inner, quant_delay=2)], whole, epochs=1)
    assert (inner.step, inner.graph.phase_starts) == (4, (0, 2, 10_000_000))
    seen = phases_of(inner)
    history = fitted(inner, [qat.callback(inner, quant_delay=7, freeze_bn="100%")], whole, initial_epoch=1, epochs=3)
    assert inner.graph.phase_starts == (0, 7, 12)
    assert seen == [0, 7, 12], "the whole model was traced anew, with a branch for each phase"
    deployed = qat.backend("keras").predict(inner, IMAGES)
    right = float(np.mean(deployed.argmax(1) == LABELS))
    assert history.history["val_accuracy"][-1] == pytest.approx(right), "of the integers of that epoch"
    other = prepared("keras")
    with pytest.raises(QatError, match=r"of which Net, the model of qat.callback, is no part"):
        fitted(inner, [qat.callback(other)], whole)


# -- Lightning ------------------------------------------------------------------------------------------------------------


def lightning() -> Any:
    models()  # of torchvision, which Lightning's metrics import where it is installed
    return pytest.importorskip("lightning.pytorch", reason="Lightning is not installed")


def module_of(model: Any) -> Any:
    import torch

    class Module(lightning().LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, index: int) -> Any:
            images, labels = batch
            loss = torch.nn.functional.cross_entropy(self.model(images), labels)
            self.log("loss", loss, on_epoch=True, on_step=False)
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            images, labels = batch
            self.log("accuracy", (self.model(images).argmax(1) == labels).float().mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05)

    return Module()


def loader(shuffle: bool = False) -> Any:
    import torch

    dataset = torch.utils.data.TensorDataset(torch.from_numpy(IMAGES), torch.from_numpy(LABELS))
    return torch.utils.data.DataLoader(dataset, batch_size=12, shuffle=shuffle)


def trainer(folder: Path, callback: Any, **settings: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return lightning().Trainer(default_root_dir=folder, callbacks=[callback], **(quiet | settings))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_lightning_trains_it_and_gives_the_checkpoint_back(tmp_path: Path) -> None:
    model = prepared("torch", oscillations=FREEZING)
    tracker = Recorder()
    module = module_of(model)
    seen = phases_of(model)
    callback = qat.callback(
        model, quant_delay="1ep", freeze_bn="2ep", save_path=tmp_path / "net.ckpt", trackers=[tracker]
    )
    run = trainer(tmp_path, callback, max_epochs=3)
    run.fit(module, loader(), loader())
    assert seen == [0] * 4 + [4] * 4 + [8] * 4
    assert model.step == run.global_step == 12
    assert [step for step, _ in tracker.metrics] == [4, 8, 12]
    assert {"loss", "accuracy", "qat/frozen"} <= set(tracker.metrics[0][1])
    saved = qat.Checkpoint.load(tmp_path / "net.ckpt")
    assert (saved.step, saved.graph) == (12, model.graph)
    for name, array in callback.checkpoint.params.items():
        np.testing.assert_array_equal(saved.params[name], array)
    assert qat.export(model, tmp_path / "net.onnx").passed
    (path,) = (tmp_path / "checkpoints").glob("*.ckpt")
    other = prepared("torch", oscillations=FREEZING)
    again = trainer(tmp_path, qat.callback(other, quant_delay="1ep", freeze_bn="2ep"), max_epochs=4)
    again.fit(module_of(other), loader(), loader(), ckpt_path=path)
    assert (other.step, other.graph) == (16, model.graph)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_steps_are_those_of_the_optimizer_where_gradients_are_accumulated(tmp_path: Path) -> None:
    model = prepared("torch")
    callback = qat.callback(model, quant_delay="1ep")
    seen = phases_of(model)
    trainer(tmp_path, callback, max_epochs=2, accumulate_grad_batches=2, enable_checkpointing=False).fit(
        module_of(model), loader()
    )
    assert model.graph.quant_delay == 2
    assert seen == [0] * 4 + [2] * 4
    assert model.step == 4
    with pytest.raises(
        QatError, match=r"the Trainer trains a Module, of which Net, the model of qat.callback, is no part"
    ):
        trainer(tmp_path, callback, max_epochs=1, enable_checkpointing=False).fit(
            module_of(copy.deepcopy(model)), loader()
        )


def test_without_lightning_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from qat.backends.torch import callback

    callback._callback_class.cache_clear()
    model, find = prepared("torch"), callback.importlib.util.find_spec
    monkeypatch.setattr(callback.importlib.util, "find_spec", lambda name: None if "ightning" in name else find(name))
    with pytest.raises(QatError, match=r"Lightning, which is not installed: pip install .*lightning"):
        qat.callback(model)
    callback._callback_class.cache_clear()


# -- MindSpore ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif("mindspore" not in HERE, reason="MindSpore is not installed")
def test_mindspore_s_model_trains_it_with_its_own_callbacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import mindspore as ms

    backend: Any = qat.backend("mindspore")
    network = prepared("mindspore", oscillations=FREEZING)
    tracker = Recorder()
    callback = qat.callback(
        network, quant_delay="1ep", freeze_bn="2ep", save_path=tmp_path / "net.ckpt", trackers=[tracker]
    )
    data = ms.dataset.NumpySlicesDataset((IMAGES, LABELS.astype(np.int32)), ["x", "y"], shuffle=False).batch(12)
    step = backend.TrainOneStepCell(network, ms.nn.Momentum(network.trainable_params(), 0.05, 0.9))
    config = ms.train.CheckpointConfig(save_checkpoint_steps=4, keep_checkpoint_max=5)
    own = [ms.train.LossMonitor(), ms.train.ModelCheckpoint("net", str(tmp_path), config)]
    losses: list[float] = []
    inner = step._compiled.__call__

    def watched(*args: Any) -> Any:
        found = inner(*args)
        losses.append(float(next(iter(found[0].values())).asnumpy()))
        return found

    step._compiled = watched
    ms.train.Model(step).train(3, data, callbacks=[*own, callback], dataset_sink_mode=False)
    assert network.graph.phase_starts == (0, 4, 8)
    assert network.step == 12
    printed = [
        float(line.rpartition("loss is")[2]) for line in capsys.readouterr().out.splitlines() if "loss is" in line
    ]
    assert printed == pytest.approx(losses), "LossMonitor prints the loss of each step"
    assert [step for step, _ in tracker.metrics] == [4, 8, 12]
    assert tracker.metrics[-1][1]["loss"] == pytest.approx(losses[-1])
    saved = qat.Checkpoint.load(tmp_path / "net.ckpt")
    assert (saved.step, saved.graph) == (12, network.graph)
    other = backend.lower(network.graph)
    missing, _ = ms.load_param_into_net(other, ms.load_checkpoint(str(tmp_path / "net-3_4.ckpt")))
    assert missing == []
    np.testing.assert_array_equal(*(backend.predict_codes(each, IMAGES) for each in (other, network)), strict=True)
    data = ms.dataset.NumpySlicesDataset((IMAGES, LABELS.astype(np.int32)), ["x", "y"]).batch(12)
    with pytest.raises(QatError, match=r"Model.train trains a TrainOneStepCell, of which Net"):
        ms.train.Model(step).train(1, data, callbacks=[qat.callback(other)], dataset_sink_mode=False)


# -- the page -------------------------------------------------------------------------------------------------------------


def example(heading: str, names: dict[str, Any]) -> dict[str, Any]:
    """What the example under a heading of the page leaves behind, beside what it begins with."""
    text = (Path(__file__).parent.parent / "docs" / "import_training.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^##+ {heading}\n(.*?)(?=^##)", text, re.DOTALL | re.MULTILINE)[-1:]
    code = section.split("```python\n")[1].split("```")[0]
    names["__name__"] = "example"  # which MindSpore looks for
    exec(compile(code, "import_training.md", "exec"), names)
    return names


def torch_module() -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16, 3)
    ).eval()


def float_loader() -> Any:
    import torch

    dataset = torch.utils.data.TensorDataset(torch.from_numpy(IMAGES / 255).float(), torch.from_numpy(LABELS))
    return torch.utils.data.DataLoader(dataset, batch_size=12)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_page_s_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lightning()
    monkeypatch.chdir(tmp_path)
    names = example("In Lightning", {"module": torch_module(), "loader": float_loader()})
    assert names["certificate"].passed
    assert qat.Checkpoint.load("net.ckpt").step == 12
    assert names["callback"].checkpoint.graph.quant_delay == 4


def test_the_page_s_loop_of_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = example(
        "A loop of your own", {"module": torch_module(), "images": IMAGES / np.float32(255), "loader": float_loader()}
    )
    assert names["checkpoint"].step == 12


def test_the_page_s_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    graph, split = Net().graph(), qat.Split(np.tile(IMAGES, (2, 1, 1, 1)), np.tile(LABELS, 2))
    start, dataset = qat.Checkpoint(graph, graph.initial_params()), qat.Dataset("here", "here", split, split)
    names = example("Trackers", {"qat": qat, "backend": qat.backend("torch"), "checkpoint": start, "dataset": dataset})
    assert names["end"].step == 1
    (path,) = Path("runs/first").iterdir()
    assert b"train/avg_loss" in path.read_bytes()


@pytest.mark.sweep
def test_the_page_s_keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    monkeypatch.chdir(tmp_path)
    x = keras.Input((4, 4, 1))
    module = keras.Model(
        x, keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Conv2D(4, 3, activation="relu")(x)))
    )
    names = example(
        "In Keras", {"module": module, "images": IMAGES.transpose(0, 2, 3, 1) / np.float32(255), "labels": LABELS}
    )
    assert names["certificate"].passed
    assert qat.Checkpoint.load("net.ckpt").graph.quant_delay == 2


@pytest.mark.sweep
def test_the_page_s_mindspore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mindspore as ms

    monkeypatch.chdir(tmp_path)
    pixels = RNG.integers(0, 256, (48, 1, 32, 32), np.uint8)
    data = ms.dataset.NumpySlicesDataset((pixels, LABELS.astype(np.int32)), ["x", "y"]).batch(12)
    names = example("In MindSpore", {"pixels": pixels, "data": data})
    assert names["certificate"].passed
    assert qat.Checkpoint.load("net.ckpt").step == 8


class Failing(Recorder):
    """A tracker whose service does not answer."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        raise QatError("--log_to: refused")


def test_a_checkpoint_is_saved_before_a_tracker_may_fail(tmp_path: Path) -> None:
    schedule = qat.QuantSchedule(prepared("torch"), save_path=tmp_path / "net.ckpt", trackers=[Failing()])
    schedule.begin(epoch=6, steps=12)
    with pytest.raises(QatError, match="refused"):
        schedule.after_epoch({"loss": 1.0})
    assert qat.Checkpoint.load(tmp_path / "net.ckpt").graph.is_quantized

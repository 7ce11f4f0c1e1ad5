"""Where the numbers of a training go: the same ones to every tracker, and to a user's own."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command import run

import qat
from qat import plugins
from qat.errors import QatError, QatWarning
from qat.training import trackers
from qat.training.event_file import EventFile

OWN = """
    made = []
    class Own:
        def __init__(self, text="none"):
            self.text, self.params, self.metrics, self.closed = text, {}, [], 0
            made.append(self)
        def log_params(self, params):
            self.params.update(params)
        def log_metrics(self, metrics, step):
            self.metrics.append((step, dict(metrics)))
        def close(self):
            self.closed += 1
    class Half:
        def log_params(self, params):
            pass
"""


class Linear(qat.Network):
    def __init__(self) -> None:
        self.inputs = qat.Input((1, 8, 8), mean=0.3, std=0.3)
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(64, 10)

    def construct(self, x: qat.Traced) -> qat.Traced:
        return self.fc(self.flatten(x))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module with a tracker of a user's own, in the working directory, and the network."""
    lines = [line.removeprefix("    ") for line in OWN.splitlines()]
    (tmp_path / "own_tracker.py").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_tracker", raising=False)
    import own_tracker  # type: ignore[import-not-found]

    return own_tracker


def digits() -> tuple[qat.Checkpoint, qat.Dataset]:
    graph = qat.convert_quant_network(Linear())
    return qat.Checkpoint(graph, graph.initial_params(seed=0)), qat.data.load("digits")


def test_every_tracker_gets_the_numbers_of_the_log_and_the_settings(own: Any, tmp_path: Path) -> None:
    start, dataset = digits()
    tracker = own.Own()
    recipe = qat.Recipe(epochs=2, batch_size=128, lr=0.05, validation=200, optimizer=qat.Optimizer(ema=0.5))
    path = tmp_path / "log.csv"
    end = qat.train(qat.backend("torch"), start, dataset, recipe, log_every=4, log_path=path, trackers=[tracker])
    assert tracker.params["network"] == "Linear"
    assert (tracker.params["epochs"], tracker.params["optimizer.ema"]) == (2, 0.5)
    trained = [(step, found) for step, found in tracker.metrics if "train/loss" in found]
    rows = np.genfromtxt(path, delimiter=",", names=True)
    assert [step for step, _ in trained] == [4, 8, 9, 13, 17, 18]
    for name in ("loss", "avg_loss", "lr"):
        np.testing.assert_allclose([found[f"train/{name}"] for _, found in trained], rows[name], rtol=1e-5)
    held = [(step, found) for step, found in tracker.metrics if "train/loss" not in found]
    assert held == [
        (epoch.step, {"validation/loss": epoch.validation_loss, "validation/top-1": epoch.validation_metric})
        for epoch in end.progress.epochs
    ]
    assert tracker.closed == 0, "who made it closes it"


def test_the_commands_log_to_several_trackers_and_close_them(
    own: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data_path", "digits", "--epochs", 1, "--batch_size", 128, "--backend", "torch"]
    arguments = ["--network", "mlp", *flags, "--save_path", "net.ckpt"]
    status, out, err = run(capsys, "train", *arguments, "--log_to", "own_tracker:Own", "TensorBoard:logs/first")
    assert (status, err) == (0, ""), out
    (tracker,) = own.made
    assert tracker.closed == 1
    step, found = tracker.metrics[-1]
    assert step == 11
    assert f"{100 * found['test/top-1']:.2f}" in out
    (path,) = (tmp_path / "logs" / "first").iterdir()
    content = path.read_bytes()
    assert b"train/loss" in content
    assert b"test/top-1" in content
    assert b"label_smoothing: 0.0" in content
    status, out, err = run(
        capsys, "train-quant", "--ckpt_path", "net.ckpt", *flags, "--log_to", "own_tracker:Own", "own_tracker:Half"
    )
    assert (status, out) == (2, "") or "threads" in out
    assert "trackers: a Half has no log_metrics; a tracker has log_params, log_metrics, close" in err
    assert own.made[-1].closed == 1, "the first one was closed"
    assert not (tmp_path / "net_quant.ckpt").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tensorbord", r"--log_to: tracker 'tensorbord' is unknown.*tensorboard"),
        ("tensorbord:runs/1", r"--log_to: tracker 'tensorbord' is unknown.*tensorboard"),
        (
            "tensorbord:x",
            r"--log_to: tracker 'tensorbord:x' cannot be imported.* give it as tensorboard, mlflow, wandb",
        ),
        ("tensorboard", "--log_to tensorboard: needs a folder to write to; give tensorboard:runs/first"),
        ("no_such.module:Class", r"tracker 'no_such.module:Class' cannot be imported"),
    ],
)
def test_what_is_no_tracker_is_refused(text: str, message: str) -> None:
    with pytest.raises(QatError, match=message):
        trackers.create(text)


def test_a_tracker_that_fails_ends_no_training_and_the_other_one_gets_all(
    own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, dataset = digits()
    asked, other = [], own.Own()
    broken = own.Own()
    monkeypatch.setattr(broken, "log_metrics", lambda metrics, step: asked.append(step) or 1 / 0)
    recipe = qat.Recipe(epochs=2, batch_size=256)
    with pytest.warns(QatWarning, match=r"Own: took no numbers at step 5 .*the training goes on"):
        end = qat.train(qat.backend("torch"), start, dataset, recipe, trackers=[broken, other])
    assert (end.epoch, asked, [step for step, _ in other.metrics]) == (2, [5], [5, 10])


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_service_whose_package_is_missing_names_it_and_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(QatError, match=rf"--log_to {name}: needs the package '{name}'.*pip install .*{name}"):
        trackers.create(name)


def test_another_package_adds_a_tracker(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {"boxes": [EntryPoint("boxes", "own_tracker:Own", "qat.trackers")]}
    monkeypatch.setattr(plugins, "_found", lambda group: points if group == "qat.trackers" else {})
    with trackers.opened(["Boxes:three", "boxes"]) as found:
        assert [each.text for each in found] == ["three", ""]
    assert [each.closed for each in found] == [1, 1]


def test_a_tracker_that_can_tell_is_told_that_a_training_failed(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that cannot are closed; none hides the error."""
    ended = []
    service = SimpleNamespace(
        active_run=lambda: None,
        start_run=lambda: SimpleNamespace(info=SimpleNamespace(run_id="1")),
        end_run=lambda status="FINISHED": ended.append(status),
        init=lambda project: SimpleNamespace(finish=lambda exit_code=0: ended.append(exit_code)),
    )
    for name in ("mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, name, service)
    names = ["mlflow", "wandb", "own_tracker:Own"]
    for error in (QatError("the loss is NaN"), KeyboardInterrupt()):
        with pytest.raises(type(error)), trackers.opened(names):
            raise error
        assert (ended, own.made[-1].closed) == ([1, "FAILED"], 1)
        ended.clear()
    with monkeypatch.context() as patched:
        patched.setattr(own.Own, "close", lambda self: 1 / 0)
        with pytest.raises(QatError, match="the loss is NaN"), trackers.opened(names):
            raise QatError("the loss is NaN")
    ended.clear()
    with trackers.opened(names):
        pass
    assert (ended, own.made[-1].closed) == ([0, "FINISHED"], 1)


def test_a_command_that_fails_tells_its_trackers(own: Any, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data_path", "digits", "--epochs", 1, "--network", "mlp", "--lr", "1e30", "--save_path", "net.ckpt"]
    own.Own.fail = lambda self: setattr(self, "closed", "failed")
    status, _, err = run(capsys, "train", *flags, "--log_to", "own_tracker:Own")
    assert (status, own.made[-1].closed) == (1, "failed"), err


def test_tensorflow_reads_the_settings(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    tracker = trackers.TensorBoard(tmp_path)
    tracker.log_params({"lr": 0.1, "network": "ü"})
    tracker.close()
    (path,) = tmp_path.iterdir()
    _, event = [tf.compat.v1.Event.FromString(each.numpy()) for each in tf.data.TFRecordDataset(str(path))]
    (value,) = event.summary.value
    assert (value.tag, value.metadata.plugin_data.plugin_name) == ("settings", "text")
    assert tf.make_ndarray(value.tensor).item().decode() == "    lr: 0.1\n    network: ü"
    assert isinstance(tracker._file, EventFile)


def logged(text: str) -> None:
    """What a training would send."""
    with trackers.opened([text]) as (tracker,):
        tracker.log_params({"network": "Linear", "augment": ("shift",), "long": "x" * 9000})
        tracker.log_metrics({"train/loss": 0.5, "validation/top-1": 0.25}, 3)
        tracker.log_metrics({"train/loss": 0.25}, 6)


@pytest.mark.filterwarnings("ignore")
def test_mlflow_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tmp_path.as_uri())
    try:
        logged("mlflow:digits")
        client = mlflow.MlflowClient()
        (found,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
        assert found.info.status == "FINISHED"
        assert found.data.metrics == {"train/loss": 0.25, "validation/top-1": 0.25}
        assert [(each.step, each.value) for each in client.get_metric_history(found.info.run_id, "train/loss")] == [
            (3, 0.5),
            (6, 0.25),
        ]
        assert (found.data.params["network"], found.data.params["augment"]) == ("Linear", "('shift',)")
        with pytest.raises(ZeroDivisionError), trackers.opened(["mlflow:failed"]):
            raise ZeroDivisionError
        (failed,) = client.search_runs([client.get_experiment_by_name("failed").experiment_id])
        assert failed.info.status == "FAILED"
        with mlflow.start_run() as active:
            logged("mlflow:digits")
            assert mlflow.active_run() is not None, "a run that was active before stays so"
        assert client.get_run(active.info.run_id).data.metrics["train/loss"] == 0.25
    finally:
        mlflow.set_tracking_uri(before)


@pytest.mark.filterwarnings("ignore")
def test_wandb_keeps_them_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged("wandb:digits")
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    words, end = (b"digits", b"Linear", b"train/loss", b"validation/top-1"), time.monotonic() + 30.0
    while not all(word in path.read_bytes() for word in words) and time.monotonic() < end:
        time.sleep(0.1)  # W&B's own process writes it, which may be behind
    content = path.read_bytes()
    for word in words:
        assert word in content


def test_a_tracker_is_what_has_the_three_methods(own: Any) -> None:
    assert isinstance(own.Own(), trackers.Tracker)
    assert trackers.flat({"a": {"b": 1, "c": {"d": 2}}, "e": ()}) == {"a.b": 1, "a.c.d": 2, "e": ()}

    class Wide(Mapping[str, Any]):
        __getitem__ = {"x": {"y": 1}}.__getitem__
        __iter__ = {"x": 1}.__iter__
        __len__ = {"x": 1}.__len__

    assert trackers.flat(Wide()) == {"x.y": 1}

"""Tasks: losses and their gradients on every backend, metrics, labels, and what checkpoints and files keep of a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import task_networks
from calibrations import calibrate
from frameworks import HERE, but_long

import qat
from qat.data import Dataset, Split
from qat.deploy.verify import export_verified
from qat.errors import QatError
from qat.study.search import adjusted_accuracy, good_words, goodness
from qat.tasks import (
    TASKS,
    Classification,
    Multilabel,
    OutputTask,
    Reconstruction,
    Regression,
    Segmentation,
    Several,
    Task,
    balanced_weights,
    create,
    evaluated_loss,
    read,
    written,
)
from qat.tasks.reconstruction import real_inputs
from qat.training.loop import evaluate_metrics, train
from qat.training.monitor import Epoch, Progress
from qat.training.objectives import Distillation, GTCLoss, SizeBudget
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (10, 6), np.uint8)
CLASSES = RNG.integers(0, 4, 10)
MAPS = np.where(RNG.random((10, 4, 5)) < 0.2, 255, RNG.integers(0, 3, (10, 4, 5))).astype(np.uint8)
WEIGHTS = (1.0, 0.5, 2.0, 3.0)
SHARE = RNG.random(10)


class Plain(qat.Network):
    """A linear network: the gradient of its weights says all about that of its outputs."""

    def __init__(self, *outputs: int) -> None:
        self.inputs = qat.Input((6,), mean=0.5, std=0.3)
        self.heads = [qat.DenseBnAct(6, count) for count in outputs]

    def construct(self, x):
        found = tuple(head(x) for head in self.heads)
        return found if len(found) > 1 else found[0]


class Sigmoid(Plain):
    """It gives probabilities."""

    def __init__(self) -> None:
        super().__init__(4)
        self.heads = [qat.DenseBnAct(6, 4, activation="sigmoid")]


class PlainPixels(qat.Network):
    """The same for each pixel."""

    def __init__(self) -> None:
        self.inputs = qat.Input((2, 4, 5), mean=0.5, std=0.3)
        self.conv = qat.Conv2dBnAct(2, 3, 1, has_bias=True)

    def construct(self, x):
        return self.conv(x)


def entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """- sum t log softmax(z) over the second axis."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return -(targets * (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))).sum(axis=1)


def smoothed(labels: np.ndarray, classes: int, share: float) -> np.ndarray:
    return (1 - share) * np.eye(classes)[labels] + share / classes


def by_pixel(logits: np.ndarray) -> float:
    counted = MAPS != 255
    targets = np.moveaxis(np.eye(3)[np.where(counted, MAPS, 0)], -1, 1)
    weights = np.array(WEIGHTS[:3])[np.where(counted, MAPS, 0)]
    return float((entropy(logits, targets) * weights)[counted].sum() / counted.sum())


def logistic(z: np.ndarray, t: np.ndarray) -> float:
    return float((np.logaddexp(0, z) - z * t).mean())


def mixed(z: np.ndarray) -> float:
    targets = SHARE[:, None] * np.eye(4)[CLASSES] + (1 - SHARE)[:, None] * np.eye(4)[CLASSES[::-1]]
    return float(entropy(z, targets).mean())


MANY = RNG.integers(0, 2, (10, 4))
REAL = RNG.normal(0, 1, 10)
NORMALISED = real_inputs(Plain(4).graph(), PIXELS)[0].astype(np.float64)
PAIR = Several((OutputTask("heads.0", Classification()), OutputTask("heads.1", Regression(), 0.5)))
#: name -> outputs of the network (none: of pixels), task, labels, the loss of the outputs in NumPy
LOSSES: dict[str, tuple[tuple[int, ...], Task, Any, Callable[..., float]]] = {
    "classification": ((4,), Classification(), CLASSES, lambda z: entropy(z, np.eye(4)[CLASSES]).mean()),
    "class weights": (
        (4,),
        Classification(WEIGHTS, label_smoothing=0.1),
        CLASSES,
        lambda z: (entropy(z, smoothed(CLASSES, 4, 0.1)) * np.array(WEIGHTS)[CLASSES]).mean(),
    ),
    "mixed samples": ((4,), Classification(), (CLASSES, CLASSES[::-1].copy(), SHARE), mixed),
    "multilabel": ((4,), Multilabel(), MANY, lambda z: logistic(z, MANY)),
    "regression": ((1,), Regression(), REAL, lambda y: ((y[:, 0] - REAL) ** 2).mean()),
    "reconstruction": ((6,), Reconstruction(), None, lambda y: ((y - NORMALISED) ** 2).mean()),
    "segmentation": ((), Segmentation(class_weights=WEIGHTS[:3]), MAPS, by_pixel),
    "several": (
        (4, 1),
        PAIR,
        (CLASSES, REAL),
        lambda z, y: entropy(z, np.eye(4)[CLASSES]).mean() + 0.5 * ((y[:, 0] - REAL) ** 2).mean(),
    ),
}
IMAGES = RNG.integers(0, 256, (10, 2, 4, 5), np.uint8)


@pytest.mark.parametrize(
    ("backend", "name"),
    but_long(
        [(backend, name) for backend in HERE for name in LOSSES],
        lambda backend, name: backend == "mindspore" and name in ("mixed samples", "reconstruction", "several"),
    ),
)
def test_each_loss_and_its_gradient_are_those_of_the_formula(backend: str, name: str) -> None:
    """A step of plain gradient descent with a rate of 1 shows the gradient; the expected one is numerical, in float64."""
    counts, task, labels, expected = LOSSES[name]
    images = PIXELS if counts else IMAGES
    graph = (Plain(*counts) if counts else PlainPixels()).graph()
    params = {key: RNG.normal(0, 0.5, array.shape).astype(np.float32) for key, array in graph.initial_params(0).items()}
    (real,) = real_inputs(graph, images)
    real = real.astype(np.float64)

    def loss(values: dict[str, np.ndarray]) -> float:
        if not counts:
            weight = values["conv.weight"][:, :, 0, 0]
            return expected(np.einsum("oc,nchw->nohw", weight, real) + values["conv.bias"][:, None, None])
        heads = range(len(counts))
        return expected(*(real @ values[f"heads.{k}.weight"].T + values[f"heads.{k}.bias"] for k in heads))

    exact = {key: array.astype(np.float64) for key, array in params.items()}
    module = qat.backend(backend)
    step = module.make_step(module.lower(graph, params), Optimizer("momentum", momentum=0.0), task.loss)
    found = step(images, task.targets(graph, images, labels), 1.0)
    assert found == pytest.approx(loss(exact), rel=2e-6)
    after = module.read(step.model)
    for key, array in exact.items():
        numerical = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            ends = []
            for change in (1e-5, -1e-5):
                moved = array.copy()
                moved[index] += change
                ends.append(loss({**exact, key: moved}))
            numerical[index] = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(array - after[key], numerical, rtol=1e-4, atol=3e-6)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "mixed samples"])
def test_the_validation_loss_is_the_same_formula_in_numpy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether all samples are looked at together or one after the other; pixels that do not count are alike in each here."""
    counts, task, labels, expected = LOSSES[name]
    images = PIXELS if counts else IMAGES
    graph = (Plain(*counts) if counts else PlainPixels()).graph()
    outputs = tuple(RNG.normal(0, 3, (10, *graph.shapes[key])) for key in graph.outputs)
    split = Split(images, labels)
    given = outputs if len(outputs) > 1 else outputs[0]
    together = evaluated_loss(task, graph, given, split)
    assert together == pytest.approx(expected(*outputs), rel=1e-6)
    if name != "segmentation":
        monkeypatch.setattr("qat.tasks.base.MOST_NUMBERS", 1)
        assert evaluated_loss(task, graph, given, split) == pytest.approx(together, rel=1e-12)


def test_a_logit_of_0_has_a_gradient() -> None:
    """max(z, 0) and |z| have none there, and a quantized output often is 0."""
    graph = Plain(4).graph()
    params = {key: np.zeros_like(array) for key, array in graph.initial_params(0).items()}
    torch = qat.backend("torch")
    step = torch.make_step(torch.lower(graph, params), Optimizer("momentum", momentum=0.0), Multilabel().loss)
    step(PIXELS, Multilabel().targets(graph, PIXELS, MANY), 1.0)
    np.testing.assert_allclose(torch.read(step.model)["heads.0.bias"], (MANY - 0.5).mean(axis=0) / 4, atol=1e-7)


@pytest.mark.sweep
def test_weighted_losses_compile() -> None:
    """torch.compile gives the same numbers."""
    torch = qat.backend("torch")
    for name in ("class weights", "segmentation"):
        counts, task, labels, _ = LOSSES[name]
        images = PIXELS if counts else IMAGES
        graph = (Plain(*counts) if counts else PlainPixels()).graph()
        losses = []
        for compiled in (False, True):
            step = torch.make_step(torch.lower(graph), Optimizer(), task.loss, compile=compiled)
            losses.append(step(images, task.targets(graph, images, labels), 0.1))
        assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_every_task_has_its_tests_and_its_place_in_the_docs() -> None:
    tested = {task.name for _, task, _, _ in LOSSES.values()}
    page = (Path(__file__).parent.parent / "docs" / "tasks.md").read_text(encoding="utf-8")
    assert set(TASKS) - tested == set()
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert [
        name for name, cls in TASKS.items() if not all(metric in rows.get(name, "") for metric in cls.METRICS)
    ] == []


# -- metrics ---------------------------------------------------------------------------------------------------------


def test_classification_metrics() -> None:
    outputs, labels = RNG.normal(0, 1, (200, 20)), RNG.integers(0, 20, 200)
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, top_k_accuracy_score

    found = Classification().metrics(Plain(20).graph(), outputs, Split(np.zeros((200, 6), np.uint8), labels))
    assert found["top-1"] == accuracy_score(labels, outputs.argmax(1))
    assert found["top-5"] == top_k_accuracy_score(labels, outputs, k=5)
    np.testing.assert_array_equal(
        Classification().confusion(outputs, labels), confusion_matrix(labels, outputs.argmax(1), labels=range(20))
    )
    (table,) = Classification().per_class(outputs, labels)
    scores = f1_score(labels, outputs.argmax(1), average=None, labels=range(20), zero_division=0)
    assert [row[-1] for row in table.rows] == [f"{score:.4f}" for score in scores]


def test_multilabel_metrics() -> None:
    from sklearn.metrics import average_precision_score, f1_score

    outputs = np.round(RNG.normal(0, 1, (100, 5)), 1)  # with ties
    labels = (RNG.random((100, 5)) < [0.5, 0.2, 0.1, 0.9, 0.3]).astype(np.int64)
    found = Multilabel().metrics(Plain(5).graph(), outputs, Split(np.zeros((100, 6), np.uint8), labels))
    assert list(found) == ["F1 micro", "F1 macro", "mAP"]
    assert found["F1 micro"] == pytest.approx(f1_score(labels, outputs > 0, average="micro"), rel=1e-12)
    assert found["F1 macro"] == pytest.approx(f1_score(labels, outputs > 0, average="macro"), rel=1e-12)
    assert found["mAP"] == pytest.approx(average_precision_score(labels, outputs), rel=1e-12)


def test_regression_metrics() -> None:
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    outputs, labels = RNG.normal(0, 1, (50, 3)), RNG.normal([0, 5, 50], 1, (50, 3))
    found = Regression().metrics(Plain(3).graph(), outputs, Split(np.zeros((50, 6), np.uint8), labels))
    assert found["MAE"] == pytest.approx(mean_absolute_error(labels, outputs), rel=1e-12)
    assert found["RMSE"] == pytest.approx(mean_squared_error(labels, outputs) ** 0.5, rel=1e-12)
    assert found["R2"] == pytest.approx(r2_score(labels, outputs), rel=1e-12)
    assert Regression().words("MAE", found["MAE"]) == f"MAE {found['MAE']:.4g}"


def test_segmentation_metrics() -> None:
    from sklearn.metrics import accuracy_score, jaccard_score

    outputs = RNG.normal(0, 1, (10, 3, 4, 5))
    outputs[:, 2] = -9.0
    maps = np.where(MAPS == 2, 1, MAPS)  # nothing has class 2, which is left out
    found = Segmentation().metrics(PlainPixels().graph(), outputs, Split(IMAGES, maps))
    counted = maps != 255
    best = outputs.argmax(1)[counted]
    assert found["mean IoU"] == pytest.approx(jaccard_score(maps[counted], best, average="macro"), rel=1e-12)
    assert found["pixel accuracy"] == accuracy_score(maps[counted], best)


def test_reconstruction_metrics() -> None:
    """The error of a recording is the mean of its samples'."""
    from sklearn.metrics import roc_auc_score

    errors, labels = np.round(RNG.random(40), 1), np.repeat(RNG.permutation(np.arange(20) % 2), 2)
    groups = np.repeat(RNG.permutation(20) + 5, 2)
    images = np.zeros((40, 6), np.uint8)
    found = Reconstruction.of_errors(errors, Split(images, labels, groups))
    assert found["AUC"] == pytest.approx(roc_auc_score(labels[::2], errors.reshape(20, 2).mean(1)), rel=1e-12)
    assert found["AUC"] != pytest.approx(roc_auc_score(labels, errors), rel=1e-6)
    assert Reconstruction.of_errors(errors, Split(images, labels))["AUC"] == pytest.approx(
        roc_auc_score(labels, errors)
    )
    assert list(Reconstruction.of_errors(errors, Split(images, None))) == ["error"]
    assert list(Reconstruction.of_errors(errors, Split(images, labels * 0))) == ["error"]
    with pytest.raises(QatError, match="some of its samples are labelled 0 and some 1"):
        Reconstruction.of_errors(errors, Split(images, np.arange(40) % 2, groups))
    graph = Plain(6).graph()
    outputs = real_inputs(graph, PIXELS)[0] + np.arange(10, dtype=np.float32)[:, None]
    assert Reconstruction().metrics(graph, outputs, Split(PIXELS, None))["error"] == pytest.approx(28.5, rel=1e-6)


def test_class_weights_balance() -> None:
    labels = np.repeat([0, 1, 2], [6, 3, 1])
    weights = balanced_weights(labels, 3)
    assert weights == pytest.approx((10 / 18, 10 / 9, 10 / 3))
    assert np.array(weights)[labels].mean() == pytest.approx(1.0)
    assert balanced_weights(np.array([[[0, 255], [1, 1]]]), 2, 255) == pytest.approx((1.5, 0.75))
    with pytest.raises(QatError, match="no training label is class 3"):
        balanced_weights(labels, 4)


# -- labels ----------------------------------------------------------------------------------------------------------

EIGHT = np.zeros((8, 6), np.uint8)
WRONG: list[tuple[Task, qat.Network, Any, str]] = [
    (
        Classification(),
        Plain(4),
        np.arange(8),
        r"labels reach 7, but Plain gives \(4,\); it needs one output of \(8,\)",
    ),
    (Classification(), Plain(4), np.zeros(8), r"float64 \(8,\), but classification .* give --task regression"),
    (Classification(), Plain(4), np.zeros((8, 4), int), "give --task multilabel, or regression"),
    (Classification(), Plain(4), None, "has no labels, which classification needs"),
    (Classification((1.0,)), Plain(4), np.zeros(8, int), "there are 1 for 4 classes"),
    (
        Classification(),
        Plain(4, 1),
        np.zeros(8, int),
        "has 2 outputs, but classification is of one; .*--task heads.0=.*",
    ),
    (Classification(), Plain(4), (np.zeros(8, int),) * 2, "2 kinds of labels, but classification is of one output"),
    (Multilabel(), Plain(4), np.zeros(8, int), r"int64 \(8,\), but multilabel takes \(N, K\)"),
    (Multilabel(), Plain(4), np.zeros((8, 3), int), r"3 labels a sample, but Plain gives \(4,\)"),
    (Multilabel(), Plain(4), np.full((8, 4), 2), "a label is 2, but multilabel takes 0 and 1"),
    (Multilabel(), Sigmoid(), np.zeros((8, 4), int), "ends in a sigmoid, which the loss of multilabel has already"),
    (Regression(), Plain(4), np.zeros(8), r"it needs one output of \(1,\)"),
    (Regression(), Plain(1), np.full(8, np.nan), "a label is not a finite number"),
    (Regression(), Plain(1), None, "has no labels, which regression needs"),
    (Segmentation(), PlainPixels(), MAPS[:8].astype(float), "takes maps of whole numbers"),
    (Segmentation(), PlainPixels(), MAPS[:8, 1:], "maps are 3 x 5, but PlainPixels gives"),
    (Segmentation(), PlainPixels(), np.full((8, 4, 5), 3), "a pixel's label is 3, but PlainPixels gives 3 classes"),
    (Reconstruction(), Plain(4), None, r"takes \(6,\) and gives \(4,\), but reconstruction compares"),
    (Reconstruction(), Plain(6), np.zeros(8), "takes none, or"),
    (PAIR, Plain(4, 1), np.zeros(8, int), "has 2 outputs; give a tuple of labels"),
    (PAIR, Plain(4, 1), (np.arange(8), np.zeros(8)), "output heads.0: its labels reach 7"),
    (PAIR, Plain(4), np.zeros(8, int), "has the outputs heads.0; give each of these its task"),
]


@pytest.mark.parametrize(("task", "network", "labels", "message"), WRONG)
def test_labels_that_do_not_fit_are_refused(task: Task, network: qat.Network, labels: Any, message: str) -> None:
    images = np.zeros((8, 2, 4, 5), np.uint8) if isinstance(network, PlainPixels) else EIGHT
    graph, split = network.graph(), Split(images, labels)
    with pytest.raises(QatError, match=message):
        train(
            qat.backend("torch"),
            qat.Checkpoint(graph, graph.initial_params()),
            Dataset("x", "x", split, split),
            Recipe(epochs=1, batch_size=4),
            task=task,
        )


def test_tasks_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("Largest", "task_networks:Largest", "qat.tasks")
    monkeypatch.setattr("qat.plugins._found", lambda group: {"largest": [point]} if group == "qat.tasks" else {})
    assert create("largest") == task_networks.Largest()
    with pytest.raises(QatError, match=r"classification, .*, Largest"):
        create("unheard")


def test_tasks_by_name() -> None:
    assert create("Regression") == Regression()
    assert create("task_networks:Largest") == task_networks.Largest()
    two = create(["a=classification", "b=task_networks:Largest:0.5"])
    assert isinstance(two, Several)
    assert two.parts[1] == OutputTask("b", task_networks.Largest(), 0.5)
    assert two.ordered(("b", "a")).parts[0].output == "b"
    for words, message in (
        ("regresion", "perhaps"),
        ("nowhere:Task", "cannot be imported"),
        ("task_networks:Four", "derive the class"),
        ("task_networks:Nothing", "has no 'Nothing'"),
        (["classification", "regression"], "of several outputs each has its task"),
        (["a=classification", "a=regression"], "give each of several outputs one task"),
        (["a=classification", "b=regression:-1"], "its weight is -1.0"),
    ):
        with pytest.raises(QatError, match=message):
            create(words)
    tanh = Several((OutputTask("a", Regression()), OutputTask("b", Regression())))
    assert tanh.ordered(("b.tanh.fake_quant", "a.fake_quant")).parts[0].output == "b"
    with pytest.raises(QatError, match="the network's outputs are x, y"):
        two.ordered(("x", "y"))


@pytest.mark.parametrize("task", [PAIR, Segmentation(7, (1.0, 2.0)), task_networks.Largest()])
def test_checkpoints_keep_their_task(task: Task, tmp_path: Path) -> None:
    graph = Plain(1).graph()
    assert read(written(task)) == task
    checkpoint = qat.Checkpoint(graph, graph.initial_params(), task=task)
    checkpoint.save(tmp_path / "x.ckpt")
    assert qat.Checkpoint.load(tmp_path / "x.ckpt").task == task
    assert checkpoint.derived(graph, checkpoint.params).task == task


def test_checkpoints_of_the_first_releases_are_of_classification(tmp_path: Path) -> None:
    import safetensors.numpy

    graph, path = Plain(4).graph(), tmp_path / "x.ckpt"
    qat.Checkpoint(graph, graph.initial_params(), task=Regression()).save(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != "task"}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
    path.write_bytes(safetensors.numpy.save(arrays, metadata))
    assert qat.Checkpoint.load(path).task == Classification()
    path.write_bytes(safetensors.numpy.save(arrays, metadata | {"task": '{"type": "Unheard"}'}))
    with pytest.raises(QatError, match="'Unheard' is not a known task: import the module"):
        qat.Checkpoint.load(path)
    epoch = {"step": 3, "loss": 1.0, "lr": 0.1, "validation_loss": 0.5, "validation_accuracy": 0.75}
    (found,) = Progress.from_json({"epochs": [epoch], "loss_sum": 0.0, "finished": False}).epochs
    assert (found.metric, found.validation_metric) == ("top-1", 0.75)


# -- training and certificates -----------------------------------------------------------------------------------------


def samples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Six pixels, and a number that they determine."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 6), np.uint8)
    return pixels, (pixels.astype(np.float32) @ np.arange(6) / 1000).astype(np.float32)


def data(labels: Callable[[np.ndarray, np.ndarray], Any] = lambda _, y: y) -> Dataset:
    splits = [Split(x, labels(x, y)) for x, y in (samples(320, 0), samples(100, 1))]
    return Dataset("sums", "sums", *splits)


def trained(network: qat.Network, dataset: Dataset, task: Task, **options: Any) -> qat.Checkpoint:
    graph = qat.convert_quant_network(network, quant_delay=20)
    start = qat.Checkpoint(graph, graph.initial_params(0))
    recipe = options.pop("recipe", Recipe(epochs=6, batch_size=32, lr=0.01, optimizer=Optimizer("adam")))
    return train(qat.backend("torch"), start, dataset, recipe, task=task, **options)


def test_a_regression_is_trained_and_its_certificate_speaks_of_mae(tmp_path: Path) -> None:
    dataset = data()
    recipe = Recipe(epochs=40, batch_size=32, lr=0.05, optimizer=Optimizer("adam"), validation=64, keep_best=True)
    end = trained(task_networks.Numbers(), dataset, Regression(), recipe=recipe)
    torch = qat.backend("torch")
    metrics = evaluate_metrics(torch, end, dataset.test)
    assert metrics["R2"] > 0.9
    last = end.progress.epochs[-1]
    assert (last.metric, end.history[0]["task"]) == ("MAE", {"type": "Regression"})
    held = dataset.held_back(64).test
    again = evaluate_metrics(torch, end, held)
    best = min(end.progress.epochs, key=lambda epoch: epoch.validation_loss)
    assert (best.validation_metric, best.validation_loss) == (again["MAE"], pytest.approx(again["RMSE"] ** 2, rel=1e-6))
    target = qat.target("ONNX")
    certificate = export_verified(tmp_path / "x.onnx", target, torch, end, dataset.test, data="sums")
    assert certificate.passed
    assert certificate.reference_metrics == pytest.approx(metrics)
    assert certificate.comparisons[0].metrics == certificate.reference_metrics
    assert certificate.reference_top1 is None
    kept = target.read_metadata(tmp_path / "x.onnx")
    assert read(kept["task"]) == Regression()
    assert '"reference_metrics": {"MAE"' in kept["certificate"]


def test_a_training_with_another_task_or_loss_is_not_gone_on_with(tmp_path: Path) -> None:
    dataset, network = data(), task_networks.Numbers()
    recipe = Recipe(epochs=2, batch_size=32)
    first = trained(network, dataset, Regression(), recipe=recipe, stop_after=1, loss=task_networks.mean_absolute_error)
    assert first.history[0]["loss"] == "task_networks:mean_absolute_error"
    torch = qat.backend("torch")
    with pytest.raises(QatError, match="was trained with loss 'task_networks:mean_absolute_error', now it is None"):
        train(torch, first, dataset, recipe)
    with pytest.raises(QatError, match=r"was trained with task .*Regression"):
        train(torch, first, dataset, recipe, task=task_networks.Largest(), loss=task_networks.mean_absolute_error)
    whole = trained(network, dataset, Regression(), recipe=recipe, loss=task_networks.mean_absolute_error)
    resumed = train(torch, first, dataset, recipe, loss=task_networks.mean_absolute_error)
    for name, array in whole.params.items():
        np.testing.assert_array_equal(resumed.params[name], array)
    other = trained(network, dataset, Regression(), recipe=recipe)
    assert any((other.params[name] != array).any() for name, array in whole.params.items())


def test_several_outputs_are_trained_together() -> None:
    dataset = data(lambda _, y: (np.digitize(y, [1.3, 1.8, 2.4]), y))
    task = Several((OutputTask("kind", Classification()), OutputTask("size", Regression(), 0.5)))
    recipe = Recipe(epochs=30, batch_size=32, lr=0.05, optimizer=Optimizer("adam"), validation=64)
    end = trained(task_networks.Two(), dataset, task, recipe=recipe)
    found = evaluate_metrics(qat.backend("torch"), end, dataset.test)
    assert list(found) == ["kind top-1", "size MAE", "size RMSE", "size R2"]
    assert found["kind top-1"] > 0.7
    assert found["size R2"] > 0.8
    assert end.progress.epochs[-1].metric == "kind top-1"
    assert (task.words("kind top-1", 0.5), task.higher_is_better("size MAE")) == ("kind top-1 50.00 %", False)


def test_each_of_several_outputs_is_checked_as_the_only_one_would_be() -> None:
    """An error of (N, 1) against six inputs would be broadcast, and a sigmoid taken twice."""
    dataset = data(lambda _, y: (np.digitize(y, [1.3, 1.8, 2.4]), (y > 1.8).astype(np.int64)))
    graph = task_networks.Two().graph()
    task = Several((OutputTask("kind", Classification()), OutputTask("size", Reconstruction())))
    with pytest.raises(QatError, match=r"output size: Two takes \(6,\) and gives \(1,\), but reconstruction compares"):
        task.check(graph, dataset.train, "x.npz")

    class Sigmoid(task_networks.Two):
        def __init__(self) -> None:
            super().__init__()
            self.size = qat.DenseBnAct(16, 1, activation="sigmoid")

    task = Several((OutputTask("kind", Classification()), OutputTask("size", Multilabel())))
    kinds, sizes = dataset.train.labels
    split = replace(dataset.train, labels=(kinds, sizes[:, None]))
    task.check(graph, split, "x.npz")
    with pytest.raises(QatError, match="output size: Sigmoid ends in a sigmoid"):
        task.check(Sigmoid().graph(), split, "x.npz")


def test_reconstruction_is_trained_without_labels() -> None:
    normal = np.repeat(np.random.default_rng(0).integers(0, 256, (320, 2), np.uint8), 3, axis=1)
    odd = np.random.default_rng(1).integers(0, 256, (100, 6), np.uint8)
    test = Split(np.concatenate([normal[:100], odd]), np.repeat([0, 1], 100))
    end = trained(task_networks.Same(), Dataset("x", "x", Split(normal, None), test), Reconstruction())
    assert evaluate_metrics(qat.backend("torch"), end, test)["AUC"] > 0.9


def test_budgets_take_the_tasks_loss_and_others_are_refused() -> None:
    dataset, network = data(), task_networks.Numbers()
    recipe = Recipe(epochs=1, batch_size=32)
    end = trained(network, dataset, Regression(), recipe=recipe, objective=SizeBudget(100.0))
    plain = trained(network, dataset, Regression(), recipe=recipe)
    for name, array in plain.params.items():  # the budget is not used up
        np.testing.assert_array_equal(end.params[name], array)
    assert "task" not in end.history[0]["objective"]
    for objective, name in ((GTCLoss(), "GTCLoss"), (Distillation(own_teacher=True), "Distillation")):
        with pytest.raises(QatError, match=f"{name} is of classification, but the task is regression"):
            trained(network, dataset, Regression(), recipe=recipe, objective=objective)
    with pytest.raises(QatError, match=r"label_smoothing is 0\.1, but regression has no classes"):
        trained(network, dataset, Regression(), recipe=replace(recipe, label_smoothing=0.1))


def test_searches_maximise_an_error_below_0() -> None:
    graph = Plain(1).graph()
    progress = Progress((Epoch(1, 0.5, 0.1, 0.4, 0.25, "MAE"),))
    checkpoint = qat.Checkpoint(graph, graph.initial_params(), epoch=1, progress=progress, task=Regression())
    assert goodness(checkpoint) == -0.25
    assert goodness(replace(checkpoint, task=Classification())) == 0.25
    assert good_words(Regression(), -0.25, "MAE") == "MAE 0.25"
    assert good_words(Classification(), 0.25, "top-1") == "25.00 %"
    assert adjusted_accuracy(-0.25, 50.0, 100.0) > adjusted_accuracy(-0.25, 100.0, 100.0) == -0.25


def test_what_is_said_of_one_sample() -> None:
    table = Multilabel().answer(np.array([[0.0, 4.0, -4.0]]))
    assert (table.names, table.rows) == (("1", "0", "2"), [("98.20 %",), ("50.00 %",), ("1.80 %",)])
    maps = np.zeros((1, 3, 2, 2))
    maps[0, 2, 0] = maps[0, 1, 1, 0] = 1.0
    table = Segmentation().answer(maps)
    assert (table.names, table.rows) == (("2", "0", "1"), [("50.00 %",), ("25.00 %",), ("25.00 %",)])
    assert Regression().answer(np.array([[1.5]])).rows == [("1.5",)]


def test_a_reconstruction_is_compared_with_what_the_pixels_stand_for() -> None:
    """Of normalised channels too, by the network and by its integers, whose codes have one scale."""
    from qat.tasks.reconstruction import real_inputs

    class Net(qat.Network):
        def __init__(self, **options: Any) -> None:
            self.inputs = qat.Input((3, 4, 4), **options)
            self.conv = qat.Conv2dBnAct(3, 3, 3)

        def construct(self, x):
            return self.conv(x)

    pixels = RNG.integers(0, 256, (5, 3, 4, 4), np.uint8)
    mean, std = np.array([0.1, 0.5, 0.9]), np.array([0.2, 0.5, 1.0])
    expected = (pixels / 255.0 - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1)
    network = Net(mean=tuple(mean), std=tuple(std))
    checkpoint = calibrate(network, network.graph().initial_params(), pixels)
    for graph in (network.graph(), checkpoint.graph, qat.to_integer(checkpoint.graph, checkpoint.params)):
        (found,) = real_inputs(graph, pixels)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    words = RNG.integers(-500, 500, (5, 3, 4, 4), np.int16)
    network = Net(dtype="int16", scale=0.01, zero_point=7)
    checkpoint = calibrate(network, network.graph().initial_params(), words)
    for graph in (network.graph(), qat.to_integer(checkpoint.graph, checkpoint.params)):
        np.testing.assert_allclose(real_inputs(graph, words)[0], (words - 7.0) * 0.01, rtol=1e-5, atol=1e-5)

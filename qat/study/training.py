"""One training of a study: from its settings to a checkpoint, outputs for the test images, and a result."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import qat
from qat.analysis.merge_batch_norm import merge_batch_norm
from qat.cells.base import Shape
from qat.data import Dataset, cross_validation, load
from qat.data.dataset import accuracy
from qat.errors import QatError
from qat.files import write_atomically
from qat.graph import Graph
from qat.pruning import MagnitudePruner, prune_weights
from qat.reading import LARGEST_JSON, check_zip, open_regular, read_text, reading, without_warnings
from qat.study.store import Task
from qat.training.checkpoint import Checkpoint
from qat.training.loop import train
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe
from qat.vocabulary.arrays import as_tuple
from qat.vocabulary.fields import check_type
from qat.vocabulary.ops import Array

MERGED_BY = 512  #: training images whose statistics merge the batch normalisations
#: What the .json of a result holds.
RESULT: dict[str, Any] = {"name": str, "label": dict, "data": str, "source": str, "accuracy": float, "best_epoch": int}
RESULT |= {"epochs": list, "codes_differ": int | None, "seconds": float, "test_images": int, "train_images": int}
LABEL = {"model": str, "fold": int}
COMPARED = 100  #: test images whose codes are compared with NumPy's


def train_task(folder: Path, task: Task) -> None:
    """Do a training, or continue it where it was killed.

    It leaves ``<name>.ckpt`` and ``<name>.npz``, and last of all ``<name>.json``. The settings of the task are:

    - graph: the float network as JSON, where no other task comes before;
    - start: the task whose weights it starts with, or None;
    - float: the task that trained the float network, where this one is quantized;
    - quantization: arguments of convert_quant_network, or None;
    - pruner: fields of a MagnitudePruner, or None; such a training starts with the checkpoint of ``start`` as it is;
    - data: see ``study_data``;
    - backend, device_target: what trains;
    - recipe: fields of a Recipe, with those of its optimizer;
    - label: whatever the planner wants to find in the result.

    Args:
        folder: of the study.
        task: with these settings.
    """
    settings = task.settings
    backend = qat.backend(settings["backend"])
    dataset = study_data(settings["data"])
    path, start_time = folder / f"{task.name}.ckpt", time.monotonic()
    start = _start(folder, settings, dataset)
    if path.exists() and (saved := Checkpoint.load(path)).graph == start.graph:
        start = saved
    recipe = Recipe(**settings["recipe"] | {"optimizer": Optimizer(**settings["recipe"]["optimizer"])})
    checkpoint = train(
        backend,
        start,
        dataset,
        recipe,
        device_target=settings["device_target"],
        log_path=folder / "logs" / f"{task.name}.csv",
        save=lambda checkpoint: checkpoint.save(path),
    )
    model = backend.lower(checkpoint.graph, checkpoint.params, device_target=settings["device_target"])
    (outputs,) = as_tuple(backend.predict(model, dataset.test.images))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, outputs=outputs, labels=dataset.test.labels)
    write_atomically(folder / f"{task.name}.npz", buffer.getvalue())
    result = {
        "name": task.name,
        "label": settings["label"],
        "data": dataset.name,
        "source": dataset.source,
        "test_images": len(dataset.test),
        "train_images": len(dataset.train) - recipe.validation,
        "accuracy": accuracy(outputs, dataset.test.labels),
        "best_epoch": checkpoint.epoch,
        "epochs": checkpoint.progress.to_json()["epochs"],
        "codes_differ": _codes_that_differ(backend, model, checkpoint, dataset.test.images),
        "seconds": time.monotonic() - start_time,
    }
    write_atomically(folder / f"{task.name}.json", json.dumps(result, indent=1).encode())


def is_trained(folder: Path, task: Task) -> bool:
    """Whether the result of a training exists."""
    return all((folder / f"{task.name}{suffix}").is_file() for suffix in (".ckpt", ".npz", ".json"))


def progress_of(folder: Path, task: Task) -> str:
    """The last epoch of a running training and its loss, in words."""
    try:
        epoch, _, _, loss, *_ = (folder / "logs" / f"{task.name}.csv").read_text().splitlines()[-1].split(",")
    except (OSError, IndexError, ValueError):
        return "begins"
    return f"epoch {epoch} of {task.settings['recipe']['epochs']}, loss {loss}"


def read_result(path: Path) -> tuple[dict[str, Any], Array, Array]:
    """Read the result of a training.

    Args:
        path: of the .json file.

    Returns:
        Its content, the outputs for its test images, float32 (N, K), and their labels, integers (N,).

    Raises:
        QatError: where a file is missing, damaged or does not belong to the other.
    """
    advice = "train it anew"
    text, arrays_path = read_text(path, advice, limit=LARGEST_JSON), path.with_suffix(".npz")
    with reading(path, "a result of a study", advice):
        result = json.loads(text)
        check_type("it", result, dict)
        for name, kind in RESULT.items():
            check_type(name, result.get(name), kind)
        for name, kind in LABEL.items():
            check_type(f"label {name}", result["label"].get(name), kind)
    with open_regular(arrays_path, advice) as file, reading(arrays_path, "outputs of a study", advice):
        check_zip(arrays_path, file, advice)
        with without_warnings(), np.load(file, allow_pickle=False) as arrays:
            outputs, labels = arrays["outputs"], arrays["labels"]
        for array in (outputs, labels):  # members of the archive that are not arrays come as bytes
            check_type("it", array, np.ndarray)
    if outputs.dtype != np.float32 or outputs.ndim != 2 or not outputs.size or not np.isfinite(outputs).all():
        raise QatError(
            f"{arrays_path}: its outputs are not finite numbers, float32 (N, K), one row for each image; {advice}"
        )
    if labels.dtype.kind not in "iu" or labels.shape != outputs.shape[:1] or not _within(labels, outputs.shape[1]):
        raise QatError(f"{arrays_path}: its labels are not classes of the {len(outputs)} outputs; {advice}")
    return result, outputs, labels


def _within(labels: Array, classes: int) -> bool:
    return bool(labels.min() >= 0 and labels.max() < classes)


def study_data(settings: Mapping[str, Any]) -> Dataset:
    """The data of one training.

    Args:
        settings: data_path; shape, (C, H, W) of the network; images, how many of the training images to use, chosen at
            random, 0 for all; folds, into how many these are divided, 0 to use the test images of the data set; fold,
            from 0; seed.

    Returns:
        Training and test images.
    """
    shape: Any = tuple(settings["shape"])
    divided = _data(settings["data_path"], shape, settings["images"], settings["folds"], settings["seed"])
    return divided[int(settings["fold"])]


def study_images(data_path: str, images: int, folds: int, seed: int) -> Dataset:
    """The data of a study before it is divided, in its original size.

    Args:
        data_path: as ``qat.data.load`` takes it.
        images: how many of the training images to use, chosen at random, 0 for all.
        folds: into how many they will be divided, 0 for none.
        seed: of the choice.

    Returns:
        The data set.

    Raises:
        QatError: where there are fewer images.
    """
    dataset = load(data_path, for_folds=bool(folds))
    count = len(dataset.train)
    if images > count:
        raise QatError(f"{data_path}: has {count:,} training images, but {images:,} were asked for; use fewer, or 0")
    if images:
        chosen = np.sort(np.random.default_rng(seed).permutation(count)[:images])
        name = f"{dataset.name}, {images:,} of {count:,} training images"
        dataset = replace(dataset, name=name, train=dataset.train.chosen(chosen))
    return dataset


@lru_cache(maxsize=1)
def _data(data_path: str, shape: Shape, images: int, folds: int, seed: int) -> Sequence[Dataset]:
    """All folds in the network's size, cached: a process that trains several of them reads the data once."""
    dataset = study_images(data_path, images, folds, seed).resized(shape)
    return cross_validation(dataset, folds, seed) if folds else [dataset]


def _start(folder: Path, settings: Mapping[str, Any], dataset: Dataset) -> Checkpoint:
    """The checkpoint that a training starts from."""
    seed = settings["recipe"]["seed"]
    if settings["start"] is None:
        graph = Graph.from_json(settings["graph"])
        return Checkpoint(graph, graph.initial_params(seed))
    begin = Checkpoint.load(folder / f"{settings['start']}.ckpt")
    if settings["pruner"] is not None:
        graph, params = prune_weights(begin.graph, begin.params, MagnitudePruner(**settings["pruner"]))
        return begin.derived(graph, params)
    if settings["quantization"] is None:
        return begin.derived(begin.graph, begin.params)
    trained = Checkpoint.load(folder / f"{settings['float']}.ckpt")
    (images,) = as_tuple(dataset.train.images)
    graph, params = merge_batch_norm(trained.graph, trained.params, images[:MERGED_BY])
    if begin.graph.is_quantized:  # weights only: its scales and ranges belong to other codes
        params = {name: begin.params[name] for name in params}
    quantized = qat.convert_quant_network(graph, **settings["quantization"])
    return begin.derived(quantized, quantized.params_from(params, seed))


def _codes_that_differ(backend: Any, model: Any, checkpoint: Checkpoint, images: Any) -> int | None:
    """How many codes of some test images differ between the backend and NumPy's integers; None for a float network."""
    if not checkpoint.graph.is_quantized:
        return None
    some = images[:COMPARED]
    expected = qat.evaluate(qat.to_integer(checkpoint.graph, checkpoint.params), some)
    return int((backend.predict_codes(model, some) != expected).sum())

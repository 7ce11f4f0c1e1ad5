"""What a report says of a run, as numbers, before anything is drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qat import tasks
from qat.analysis.diagnosed import Diagnosis
from qat.analysis.diagnosis import diagnose
from qat.analysis.float_outputs import float_outputs, float_params
from qat.analysis.metrics import NodeMetrics, measure
from qat.data import Split
from qat.deploy.inference import predict
from qat.deploy.interfaces import RecordsMetadata, TrainingBackend
from qat.errors import QatError
from qat.integer import IntegerGraph
from qat.integer.memory import activation_memory
from qat.passes.to_integer import to_integer
from qat.reading import read_text, reading
from qat.registry import evaluation_ops, target_of
from qat.reporting.costs import arena_bytes, stored_bytes
from qat.tables import counted
from qat.training.checkpoint import Checkpoint
from qat.vocabulary.arrays import Arrays, as_arrays, as_tuple
from qat.vocabulary.ops import Array

LAYER_SAMPLES = 64  #: on which layers are compared with float
SEED = 0  #: of their choice


@dataclass(frozen=True)
class Certified:
    """A certificate that an exported file holds.

    Attributes:
        file: its name.
        size: of the file, in bytes.
        found: as ``Certificate.to_json`` wrote it.
    """

    file: str
    size: int
    found: Mapping[str, Any]

    @property
    def rows(self) -> list[tuple[str, int, int]]:
        """Each engine, the codes that were compared in it, and how many of them differ."""
        return [(str(x["engine"]), int(x["codes"]), int(x["differ"])) for x in self.found["comparisons"]]

    @property
    def differ(self) -> int:
        """The codes that differ, in all engines."""
        return sum(differ for _, _, differ in self.rows)

    @property
    def codes(self) -> int:
        """The codes that were compared in each engine, the most."""
        return max(codes for _, codes, _ in self.rows)


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of a run.

    Attributes:
        name: of the run, on the page.
        checkpoint: of the quantized network.
        integers: those it deploys.
        data: what the samples are.
        split: the samples, and their labels.
        class_names: what the labels mean; none where nobody has said it.
        outputs: of the integers, as real numbers, one array an output.
        float_outputs: of the float network.
        float_metrics: of its task.
        metrics: of the integers.
        unmeasured: why there are no metrics; empty where there are.
        diagnosis: of the layers.
        layers: what they cost.
        stored: bytes of each; none where C does not hold the network.
        arena: static memory of the C file; None where it does not hold the network.
        activations: bytes that evaluating one sample needs at least.
        certificates: of exported files.
        bench: what ``qat bench --json`` printed; None where nothing was measured.
        own_float: whether float is another checkpoint's network, and not the quantized one with its quantizers idle.
        own_layers: whether layers are compared with it too: not where the network was trained after it was quantized.
        courses: the epochs of each training that kept them, the oldest first.
    """

    name: str
    checkpoint: Checkpoint
    integers: IntegerGraph
    data: str
    split: Split
    class_names: tuple[str, ...]
    outputs: tuple[Array, ...]
    float_outputs: tuple[Array, ...]
    float_metrics: Mapping[str, float]
    metrics: Mapping[str, float]
    unmeasured: str
    diagnosis: Diagnosis
    layers: tuple[NodeMetrics, ...]
    stored: Mapping[str, int]
    arena: int | None
    activations: int
    certificates: tuple[Certified, ...]
    bench: Mapping[str, Any] | None
    own_float: bool
    own_layers: bool
    courses: tuple[Any, ...]

    @property
    def task(self) -> tasks.Task:
        """What the network is for."""
        return self.checkpoint.task

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one sample."""
        return sum(x.macs for x in self.layers)

    @property
    def bytes(self) -> int:
        """Of all constants."""
        return sum(self.stored.values())


def gather(
    checkpoint: Checkpoint,
    split: Split,
    *,
    backend: TrainingBackend,
    device_target: str | None = None,
    name: str = "",
    data: str = "",
    class_names: Sequence[str] = (),
    float_checkpoint: Checkpoint | None = None,
    certificates: Sequence[str | Path] = (),
    bench: str | Path | None = None,
    images: int = LAYER_SAMPLES,
) -> Facts:
    """Evaluate a quantized checkpoint in float and in integers, and measure its layers; arguments as of ``qat.report``."""
    graph, params, task = checkpoint.graph, checkpoint.params, checkpoint.task
    if not graph.is_quantized:
        raise QatError(
            f"{graph.name} is a float network: a report is of a quantized one, from calibrate or train-quant; give that, and "
            "this one as the float checkpoint"
        )
    certified = tuple(read_certificate(path, checkpoint) for path in certificates)
    measured = None if bench is None else read_bench(bench)
    floats = None if float_checkpoint is None else float_params(float_checkpoint, checkpoint)
    courses = checkpoint.courses
    if not 1 <= images <= len(split):
        raise QatError(f"images is {images}: there are {len(split)} samples; use a number from 1 to that")
    integers = to_integer(graph, params)
    ops = evaluation_ops(backend.NAME, device_target)
    lowered = backend.lower(graph, params, device_target=device_target)
    outputs = as_tuple(predict(lowered, split.images))
    if float_checkpoint is None:
        of_float: Arrays = float_outputs(graph, params, split.images, ops=ops)
    else:
        plain = float_checkpoint
        of_float = predict(backend.lower(plain.graph, plain.params, device_target=device_target), split.images)
    unmeasured = ""
    try:
        task.check(graph, split, data or "the data")
        figures = [task.metrics(graph, as_arrays(as_tuple(x)), split) for x in (of_float, outputs)]
    except QatError as error:
        unmeasured, figures = str(error), [{}, {}]
    order = np.sort(np.random.default_rng(SEED).permutation(len(split))[:images])
    # Training has moved the weights: how far its layers are from the float checkpoint's says nothing of quantization.
    alike = floats is not None and not checkpoint.step
    found = diagnose(checkpoint, split.chosen(order).images, float_params=floats if alike else None, ops=ops)
    layers = measure(graph, params)
    try:
        stored, arena = stored_bytes(layers, integers), arena_bytes(integers)
    except QatError:  # C does not hold every network, and there is enough to say without
        stored, arena = {}, None
    return Facts(
        name=name or graph.name,
        checkpoint=checkpoint,
        integers=integers,
        data=data,
        split=split,
        class_names=tuple(class_names) or checkpoint.class_names,
        outputs=outputs,
        float_outputs=as_tuple(of_float),
        float_metrics=figures[0],
        metrics=figures[1],
        unmeasured=unmeasured,
        diagnosis=found,
        layers=layers,
        stored=stored,
        arena=arena,
        activations=activation_memory(integers).size,
        certificates=certified,
        bench=measured,
        own_float=float_checkpoint is not None,
        own_layers=alike,
        courses=courses,
    )


def read_certificate(path: str | Path, checkpoint: Checkpoint) -> Certified:
    """The certificate that an exported file holds. Raises QatError where it holds none, or is of another network."""
    path = Path(path)
    target = target_of(path)
    metadata = target.read_metadata(path) if isinstance(target, RecordsMetadata) else {}
    if "certificate" not in metadata:
        raise QatError(f"{path}: holds no certificate; export it again, without --no_verify, or leave it out")
    if metadata.get("graph") != checkpoint.graph.digest:
        raise QatError(
            f"{path}: was exported from another network than this checkpoint's, so its certificate says nothing of it; give "
            "what was exported from it"
        )
    with reading(path, "a file with a certificate", "export it again"):
        found = json.loads(metadata["certificate"])
        certified = Certified(path.name, path.stat().st_size, found)
        _ = certified.rows, certified.codes, int(found["images"]), str(found["data"])
    return certified


def read_bench(path: str | Path) -> dict[str, Any]:
    """What ``qat bench --json`` printed, from a file. Raises QatError where it is something else."""
    text = read_text(path, "give what qat bench --json printed")
    with reading(path, "the JSON of qat bench", "give what qat bench --json printed"):
        found: dict[str, Any] = json.loads(text)
        if not isinstance(found["here"], list) or not isinstance(found["cores"], list):
            raise TypeError("here and cores are lists")
        for row in found["here"]:
            _ = str(row["file"]), float(row["seconds"]), [float(x) for x in row["quartiles"]], int(row["bytes"])
        for row in found["cores"]:
            _ = str(row["file"]), str(row["core"]), [int(row[x]) for x in ("instructions", "flash", "ram")]
    return found


def judged_differently(facts: Facts) -> tuple[Array, str]:
    """The numbers of the samples that the two networks judge differently, and in words what that means: another class, or of
    what is no classification the samples whose outputs are furthest apart.
    """
    (own, *others), (of_float, *_) = facts.outputs, facts.float_outputs
    if isinstance(facts.task, tasks.Classification) and not others and own.ndim == 2:
        found = np.flatnonzero(own.argmax(axis=1) != of_float.argmax(axis=1))
        return (
            found,
            f"{len(found):,} of {counted(len(own), 'sample')} get another class from the integers than in float",
        )
    apart = np.zeros(len(own))
    for x, f in zip(facts.outputs, facts.float_outputs, strict=True):
        difference = ((x.astype(np.float64) - f) ** 2).reshape(len(x), -1).sum(axis=1)
        apart += difference / max(float((f.astype(np.float64) ** 2).mean()) * f[0].size, 1e-30)
    order = np.argsort(-apart, kind="stable")
    return order[apart[order] > 0.0], "the samples whose outputs are furthest apart, integers from float, come first"


def confusions(facts: Facts) -> tuple[Array, Array] | None:
    """The confusion matrices in float and in integers; None where the task has none, or nothing was measured."""
    if facts.unmeasured:
        return None
    try:
        labels = facts.split.labels
        both = [facts.task.confusion(as_arrays(x), labels) for x in (facts.float_outputs, facts.outputs)]
    except QatError:
        return None
    return both[0], both[1]

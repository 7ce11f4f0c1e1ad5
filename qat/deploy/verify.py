"""Verification: do an exported file and a training backend compute the very integers of the NumPy reference?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qat import tasks
from qat.data import Split
from qat.deploy.arithmetics import arithmetic_options, default_arithmetic
from qat.deploy.certificate import Apart, Certificate, Comparison
from qat.deploy.engine import Engine
from qat.deploy.float_layers import Followed, as_share, error_of, follow, is_beyond, reference_behind
from qat.deploy.inference import predict_codes, trace
from qat.deploy.interfaces import Target, TrainingBackend, check_backend
from qat.deploy.recipe import metadata_of
from qat.errors import QatError
from qat.files import check_writable, write_together
from qat.integer import IntegerGraph, evaluate
from qat.passes.to_integer import to_integer
from qat.training.checkpoint import Checkpoint
from qat.vocabulary.arrays import Arrays, as_arrays, as_tuple
from qat.vocabulary.ops import Array


def file_engine(path: str | Path, target: Target, graph: IntegerGraph, arithmetic: str | None = None) -> Engine:
    """An exported file, run by its target.

    Its real outputs are turned back into the codes of ``graph``.

    Args:
        path: The file.
        target: Of its format.
        graph: The integers that it was exported from.
        arithmetic: "float" or "fixed"; by default the one that it was exported for.

    Returns:
        The engine, for ``compare``.

    Raises:
        QatError: the target does not have that arithmetic; when it runs, also where the file was not exported from
            ``graph``.
    """
    arithmetic = arithmetic or default_arithmetic(target, path, graph)
    options = arithmetic_options(target, arithmetic)

    def codes(pixels: Arrays) -> tuple[Array, ...]:
        real = as_tuple(target.predict(path, pixels, **options))
        shapes, expected = [x.shape[1:] for x in real], [x.shape for x in graph.outputs]
        if shapes != expected or not all(np.isfinite(x).all() for x in real):
            found = f"outputs of shape {shapes}" if shapes != expected else "outputs that are not finite numbers"
            raise QatError(
                f"{path}: gives {found} where {graph.name} gives {expected}, so it was exported from another checkpoint; give "
                "--ckpt_path the one that it was exported from"
            )
        codes = tuple(output.grid.codes_of(x) for output, x in zip(graph.outputs, real, strict=True))
        for output, x, own in zip(graph.outputs, real, codes, strict=True):
            if not np.array_equal(output.grid.dequantize(own), x):
                raise QatError(
                    f"{path}: returns numbers that are no multiples of {output.name}'s scale {output.grid.scale:g}, so it was "
                    "exported from another checkpoint, or its last scale is damaged; give --ckpt_path that one, or export again"
                )
        return codes

    return Engine(
        target.runtime(**options),
        codes,
        lambda pixels, tensors: target.trace(path, pixels, tensors, **options),
        arithmetic,
        str(path),
    )


def backend_engine(backend: TrainingBackend, checkpoint: Checkpoint, device_target: str | None = None) -> Engine:
    """The evaluation pass of a checkpoint's network on a backend, in the network's arithmetic.

    Args:
        backend: The backend.
        checkpoint: Of a quantized network.
        device_target: "CPU", "GPU" or "Ascend"; by default the best that there is.

    Returns:
        The engine, for ``compare``.
    """
    check_backend(backend)
    device_target = device_target or backend.devices()[0]
    model = backend.lower(checkpoint.graph, checkpoint.params, device_target=device_target)
    return Engine(
        f"{backend.runtime()}, evaluation pass on {device_target}",
        lambda pixels: as_tuple(predict_codes(model, pixels)),
        lambda pixels, tensors: trace(model, pixels, tensors),
        checkpoint.graph.arithmetic,
    )


def compare(
    engines: Sequence[Engine],
    graph: IntegerGraph,
    split: Split,
    *,
    data: str,
    file: str | Path = "",
    arithmetic: str | None = None,
    task: tasks.Task | None = None,
) -> Certificate:
    """Compare every output code of each engine with NumPy's integers, and each engine with every other.

    Each engine is compared with NumPy's integers in its own arithmetic: a backend's evaluation pass computes that of the
    network, whatever a file does. Where a file's is another one, the certificate says in how many codes the two differ.

    Args:
        engines: One or more.
        graph: The integers that all should compute.
        split: The images, and labels for the metrics.
        data: What the images are, for the certificate.
        file: The exported file, for the certificate.
        arithmetic: Of the reference in the matrix and the metrics, "float" or "fixed"; by default the network's.
        task: What the network is for; by default a classification.

    Returns:
        The certificate.

    Raises:
        QatError: there is no engine, or one does not compute this network.
    """
    if not engines:
        raise QatError("there is nothing to verify: give an exported file or a backend")
    names = [x.name for x in engines]
    engines = [  # two files of one format have one runtime
        replace(x, name=f"{Path(x.file).name}, {x.name}") if x.file and names.count(x.name) > 1 else x for x in engines
    ]
    arithmetic = arithmetic or graph.arithmetic
    other = next((x.arithmetic for x in engines if x.file and x.arithmetic != graph.arithmetic), None)
    needed = (arithmetic, *(engine.arithmetic for engine in engines), *((graph.arithmetic,) if other else ()))
    references = {
        name: tuple(map(_widened, as_tuple(evaluate(graph, split.images, arithmetic=name))))
        for name in dict.fromkeys(needed)
    }
    reference, task = references[arithmetic], task or tasks.Classification()
    followed = [follow(engine, graph, split.images) if graph.float_layers else None for engine in engines]
    codes = [
        engine.codes(split.images) if each is None else each.outputs
        for engine, each in zip(engines, followed, strict=True)
    ]
    measured: Callable[[tuple[Array, ...]], dict[str, float]]
    try:
        task.check(graph, split, "verify")
        measured = partial(_metrics, task, graph, split)
    except QatError:  # codes are compared all the same
        measured = _none
    comparisons = tuple(
        _compare(engine, graph, references[engine.arithmetic], own, split, measured, each)
        for engine, own, each in zip(engines, codes, followed, strict=True)
    )
    rows = [reference, *codes]
    matrix = tuple(tuple(int(np.count_nonzero(_difference(a, b))) for b in rows) for a in rows)
    found = {name: measured(own) for name, own in references.items()}
    return Certificate(
        file=str(file),
        network=graph.name,
        data=data,
        images=len(split),
        reference_metrics=found[arithmetic],
        comparisons=comparisons,
        matrix=matrix,
        arithmetic=arithmetic,
        metrics_by_arithmetic=found if len(found) > 1 else {},
        task=task,
        float_layers=graph.float_layers,
        apart=_apart_of(references, graph.arithmetic, other) if other else None,
    )


def verify(
    path: str | Path,
    target: Target,
    backend: TrainingBackend,
    checkpoint: Checkpoint,
    split: Split,
    *,
    data: str,
    device_target: str | None = None,
    arithmetic: str | None = None,
    integers: IntegerGraph | None = None,
) -> Certificate:
    """Compare the codes of an exported file and of one backend with those of NumPy's integers.

    The file is run, and with some targets, as C, so is the code in it (``RUNS_CODE``): give it files of your own only.

    Args:
        path: The exported file.
        target: Of its format.
        backend: Whose evaluation pass is compared too.
        checkpoint: Of the quantized network that the file was exported from.
        split: The images, and labels for the metrics of the checkpoint's task.
        data: What the images are, for the certificate.
        device_target: Of the backend: "CPU", "GPU" or "Ascend"; by default the best that there is.
        arithmetic: "float" or "fixed"; by default the one that the file was exported for.
        integers: Those of the checkpoint, where they are at hand.

    Returns:
        A certificate: ``passed`` says whether all codes are equal.

    Raises:
        QatError: the file was not exported from this checkpoint, or cannot be run.
    """
    graph = integers or to_integer(checkpoint.graph, checkpoint.params)
    arithmetic = arithmetic or default_arithmetic(target, path, graph)
    engines = (file_engine(path, target, graph, arithmetic), backend_engine(backend, checkpoint, device_target))
    return compare(engines, graph, split, data=data, file=path, arithmetic=arithmetic, task=checkpoint.task)


def export_verified(
    path: str | Path,
    target: Target,
    backend: TrainingBackend,
    checkpoint: Checkpoint,
    split: Split,
    *,
    data: str,
    device_target: str | None = None,
    arithmetic: str | None = None,
    options: Mapping[str, Any] | None = None,
    integers: IntegerGraph | None = None,
    beside: Callable[[bytes], Mapping[Path, bytes]] | None = None,
    required: bool = False,
) -> Certificate:
    """Export a quantized checkpoint, ``verify`` the file, and keep the certificate and the graph's digest in its metadata.

    The file appears, or replaces the one that was there, when it is verified, as a whole and with its certificate and all
    that belongs to it.

    Args:
        path: The file to write.
        checkpoint: Of a quantized network.
        target, backend, split, data, device_target: As in ``verify``.
        arithmetic: "float" or "fixed"; by default the network's own. Where another one is given, the certificate says how many
            codes are other than those of training.
        options: Of the target's export (``Target.OPTIONS``), by name.
        integers: Those of the checkpoint, where they are at hand. The backend's evaluation pass derives its own all the same.
        beside: From the file's content to further files, of the same name but for its ending, that appear with it.
        required: a code that differs is an error.

    Returns:
        The certificate. The file is written also where it has not passed, unless that is ``required``.

    Raises:
        QatError: the target cannot hold the network or has not its arithmetic, the file cannot be written, or it has to pass
            and has not; then nothing has been written.
    """
    check_backend(backend)
    check_writable(path)
    path = Path(path)
    integers = integers or to_integer(checkpoint.graph, checkpoint.params)
    arithmetic = arithmetic or default_arithmetic(target, graph=integers)
    options = {**(options or {}), **arithmetic_options(target, arithmetic)}
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / path.name
        try:
            target.export(replace(integers, arithmetic=arithmetic), draft, **options)
            names = [path.name, *sorted(other.name for other in Path(folder).iterdir() if other != draft)]
            for name in names:  # before the time that the verification takes
                check_writable(path.with_name(name))
            certificate = verify(
                draft,
                target,
                backend,
                checkpoint,
                split,
                data=data,
                device_target=device_target,
                arithmetic=arithmetic,
                integers=integers,
            )
            certificate = certificate.of_file(draft, path)
            if required and not certificate.passed:
                raise QatError(
                    f"{path}: is not written, since it computes other codes than the network: "
                    f"{'; '.join(certificate.summary().splitlines())}; export another format, and report this one"
                )
            metadata = {"graph": checkpoint.graph.digest, "certificate": certificate.to_json()}
            target.write_metadata(draft, metadata | metadata_of(draft, target, checkpoint, arithmetic))
        except QatError as error:
            said = str(error).replace(str(draft).removesuffix(path.name), str(path).removesuffix(path.name))
            raise type(error)(said) from None
        contents = {path.with_name(name): (Path(folder) / name).read_bytes() for name in names}
    write_together(contents | dict(beside(contents[path]) if beside else {}))
    return certificate


def _apart_of(references: Mapping[str, tuple[Array, ...]], trained: str, other: str) -> Apart:
    """How many codes of two arithmetics differ."""
    difference = _difference(references[trained], references[other])
    return Apart(trained, difference.size, int(np.count_nonzero(difference)))


def _widened(codes: Array) -> Array:
    """Codes as int32, real numbers as they are."""
    return codes if codes.dtype == np.float32 else codes.astype(np.int32)


def _difference(a: tuple[Array, ...], b: tuple[Array, ...]) -> Array:
    """|a - b|, (N, codes of all outputs): one row is one image. Of real numbers 1 where they differ beyond the tolerance."""
    pairs = zip(a, b, strict=True)
    return np.concatenate([_apart(x, y).reshape(len(x), -1) for x, y in pairs], axis=1)


def _apart(a: Array, b: Array) -> Array:
    if a.dtype == np.float32:
        return is_beyond(as_share(np.abs(a.astype(np.float64) - b), a)).astype(np.int64)
    apart: Array = np.abs(a.astype(np.int64) - b)
    return apart


def _compare(
    engine: Engine,
    graph: IntegerGraph,
    reference: tuple[Array, ...],
    codes: tuple[Array, ...],
    split: Split,
    measured: Callable[[tuple[Array, ...]], dict[str, float]],
    followed: Followed | None,
) -> Comparison:
    if followed is None:
        difference = _difference(codes, reference)
        compared, largest, differ = difference.size, int(difference.max()), np.count_nonzero(difference, axis=1)
        wrong = differ
    else:
        compared, largest, differ = followed.codes * len(split), followed.largest, followed.differ
        wrong = differ + followed.beyond
    divergence = None
    if wrong.any():
        image = int(np.argmax(wrong != 0))
        one = as_arrays(tuple(x[image : image + 1] for x in as_tuple(split.images)))
        divergence = _first_divergence(graph, one, image, engine)
    return Comparison(
        engine=engine.name,
        codes=compared,
        differ=int(differ.sum()),
        largest=largest,
        metrics=measured(codes),
        divergence=divergence,
        arithmetic=engine.arithmetic,
        floats=None if followed is None else followed.figures,
        file=engine.file,
    )


def _none(codes: tuple[Array, ...]) -> dict[str, float]:
    """Of labels that are not those of the task."""
    return {}


def _metrics(task: tasks.Task, graph: IntegerGraph, split: Split, codes: tuple[Array, ...]) -> dict[str, float]:
    """Of output codes, as real numbers."""
    real = tuple(x.grid.dequantize(own) for x, own in zip(graph.outputs, codes, strict=True))
    return task.metrics(graph, as_arrays(real), split)


def _first_divergence(graph: IntegerGraph, image: Arrays, number: int, engine: Engine) -> str:
    """The first node, in order, one of whose codes differs on this image, with both values."""
    tensors = [node.output for node in graph.nodes if not node.output.grid.real]
    found = dict(engine.trace(image, tensors))
    inputs = {x.name for x in graph.inputs}
    missing = [tensor.name for tensor in tensors if tensor.name not in found and tensor.name not in inputs]
    if missing:
        return f"the file was not exported from this checkpoint: it has no codes named {missing[0]}"
    expected = reference_behind(graph, image, engine.arithmetic, found)
    if any(x.grid.real for x in graph.outputs):
        found |= {x.name: own for x, own in zip(graph.outputs, engine.codes(image), strict=True) if x.grid.real}
    for node in graph.nodes:
        if node.name not in found:  # the input, which a file need not give back
            continue
        error = error_of(node, found[node.name], expected)
        wrong = np.argwhere(found[node.name] != expected[node.name] if error is None else is_beyond(error))
        if len(wrong):
            at = tuple(int(i) for i in wrong[0])
            return (
                f"first at {node.name}, image {number}, element {list(at[1:])}: {found[node.name][at]:g} where the reference "
                f"has {expected[node.name][at]:g}"
            )
    return f"image {number} differs, though no node does when all of them are outputs: the runtime fuses them otherwise"

"""A trained model as a file for deployment, verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qat.data import Split
from qat.deploy.certificate import Certificate
from qat.deploy.verify import export_verified
from qat.errors import QatError
from qat.registry import backend as backend_named
from qat.registry import backend_of, formats, suffixed
from qat.registry import target as target_named
from qat.training.checkpoint import Checkpoint
from qat.training.origin import checkpoint_of, origin_of, taken
from qat.vocabulary.arrays import as_arrays


def export(
    model: Any,
    path: str | Path,
    *,
    images: Any = None,
    backend: str = "torch",
    device_target: str | None = None,
    arithmetic: str | None = None,
    **options: Any,
) -> Certificate:
    """Write a prepared model as a file for deployment, once its runtime has computed the integers of training.

    The file is run on some images, and each of its output codes compared with that of the model and of NumPy's integers. It
    appears with its certificate, as ``qat export`` writes it, or not at all.

    Args:
        model: What ``qat.prepare`` returned, trained since or not; any quantized model that a backend's ``lower`` returned;
            or a quantized ``qat.Checkpoint``. Whether it is in training or evaluation mode does not matter.
        path: The file. Its ending chooses the format: .onnx, .tflite, .c, .mindir, .air, .ascend.onnx.
        images: What to verify on, as ``qat.prepare`` takes images for the same model; with labels, the certificate has the
            metrics of the task. By default those that the model was calibrated on, of which it keeps 64. Those of a checkpoint
            have channels first, (N, C, H, W).
        backend: Which computes a checkpoint's codes; a model computes its own.
        device_target: Where, "CPU", "GPU" or "Ascend"; by default the best that there is.
        arithmetic: "float" or "fixed" (docs/numerics.md); by default the network's own. Another one gives other codes than
            training had, and the first line of the certificate's ``summary()`` says how many.
        **options: Those of the format, as ``weights="uint8"`` of .onnx or ``packing`` of .c.

    Returns:
        The certificate; its ``summary()`` is what the command prints.

    Raises:
        QatError: The model is float or has seen no data, the ending is of no format, the format cannot hold the network or has
            not its arithmetic, there are no images, or a code differs; then nothing is written.

    >>> import numpy as np, qat
    >>> from qat.networks import LeNet5
    >>> images = np.random.default_rng(0).integers(0, 256, (20, 1, 32, 32), np.uint8)
    >>> model = qat.prepare(LeNet5(), None, images, backend="torch")
    >>> qat.export(model, "lenet.tflite").images
    20
    """
    if isinstance(model, Checkpoint):
        checkpoint, chosen = model, backend_named(backend)
    else:
        checkpoint, chosen = checkpoint_of(model), backend_of(model)
    graph = checkpoint.graph
    if not graph.is_quantized:
        raise QatError(
            f"{graph.name}: is a float network, which has no codes; call qat.prepare first, and export its result"
        )
    target = target_named(_format(path))
    if unknown := options.keys() - {option.name for option in target.OPTIONS}:
        known = ", ".join(option.name for option in target.OPTIONS) or "none"
        raise QatError(
            f"{path}: format {target.NAME} has no option {sorted(unknown)[0]!r} (it has {known}); leave it out"
        )
    kept = () if isinstance(model, Checkpoint) else origin_of(model).images
    if images is not None:
        given = taken(chosen, images, graph, "images", own=getattr(model, "own_layout", False))
        split = Split(as_arrays(given.images), as_arrays(given.labels) if given.labels else None)
    elif kept:
        split = Split(as_arrays(kept), None)
    else:
        raise QatError(
            f"{graph.name}: there are no images to verify {path} on, since no calibration images are known; give images=, a "
            "few that the network takes"
        )
    return export_verified(
        path,
        target,
        chosen,
        checkpoint,
        split,
        data="calibration images" if images is None else "images given to qat.export",
        device_target=device_target,
        arithmetic=arithmetic,
        options=options,
        required=True,
    )


def _format(path: str | Path) -> str:
    """The name of the format that a file's ending stands for."""
    name = suffixed(path)
    if name is None:
        known = ", ".join(entry.suffix for entry in formats().values())
        raise QatError(f"{path}: its ending {Path(path).suffix!r} is that of no format; formats are {known}")
    return name

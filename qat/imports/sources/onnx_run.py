"""What ONNX Runtime computes of values within a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from qat.errors import QatError
from qat.imports.sources.places import Place
from qat.reading import reason_of
from qat.vocabulary.ops import Array


def computed(
    path: str | Path,
    model: Any,
    wanted: Sequence[str],
    feed: Mapping[str, Array],
    size: int,
    places: Sequence[Place],
) -> list[Array]:
    """Values of a model, for all samples.

    Args:
        path: of the file, for messages.
        model: it.
        wanted: the names of the values.
        feed: what each input gets.
        size: samples that are computed at once; where the file has a fixed number, some are computed twice.
        places: of the samples in the values, which are given with these in front.

    Returns:
        The values, (N, ...).

    Raises:
        QatError: the runtime cannot.
    """
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=value) for value in wanted)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come back as exceptions
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    count, parts = len(next(iter(feed.values()))), []
    try:
        session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for start in range(0, count, size):
            rows = np.arange(start, start + size) % count
            given = session.run(list(wanted), {value: x[rows] for value, x in feed.items()})
            parts.append([place.canonical(x, size) for place, x in zip(places, given, strict=True)])
    except Exception as error:  # the runtime's share no base class of their own
        raise QatError(
            f"{path}: ONNX Runtime cannot run it ({reason_of(error)}), so that nothing can be compared; export it again"
        ) from None
    return [np.concatenate(arrays)[:count] for arrays in zip(*parts, strict=True)]

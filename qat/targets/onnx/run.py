"""Runs an ONNX file in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime

from qat.errors import QatError
from qat.integer.ends import Ends
from qat.reading import reason_of
from qat.targets.common import cannot_run
from qat.vocabulary.arrays import Arrays, in_batches
from qat.vocabulary.ops import Array

BATCH = 1000  #: images in one run of a session


def session_of(path: str | Path, model: onnx.ModelProto, threads: int = 0) -> onnxruntime.InferenceSession:
    """A session of ONNX Runtime. threads: 0 leaves their number to the runtime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come back as exceptions
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's share no base class of their own
        raise cannot_run(path, "ONNX Runtime", reason_of(error)) from None


def infer(
    path: str | Path, model: onnx.ModelProto, ends: Ends, outputs: list[str], samples: Arrays
) -> dict[str, Array]:
    """The named outputs of a model, by name, as the file gives them. Raises QatError where it cannot be run."""
    session = session_of(path, model)
    inputs = [x.name for x in session.get_inputs()]

    def run(batch: tuple[Array, ...]) -> dict[str, Array]:
        feed = dict(zip(inputs, ends.encode(batch), strict=True))
        return dict(zip(outputs, session.run(outputs, feed), strict=True))

    try:
        return in_batches(run, samples, ends.specs, BATCH, str(path))
    except QatError:
        raise
    except Exception as error:
        raise cannot_run(path, "ONNX Runtime", reason_of(error)) from None

"""Runs an ONNX file in ONNX Runtime."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from qat.errors import QatError
from qat.integer.ends import Ends
from qat.reading import reason_of
from qat.targets.common import cannot_run
from qat.vocabulary.arrays import Arrays, batches_of, in_batches
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


@contextlib.contextmanager
def clocked(path: str | Path, model: onnx.ModelProto, ends: Ends, sample: Arrays) -> Iterator[Callable[[int], float]]:
    """The seconds of so many runs over one sample, on one thread; nothing is copied between Python and the session."""
    (batch,) = batches_of(sample, ends.specs, 1, str(path))
    session = session_of(path, model, threads=1)
    try:
        binding = session.io_binding()
        for x, value in zip(session.get_inputs(), ends.encode(batch), strict=True):
            binding.bind_cpu_input(x.name, np.ascontiguousarray(value))
        for y in session.get_outputs():
            binding.bind_output(y.name)
        session.run_with_iobinding(binding)
    except Exception as error:
        raise cannot_run(path, "ONNX Runtime", reason_of(error)) from None

    def seconds(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            session.run_with_iobinding(binding)
        return time.perf_counter() - start

    yield seconds

"""Runs a MINDIR file in MindSpore."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qat.backends.mindspore.setup import mind_ir_pb2 as proto
from qat.backends.mindspore.setup import ms
from qat.errors import QatError
from qat.targets.common import cannot_run
from qat.targets.mindir.file import specs_of_inputs
from qat.vocabulary.arrays import Arrays, batches_of, in_batches
from qat.vocabulary.ops import Array

BATCH = 500  #: images in one run


def infer(path: str | Path, model: proto.ModelProto, pixels: Arrays) -> dict[int, Array]:
    """All outputs by number."""
    try:
        run = runner(model)

        def outputs(batch: tuple[Array, ...]) -> dict[int, Array]:
            found = run(*(ms.Tensor(np.ascontiguousarray(x)) for x in batch))
            return dict(enumerate(x.asnumpy() for x in (found if isinstance(found, tuple) else (found,))))

        return in_batches(outputs, pixels, specs_of_inputs(model), BATCH, str(path))
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, QatError):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise cannot_run(path, "MindSpore", reason) from None


def runner(model: proto.ModelProto) -> Callable[..., Any]:
    """The model as MindSpore loads it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.mindir")
        file.write_bytes(model.SerializeToString())
        loaded: Callable[..., Any] = ms.nn.GraphCell(ms.load(str(file)))
        return loaded


@contextlib.contextmanager
def clocked(path: str | Path, model: proto.ModelProto, sample: Arrays) -> Iterator[Callable[[int], float]]:
    """The seconds of so many runs over one sample; each waits for its outputs."""
    (batch,) = batches_of(sample, specs_of_inputs(model), 1, str(path))
    given = [ms.Tensor(np.ascontiguousarray(x)) for x in batch]
    try:
        run = runner(model)
        run(*given)
    except (RuntimeError, TypeError, ValueError) as error:
        raise cannot_run(path, "MindSpore", str(error).strip().partition("\n")[0]) from None

    def seconds(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            found = run(*given)
            for x in found if isinstance(found, tuple) else (found,):
                x.asnumpy()
        return time.perf_counter() - start

    yield seconds

"""Whether an imported network has the same codes in every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from calibrations import calibrate

import qat
from qat.integer import IntegerGraph
from qat.vocabulary.ops import Array


def tuples(arrays: Any) -> tuple[Array, ...]:
    return arrays if isinstance(arrays, tuple) else (arrays,)


def assert_codes_are_equal(found: Any, folder: Path) -> IntegerGraph:
    """Of an imported network, calibrated: those of PyTorch, ONNX Runtime and LiteRT are those of NumPy."""
    x = np.random.default_rng(1).normal(size=(20, *found.graph.input_specs[0].shape)).astype(np.float32)
    quantized = calibrate(found.graph, found.params, x)
    integers = qat.to_integer(quantized.graph, quantized.params)
    wanted = tuples(qat.evaluate(integers, x))
    assert all(len(np.unique(codes)) > 3 for codes in wanted)
    backend = qat.backend("torch")
    given = tuples(backend.predict_codes(backend.lower(quantized.graph, quantized.params), x))
    assert all(np.array_equal(a, b) for a, b in zip(given, wanted, strict=True))
    real = [output.grid.dequantize(codes) for output, codes in zip(integers.outputs, wanted, strict=True)]
    for name in ("ONNX", "TFLITE"):
        target, path = qat.target(name), folder / f"net.{name.lower()}"
        target.export(integers, path)
        assert all(np.array_equal(a, b) for a, b in zip(tuples(target.predict(path, x)), real, strict=True)), name
    return integers

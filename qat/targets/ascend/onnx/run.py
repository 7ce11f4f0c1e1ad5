"""Runs a file in onnx.reference, with Ascend's operators emulated in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from qat.errors import QatError
from qat.integer.ends import Ends
from qat.reading import reason_of
from qat.targets.ascend import unit
from qat.targets.common import cannot_run
from qat.targets.onnx.writer import padding_of
from qat.vocabulary.arrays import Arrays, in_batches
from qat.vocabulary.ops import Array, Pair

BATCH = 128  #: images at a time


class AscendQuant(OpRun):
    """Real numbers to int8 codes."""

    op_domain = ""

    def _run(self, x: Array, scale: float, offset: float, dst_type: str) -> tuple[Array]:
        return (unit.quantize(x, scale, offset),)


class AscendDequant(OpRun):
    """int32 accumulators to real numbers."""

    op_domain = ""

    def _run(self, x: Array, scale: Array, dtype: int) -> tuple[Array]:
        return (unit.dequantize(x, scale),)


class Conv(OpRun):
    """The convolution of int8 codes; ONNX's own knows floating types only."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array,
        dilations: Any,
        group: int,
        kernel_shape: Any,
        pads: Any,
        strides: Any,
        **_: Any,
    ) -> tuple[Array]:
        stride, dilation, padding = _pair(strides), _pair(dilations), padding_of(pads)
        return (unit.convolve(x, w, b, stride=stride, padding=padding, dilation=dilation, group=group),)


class Gemm(OpRun):
    """The matrix product of int8 codes with a transposed weight."""

    op_domain = ""

    def _run(self, x: Array, w: Array, b: Array, **_: Any) -> tuple[Array]:
        return (unit.multiply(x, w, b),)


class MaxPool(OpRun):
    """ONNX's own in plain NumPy is slow."""

    op_domain = ""

    def _run(self, x: Array, kernel_shape: Any, pads: Any, strides: Any, **_: Any) -> tuple[Array]:
        return (unit.max_pool(x, kernel=_pair(kernel_shape), stride=_pair(strides), padding=padding_of(pads)),)


def _pair(sizes: Sequence[int]) -> Pair:
    height, width = sizes
    return height, width


def infer(
    path: str | Path, model: onnx.ModelProto, ends: Ends, outputs: list[str], samples: Arrays
) -> dict[str, Array]:
    """The named outputs of a model, by name. Raises QatError where it cannot be run."""
    try:
        evaluator = ReferenceEvaluator(model, new_ops=[AscendQuant, AscendDequant, Conv, Gemm, MaxPool])
        inputs = [x.name for x in model.graph.input]

        def run(batch: tuple[Array, ...]) -> dict[str, Array]:
            return dict(
                zip(outputs, evaluator.run(outputs, dict(zip(inputs, ends.encode(batch), strict=True))), strict=True)
            )

        with np.errstate(all="ignore"):
            return in_batches(run, samples, ends.specs, BATCH, str(path))
    except QatError:
        raise
    except Exception as error:  # whatever its operators raise
        raise cannot_run(path, "onnx.reference", reason_of(error)) from None

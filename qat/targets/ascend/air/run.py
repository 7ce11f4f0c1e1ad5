"""Runs the operators of an AIR file in NumPy, as Ascend's int8 unit computes them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qat.targets.ascend import unit
from qat.targets.ascend.air.model import DamageError, Model, Operator
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.ops import Array, Padding


def specs_of_inputs(model: Model) -> list[ArraySpec]:
    """Shape and dtype of each input's arrays."""
    return [ArraySpec(x.gives[0].shape[1:], x.gives[0].dtype.name) for x in model.inputs]


def run_operators(model: Model, images: tuple[Array, ...]) -> dict[str, Array]:
    """What every operator gives, by its name."""
    values = {operator.name: image for operator, image in zip(model.inputs, images, strict=True)}
    with np.errstate(all="ignore"):
        for operator in model.operators:
            if operator.type not in ("Data", "NetOutput"):
                values[operator.name] = compute(operator, [values[name] for name in operator.inputs])
    return values


def compute(operator: Operator, inputs: list[Array]) -> Array:
    """What one operator gives. Raises DamageError for numbers of inputs that it does not have."""
    given = operator.attributes
    match operator.type, inputs:
        case "Const", _:
            value: Array = given["value"]
            return value
        case "Cast", (x,):
            return x.astype(np.float32)
        case "Sub", (a, b):
            return a - b
        case "Mul", (a, b):
            return a * b
        case "Add", (a, b):
            return a + b
        case "AscendQuant", (x,):
            return unit.quantize(x, given["scale"], given["offset"])
        case "AscendDequant", (x, scale):
            real = unit.dequantize(x, scale)
            return np.maximum(real, np.float32(0)) if given["relu_flag"] else real
        case "Conv2D", (x, weight, bias):
            stride, dilation = _pair(given["strides"]), _pair(given["dilations"])
            padding: Padding = tuple(given["pads"])
            return unit.convolve(
                x, weight, bias, stride=stride, padding=padding, dilation=dilation, group=given["groups"]
            )
        case "MatMulV2", (x, weight, bias):
            return unit.multiply(x, weight, bias)
        case "Relu", (x,):
            return np.maximum(x, np.float32(0))
        case "ClipByValue", (x, low, high):
            return np.clip(x, low, high)
        case (("MaxPool" | "MaxPoolV3"), (x,)):
            padding = tuple(given.get("pads", (0, 0, 0, 0)))
            return unit.max_pool(x, kernel=_pair(given["ksize"]), stride=_pair(given["strides"]), padding=padding)
        case "Flatten", (x,):
            return x.reshape(len(x), math.prod(x.shape[1:]))
        case "ConcatD", xs:
            return np.concatenate(xs, axis=given["concat_dim"])
    raise DamageError(f"operator {operator.name!r} ({operator.type}) cannot be computed")


def _pair(sizes: Sequence[int]) -> tuple[int, int]:
    return sizes[2], sizes[3]

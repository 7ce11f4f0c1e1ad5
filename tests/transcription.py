"""docs/numerics.md, transcribed: the codes of a sequential network, computed in int64 over plain loops.

It shares no code with ``qat.integer`` and the cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from sequential import Setup

import qat
from qat.quantizers import SMALLEST_SCALE

Array = npt.NDArray[Any]
F = np.float32


@dataclass
class Expected:
    codes: Array
    scale: Array
    zero_point: Array


def expected_weight(
    weight: Array, bits: int, symmetric: bool, narrow: bool, per_channel: bool, floor: Array
) -> Expected:
    """One output at a time (or the whole weight as one), from the formulas of docs/numerics.md."""
    groups = list(weight) if per_channel else [weight]
    floors = list(floor) if per_channel else [floor.max()]
    codes, scales, zero_points = [], [], []
    for w, least in zip(groups, floors, strict=True):
        if symmetric:
            scale = max(F(np.abs(w).max()) / F(2 ** (bits - 1) - 1), F(SMALLEST_SCALE), F(least))
            zero_point, q = F(0), np.rint(w * (F(1) / scale))
        else:
            qmin, qmax = (1 if narrow else 0), 2**bits - 1
            low, high = min(w.min(), F(0)), max(w.max(), F(0))
            scale = max(F(high - low) / F(qmax - qmin), F(SMALLEST_SCALE), F(least))
            zero_point = F(np.clip(np.rint(F(qmin) - F(low) / scale), qmin, qmax))
            q = np.clip(np.rint(w * (F(1) / scale)), qmin - zero_point, qmax - zero_point)
        codes.append(q)
        scales.append(scale)
        zero_points.append(zero_point)
    return Expected(np.stack(codes).reshape(weight.shape), np.array(scales, F), np.array(zero_points, F))


def conv2d_int64(x: Array, w: Array, stride, padding, dilation, group: int) -> Array:
    """Cross-correlation of integers, one tap of the kernel after another."""
    top, bottom, left, right = padding
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    outputs, per_group, kernel_height, kernel_width = w.shape
    height = (x.shape[2] - dilation[0] * (kernel_height - 1) - 1) // stride[0] + 1
    width = (x.shape[3] - dilation[1] * (kernel_width - 1) - 1) // stride[1] + 1
    y = np.zeros((len(x), outputs, height, width), np.int64)
    for o, i, ky, kx in np.ndindex(w.shape):
        channel = o // (outputs // group) * per_group + i
        rows = [row * stride[0] + ky * dilation[0] for row in range(height)]
        columns = [column * stride[1] + kx * dilation[1] for column in range(width)]
        y[:, o] += w[o, i, ky, kx] * x[:, channel][:, rows][:, :, columns]
    return y


def max_pool2d_int64(x: Array, kernel, stride, padding) -> Array:
    """With a padding that is less than every code."""
    top, bottom, left, right = padding
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=np.iinfo(np.int64).min)
    height = (x.shape[2] - kernel[0]) // stride[0] + 1
    width = (x.shape[3] - kernel[1]) // stride[1] + 1
    y = np.zeros((*x.shape[:2], height, width), np.int64)
    for row, column in np.ndindex(height, width):
        at = (row * stride[0], column * stride[1])
        y[:, :, row, column] = x[:, :, at[0] : at[0] + kernel[0], at[1] : at[1] + kernel[1]].max(axis=(2, 3))
    return y


def both(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def padding_of(cell: Any, size: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int, int, int]:
    """Top, bottom, left, right. "same": ceil(size / stride) outputs, the odd zero after the image."""
    if cell.pad_mode == "valid":
        return (0, 0, 0, 0)
    if cell.pad_mode == "pad":
        given = both(cell.padding)
        return given if len(given) == 4 else (given[0], given[0], given[1], given[1])
    kernel = both(cell.kernel_size)
    stride = kernel if cell.stride is None else both(cell.stride)
    totals = [
        max((math.ceil(n / s) - 1) * s + d * (k - 1) + 1 - n, 0)
        for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)
    ]
    return (totals[0] // 2, totals[0] - totals[0] // 2, totals[1] // 2, totals[1] - totals[1] // 2)


@dataclass
class Integers:
    """Centred codes of one scale, or accumulators with a scale for each channel and the bound of a pending ReLU."""

    data: Array
    scale: Array
    relu: float | None = None


def transcribed_codes(setup: Setup) -> dict[str, Array]:
    """Codes (not centred) by fake quantizer, pooling and flattening, int64."""
    values: dict[str, Integers] = {}
    codes: dict[str, Array] = {}
    zero_points: dict[str, int] = {}
    for node in setup.graph.nodes:
        cell, inputs = node.cell, [values[name] for name in node.inputs]
        own = {local: setup.params[f"{node.cell_name}.{local}"] for local in cell.params()}
        zero = zero_points[node.inputs[0]] if node.inputs else int(np.rint(255 * cell.mean))
        if isinstance(cell, qat.Input):
            values[node.name] = Integers(setup.pixels.astype(np.int64) - zero, F(1 / (255 * cell.std)))
        elif isinstance(cell, (qat.Conv2dBnAct, qat.DenseBnAct)):
            values[node.name] = transcribed_linear(cell, own, inputs[0])
        elif isinstance(cell, qat.FakeQuant):
            values[node.name], zero = transcribed_fake_quant(cell, own, inputs[0])
        elif isinstance(cell, qat.MaxPool2d):
            kernel = both(cell.kernel_size)
            stride = kernel if cell.stride is None else both(cell.stride)
            padding = padding_of(cell, inputs[0].data.shape[2:], (1, 1))
            values[node.name] = replace(inputs[0], data=max_pool2d_int64(inputs[0].data, kernel, stride, padding))
        else:
            assert isinstance(cell, qat.Flatten)
            values[node.name] = replace(inputs[0], data=inputs[0].data.reshape(len(inputs[0].data), -1))
        zero_points[node.name] = zero
        if not isinstance(cell, (qat.Conv2dBnAct, qat.DenseBnAct)):
            codes[node.name] = values[node.name].data + zero
    return codes


def transcribed_linear(cell: Any, params: dict[str, Array], x: Integers) -> Integers:
    """w_q = clip(rint(w (1 / s_w))), b_q = rint(b / (s_x s_w)), acc = sum (x_q - z_x) (w_q - z_w) + b_q.

    s_w is at least |b| / (s_x 2^23), with more than 8 bits 2^24, 2^25, ..., at most 2^30.
    """
    quantizer, weight = cell.weight_quantizer, params["weight"]
    floor = np.zeros(len(weight), F)
    if cell.has_bias:
        floor = np.abs(params["bias"]) / (x.scale * F(2 ** min(23 + max(quantizer.num_bits - 8, 0), 30)))
    w = expected_weight(
        weight, quantizer.num_bits, quantizer.symmetric, quantizer.narrow_range, quantizer.per_channel, floor
    )
    centred = w.codes.astype(np.int64)
    if isinstance(cell, qat.DenseBnAct):
        acc = (x.data[:, None, :] * centred[None]).sum(axis=2)
    else:
        dilation = both(cell.dilation)
        padding = padding_of(cell, x.data.shape[2:], dilation)
        acc = conv2d_int64(x.data, centred, both(cell.stride), padding, dilation, cell.group)
    scale = np.broadcast_to(x.scale * w.scale, (len(weight),))
    if cell.has_bias:
        bias = np.rint(params["bias"] / scale).astype(np.int64)
        acc = acc + bias.reshape((1, -1) + (1,) * (acc.ndim - 2))
    return Integers(acc, scale, {None: None, "relu": math.inf, "relu6": 6.0}[cell.activation])


def transcribed_fake_quant(cell: qat.FakeQuant, params: dict[str, Array], x: Integers) -> tuple[Integers, int]:
    """y_q = clip(rint(f32(acc) m) + z_y, lo, hi), m = f32(f32(s_x s_w) / s_y), with z_y; a ReLU is part of the clip."""
    bits, symmetric = cell.quantizer.num_bits, cell.quantizer.symmetric
    qmin = (-(2 ** (bits - 1)) if symmetric else 0) + int(cell.quantizer.narrow_range)
    qmax = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1
    low = F(0) if x.relu is not None else min(params["min"][()], F(0))
    high = max(params["max"][()], F(0))
    if symmetric:
        scale, zero = max(max(-low, high) / F(qmax), F(SMALLEST_SCALE)), 0
    else:
        scale = max((high - low) / F(qmax - qmin), F(SMALLEST_SCALE))
        zero = int(np.clip(np.rint(F(qmin) - low / scale), qmin, qmax))
    m = (x.scale / scale).astype(F)
    rounded = np.rint(x.data.astype(F) * m.reshape((1, -1) + (1,) * (x.data.ndim - 2)))
    lowest, highest = qmin - zero, qmax - zero
    if x.relu is not None:
        lowest = max(lowest, 0)
        if math.isfinite(x.relu):
            highest = min(highest, int(np.rint(F(x.relu) / scale)))
    return Integers(np.clip(rounded, lowest, highest).astype(np.int64), scale), zero

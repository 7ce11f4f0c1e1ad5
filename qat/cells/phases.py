"""The integer form of transposed convolutions: one convolution makes all phases, which then become blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qat.integer import IntegerConv2d, IntegerNode, IntegerPick, IntegerRearrange, IntegerTensor
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.transposed import Transposed


def phase_node(fields: Mapping[str, Any], how: Transposed, group: int) -> IntegerConv2d:
    """The convolution of all phases, from the fields of a linear node whose weight is (O, I / group, kh, kw)."""
    zero_point, requantize = fields["weight_zero_point"], fields["requantize"]
    centred = fields["weight"].astype(np.int32) - NUMPY_OPS.on_output(zero_point, fields["weight"])
    phases = NUMPY_OPS.phase_weight(centred, how.rows.places, how.columns.places, how.stride)
    times = len(phases) // len(centred)
    zero_point = np.repeat(zero_point, times)
    weight = phases + NUMPY_OPS.on_output(zero_point, phases)
    changed = {
        "weight": weight.astype(fields["weight"].dtype),
        "weight_zero_point": zero_point,
        "bias": np.repeat(fields["bias"], times),
        "weight_scale": np.repeat(fields["weight_scale"], times),
        "requantize": requantize._replace(multiplier=np.repeat(requantize.multiplier, times)),
    }
    return IntegerConv2d(**{**fields, **changed}, padding=how.padding, group=group)


def phase_stages(how: Transposed, node: IntegerNode) -> tuple[IntegerNode, ...]:
    """That convolution, its phases as blocks, and the part of these that is the output; the last one has the node's name."""
    name, (outputs, *_), grid = node.name, node.output.shape, node.output.grid
    blocks, parts = how.blocks(outputs), how.parts()
    names = [f"{name}@phases", *([f"{name}@blocks"] if blocks else []), *([name] if parts else [])]
    names[-1] = name
    shape = (len(node.weight), how.rows.per_phase, how.columns.per_phase)  # type: ignore[attr-defined]
    x = IntegerTensor(names[0], shape, grid)
    stages: list[IntegerNode] = [replace(node, name=x.name, output=x)]
    if blocks is not None:
        stages.append(IntegerRearrange(names[1], (x,), IntegerTensor(names[1], blocks.shape, grid), blocks))
    if parts:
        stages.append(IntegerPick.of(name, stages[-1].output, parts))
    return tuple(stages)

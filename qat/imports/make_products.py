"""Cells of products of values, softmaxes, and normalisations of each place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np

from qat.cells import LayerNorm, MatMul, RMSNorm, Softmax
from qat.cells.shape import LARGEST_RANK
from qat.imports.fusion import Fusion
from qat.imports.layer import Layer
from qat.imports.movement import Movement
from qat.imports.program import Operation, RefusedError


def matmul(fusion: Fusion, each: Operation) -> None:
    """A MatMul; of matrices along several axes, of one."""
    if each.attributes.get("channels_last"):
        first = [f"{x} with channels last" for x in each.inputs]
        for x, turned in zip(each.inputs, first, strict=True):
            if turned not in fusion.shapes:
                fusion.transposed(each, x, (1, 2, 0), turned)
        made = f"{each.output}@last"
        matmul(fusion, replace(each, inputs=tuple(first), output=made, attributes=_without_last(each)))
        fusion.transposed(each, made, (2, 0, 1), each.output)
        return
    if len(each.inputs) != 2:
        raise RefusedError(each, "a product of a value and a constant")
    shapes = [fusion.shape(value) for value in each.inputs]
    if len({shape[:-2] for shape in shapes}) > 1 or len(shapes[0]) < 2:
        raise RefusedError(each, f"a product of {shapes[0]} and {shapes[1]}, which are not equally many matrices")
    before, rank = shapes[0][:-2], len(shapes[0])
    sources, transposed = [], []
    for number, (value, shape) in enumerate(zip(each.inputs, shapes, strict=True)):
        count = (math.prod(before),) if rank > 2 else ()
        turns = bool(each.attributes.get(("transpose_a", "transpose_b")[number]))
        order = (*range(rank - 2), rank - 1, rank - 2)
        plain = fusion.reshaped(each, value, (*count, *shape[-2:]), f"{each.output}@{number}")
        turned = fusion.transposed(each, value, order, f"{each.output}@{number}@turned")
        turned = fusion.reshaped(each, turned, (*count, shape[-1], shape[-2]), f"{turned}@folded")
        if _cost(fusion, turned) < _cost(fusion, plain):  # it is transposed already, by a move that is put off
            plain, turns = turned, not turns
        sources.append(plain)
        transposed.append(turns)
    cell = MatMul(transpose_a=transposed[0], transpose_b=transposed[1])
    if rank <= LARGEST_RANK:
        fusion.node(each, cell, *sources)
        return
    product = f"{each.output}@product"
    fusion.node(each, cell, *sources, value=product)
    fusion.reshaped(each, product, (*before, *fusion.shape(product)[-2:]), each.output)


def _without_last(each: Operation) -> dict[str, Any]:
    return {name: value for name, value in each.attributes.items() if name != "channels_last"}


def _cost(fusion: Fusion, value: str) -> int:
    """How many cells give a value."""
    if value not in fusion.moves:
        return 0
    movement: Movement = fusion.moves[value][1]
    return len(movement.cells(fusion.shape(movement.source)) or ())


def softmax(fusion: Fusion, each: Operation) -> None:
    """A Softmax; along another axis than the channels, of what is moved there, or along the last of three axes."""
    source = each.inputs[0]
    shape = fusion.shape(source)
    axis = each.attributes["axis"] % (len(shape) + 1) - 1
    if axis < 0:
        raise RefusedError(each, "a softmax along the samples")
    if len(shape) <= LARGEST_RANK:
        _softmax(fusion, each, axis)
        return
    before, after = (math.prod(some) for some in (shape[:axis], shape[axis + 1 :]))
    folded = (before, after, shape[axis]) if after == 1 else (before, shape[axis], after)
    source = fusion.reshaped(each, source, folded, f"{each.output}@folded")
    fusion.node(each, Softmax(2 if after == 1 else 1), source, value=f"{each.output}@computed")
    fusion.reshaped(each, f"{each.output}@computed", shape, each.output)


def _softmax(fusion: Fusion, each: Operation, axis: int) -> None:
    """Along an axis; of what a transposition that is put off gives, of what that takes."""
    source = each.inputs[0]
    if source in fusion.moves and source not in fusion.node_of:
        movement = fusion.moves[source][1]
        start = Movement.none(movement.source, fusion.shape(movement.source))
        for order in permutations(range(len(start.shape))) if len(start.shape) <= LARGEST_RANK else ():
            if start.transposed(order) == movement:
                made = f"{each.output}@computed"
                fusion.node(each, Softmax(order[axis]), movement.source, value=made)
                fusion.transposed(each, made, order, each.output)
                return
    fusion.node(each, Softmax(axis), source)


def norm(cell: Callable[..., Any]) -> Callable[[Fusion, Operation], None]:
    """A LayerNorm or RMSNorm over some axes, which are the channels meanwhile."""

    def make(fusion: Fusion, each: Operation) -> None:
        source, shape = each.inputs[0], fusion.shape(each.inputs[0])
        axes = [axis % (len(shape) + 1) - 1 for axis in each.attributes["axes"]]
        if not axes or min(axes) < 0:
            raise RefusedError(each, "a normalisation over the samples")
        rest = [axis for axis in range(len(shape)) if axis not in axes]
        order, count = (*axes, *rest), math.prod(shape[axis] for axis in axes)
        others = tuple(shape[axis] for axis in rest)
        if len(others) >= LARGEST_RANK:
            others = (others[0], math.prod(others[1:]))
        turned = fusion.transposed(each, source, order, f"{each.output}@turned")
        image = fusion.reshaped(each, turned, (count, *others), f"{each.output}@image")
        own = {name: array.reshape(-1) for name, array in each.constants.items()}
        layer = Layer({"gamma": np.ones(count, np.float32)}, dict(each.sources), dict(each.sources))
        if cell is LayerNorm:
            layer.own["beta"] = np.zeros(count, np.float32)
        layer.own |= own
        fusion.layer(each, cell(count, eps=each.attributes["eps"]), image, layer, f"{each.output}@computed")
        back = fusion.reshaped(
            each, f"{each.output}@computed", tuple(shape[axis] for axis in order), f"{each.output}@back"
        )
        fusion.transposed(each, back, tuple(np.argsort(order).tolist()), each.output)

    return make


MAKERS: Mapping[str, Callable[[Fusion, Operation], None]] = {
    "matmul": matmul,
    "softmax": softmax,
    "layer_norm": norm(LayerNorm),
    "rms_norm": norm(RMSNorm),
}

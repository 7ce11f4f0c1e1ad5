"""Cells of poolings, means and maxima."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from qat.cells import AdaptiveAvgPool2d, AvgPool2d, GlobalAvgPool2d, MaxPool2d
from qat.imports.fusion import Fusion
from qat.imports.program import Operation, RefusedError
from qat.imports.windows import placed


def max_pool2d(fusion: Fusion, each: Operation) -> None:
    """A MaxPool2d."""
    if tuple(each.attributes.get("dilation", (1, 1))) != (1, 1):
        raise RefusedError(each, f"a max pooling of dilation {each.attributes['dilation']}")
    _pool(fusion, each, MaxPool2d, {})


def avg_pool2d(fusion: Fusion, each: Operation) -> None:
    """An AvgPool2d."""
    own = fusion.resolved(each, each.attributes["padding"])
    counts = each.attributes.get("counts_padding") or not any(own)  # zeros before it count in any case
    _pool(fusion, each, AvgPool2d, {} if counts else {"count_include_pad": False})


def _pool(fusion: Fusion, each: Operation, cell: Any, fields: Mapping[str, Any]) -> None:
    options = each.attributes
    source, padding = fusion.unpadded(each, options["padding"])
    ceil = {"ceil_mode": True} if options.get("ceil") else {}
    value = each.output
    made = cell(options["kernel"], options["stride"], **placed(padding), **ceil, **fields)
    fusion.node(each, made, fusion.image(each, source), value=fusion.back(each, value))
    fusion.restored(each, value)


def adaptive_avg_pool2d(fusion: Fusion, each: Operation) -> None:
    """An AdaptiveAvgPool2d."""
    fusion.node(each, AdaptiveAvgPool2d(tuple(each.attributes["size"])), each.inputs[0])


def over_axes(fusion: Fusion, each: Operation) -> None:
    """A mean or maximum over whole axes: of height and width a pooling, of others one of what is moved there."""
    source = each.inputs[0]
    shape = fusion.shape(source)
    rank = len(shape)
    axes = sorted(axis % (rank + 1) - 1 for axis in each.attributes["axes"])
    if not axes or axes[0] < 0:
        raise RefusedError(each, f"a {each.kind} over the samples")
    kept = [axis for axis in range(rank) if axis not in axes]
    if axes != [1, 2] or rank != 3:
        sizes = tuple(math.prod(shape[axis] for axis in some) for some in (kept, axes))
        turned = fusion.transposed(each, source, (*kept, *axes), f"{each.output}@turned")
        source = fusion.reshaped(each, turned, (*sizes, 1), f"{each.output}@image")
    height, width = fusion.shape(source)[1:]
    pooled = each.output if rank == 3 and axes == [1, 2] and each.attributes["keepdims"] else f"{each.output}@pooled"
    fusion.node(each, GlobalAvgPool2d() if each.kind == "mean" else MaxPool2d((height, width)), source, value=pooled)
    if pooled != each.output:
        sizes = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
        wanted = sizes if each.attributes["keepdims"] else tuple(shape[axis] for axis in kept)
        if not wanted:
            raise RefusedError(each, f"a {each.kind} over all axes, which leaves no channels")
        fusion.reshaped(each, pooled, wanted, each.output)


MAKERS: Mapping[str, Callable[[Fusion, Operation], None]] = {
    "max_pool2d": max_pool2d,
    "avg_pool2d": avg_pool2d,
    "adaptive_avg_pool2d": adaptive_avg_pool2d,
    "mean": over_axes,
    "max": over_axes,
}

"""Cells of convolutions, dense layers and batch normalisations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qat.cells import BatchNorm, Conv2dBnAct, ConvTranspose2dBnAct, DenseBnAct
from qat.imports.fusion import Fusion
from qat.imports.layer import Layer, factor_and_shift
from qat.imports.program import Operation, RefusedError
from qat.imports.windows import placed


def conv2d(fusion: Fusion, each: Operation) -> None:
    """A Conv2dBnAct; of a series, an image of one row."""
    weight, options, group = each.constants["weight"], each.attributes, each.attributes["groups"]
    source, padding = fusion.unpadded(each, options["padding"])
    cell = Conv2dBnAct(
        weight.shape[1] * group,
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        stride=options["stride"],
        dilation=options["dilation"],
        group=group,
        **placed(padding),
    )
    rank = len(fusion.shape(source))
    value = _linear(fusion, each, cell, fusion.image(each, source), Layer.of(each), rank, fusion.back)
    fusion.restored(each, value)


def conv_transpose2d(fusion: Fusion, each: Operation) -> None:
    """A ConvTranspose2dBnAct; of a series, an image of one row."""
    weight, options, group = each.constants["weight"], each.attributes, each.attributes["groups"]
    source = each.inputs[0]
    cell = ConvTranspose2dBnAct(
        weight.shape[0],
        weight.shape[1] * group,
        (weight.shape[2], weight.shape[3]),
        stride=options["stride"],
        padding=options["padding"],
        output_padding=options["output_padding"],
        dilation=options["dilation"],
        group=group,
    )
    layer, rank = Layer.of(each, inputs_first=group), len(fusion.shape(source))
    value = _linear(fusion, each, cell, fusion.image(each, source), layer, rank, fusion.back)
    fusion.restored(each, value)


def dense(fusion: Fusion, each: Operation) -> None:
    """A DenseBnAct of rows; of what has more axes, a 1x1 convolution whose channels are its last axis."""
    outputs, inputs = each.constants["weight"].shape
    layer, source = Layer.of(each), each.inputs[0]
    if len(fusion.shape(source)) > 1:
        _dense_of_places(fusion, each, layer)
        return
    while (before := fusion.affine.get(source)) is not None:
        factor, shift = factor_and_shift(before, inputs, 1)
        weight = layer.own["weight"]
        shifted = layer.own.get("bias", np.zeros(outputs, np.float32)) + weight @ shift
        layer.own |= {"weight": weight * factor, "bias": shifted}
        layer.origin |= before.sources
        layer.sources.clear()
        source = before.inputs[0]
    image = fusion.flattened.get(source)
    if image is not None:  # its columns stand in the order of a source that has channels last
        channels, height, width = image
        weight = layer.own["weight"].reshape(outputs, height, width, channels).transpose(0, 3, 1, 2)
        layer.own["weight"] = weight.reshape(outputs, inputs)
    _linear(fusion, each, DenseBnAct(inputs, outputs, has_bias=False), source, layer, 1, lambda each, value: value)


def _dense_of_places(fusion: Fusion, each: Operation, layer: Layer) -> None:
    outputs, inputs = layer.own["weight"].shape
    places = fusion.shape(each.inputs[0])[:-1]
    rank = len(places) + 1
    first = fusion.transposed(each, each.inputs[0], (rank - 1, *range(rank - 1)), f"{each.output}@turned")
    image = (*places, 1) if rank == 2 else (places[0], int(np.prod(places[1:])))
    source = fusion.reshaped(each, first, (inputs, *image), f"{each.output}@image")
    layer.own["weight"] = layer.own["weight"][:, :, None, None]
    value = _linear(
        fusion,
        each,
        Conv2dBnAct(inputs, outputs, 1),
        source,
        layer,
        1,
        lambda each, value: f"{value}@computed",
        normalizes=False,  # that is over another axis
    )
    back = fusion.reshaped(each, f"{value}@computed", (outputs, *places), f"{value}@places")
    fusion.transposed(each, back, (*range(1, rank), 0), value)


def _linear(
    fusion: Fusion,
    each: Operation,
    cell: Any,
    source: str,
    layer: Layer,
    rank: int,
    named: Callable[[Operation, str], str],
    *,
    normalizes: bool = True,
) -> str:
    """A convolution or dense layer with all that follows it alone. Returns the value behind it.

    rank: axes of a sample in the source. named: what the cell gives is called, of that value.
    """
    value = each.output
    while (after := fusion.alone.get(value)) is not None and (normalizes or after.kind != "batch_norm"):
        if not layer.takes(after, rank):
            break
        value = fusion.taken(after)
    value, activation = fusion.activated(value)
    fields = {"has_bias": "bias" in layer.own, "has_bn": layer.has_bn, **layer.fields, **activation}
    fusion.layer(each, replace(cell, **fields), source, layer, named(each, value))
    return value


def batch_norm(fusion: Fusion, each: Operation) -> None:
    """A BatchNorm; of a row before a dense layer, a part of that."""
    shape = fusion.shape(each.inputs[0])
    if len(shape) == 1 and goes_into_dense(fusion, each):
        return
    if len(shape) > 3:
        raise RefusedError(each, f"a batch normalisation of {len(shape) + 1} axes")
    layer = Layer({"weight": np.ones((shape[0], 1), np.float32)}, {}, {})
    layer.normalized(each)
    del layer.own["weight"]
    value, activation = fusion.activated(each.output)
    source = fusion.image(each, each.inputs[0])
    fusion.layer(each, BatchNorm(shape[0], **layer.fields, **activation), source, layer, fusion.back(each, value))
    fusion.restored(each, value)


def goes_into_dense(fusion: Fusion, each: Operation) -> bool:
    """Let the dense layer that follows alone take an operation. False: there is none."""
    after, value = fusion.alone.get(each.output), each.output
    while after is not None and after.kind in ("batch_norm", "add", "mul") and len(after.inputs) == 1:
        value = after.output
        after = fusion.alone.get(value)
    if after is None or after.kind != "dense":
        return False
    if each.inputs[0] not in fusion.affine:
        fusion.given(each, each.inputs[0])
    fusion.affine[each.output] = each
    return True


MAKERS: Mapping[str, Callable[[Fusion, Operation], None]] = {
    "conv2d": conv2d,
    "conv_transpose2d": conv_transpose2d,
    "dense": dense,
    "batch_norm": batch_norm,
}

"""Cells of normalisations over what one place holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from qat.cells import LayerNorm, RMSNorm
from qat.imports.fusion import Fusion
from qat.imports.layer import Layer
from qat.imports.program import Operation, RefusedError


def layer_norm(fusion: Fusion, each: Operation) -> None:
    """A LayerNorm or RMSNorm over axes that become the channels meanwhile."""
    source, shape = each.inputs[0], fusion.shape(each.inputs[0])
    rank = len(shape)
    axes = sorted(int(axis) % (rank + 1) - 1 for axis in each.attributes["axes"])
    if axes[0] < 0:
        raise RefusedError(each, "a layer normalisation over the samples")
    count, kept = math.prod(shape[axis] for axis in axes), [axis for axis in range(rank) if axis not in axes]
    centred = each.kind == "layer_norm"
    own = {"gamma": np.ones(count, np.float32)} | ({"beta": np.zeros(count, np.float32)} if centred else {})
    own |= {local: array.reshape(-1) for local, array in each.constants.items()}
    layer = Layer(own, dict(each.sources), dict(each.sources))
    cell = (LayerNorm if centred else RMSNorm)(count, float(each.attributes["eps"]))
    if axes == [0] and rank <= 3:
        fusion.layer(each, cell, source, layer, each.output)
        return
    order = (*axes, *kept)
    turned = fusion.transposed(each, source, order, f"{each.output}@turned")
    places = tuple(shape[axis] for axis in kept)
    flat = (count, *((math.prod(places),) if places else ()))
    image = fusion.reshaped(each, turned, flat, f"{each.output}@places")
    fusion.layer(each, cell, image, layer, f"{each.output}@computed")
    back = fusion.reshaped(each, f"{each.output}@computed", tuple(shape[axis] for axis in order), f"{each.output}@back")
    fusion.transposed(each, back, tuple(np.argsort(order).tolist()), each.output)


MAKERS: Mapping[str, Callable[[Fusion, Operation], None]] = {"layer_norm": layer_norm, "rms_norm": layer_norm}

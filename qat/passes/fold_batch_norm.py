"""Fold batch normalisation into the weights and biases of a float network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qat.cells.base import Shape
from qat.cells.batch_norm import BatchNorm
from qat.cells.conv1d import Conv1dBnAct
from qat.cells.conv2d import Conv2dBnAct
from qat.cells.linear import LinearCell
from qat.cells.normalization import running_affine
from qat.cells.weight_codes import MASK
from qat.graph import Graph, Params
from qat.passes.apply_masks import apply_masks
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array


def fold_batch_norm(graph: Graph, params: Mapping[str, Array]) -> tuple[Graph, Params]:
    """The same function of the input in evaluation, without batch normalisation:

    w' = w gamma / sigma, b' = beta + (b - mean) gamma / sigma, by the running statistics.
    """
    params = apply_masks(graph, params)
    result = dict(params)
    nodes = []
    for node in graph.nodes:
        cell: Any = node.cell
        if isinstance(node.cell, LinearCell) and node.cell.has_bn:
            names = {local: f"{node.cell_name}.{local}" for local in cell.params()}
            own = {local: params[name] for local, name in names.items()}
            cell, own = folded(node.cell, own, graph.shapes[node.name])
            masks = {full: params[full] for local, full in names.items() if local == MASK}
            result = {name: array for name, array in result.items() if name not in names.values()} | {
                **{f"{node.cell_name}.{local}": array for local, array in own.items()},
                **masks,
            }
        nodes.append(replace(node, cell=cell))
    return replace(graph, nodes=tuple(nodes)), result


def folded(cell: LinearCell, params: Mapping[str, Array], shape: Shape) -> tuple[LinearCell, Params]:
    """A float cell that has batch normalisation without it.

    Args:
        cell: the cell.
        params: its parameters, canonical, by local name.
        shape: of its output, of one sample.

    Returns:
        The cell, and its weight and bias.
    """
    factor, shift = running_affine(NUMPY_OPS, params, cell.eps)
    plain: Any = cell
    if isinstance(cell, BatchNorm):
        kind = Conv1dBnAct if len(shape) == 2 else Conv2dBnAct
        plain = kind(cell.channels, cell.channels, 1, group=cell.channels, activation=cell.activation, alpha=cell.alpha)
        params = {**params, "weight": np.ones(plain.weight_shape, np.float32)}
    plain = replace(plain, has_bn=False, has_bias=True)
    weight = plain.outputs_first(NUMPY_OPS, params["weight"])
    return plain, {"weight": plain.as_stored(weight * NUMPY_OPS.on_output(factor, weight)), "bias": shift}

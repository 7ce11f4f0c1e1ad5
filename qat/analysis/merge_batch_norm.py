"""Merge batch normalisations that stand by themselves into the linear cells beside them, before quantization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qat.cells.batch_norm import BatchNorm
from qat.cells.convolving import Convolution
from qat.cells.normalization import running_affine
from qat.cells.pooling import MaxPool
from qat.graph import Graph, Node, Params
from qat.training.forward import Forward
from qat.vocabulary.activations import RELU_BOUNDS
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array

BATCH_SIZE = 100


def merge_batch_norm(graph: Graph, params: Mapping[str, Array], images: Array) -> tuple[Graph, Params]:
    """The same function of the input in evaluation, with fewer cells, so that fewer things have to be quantized.

    1. ``BatchNorm -> Conv2dBnAct``, where the first has no activation and the second neither padding nor groups:
       W (f x + t) = (W f) x + W t. W t goes into the bias, or the mean of the second's own batch normalisation.
    2. ``Conv2dBnAct -> MaxPool2d -> BatchNorm``, or without the pooling, where the convolution has neither batch
       normalisation nor activation, becomes ``Conv2dBnAct(has_bn, activation) -> MaxPool2d``. With f = gamma / sigma > 0 it is
       max(f y + t) = f max(y) + t, and a ReLU never decreases. Where a gamma is not positive that is wrong, and the cells
       stay as they are. Training goes on by the statistics of what is normalised, which now is y before the pooling:
       the running ones become those of y on ``images``, and gamma and beta such that f and t stay what they were.

    Every output in between is taken by the next cell alone; cells of one dimension are merged likewise. images: uint8
    (N, C, H, W), some hundred training images.
    """
    own = dict(params)
    graph, own = _into_next(graph, own)
    while (found := _find_pooled(graph, own)) is not None:
        graph, own = _into_previous(graph, own, images, *found)
    return graph, own


def _into_next(graph: Graph, params: Params) -> tuple[Graph, Params]:
    """Rule 1, wherever it applies."""
    for node in graph.nodes:
        follower = _only_user(graph, node)
        if follower is None or not _is_alone(graph, node, BatchNorm) or node.cell.activation is not None:  # type: ignore[attr-defined]
            continue
        cell: Any = follower.cell
        if not _is_alone(graph, follower, Convolution):
            continue
        if cell.group > 1 or cell.pads(graph.shapes[node.name]):
            continue
        factor, shift = running_affine(NUMPY_OPS, _of(node, params), node.cell.eps)  # type: ignore[attr-defined]
        weight_name = f"{follower.cell_name}.weight"
        weight = params[weight_name]
        across = (1, -1, *(1,) * (weight.ndim - 2))
        moved = (weight.astype(np.float64) * shift.reshape(across)).sum(axis=tuple(range(1, weight.ndim)))
        result = {name: array for name, array in params.items() if not name.startswith(f"{node.cell_name}.")}
        result[weight_name] = weight * factor.reshape(across)
        if cell.has_bn:
            name = f"{follower.cell_name}.moving_mean"
            result[name] = (result[name] - moved).astype(np.float32)
        else:
            name = f"{follower.cell_name}.bias"
            result[name] = (result.get(name, 0.0) + moved).astype(np.float32)
            cell = replace(cell, has_bias=True)
        changed = {follower.name: replace(follower, cell=cell, inputs=node.inputs)}
        return _into_next(_rebuilt(graph, changed, {node.name}, {}), result)
    return graph, params


def _find_pooled(graph: Graph, params: Params) -> tuple[Node, Node | None, Node] | None:
    """Where rule 2 applies: the convolution, the pooling if there is one, the batch normalisation."""
    for conv in graph.nodes:
        if not _is_alone(graph, conv, Convolution):
            continue
        cell: Any = conv.cell
        if cell.has_bn or cell.activation is not None:
            continue
        following = _only_user(graph, conv)
        pool = following if following is not None and isinstance(following.cell, MaxPool) else None
        norm = following if pool is None else _only_user(graph, pool)
        if norm is None or not _is_alone(graph, norm, BatchNorm):
            continue
        if norm.cell.activation not in (None, *RELU_BOUNDS):  # type: ignore[attr-defined]
            continue
        if (params[f"{norm.cell_name}.gamma"] > 0.0).all():
            return conv, pool, norm
    return None


def _into_previous(
    graph: Graph, params: Params, images: Array, conv: Node, pool: Node | None, norm: Node
) -> tuple[Graph, Params]:
    """Rule 2 at one place."""
    old: Any = norm.cell
    cell = replace(
        conv.cell,  # type: ignore[type-var]
        has_bn=True,
        momentum=old.momentum,
        eps=old.eps,
        activation=old.activation,
        alpha=old.alpha,
        after_fake=old.after_fake,
    )
    mean, variance = _statistics(graph, params, images, conv)
    own = _of(norm, params)
    sigma = np.sqrt(own["moving_variance"].astype(np.float64) + old.eps)
    factor = own["gamma"] / sigma
    result = {name: array for name, array in params.items() if not name.startswith(f"{norm.cell_name}.")}
    merged = {
        "gamma": factor * np.sqrt(variance + old.eps),
        "beta": own["beta"] + (mean - own["moving_mean"]) * factor,
        "moving_mean": mean,
        "moving_variance": variance,
    }
    result |= {f"{conv.cell_name}.{name}": array.astype(np.float32) for name, array in merged.items()}
    last = conv.name if pool is None else pool.name
    return _rebuilt(graph, {conv.name: replace(conv, cell=cell)}, {norm.name}, {norm.name: last}), result


def _statistics(graph: Graph, params: Params, images: Array, node: Node) -> tuple[Array, Array]:
    """Mean and variance, float64 (C,), of each channel of a node's output over the images, in evaluation."""
    at = graph.nodes.index(node)
    part = replace(graph, nodes=graph.nodes[: at + 1], outputs=(node.name,))
    run = Forward(part, NUMPY_OPS)
    tensors = {name: NUMPY_OPS.from_numpy(params[name], param.kind) for name, param in part.params.items()}
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for start in range(0, len(images), BATCH_SIZE):
        pixels = images[start : start + BATCH_SIZE].astype(np.float32)
        (y,), _ = run(tensors, (pixels,), training=False, phase=0)
        y = np.moveaxis(y.astype(np.float64), 1, 0).reshape(y.shape[1], -1)
        count, total, squares = count + y.shape[1], total + y.sum(1), squares + (y * y).sum(1)
    mean = total / count
    return mean, np.maximum(squares / count - mean * mean, 0.0)


def _rebuilt(graph: Graph, changed: Mapping[str, Node], removed: set[str], renamed: Mapping[str, str]) -> Graph:
    """The graph with some nodes replaced, some left out, and what took the latter's output taking another's."""
    nodes = []
    for node in graph.nodes:
        if node.name in removed:
            continue
        node = changed.get(node.name, node)
        nodes.append(replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs)))
    return replace(graph, nodes=tuple(nodes), outputs=tuple(renamed.get(name, name) for name in graph.outputs))


def _only_user(graph: Graph, node: Node) -> Node | None:
    users = graph.consumers(node.name)
    return users[0] if len(users) == 1 and node.name not in graph.outputs else None


def _is_alone(graph: Graph, node: Node, kind: Any) -> bool:
    """A cell of this kind that is used once."""
    return isinstance(node.cell, kind) and sum(other.cell_name == node.cell_name for other in graph.nodes) == 1


def _of(node: Node, params: Mapping[str, Array]) -> Params:
    """A node's own parameters by local name."""
    return {name: params[f"{node.cell_name}.{name}"] for name in node.cell.params()}

"""A dense layer along any axis of a sample."""

from __future__ import annotations

import math
from typing import Any

import qat
from qat.cells.tracing import Traced
from qat.errors import QatError


class Dense(qat.Network):
    """The same dense layer for all that lies along an axis of (L, C), (C, L) or (C, H, W): a block, as of tokens.

    It is a 1x1 convolution over what is reshaped, and where the axis is not the first one transposed, to (C, 1, places) and
    back; so it is trained, quantized and deployed as any other convolution.

    Args:
        inputs: numbers along the axis.
        outputs: numbers along it in the result.
        axis: of a sample. Default: -1, the last one, as of PyTorch's Linear and Keras's Dense; 0 are the channels.
        fields: of the ``Conv2dBnAct``, as activation; a bias is added unless has_bias is False.

    Raises:
        QatError: in ``construct``, where a sample has no such axis, or it has another length.

    >>> import qat
    >>> class Net(qat.Network):
    ...     inputs = qat.Input((49, 8), dtype="float32")
    ...     def __init__(self):
    ...         self.fc = qat.networks.Dense(8, 32, activation="gelu")
    ...     def construct(self, x):
    ...         return self.fc(x)
    >>> graph = Net().graph()
    >>> graph.shapes[graph.outputs[0]]
    (49, 32)
    """

    def __init__(self, inputs: int, outputs: int, axis: int = -1, **fields: Any) -> None:
        self.axis = axis
        self.conv = qat.Conv2dBnAct(inputs, outputs, 1, **{"has_bias": True} | fields)

    def construct(self, x: Traced) -> Traced:
        shape, rank, taken = x.shape, len(x.shape), self.conv.in_channels
        if not -rank <= self.axis < rank or shape[self.axis] != taken:
            raise QatError(
                f"a Dense of {taken} inputs takes samples with as many along axis {self.axis}, but gets {shape}; change "
                "inputs or axis"
            )
        first = self.axis % rank
        order = (first, *(axis for axis in range(rank) if axis != first))
        rest = [shape[axis] for axis in order[1:]]
        x = x.permute(0, *(1 + axis for axis in order)) if first else x
        y = self.conv(x.reshape(-1, taken, 1, math.prod(rest))).reshape(-1, self.conv.out_channels, *rest)
        return y.permute(0, *(1 + order.index(axis) for axis in range(rank))) if first else y

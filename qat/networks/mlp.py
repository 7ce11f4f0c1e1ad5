"""Dense layers, for samples of any shape."""

from __future__ import annotations

import math
from itertools import pairwise

import qat
from qat.cells.tracing import Traced


class Mlp(qat.Network):
    """The sample as one row, dense layers with batch normalisation and ReLU, a dense layer.

    Args:
        input: of any shape; default: 28x28 pixels.
        outputs: numbers that it gives; default 10.
        widths: outputs of the layers before the last; default (128, 64).
    """

    any_size = True

    def __init__(
        self,
        input: qat.Input | None = None,
        outputs: int = 10,
        widths: tuple[int, ...] = (128, 64),
    ) -> None:
        input = input or qat.Input((1, 28, 28), mean=0.5, std=0.25)
        self.inputs = input
        self.flatten = qat.Flatten() if len(input.shape) > 1 else None
        sizes = (math.prod(input.shape), *widths)
        self.layers = [
            qat.DenseBnAct(before, after, has_bn=True, activation="relu") for before, after in pairwise(sizes)
        ]
        self.fc = qat.DenseBnAct(sizes[-1], outputs)

    def construct(self, x: Traced) -> Traced:
        if self.flatten is not None:
            x = self.flatten(x)
        for layer in self.layers:
            x = layer(x)
        return self.fc(x)

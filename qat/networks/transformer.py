"""Attention over the places of a picture, and a small vision transformer."""

from __future__ import annotations

import math

import qat
from qat.cells.tracing import Traced
from qat.errors import QatError
from qat.networks.taken import picture


class Attention(qat.Network):
    """Multi-head self-attention (Vaswani et al., arXiv 1706.03762, section 3.2): every place of (C, H, W) looks at all others.

    A place is a token, its channels are what it holds; a series of tokens is (C, L). Queries, keys and values are 1x1
    convolutions, which are dense layers at every place. Of (C, H, W) the heads are (heads, C / heads, H W), in the same order,
    so that nothing is transposed: a product transposes as it multiplies.

    Args:
        channels: C.
        heads: which divide the channels.

    Raises:
        QatError: where they do not.

    >>> import qat
    >>> class Net(qat.Network):
    ...     inputs = qat.Input((8, 4, 4))
    ...     def __init__(self):
    ...         self.attention = qat.networks.Attention(8, heads=2)
    ...     def construct(self, x):
    ...         return self.attention(x)
    >>> graph = Net().graph()
    >>> graph.shapes["attention.softmax"], graph.shapes[graph.outputs[0]]
    ((2, 16, 16), (8, 4, 4))
    """

    def __init__(self, channels: int, heads: int) -> None:
        if heads < 1 or channels % heads:
            raise QatError(f"Attention: {heads} heads do not divide {channels} channels; use a number that does")
        self.heads, self.size = heads, channels // heads
        self.query, self.key, self.value, self.output = (
            qat.Conv2dBnAct(channels, channels, 1, has_bias=True) for _ in range(4)
        )
        self.scores = qat.MatMul(transpose_a=True)
        self.softmax = qat.Softmax(axis=2)
        self.mixture = qat.MatMul(transpose_b=True)

    def construct(self, x: Traced) -> Traced:
        shape, channels = x.shape, self.heads * self.size
        if len(shape) == 2:  # a series of tokens
            x = x.reshape(-1, channels, 1, -1)
        places = math.prod(shape[1:])
        query = self.query(x) * self.size**-0.5
        query, key, value = (y.reshape(-1, self.heads, self.size, places) for y in (query, self.key(x), self.value(x)))
        shares = self.softmax(self.scores(query, key))  # of every place (rows) in all places (columns)
        y = self.output(self.mixture(value, shares).reshape(-1, *x.shape))
        return y if len(shape) == 3 else y.reshape(-1, *shape)


class TransformerBlock(qat.Network):
    """x + attention(norm(x)), and to that the same of two dense layers with a GELU (arXiv 2010.11929, equations 2 and 3).

    Args:
        channels: of its input and output.
        heads: of the attention.
        hidden: channels between the dense layers.
    """

    def __init__(self, channels: int, heads: int, hidden: int) -> None:
        self.norm1, self.norm2 = qat.LayerNorm(channels), qat.LayerNorm(channels)
        self.attention = Attention(channels, heads)
        self.fc1 = qat.Conv2dBnAct(channels, hidden, 1, has_bias=True, activation="gelu")
        self.fc2 = qat.Conv2dBnAct(hidden, channels, 1, has_bias=True)

    def construct(self, x: Traced) -> Traced:
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(self.fc1(self.norm2(x)))


class VisionTransformer(qat.Network):
    """Patches, blocks of attention, mean over the places, a dense layer (Dosovitskiy et al., arXiv 2010.11929).

    What a place holds tells where it is by a depthwise 3x3 convolution, whose padding shows it the borders (Chu et al., arXiv
    2102.10882).

    Args:
        num_class: number of outputs.
        channels: of a token.
        depth: number of blocks.
        heads: of each.
        patch: side of a patch, in pixels. None, the default: a seventh of the picture's, at least 2.
        input: what it is fitted to, in place of its own; None by default.
    """

    any_size = True

    def __init__(
        self,
        num_class: int = 10,
        channels: int = 32,
        depth: int = 3,
        heads: int = 4,
        patch: int | None = None,
        *,
        input: qat.Input | None = None,
    ) -> None:
        self.inputs = picture(input, qat.Input((1, 28, 28), mean=0.1307, std=0.3081))
        patch = patch or max(min(self.inputs.shape[1:]) // 7, 2)
        self.patches = qat.Conv2dBnAct(self.inputs.shape[0], channels, patch, patch, has_bias=True)
        self.positions = qat.Conv2dBnAct(channels, channels, 3, group=channels, has_bias=True)
        self.blocks = [TransformerBlock(channels, heads, 2 * channels) for _ in range(depth)]
        self.norm, self.pool, self.flatten = qat.LayerNorm(channels), qat.GlobalAvgPool2d(), qat.Flatten()
        self.fc = qat.DenseBnAct(channels, num_class)

    def construct(self, x: Traced) -> Traced:
        x = self.patches(x)
        x = x + self.positions(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(self.flatten(self.pool(self.norm(x))))

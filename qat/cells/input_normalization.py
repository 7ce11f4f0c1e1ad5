"""How a linear cell takes raw pixels in place of normalised ones: the normalisation goes into its weight and bias.

The real number of a pixel p of channel c is (p - 255 mean_c) / (255 std_c) = a_c x + t_c, where x = (p - z) s is what its code
stands for, one scale s and zero point z for all channels. So sum_c w_c (a_c x_c + t_c) = sum_c (w_c a_c) x_c + sum_c w_c t_c;
the last sum is a bias where the window lies in the picture. Where a convolution pads it is not: there the normalised picture
has 0. Then the picture gets one more channel, which has the code z + v everywhere and is padded as the others are, and the last
sum is its weight: w_v = sum_c w_c t_c / (v s).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qat.vocabulary.ops import Array, Kind, Ops, Tensor
from qat.vocabulary.param import Shape
from qat.vocabulary.serial import Serializable


@dataclass(frozen=True)
class InputNormalization(Serializable):
    """The normalisation of an input, as the linear cell that takes its raw codes computes it; set by convert_quant_network.

    Attributes:
        factor: a, one for each channel.
        shift: t, likewise.
        constant: v s, the real number of the further channel that the input has; 0.0: it has none, and the shift is a bias.
    """

    factor: tuple[float, ...]
    shift: tuple[float, ...]
    constant: float = 0.0

    @property
    def channels(self) -> int:
        """Of the picture, as the cell's weight has them."""
        return len(self.factor)

    @property
    def further(self) -> int:
        """Channels that the input has beside those of the picture: 0 or 1."""
        return int(self.constant != 0.0)

    def weight(self, ops: Ops, weight: Tensor, shape: Shape) -> Tensor:
        """The weight over raw codes. shape: the weight's, canonical."""
        if not self.further:
            return weight * ops.from_numpy(self._spread(self.factor, shape), _kind(shape))
        last = np.array(self.shift)[:, np.newaxis] / self.constant
        return ops.mix_inputs(weight, np.concatenate([np.diag(self.factor), last], axis=1).astype(np.float32))

    def mask(self, ops: Ops, mask: Tensor) -> Tensor:
        """A pruner's mask over the channels that the input has: the further one stays where any other does."""
        if not self.further:
            return mask
        both = np.concatenate([np.eye(self.channels), np.ones((self.channels, 1))], axis=1)
        return ops.minimum(ops.mix_inputs(mask, both.astype(np.float32)), 1.0)

    def bias(self, ops: Ops, weight: Tensor, bias: Tensor | None, shape: Shape) -> Tensor | None:
        """The bias over raw codes; weight: as it is trained, of that shape."""
        if self.further or not any(self.shift):
            return bias
        shift = ops.output_mean(weight * ops.from_numpy(self._spread(self.shift, shape), _kind(shape)))
        shift = shift * float(math.prod(shape[1:]))
        return shift if bias is None else bias + shift

    @property
    def has_bias(self) -> bool:
        """Whether the cell has a bias by it, if it has none of its own."""
        return not self.further and any(self.shift)

    def _spread(self, each: tuple[float, ...], shape: Shape) -> Array:
        """A number for each channel, for each element of a weight: a dense one has all places of a channel one by one."""
        columns = np.repeat(np.array(each, np.float32), shape[1] // self.channels)
        return np.broadcast_to(columns.reshape(1, -1, *(1,) * (len(shape) - 2)), shape)


def _kind(shape: Shape) -> Kind:
    return "dense_weight" if len(shape) == 2 else "conv_weight"

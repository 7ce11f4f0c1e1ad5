"""Convolution, fused with batch normalisation and activation."""

from __future__ import annotations

from dataclasses import dataclass

from qat.cells.base import pair
from qat.cells.convolving import Convolution
from qat.cells.linear import Channels
from qat.vocabulary.ops import Padding, Pair


@dataclass(frozen=True)
class ConvGeometry(Channels):
    """The fields that a convolution begins with."""

    kernel_size: int | Pair
    stride: int | Pair = 1
    pad_mode: str = "same"
    padding: int | Pair | Padding = 0
    dilation: int | Pair = 1
    group: int = 1


@dataclass(frozen=True)
class Conv2dBnAct(Convolution, ConvGeometry):
    """Convolution, batch normalisation and activation in one cell; its quantized form keeps accumulators as integers.

    Input: (in_channels, H, W), output: (out_channels, H', W'). Parameters: weight (out, in / group, kh, kw), and like
    it weight_mask, 0 or 1, if it has a pruner; bias (out,) if has_bias; gamma, beta, moving_mean, moving_variance
    (out,) if has_bn.

    Args:
        in_channels: of its input.
        out_channels: of its output.
        kernel_size: in pixels; one number, or (height, width).
        stride: in pixels; one number, or (height, width). Default: 1.
        pad_mode: "same", as TensorFlow pads; "valid", no padding; or "pad", as ``padding`` says. Default: "same".
        padding: in pixels; one number, (vertical, horizontal) or (top, bottom, left, right). Default: 0.
        dilation: distance of kernel elements in pixels; one number, or (height, width). Default: 1.
        group: number of groups of channels. Default: 1.
        has_bias: whether a bias is added. Default: False.
        has_bn: whether batch normalisation comes before the activation. Default: False.
        momentum: of the running statistics, momentum * running + (1 - momentum) * batch, 0 to 1. Default: 0.9.
        eps: what is added to a variance before its square root. Default: 1e-5.
        activation: None or a name of ``qat.vocabulary.activations``. Default: None.
        alpha: the activation's own, as of ``Activation``. Default: None: 0.2 of "leaky_relu", 1 of "elu".
        after_fake: let convert_quant_network put a fake quantizer after it. Default: True.
        weight_quantizer: set by convert_quant_network. Default: None, a float cell.
        bn_fold: set by convert_quant_network (``LinearCell``). Default: None.
        freeze_bn: set by convert_quant_network: the training step from which on running statistics normalise.
        pruner: set by ``qat.pruning.prune_weights``. Default: None.
        input_normalization: set by convert_quant_network, of a cell that takes raw pixels. Default: None.
        tracker: set by training with ``qat.Oscillations``: counts and freezes codes that oscillate. Default: None.

    Raises:
        QatError: where a field is out of its range, or fields do not go together.

    Example:
        >>> import qat
        >>> qat.Conv2dBnAct(3, 16, 3, stride=2, has_bn=True, activation="relu").output_shape((3, 32, 32))
        (16, 16, 16)
    """

    rank = 3

    @property
    def geometry(self) -> tuple[Pair, Pair, Pair]:
        return pair(self.kernel_size), pair(self.stride), pair(self.dilation)

    @property
    def declared(self) -> tuple[str, int | Pair | Padding]:
        return self.pad_mode, self.padding

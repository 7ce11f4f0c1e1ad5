"""Convolution over series, fused with batch normalisation and activation."""

from __future__ import annotations

from dataclasses import dataclass

from qat.cells.convolving import Convolution
from qat.cells.linear import Channels
from qat.cells.series import along, sides
from qat.errors import QatError
from qat.vocabulary.ops import Padding, Pair


@dataclass(frozen=True)
class SeriesGeometry(Channels):
    """The fields that a convolution over series begins with."""

    kernel_size: int
    stride: int = 1
    pad_mode: str = "same"
    padding: int | Pair = 0
    dilation: int = 1
    group: int = 1


@dataclass(frozen=True)
class Conv1dBnAct(Convolution, SeriesGeometry):
    """Convolution over a series, batch normalisation and activation in one cell: Conv2dBnAct of one dimension.

    Input: (in_channels, L), output: (out_channels, L'). Parameters: weight (out, in / group, k), and like it weight_mask
    if it has a pruner; the others as in Conv2dBnAct. It is computed over pictures of one row, (C, 1, L).

    Args:
        in_channels: of its input.
        out_channels: of its output.
        kernel_size: in steps.
        stride: in steps. Default: 1.
        pad_mode: "same", as TensorFlow pads; "valid", no padding; "pad", as ``padding`` says; or "causal", as many zeros at the
            left as let no output see a later step. Default: "same".
        padding: in steps; one number, or (left, right). Default: 0.
        dilation: distance of kernel elements in steps. Default: 1.
        group: number of groups of channels. Default: 1.
        has_bias, has_bn, momentum, eps, activation, alpha, after_fake: as in Conv2dBnAct.
        weight_quantizer, bn_fold, freeze_bn, pruner, input_normalization, tracker: as in Conv2dBnAct.

    Raises:
        QatError: where a field is out of its range, or fields do not go together.

    Example:
        >>> import qat
        >>> qat.Conv1dBnAct(3, 16, 5, stride=2, pad_mode="causal", has_bn=True).output_shape((3, 100))
        (16, 50)
    """

    rank = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pad_mode == "causal" and self.padding != 0:
            raise QatError(
                f"Conv1dBnAct: padding {self.padding} has no effect with pad_mode 'causal', which follows from the kernel; use "
                "pad_mode='pad'"
            )

    @property
    def geometry(self) -> tuple[Pair, Pair, Pair]:
        return along(self.kernel_size), along(self.stride), along(self.dilation)

    @property
    def declared(self) -> tuple[str, int | Pair | Padding]:
        if self.pad_mode == "causal":
            return "pad", sides((max(self.dilation * (self.kernel_size - 1), 0), 0))
        return self.pad_mode, sides(self.padding)

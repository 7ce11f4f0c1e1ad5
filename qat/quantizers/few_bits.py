"""Weight quantizers whose codes do not come from rounding w / s: DoReFa, ternary, binary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qat.errors import QatError
from qat.quantizers.base import SMALLEST_SCALE, BaseWeightQuantizer, Tensors, WeightCodes
from qat.vocabulary.ops import Ops, Tensor

SCALES = ("mean", "constant")


@dataclass(frozen=True)
class DoReFaWeightQuantizer(BaseWeightQuantizer):
    """DoReFa weights (Zhou et al., arXiv 1606.06160, equation 9, with quantize_k from equation 5).

    value = 2 quantize_k(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1, quantize_k(r) = rint((2^k - 1) r) / (2^k - 1). The codes
    are the odd numbers from -(2^k - 1) to 2^k - 1 and the scale is 1 / (2^k - 1); 0 has no code.

    The maximum is taken over the whole weight, or over each output channel if ``per_channel``. The gradient passes
    straight through the rounding and treats the maximum as a constant: d(value)/dw = (1 - tanh(w)^2) / max|tanh(w)|.

    The values reach from -1 to 1 whatever the weights are, so batch normalisation cannot be folded into them.

    Args:
        num_bits: k, 2 to 15; 4 by default. The codes take one bit more, so from k = 8 on they do not fit int8.

    >>> import numpy as np, qat
    >>> from qat.vocabulary.numpy_ops import NUMPY_OPS
    >>> weight = np.array([[0.5, -1.0, 0.1]], np.float32)
    >>> qat.DoReFaWeightQuantizer(2).quantize(NUMPY_OPS, weight).centred.tolist()
    [[1.0, -3.0, 1.0]]
    """

    widths: ClassVar[tuple[int, int]] = (2, 15)
    fixed: ClassVar[dict[str, bool]] = {"symmetric": True, "narrow_range": False}
    label: ClassVar[str] = "DoReFa"

    num_bits: int = 4

    @property
    def qmin(self) -> int:
        """The lowest code, -(2^num_bits - 1)."""
        return -self.qmax

    @property
    def qmax(self) -> int:
        """The highest code, 2^num_bits - 1."""
        return (1 << self.num_bits) - 1

    def quantize(
        self, ops: Ops, weight: Tensor, floor: Tensor | None = None, own: Tensors | None = None
    ) -> WeightCodes:
        bounded, levels = ops.tanh(weight), float(self.qmax)
        size = ops.abs(ops.stop_gradient(bounded))
        largest = ops.maximum(ops.output_max(size) if self.per_channel else ops.max(size), SMALLEST_SCALE)
        share = bounded * ops.on_output(0.5 / largest, weight) + 0.5
        codes = ops.round_ste(share * levels) * 2.0 - levels
        scale = largest * 0.0 + 1.0 / levels  # a constant in the shape of a scale
        return self._raised(ops, weight, codes, scale, floor)

    def refuses_batch_norm(self, *, folded: bool) -> str | None:
        return "its values reach from -1 to 1 whatever gamma is" if folded else None


@dataclass(frozen=True)
class _FewCodes(BaseWeightQuantizer):
    """Codes -1, 0 and 1 with a scale; fields as in the public classes. The scale counts as a constant."""

    scale: str = "mean"
    clip: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale not in SCALES:
            raise QatError(f"{type(self).__name__}: scale is {self.scale!r}; use one of {', '.join(map(repr, SCALES))}")

    def _coded(self, ops: Ops, weight: Tensor, codes: Tensor, scale: Tensor, floor: Tensor | None) -> WeightCodes:
        """The codes with the straight-through gradient, masked to [-1, 1] by ``clip``."""
        scale = ops.maximum(scale, SMALLEST_SCALE)
        inside = (weight >= -1.0) & (weight <= 1.0)
        through = ops.where(inside, weight, ops.stop_gradient(weight)) if self.clip else weight
        return self._raised(ops, weight, self._straight_through(ops, codes, scale, through), scale, floor)

    def refuses_batch_norm(self, *, folded: bool) -> str | None:
        return "its scale is 1 whatever gamma is" if folded and self.scale == "constant" else None


@dataclass(frozen=True)
class TernaryWeightQuantizer(_FewCodes):
    """Ternary weights (Li et al., arXiv 1605.04711).

    code = sign(w) where |w| > t, else 0 (equation 3), with t = 0.7 mean|w|. That factor is the one of the paper's first
    versions and of most implementations; its third version (2022) has 0.75 for normally distributed weights (section
    2.3).

    Threshold and scale are taken over the whole weight, or over each output channel if ``per_channel``. The gradient
    passes straight through, as in the paper with clip=False.

    Args:
        num_bits: always 2.
        narrow_range: always True: there is no code -2.
        scale: "mean", the default: the mean of |w| over |w| > t (equation 5); "constant": 1.
        clip: True, the default: the gradient of the value is 1 where |w| <= 1 and 0 outside; False: 1 everywhere.

    Raises:
        QatError: for another ``scale``.

    >>> import numpy as np, qat
    >>> from qat.vocabulary.numpy_ops import NUMPY_OPS
    >>> weight = np.array([[0.5, -1.0, 0.0, 0.1]], np.float32)
    >>> codes = qat.TernaryWeightQuantizer().quantize(NUMPY_OPS, weight)
    >>> codes.centred.tolist(), float(codes.scale[0])
    ([[1.0, -1.0, 0.0, 0.0]], 0.75)
    """

    num_bits: int = 2
    narrow_range: bool = True

    widths: ClassVar[tuple[int, int]] = (2, 2)
    fixed: ClassVar[dict[str, bool]] = {"symmetric": True, "narrow_range": True}
    label: ClassVar[str] = "ternary"

    def quantize(
        self, ops: Ops, weight: Tensor, floor: Tensor | None = None, own: Tensors | None = None
    ) -> WeightCodes:
        fixed = ops.stop_gradient(weight)
        size = ops.abs(fixed)
        zeros = size * 0.0
        threshold = ops.on_output(self._mean(ops, size, own) * 0.7, weight)
        kept = ops.where(size > threshold, zeros + 1.0, zeros)
        codes = ops.where(fixed > 0.0, kept, -kept)
        share = self._mean(ops, kept, own)
        scale = self._mean(ops, kept * size, own) / ops.maximum(share, SMALLEST_SCALE)
        if self.scale == "constant":
            scale = scale * 0.0 + 1.0
        return self._coded(ops, weight, codes, scale, floor)


class SignCodes:
    """Mixin for quantizers whose codes are signs: -1 and 1."""

    @property
    def qmin(self) -> int:
        """The lowest code, -1."""
        return -1

    @property
    def qmax(self) -> int:
        """The highest code, 1."""
        return 1


def signs(ops: Ops, x: Tensor) -> Tensor:
    """1 where x >= 0, else -1, without gradient. ``x`` must not have one either."""
    zeros = x * 0.0
    return ops.where(x >= 0.0, zeros + 1.0, zeros - 1.0)


@dataclass(frozen=True)
class BinaryWeightQuantizer(SignCodes, _FewCodes):
    """Binary weights: code = 1 where w >= 0, else -1; 0 has no code.

    The gradient of the value passes straight through where |w| <= 1 (Hubara et al., arXiv 1602.02830, equation 4). The
    gradient of XNOR-Net's section 3.1 differs by the factor mean|w|, which Adam does not see, and a term 1 / N of the
    scale.

    Args:
        num_bits: always 1.
        scale: "mean", the default: mean|w| (XNOR-Net, Rastegari et al., arXiv 1603.05279, equation 6), over the whole
            weight, or as in the paper over each output channel if ``per_channel``; "constant": 1 (BinaryConnect,
            Courbariaux et al., arXiv 1511.00363, equation 1).
        clip: True, the default: no gradient where |w| > 1; False: it is 1 everywhere.

    Raises:
        QatError: for another ``scale``.

    >>> import numpy as np, qat
    >>> from qat.vocabulary.numpy_ops import NUMPY_OPS
    >>> codes = qat.BinaryWeightQuantizer().quantize(NUMPY_OPS, np.array([[0.5, -1.0, 0.0]], np.float32))
    >>> codes.centred.tolist(), float(codes.scale[0])
    ([[1.0, -1.0, 1.0]], 0.5)
    """

    num_bits: int = 1

    widths: ClassVar[tuple[int, int]] = (1, 1)
    fixed: ClassVar[dict[str, bool]] = {"symmetric": True, "narrow_range": False}
    label: ClassVar[str] = "binary"

    def quantize(
        self, ops: Ops, weight: Tensor, floor: Tensor | None = None, own: Tensors | None = None
    ) -> WeightCodes:
        fixed = ops.stop_gradient(weight)
        scale = self._mean(ops, ops.abs(fixed), own)
        if self.scale == "constant":
            scale = scale * 0.0 + 1.0
        codes = signs(ops, fixed)
        return self._coded(ops, weight, codes, scale, floor)

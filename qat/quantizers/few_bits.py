"""Quantizers of weights whose codes follow from another formula than rounding w / s: DoReFa, ternary, binary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qat.errors import QatError
from qat.quantizers.base import SMALLEST_SCALE, BaseWeightQuantizer, Tensors, WeightCodes
from qat.vocabulary.ops import Ops, Tensor

SCALES = ("mean", "constant")


@dataclass(frozen=True)
class DoReFaWeightQuantizer(BaseWeightQuantizer):
    """DoReFa of a weight (Zhou et al., arXiv 1606.06160, equation 9, with equation 5's quantize_k).

    value = 2 quantize_k(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1, quantize_k(r) = rint((2^k - 1) r) / (2^k - 1). The codes
    are the odd numbers from -(2^k - 1) to 2^k - 1, the scale 1 / (2^k - 1): 0 has no code. Straight through the rounding
    (equation 5), and the maximum is a constant: d(value)/dw = (1 - tanh(w)^2) / max|tanh(w)|.

    The maximum is that of the whole weight, or if per_channel of each output. num_bits: k, 2 to 15; codes have one bit
    more, so that from 8 on they fit no int8. The values reach from -1 to 1 whatever the weights are, so that batch
    normalisation cannot be folded into them.
    """

    widths: ClassVar[tuple[int, int]] = (2, 15)
    fixed: ClassVar[dict[str, bool]] = {"symmetric": True, "narrow_range": False}
    label: ClassVar[str] = "DoReFa"

    num_bits: int = 4

    @property
    def qmin(self) -> int:
        return -self.qmax

    @property
    def qmax(self) -> int:
        return (1 << self.num_bits) - 1

    def quantize(
        self, ops: Ops, weight: Tensor, floor: Tensor | None = None, own: Tensors | None = None
    ) -> WeightCodes:
        bounded, levels = ops.tanh(weight), float(self.qmax)
        size = ops.abs(ops.stop_gradient(bounded))
        largest = ops.maximum(ops.output_max(size) if self.per_channel else ops.max(size), SMALLEST_SCALE)
        share = bounded * ops.on_output(0.5 / largest, weight) + 0.5
        codes = ops.round_ste(share * levels) * 2.0 - levels
        return self._raised(ops, weight, codes, largest * 0.0 + 1.0 / levels, floor)

    def refuses_batch_norm(self, *, folded: bool) -> str | None:
        return "its values reach from -1 to 1 whatever gamma is" if folded else None


@dataclass(frozen=True)
class _FewCodes(BaseWeightQuantizer):
    """Codes -1, 0 and 1 and a scale beside them.

    scale: "mean" or "constant". clip: the gradient of the value to w is 1 where |w| <= 1 and 0 outside, else 1
    everywhere; the scale counts as a constant.
    """

    scale: str = "mean"
    clip: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale not in SCALES:
            raise QatError(f"{type(self).__name__}: scale is {self.scale!r}; use one of {', '.join(map(repr, SCALES))}")

    def _coded(self, ops: Ops, weight: Tensor, codes: Tensor, scale: Tensor, floor: Tensor | None) -> WeightCodes:
        """With the straight-through gradient."""
        scale = ops.maximum(scale, SMALLEST_SCALE)
        inside = (weight >= -1.0) & (weight <= 1.0)
        through = ops.where(inside, weight, ops.stop_gradient(weight)) if self.clip else weight
        return self._raised(ops, weight, self._straight_through(ops, codes, scale, through), scale, floor)

    def refuses_batch_norm(self, *, folded: bool) -> str | None:
        return "its scale is 1 whatever gamma is" if folded and self.scale == "constant" else None


@dataclass(frozen=True)
class TernaryWeightQuantizer(_FewCodes):
    """Ternary weight networks (Li et al., arXiv 1605.04711).

    code = sign(w) where |w| > t, else 0 (equation 3); scale "mean": the mean of |w| over |w| > t (equation 5), "constant": 1.
    t = 0.7 mean|w|, the rule of thumb of the paper's first versions and of what follows them (the third, of 2022, has 0.75 in
    its section 2.3, for normally distributed weights). Threshold and scale are those of the whole weight, or if per_channel
    of each output. Gradient of the value: straight through, as the paper has it with clip=False.
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
    """The codes of signs: -1 and 1."""

    @property
    def qmin(self) -> int:
        return -1

    @property
    def qmax(self) -> int:
        return 1


def signs(ops: Ops, x: Tensor) -> Tensor:
    """1 where x >= 0, else -1, without gradient; x: without gradient."""
    zeros = x * 0.0
    return ops.where(x >= 0.0, zeros + 1.0, zeros - 1.0)


@dataclass(frozen=True)
class BinaryWeightQuantizer(SignCodes, _FewCodes):
    """Binary weights: code = 1 where w >= 0, else -1.

    scale "mean": mean|w| (XNOR-Net, Rastegari et al., arXiv 1603.05279, equation 6), of the whole weight, or as there of
    each output if per_channel; "constant": 1 (BinaryConnect, Courbariaux et al., arXiv 1511.00363, equation 1). 0 has no
    code. Gradient of the value: straight through, 0 where |w| > 1 (Hubara et al., arXiv 1602.02830, equation 4) if
    clip. XNOR-Net's own has the factor mean|w| and a term 1 / N of the scale (section 3.1); Adam does not see the former.
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

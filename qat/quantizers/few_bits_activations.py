"""Activation quantizers with a fixed scale or with signs as codes: DoReFa's and binary ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qat.errors import QatError
from qat.quantizers.base import SMALLEST_SCALE, BaseActivationQuantizer, Tensors
from qat.quantizers.few_bits import SignCodes
from qat.vocabulary.ops import Array, Ops, Tensor
from qat.vocabulary.param import Param, constant
from qat.vocabulary.serial import check_share
from qat.vocabulary.values import Value

BINARY_SCALES = ("constant", "mean")


class FixedGrid(BaseActivationQuantizer):
    """An activation quantizer whose scale follows from its fields alone: nothing is learned or observed."""

    @property
    @abstractmethod
    def step(self) -> float:
        """The scale."""

    def params(self, non_negative: bool) -> dict[str, Param]:
        return {}

    def observe(self, ops: Ops, x: Value, own: Tensors, non_negative: bool, *, phase: int) -> dict[str, Tensor]:
        return {}

    def unseen(self, own: Mapping[str, Array]) -> bool:
        return False

    def calibrated(self, low: float, high: float, non_negative: bool) -> dict[str, float]:
        return {}

    def grid(
        self, ops: Ops, own: Tensors, shared: Sequence[Tensors], non_negative: bool, features: int = 1
    ) -> tuple[Tensor, Tensor | float]:
        return ops.from_numpy(np.asarray(self.step, np.float32), "scalar"), 0.0


@dataclass(frozen=True)
class DoReFaActivationQuantizer(FixedGrid):
    """DoReFa activations (Zhou et al., arXiv 1606.06160, with quantize_k from equation 5).

    y = quantize_k(clip(x, 0, 1)), quantize_k(r) = rint((2^k - 1) r) / (2^k - 1): codes 0 to 2^k - 1, scale 1 / (2^k -
    1). The gradient is 1 within [0, 1] (0 at 0 after a ReLU) and 0 outside. The clip is itself the activation function:
    the cell before needs none, and negative numbers become 0.

    Args:
        num_bits: k, 1 to 16; 4 by default.

    >>> import qat
    >>> qat.DoReFaActivationQuantizer(2).qmax
    3
    """

    fixed: ClassVar[dict[str, bool]] = {"symmetric": False, "narrow_range": False}
    label: ClassVar[str] = "DoReFa"

    num_bits: int = 4

    @property
    def step(self) -> float:
        return 1.0 / self.qmax


@dataclass(frozen=True)
class BinaryActivationQuantizer(SignCodes, BaseActivationQuantizer):
    """Binary activations: code = 1 where x >= 0, else -1 (Hubara et al., arXiv 1602.02830, equation 1).

    It takes the place of an activation function and works best after batch normalisation. After a ReLU every code would
    be 1, which is refused. 0 has no code, but stored codes are centred, so that zero padding is exact.

    The state "mean", of scale "mean" alone, is -infinity as long as nothing was observed. The scale counts as a
    constant.

    Args:
        num_bits: always 1.
        symmetric: always True.
        scale: "constant", the default: 1, as in the paper; "mean": an exponential moving average of the mean of |x|,
            the factor of XNOR-Net (Rastegari et al., arXiv 1603.05279, section 3.2) but one for all places.
        clip: True, the default: the gradient of the value is 1 where |x| <= 1 and 0 outside (Hubara et al., equation
            4); False: 1 everywhere.
        ema_decay: weight of the old average in each step, 0 to 1; 0.99 by default.

    Raises:
        QatError: for another ``scale``, or a decay out of range.

    >>> import qat
    >>> quantizer = qat.BinaryActivationQuantizer(scale="mean")
    >>> quantizer.qmin, quantizer.qmax, str(quantizer)
    (-1, 1, 'binary, 1 bit, symmetric')
    """

    num_bits: int = 1
    symmetric: bool = True
    scale: str = "constant"
    clip: bool = True
    ema_decay: float = 0.99

    widths: ClassVar[tuple[int, int]] = (1, 1)
    fixed: ClassVar[dict[str, bool]] = {"symmetric": True, "narrow_range": False}
    label: ClassVar[str] = "binary"
    by_sign: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "ema_decay")
        if self.scale not in BINARY_SCALES:
            allowed = ", ".join(map(repr, BINARY_SCALES))
            raise QatError(f"{type(self).__name__}: scale is {self.scale!r}; use one of {allowed}")

    def refuses(self, non_negative: bool) -> str | None:
        return "every code would be 1" if non_negative else None

    def params(self, non_negative: bool) -> dict[str, Param]:
        if self.scale == "constant":
            return {}
        return {"mean": Param((), "scalar", constant(-np.inf), trainable=False)}

    def observe(self, ops: Ops, x: Value, own: Tensors, non_negative: bool, *, phase: int) -> dict[str, Tensor]:
        if self.scale == "constant":
            return {}
        mean = ops.mean(ops.abs(ops.stop_gradient(x.real(ops))))
        return {"mean": ops.moving_average(own["mean"], mean, self.ema_decay)}

    def unseen(self, own: Mapping[str, Array]) -> bool:
        return not all(np.isfinite(array) for array in own.values())

    def calibrated(self, low: float, high: float, non_negative: bool) -> dict[str, float]:
        """Half of the end that is farther from 0: the mean of |x| where all sizes are equally likely."""
        return {} if self.scale == "constant" else {"mean": max(-low, high) / 2.0}

    def grid(
        self, ops: Ops, own: Tensors, shared: Sequence[Tensors], non_negative: bool, features: int = 1
    ) -> tuple[Tensor, Tensor | float]:
        """Of the fake quantizers that share it, the largest scale."""
        if self.scale == "constant":
            return ops.from_numpy(np.asarray(1.0, np.float32), "scalar"), 0.0
        mean = own["mean"]
        for other in shared:
            mean = ops.maximum(mean, other["mean"])
        return ops.maximum(mean, SMALLEST_SCALE), 0.0

    def quantize(
        self, ops: Ops, x: Value, own: Tensors, shared: Sequence[Tensors], non_negative: bool, features: int
    ) -> Value:
        scale, _ = self.grid(ops, own, shared, non_negative, features)
        real = x.real(ops)
        fixed = ops.stop_gradient(real)
        zeros = fixed * 0.0
        codes = ops.where(fixed >= 0.0, zeros + 1.0, zeros - 1.0)
        inside = (fixed >= -1.0) & (fixed <= 1.0)
        through = ops.where(inside, real, fixed) if self.clip else real
        change = (through - ops.stop_gradient(through)) * ops.reciprocal(scale)
        return Value(codes + change, scale, codes=True)

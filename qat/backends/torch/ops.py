"""PyTorch: the vocabulary over torch tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from qat.backends.torch.compiled import Clipped, settled
from qat.backends.torch.fused import Bounds, Requantized, TorchNormalized, suits
from qat.vocabulary.clip import BESIDE, TINY, reach
from qat.vocabulary.normalized import Normalized
from qat.vocabulary.ops import Array, DType, Kind, Ops, Padding, Pair
from qat.vocabulary.rearrangement import Rearrangement, as_slice

Tensor = torch.Tensor


class TorchOps(Ops):
    """NCHW, as the canonical layout."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def from_numpy(self, array: Array, kind: Kind, dtype: DType = "float32") -> Tensor:
        return torch.from_numpy(np.array(array, dtype)).to(self.device)

    def to_numpy(self, tensor: Tensor, kind: Kind) -> Array:
        return tensor.detach().cpu().numpy().copy()

    def on_channel(self, vector: Tensor, activation: Tensor) -> Tensor:
        vector = settled(vector)
        return vector if vector.ndim == 0 or activation.ndim == 2 else vector.view((-1,) + (1,) * (activation.ndim - 2))

    def on_output(self, vector: Tensor, weight: Tensor) -> Tensor:
        vector = settled(vector)
        return vector if vector.ndim == 0 else vector.view((-1,) + (1,) * (weight.ndim - 1))

    def mix_inputs(self, weight: Tensor, matrix: Array) -> Tensor:
        return torch.einsum("oi...,ij->oj...", weight, self.from_numpy(matrix, "vector"))

    def cast(self, x: Tensor, dtype: DType) -> Tensor:
        return x.to(getattr(torch, dtype))

    def shift_right(self, x: Tensor, bits: Tensor | int) -> Tensor:
        return x >> bits

    def _bound(self, value: Tensor | float) -> Tensor:
        return value.detach() if isinstance(value, Tensor) else torch.tensor(value, device=self.device)

    def picture_weight(self, weight: Tensor) -> Tensor:
        return weight.unsqueeze(2) if weight.ndim == 3 else weight

    def swap_channels(self, weight: Tensor, group: int) -> Tensor:
        first, second, *kernel = weight.shape
        swapped = weight.reshape(group, first // group, second, *kernel).transpose(1, 2)
        return swapped.reshape(group * second, first // group, *kernel)

    def phase_weight(self, weight: Tensor, rows: Sequence[int], columns: Sequence[int], stride: Pair) -> Tensor:
        (outputs, inputs, _, _), (down, across) = weight.shape, stride
        w = F.pad(weight, (0, 1, 0, 1)).index_select(2, torch.tensor(rows, device=weight.device))
        w = w.index_select(3, torch.tensor(columns, device=weight.device))
        taps = (len(rows) // down, len(columns) // across)
        w = w.reshape(outputs, inputs, down, taps[0], across, taps[1]).permute(0, 2, 4, 1, 3, 5)
        return w.reshape(outputs * down * across, inputs, *taps)

    def conv2d(
        self,
        x: Tensor,
        w: Tensor,
        bias: Tensor | None,
        *,
        stride: Pair,
        padding: Padding,
        dilation: Pair,
        group: int,
        wide: bool = False,
    ) -> Tensor:
        top, bottom, left, right = padding
        if top != bottom or left != right:
            x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
        if wide:
            return (
                F.conv2d(
                    x.double(),
                    w.double(),
                    None if bias is None else bias.double(),
                    stride,
                    (top, left),
                    dilation,
                    group,
                )
                .round()
                .to(x.dtype)
            )  # wide sums are of integers: an algorithm that transforms is put right
        return F.conv2d(x, w, bias, stride, (top, left), dilation, group)

    def dense(self, x: Tensor, w: Tensor, bias: Tensor | None, *, wide: bool = False) -> Tensor:
        if wide:
            return F.linear(x.double(), w.double(), None if bias is None else bias.double()).round().to(x.dtype)
        return F.linear(x, w, bias)

    def matmul(
        self, a: Tensor, b: Tensor, *, transpose: tuple[bool, bool] = (False, False), wide: bool = False
    ) -> Tensor:
        a, b = (x.transpose(-1, -2) if turned else x for x, turned in zip((a, b), transpose, strict=True))
        return torch.matmul(a.double(), b.double()).round().to(a.dtype) if wide else torch.matmul(a, b)

    def max_pool2d(self, x: Tensor, *, kernel: Pair, stride: Pair, padding: Padding) -> Tensor:
        top, bottom, left, right = padding
        if top == bottom <= kernel[0] // 2 and left == right <= kernel[1] // 2:  # what F.max_pool2d pads itself
            sides = (top, left)
        else:
            x, sides = F.pad(x, (left, right, top, bottom), value=-torch.inf), (0, 0)
        halving = kernel == stride == (2, 2) and sides == (0, 0) and x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0
        if halving and x.is_cpu and not torch.compiler.is_compiling():
            y: Tensor = _HalvingMaxPool.apply(x)  # type: ignore[no-untyped-call]
            return y
        return F.max_pool2d(x, kernel, stride, sides)

    def sum_pool2d(self, x: Tensor, *, kernel: Pair, stride: Pair, padding: Padding) -> Tensor:
        top, bottom, left, right = padding
        if any(padding):
            x = F.pad(x, (left, right, top, bottom))
        return F.avg_pool2d(x, kernel, stride, divisor_override=1)

    def concat(self, xs: Sequence[Tensor], axis: int = 0) -> Tensor:
        return torch.cat(list(xs), dim=1 + axis)

    def pick(self, x: Tensor, axis: int, places: Sequence[int]) -> Tensor:
        part = as_slice(places)
        if part is not None:
            return x[(slice(None),) * (1 + axis) + (part,)]
        return x.index_select(1 + axis, torch.tensor(places, device=x.device))

    def pad(self, x: Tensor, widths: Sequence[Pair]) -> Tensor:
        return F.pad(x, [side for width in reversed(widths) for side in width])

    def rearrange(self, x: Tensor, how: Rearrangement) -> Tensor:
        for parts, axes in how.steps():
            x = x.reshape(-1, *parts).permute(0, *(1 + axis for axis in axes))
        return x.reshape(-1, *how.shape)

    def take(self, table: Tensor, index: Tensor) -> Tensor:
        return table[index.long()]

    def drop(self, x: Tensor, rate: float) -> Tensor:
        return x * (torch.rand_like(x) >= rate)

    def flatten(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def maximum(self, x: Tensor, y: Tensor | float) -> Tensor:
        return torch.maximum(x, y) if isinstance(y, Tensor) else x.clamp_min(y)

    def minimum(self, x: Tensor, y: Tensor | float) -> Tensor:
        return torch.minimum(x, y) if isinstance(y, Tensor) else x.clamp_max(y)

    def sigmoid(self, x: Tensor) -> Tensor:
        return x.sigmoid()

    def tanh(self, x: Tensor) -> Tensor:
        return x.tanh()

    def exp(self, x: Tensor) -> Tensor:
        return x.exp()

    def erf(self, x: Tensor) -> Tensor:
        return torch.erf(x)

    def softplus(self, x: Tensor) -> Tensor:
        return F.softplus(x)

    def softmax(self, x: Tensor) -> Tensor:
        return x.softmax(1)

    def sqrt(self, x: Tensor) -> Tensor:
        return x.sqrt()

    def log(self, x: Tensor) -> Tensor:
        return torch.log(x)

    def relu(self, x: Tensor) -> Tensor:
        return F.relu(x)

    def rectified(self, x: Tensor, bound: float) -> Tensor:
        if math.isinf(bound):  # what it keeps for its gradient is its result, which what comes next keeps anyway
            return F.relu(x)
        return F.hardtanh(x, 0.0, bound)

    def abs(self, x: Tensor) -> Tensor:
        return x.abs()

    def reciprocal(self, x: Tensor) -> Tensor:
        return x.reciprocal()

    def where(self, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return torch.where(condition, x, y)

    def isfinite(self, x: Tensor) -> Tensor:
        return torch.isfinite(x)

    def rint(self, x: Tensor) -> Tensor:
        return x.round()

    def round_ste(self, x: Tensor) -> Tensor:
        return x + (x.round() - x).detach()  # exact: the fraction is, and the sum is an integer

    def power_of_two(self, exponent: Tensor) -> Tensor:
        """By its bits: torch.compile would leave its graph for the table."""
        return ((exponent.detach().to(torch.int32) + 127) << 23).view(torch.float32)

    def stop_gradient(self, x: Tensor) -> Tensor:
        return x.detach()

    def channels(self, x: Tensor) -> int:
        return int(x.shape[1])

    def max(self, x: Tensor) -> Tensor:
        return x.amax()

    def min(self, x: Tensor) -> Tensor:
        return x.amin()

    def mean(self, x: Tensor) -> Tensor:
        return x.mean()

    def channel_max(self, x: Tensor) -> Tensor:
        if x.ndim == 2 or torch.compiler.is_compiling():
            return x.amax((0, *range(2, x.ndim)))
        return x.amax(0).flatten(1).amax(1)  # faster than all axes at once

    def channel_min(self, x: Tensor) -> Tensor:
        if x.ndim == 2 or torch.compiler.is_compiling():
            return x.amin((0, *range(2, x.ndim)))
        return x.amin(0).flatten(1).amin(1)

    def channel_mean(self, x: Tensor) -> Tensor:
        return x.mean((0, *range(2, x.ndim)))

    def max_over_channels(self, x: Tensor) -> Tensor:
        return x.amax(1, keepdim=True)

    def sum_over_channels(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True)

    def output_max(self, w: Tensor) -> Tensor:
        return w.flatten(1).amax(1)

    def output_min(self, w: Tensor) -> Tensor:
        return w.flatten(1).amin(1)

    def output_mean(self, w: Tensor) -> Tensor:
        return w.flatten(1).mean(1)

    def softmax_cross_entropy(self, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)

    def batch_norm(self, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        y, mean, rsigma = torch.native_batch_norm(x, gamma, beta, None, None, True, 0.0, eps)
        return y, mean.detach(), (rsigma.detach().pow(-2) - eps).clamp_min(0.0)

    def normalized(self, x: Tensor, scale: Tensor | None, gamma: Tensor, beta: Tensor, eps: float) -> Normalized:
        if not suits(x):
            return super().normalized(x, scale, gamma, beta, eps)
        return TorchNormalized(self, x, scale, gamma, beta, eps)

    def moving_average(self, old: Tensor, new: Tensor, decay: float) -> Tensor:
        if old.ndim == 0 and suits(old, old):
            a, b = old.item(), new.item()
            return torch.tensor(b + (a - b) * decay if math.isfinite(a) else b, dtype=old.dtype)
        finite = (old - old) == 0.0  # what isfinite says, in two operations instead of five
        return torch.where(finite, torch.lerp(new, old, decay), new)

    def power_of_two_above(self, x: Tensor) -> Tensor:
        """From the bits of a float32: in one below, what is no exponent is left out, and the exponent counted up."""
        bits = x.clamp_min(2.0**-60).view(torch.int32)
        return (((bits - 1) & 0x7F800000) + 0x00800000).view(torch.float32)

    def requantize(
        self,
        x: Tensor,
        multiplier: Tensor,
        low: Tensor | float | None = None,
        high: Tensor | float | None = None,
        *,
        open_low: bool = False,
    ) -> Tensor:
        """In place, and without a mask in memory; compiled, in operations that can be.

        The rounding happens in place behind autograd's back, which is the straight-through gradient. It brings back the bounds
        too, which reach further than the codes.
        """
        if low is not None and high is not None and suits(x, low, high):
            codes: Tensor = Requantized.apply(x, multiplier, Bounds(low, high, open_low=open_low))  # type: ignore[no-untyped-call]
            return codes
        u = x * multiplier
        if low is None or high is None:
            with torch.no_grad():
                return u.round_()
        if isinstance(low, float) and isinstance(high, float):
            bounds = Bounds(low, high, open_low=open_low)
            return Clipped.apply(u, bounds.below + TINY if open_low else bounds.below, bounds.above)  # type: ignore[no-untyped-call,no-any-return]
        below, above = reach(self._bound(low), self._bound(high), open_low=open_low)
        below = below + below.abs() * BESIDE + TINY if open_low else below
        return Clipped.apply(u, settled(below), settled(above))  # type: ignore[no-untyped-call,no-any-return]

    def requantize_fixed(self, x: Tensor, multiplier: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
        """In place, of two temporary tensors, and without a mask."""
        power = self.power_of_two_above(multiplier)
        power = torch.where(power > multiplier, power, power * 2.0)
        with torch.no_grad():
            first = (x * (multiplier / power * power.clamp_min(1.0))).add_(0.5).floor_()
            y = first.abs().mul_(power.clamp_max(1.0)).add_(0.5).floor_().copysign_(first)
            return torch.clamp(y, self._bound(low), self._bound(high))


class ExactOps(TorchOps):
    """For evaluation: every sum of integers is exact.

    Left to itself PyTorch may transform a convolution (Winograd, FFT) or round its factors (TF32), which is not exact in
    integers. NNPACK, which it takes where oneDNN is missing, as on ARM, is switched off. A GPU computes in float64, whose
    transforms err by less than half an integer, and rounds back.

    Pictures lie in memory channels last, as oneDNN takes them: otherwise it moves them before and after each convolution.
    """

    def from_numpy(self, array: Array, kind: Kind, dtype: DType = "float32") -> Tensor:
        return channels_last(super().from_numpy(array, kind, dtype))

    def requantize(
        self,
        x: Tensor,
        multiplier: Tensor,
        low: Tensor | float | None = None,
        high: Tensor | float | None = None,
        *,
        open_low: bool = False,
    ) -> Tensor:
        """In place, of one temporary tensor: nothing is differentiated. Bounds are integers, so that it may round first."""
        y = (x * multiplier).round_()
        if low is None or high is None:
            return y
        low, high = (
            float(x) if isinstance(x, Tensor) and x.ndim == 0 else x for x in (low, high)
        )  # numbers are faster
        if isinstance(low, Tensor) or isinstance(high, Tensor):
            return torch.clamp(y, self._bound(low), self._bound(high))
        return y.clamp_(low, high)

    def rounded_product(
        self, x: Tensor, factor: Tensor, offset: Tensor, below: Tensor | None, low: float, high: float
    ) -> Tensor:
        y = x.to(torch.float64, copy=True).mul_(factor).add_(offset)
        if below is not None:
            y.add_(x.clamp(-1.0, 0.0).double().mul_(below))
        return y.round_().float().clamp_(low, high)

    def counts(self, x: Tensor, factor: float, bins: int) -> tuple[Array, int]:
        """In the order of memory, as many at a time as caches hold, by indices of 16 bits where those suffice."""
        numbers = (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).reshape(-1)
        kind = torch.int16 if 2 * bins <= 1 << 15 else torch.int32
        counts, zeros = torch.zeros(2 * bins, dtype=torch.int64, device=x.device), 0
        for part in torch.split(numbers, 1 << 18):
            counts += torch.bincount((part * factor).floor_().add_(float(bins)).to(kind), minlength=2 * bins)
            zeros += int(np.count_nonzero((part == 0.0).cpu().numpy()))  # several times as fast as PyTorch's
        counts[bins] -= zeros
        return counts.cpu().numpy(), zeros

    def conv2d(self, x: Tensor, w: Tensor, bias: Tensor | None, *, wide: bool = False, **window: Any) -> Tensor:
        with torch.backends.nnpack.flags(enabled=False):
            return super().conv2d(x, w, bias, wide=wide or not x.is_cpu, **window)

    def dense(self, x: Tensor, w: Tensor, bias: Tensor | None, *, wide: bool = False) -> Tensor:
        return super().dense(x, w, bias, wide=wide or not x.is_cpu)

    def matmul(
        self, a: Tensor, b: Tensor, *, transpose: tuple[bool, bool] = (False, False), wide: bool = False
    ) -> Tensor:
        return super().matmul(a, b, transpose=transpose, wide=wide or not a.is_cpu)


def channels_last(tensor: Tensor) -> Tensor:
    """The same numbers, of pictures with the channels of a pixel beside one another in memory; the axes stay."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


class _HalvingMaxPool(torch.autograd.Function):
    """Max pooling of 2x2 windows with stride 2 over even sizes: within each row first, as whole-array operations.

    PyTorch's own kernel for NCHW visits window by window; on a CPU, forward and backward of (64, 6, 28, 28) take twice as
    long with it. Of equal elements the first of the upper row gets the gradient, as there.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        left, right = x[..., 0::2], x[..., 1::2]
        columns = torch.maximum(left, right)
        upper, lower = columns[:, :, 0::2], columns[:, :, 1::2]
        ctx.save_for_backward(left >= right, upper >= lower)
        return torch.maximum(upper, lower)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        left_wins, upper_wins = ctx.saved_tensors
        columns = _spread(grad, upper_wins, -2)
        return _spread(columns, left_wins, -1)


def _spread(grad: Tensor, first_wins: Tensor, axis: int) -> Tensor:
    """Twice as long along ``axis``: each element goes to the first of its pair where that won, else to the second."""
    shape = list(grad.shape)
    shape[axis] *= 2
    result = grad.new_empty(shape)
    first, second = (result[..., i::2] if axis == -1 else result[..., i::2, :] for i in (0, 1))
    torch.mul(grad, first_wins, out=first)
    torch.sub(grad, first, out=second)
    return result

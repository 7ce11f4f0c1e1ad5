"""The vocabulary: every operation that a cell or a quantizer may apply to a tensor.

The mathematics of quantizers and cells is written once, over these functions. Each backend implements them for its own
tensors; ``qat.vocabulary.numpy_ops`` is the reference, and tests/test_ops_conformance.py compares the backends with it.
Tensors also understand ``+ - * /`` (with a Python number on either side), unary minus, ``< <= > >=``, and ``&`` of what
comparisons give, elementwise and broadcasting, as every framework defines them; x[i:j] are some of the samples.

Layouts. Outside a backend every tensor is canonical: activations NCHW or NCL, convolution weights OIHW or OIL (I per group),
dense weights OI. A backend that computes in another layout transposes in ``from_numpy`` and ``to_numpy``. Cells never name an
axis; they say "channel" (of an activation) or "output" (of a weight).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from qat.errors import QatError
from qat.vocabulary.clip import reach
from qat.vocabulary.counting import counts_of
from qat.vocabulary.normalized import Normalized
from qat.vocabulary.rearrangement import Rearrangement
from qat.vocabulary.transposed import Padding as Padding
from qat.vocabulary.transposed import Pair as Pair
from qat.vocabulary.transposed import Transposed, by_phases
from qat.vocabulary.twice_rounded import twice_rounded

Tensor = Any  #: a backend's tensor; the core does not look inside
Array = npt.NDArray[Any]
Kind = Literal["activation", "conv_weight", "dense_weight", "vector", "scalar"]  #: what a tensor's axes mean
DType = Literal["float32", "float64", "int64", "uint8"]  #: of what a tensor holds; all but float32 without gradient

POWERS_OF_TWO = np.ldexp(np.float32(1.0), np.arange(-126, 128))  #: all that are normal float32 numbers
EXACT_INTEGERS = 1 << 24  #: float32 holds every integer up to here; sums of integers that stay below are exact


class Ops(ABC):
    """The vocabulary over one kind of tensor. Values are float32 unless a function says otherwise.

    "Used on stopped tensors only" means that callers pass tensors without gradient, so that a backend need not define
    one.
    """

    # -- the border -----------------------------------------------------------------------------------------------

    @abstractmethod
    def from_numpy(self, array: Array, kind: Kind, dtype: DType = "float32") -> Tensor:
        """A tensor in this backend's layout, by default float32, holding a canonical array of the given kind."""

    @abstractmethod
    def to_numpy(self, tensor: Tensor, kind: Kind) -> Array:
        """The inverse of ``from_numpy``, bit for bit."""

    @abstractmethod
    def on_channel(self, vector: Tensor, activation: Tensor) -> Tensor:
        """A (C,) vector or a scalar, shaped to broadcast over the channel axis of an activation of rank 2, 3 or 4."""

    @abstractmethod
    def on_output(self, vector: Tensor, weight: Tensor) -> Tensor:
        """An (O,) vector or a scalar, shaped to broadcast over the output axis of a weight."""

    @abstractmethod
    def mix_inputs(self, weight: Tensor, matrix: Array) -> Tensor:
        """A convolution's weight, of one group, over other input channels: w'[o, j] = sum_i w[o, i] matrix[i, j] at every
        place of the kernel, whether that has one axis or two. matrix: (I, J), canonical.
        """

    @abstractmethod
    def picture_weight(self, weight: Tensor) -> Tensor:
        """The weight of a convolution over series, (O, I, k), for pictures of one row: (O, I, 1, k); others as they are."""

    @abstractmethod
    def swap_channels(self, weight: Tensor, group: int) -> Tensor:
        """A convolution's weight with outputs and inputs exchanged within each group: (I, O / group, kh, kw) to
        (O, I / group, kh, kw), and back.
        """

    @abstractmethod
    def phase_weight(self, weight: Tensor, rows: Sequence[int], columns: Sequence[int], stride: Pair) -> Tensor:
        """(O, I, kh, kw) to (O s_v s_h, I, rows / s_v, columns / s_h): for each phase the elements of the kernel at these
        places, of all phases one after another; one beyond the last stands for 0.
        """

    # -- integers, of the fixed arithmetic: no gradients ---------------------------------------------------------------

    @abstractmethod
    def cast(self, x: Tensor, dtype: DType) -> Tensor:
        """x in another type: of floats that hold integers int64, or uint8, exactly; of int64 the nearest float32, ties to even.

        Tensors of int64 understand ``+``, ``-`` and ``*`` among themselves and with Python integers.
        """

    @abstractmethod
    def shift_right(self, x: Tensor, bits: Tensor | int) -> Tensor:
        """floor(x / 2^bits) of int64, 0 <= bits <= 63; ``bits`` broadcasts."""

    # -- cells: linear in x and in w, with the gradients of linear functions -----------------------------------------

    @abstractmethod
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
        """Cross-correlation, zeros outside, plus a bias (O,).

        ``wide``: accumulate in float64 and round the result once to the type of x, for sums of integers that may pass 2^24.
        x alone may be float64 then, and keeps such sums exact.
        """

    def conv_transpose2d(
        self, x: Tensor, w: Tensor, bias: Tensor | None, *, how: Transposed, outputs: int, group: int
    ) -> Tensor:
        """A transposed convolution with a weight (O, I / group, kh, kw), plus a bias (O,)."""
        return by_phases(self, x, w, bias, how, outputs, group)

    @abstractmethod
    def dense(self, x: Tensor, w: Tensor, bias: Tensor | None, *, wide: bool = False) -> Tensor:
        """(N, I) times the transpose of (O, I), plus a bias (O,); ``wide`` as in ``conv2d``."""

    @abstractmethod
    def matmul(
        self, a: Tensor, b: Tensor, *, transpose: tuple[bool, bool] = (False, False), wide: bool = False
    ) -> Tensor:
        """The matrix product of two activations (N, ..., M, K) and (N, ..., K, P), canonical, for each sample and whatever
        stands in between. ``transpose``: whether the last two axes of either are exchanged first; ``wide`` as in ``conv2d``.
        """

    @abstractmethod
    def max_pool2d(self, x: Tensor, *, kernel: Pair, stride: Pair, padding: Padding) -> Tensor:
        """Largest element of each window; padding never wins. The gradient goes to the first largest element, row by row."""

    @abstractmethod
    def sum_pool2d(self, x: Tensor, *, kernel: Pair, stride: Pair, padding: Padding) -> Tensor:
        """Sum of each window, zeros outside: exact for integers."""

    @abstractmethod
    def concat(self, xs: Sequence[Tensor], axis: int = 0) -> Tensor:
        """Activations joined along an axis of one sample, canonical: 0 that of the channels, 1 rows, 2 columns."""

    @abstractmethod
    def pick(self, x: Tensor, axis: int, places: Sequence[int]) -> Tensor:
        """x[..., places[i], ...] along an axis of one sample, as in ``concat``. Gradients of what is taken twice are added."""

    @abstractmethod
    def pad(self, x: Tensor, widths: Sequence[Pair]) -> Tensor:
        """x with so many zeros before and behind each axis of one sample, canonical."""

    @abstractmethod
    def rearrange(self, x: Tensor, how: Rearrangement) -> Tensor:
        """The numbers of each sample in another order or shape."""

    @abstractmethod
    def take(self, table: Tensor, index: Tensor) -> Tensor:
        """table[index], elementwise; ``index`` holds integers as float32. No gradient."""

    @abstractmethod
    def drop(self, x: Tensor, rate: float) -> Tensor:
        """x with each element set to 0 with probability ``rate``, the others as they are (no rescaling)."""

    @abstractmethod
    def flatten(self, x: Tensor) -> Tensor:
        """(N, ...) to (N, F), features in canonical (CHW) order whatever the layout."""

    # -- elementwise ------------------------------------------------------------------------------------------------

    @abstractmethod
    def maximum(self, x: Tensor, y: Tensor | float) -> Tensor:
        """Elementwise; gradient 1 to x where x > y, 0 where x < y, and unspecified where they are equal."""

    @abstractmethod
    def minimum(self, x: Tensor, y: Tensor | float) -> Tensor:
        """Elementwise, as ``maximum``."""

    @abstractmethod
    def sigmoid(self, x: Tensor) -> Tensor:
        """1 / (1 + exp(-x))."""

    @abstractmethod
    def tanh(self, x: Tensor) -> Tensor:
        """Hyperbolic tangent."""

    @abstractmethod
    def exp(self, x: Tensor) -> Tensor:
        """e^x; infinite beyond 88."""

    @abstractmethod
    def erf(self, x: Tensor) -> Tensor:
        """The error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x."""

    @abstractmethod
    def softplus(self, x: Tensor) -> Tensor:
        """log(1 + exp(x)), which is x for large x; its gradient is ``sigmoid``."""

    @abstractmethod
    def softmax(self, x: Tensor) -> Tensor:
        """exp(x_c) / sum_k exp(x_k) over the channels of an activation."""

    @abstractmethod
    def sqrt(self, x: Tensor) -> Tensor:
        """Square root of non-negative numbers."""

    @abstractmethod
    def log(self, x: Tensor) -> Tensor:
        """Natural logarithm of positive numbers."""

    @abstractmethod
    def relu(self, x: Tensor) -> Tensor:
        """max(x, 0); gradient 0 at 0."""

    def rectified(self, x: Tensor, bound: float) -> Tensor:
        """min(max(x, 0), bound), ReLU or ReLU6; gradient 0 at 0."""
        x = self.relu(x)
        return x if math.isinf(bound) else self.minimum(x, bound)

    @abstractmethod
    def abs(self, x: Tensor) -> Tensor:
        """|x|."""

    def reciprocal(self, x: Tensor) -> Tensor:
        """1 / x."""
        return 1.0 / x

    @abstractmethod
    def where(self, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """x where the boolean tensor holds, else y."""

    @abstractmethod
    def isfinite(self, x: Tensor) -> Tensor:
        """A boolean tensor."""

    @abstractmethod
    def rint(self, x: Tensor) -> Tensor:
        """Nearest integer, ties to even. Gradient 0 or none."""

    @abstractmethod
    def round_ste(self, x: Tensor) -> Tensor:
        """``rint`` with the straight-through gradient 1 (Bengio et al., arXiv 1308.3432)."""

    @abstractmethod
    def stop_gradient(self, x: Tensor) -> Tensor:
        """x, through which no gradient flows."""

    # -- batches ----------------------------------------------------------------------------------------------------

    def refuse_single(self, x: Tensor, message: str) -> None:
        """Raise QatError with this message where the batch has a single sample.

        Where a framework knows the number only when the pass runs, it raises its own error.
        """
        if self.batch_size(x) == 1:
            raise QatError(message)

    def batch_size(self, x: Tensor) -> int:
        """The number of samples, over all workers where there are several."""
        return int(x.shape[0])

    def channels(self, x: Tensor) -> int:
        """The number of channels of an activation. A backend that knows which axis they are need not compute for it."""
        return int(self.channel_mean(self.stop_gradient(x)).shape[0])

    # -- reductions -------------------------------------------------------------------------------------------------

    @abstractmethod
    def max(self, x: Tensor) -> Tensor:
        """Largest element, a scalar. Used on stopped tensors only."""

    @abstractmethod
    def min(self, x: Tensor) -> Tensor:
        """Smallest element, a scalar. Used on stopped tensors only."""

    @abstractmethod
    def mean(self, x: Tensor) -> Tensor:
        """Mean of all elements, a scalar, with its gradient."""

    @abstractmethod
    def channel_max(self, x: Tensor) -> Tensor:
        """Largest element of each channel of an activation, (C,). Used on stopped tensors only."""

    @abstractmethod
    def channel_min(self, x: Tensor) -> Tensor:
        """Smallest element of each channel of an activation, (C,). Used on stopped tensors only."""

    @abstractmethod
    def channel_mean(self, x: Tensor) -> Tensor:
        """Mean of each channel of an activation, (C,), with its gradient."""

    @abstractmethod
    def max_over_channels(self, x: Tensor) -> Tensor:
        """Largest element over the channels of each sample and place; one is left. Used on stopped tensors only."""

    @abstractmethod
    def sum_over_channels(self, x: Tensor) -> Tensor:
        """Sum over the channels of each sample and place, with its gradient; one is left. Exact up to 2^24."""

    @abstractmethod
    def output_max(self, w: Tensor) -> Tensor:
        """Largest element for each output of a weight, (O,). Used on stopped tensors only."""

    @abstractmethod
    def output_min(self, w: Tensor) -> Tensor:
        """Smallest element for each output of a weight, (O,). Used on stopped tensors only."""

    @abstractmethod
    def output_mean(self, w: Tensor) -> Tensor:
        """Mean of the elements for each output of a weight, (O,). Used on stopped tensors only."""

    def output_absmax(self, w: Tensor) -> Tensor:
        """Largest |element| for each output of a weight, (O,). Used on stopped tensors only."""
        return self.maximum(self.output_max(w), -self.output_min(w))  # no tensor of the weight's size in between

    # -- losses -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def softmax_cross_entropy(self, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean over the batch of - sum_k t_k log softmax(logits)_k, logits (N, K), integer labels (N,).

        t is 1 - smoothing at the label, plus smoothing / K everywhere.
        """

    # -- coarse operations, whose speed matters ---------------------------------------------------------------------

    def batch_norm(self, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """gamma (x - mean) / sqrt(variance + eps) + beta for each channel, with the mean and variance of the batch.

        Args:
            x: an activation.
            gamma: (C,).
            beta: (C,).
            eps: added to the variance, which is divided by n.

        Returns:
            The result, whose gradient flows through mean and variance too; and both, (C,), without gradient.
        """
        mean = self.channel_mean(x)
        centred = x - self.on_channel(mean, x)
        variance = self.channel_mean(centred * centred)
        y = centred * self.on_channel(gamma / self.sqrt(variance + eps), x) + self.on_channel(beta, x)
        return y, self.stop_gradient(mean), self.stop_gradient(variance)

    def normalized(self, x: Tensor, scale: Tensor | None, gamma: Tensor, beta: Tensor, eps: float) -> Normalized:
        """``batch_norm`` of x times ``scale``, (C,) or a scalar, as real numbers or codes, whichever will be asked for."""
        return Normalized(self, x, scale, gamma, beta, eps)

    def moving_average(self, old: Tensor, new: Tensor, decay: float) -> Tensor:
        """new + decay (old - new), or new where old is not finite (nothing averaged yet). Used on stopped tensors only."""
        return self.where(self.isfinite(old), new + (old - new) * decay, new)

    def ceil_ste(self, x: Tensor) -> Tensor:
        """The smallest integer that is not below x, with the straight-through gradient 1."""
        fixed = self.stop_gradient(x)
        nearest = self.rint(fixed)
        return self.where(nearest < fixed, nearest + 1.0, nearest) + (x - fixed)

    def power_of_two(self, exponent: Tensor) -> Tensor:
        """2^exponent, exactly, for integers -126 .. 127. No gradient.

        It is read from a table, because the powers of frameworks need not be exact.
        """
        return self.take(self.from_numpy(POWERS_OF_TWO, "vector"), self.stop_gradient(exponent) + 126.0)

    def log_softmax(self, x: Tensor) -> Tensor:
        """The logarithm of ``softmax``, x_c - log sum_k exp(x_k), finite however small the probability is.

        The largest probability is 1 / sum_k exp(x_k - max x), so its logarithm gives the logarithm of the sum.
        """
        fixed = self.stop_gradient(x)
        share = self.softmax(fixed)
        log_sum = self.max_over_channels(fixed) - self.log(self.max_over_channels(share))
        # The last term is 0 and carries the gradient of the sum.
        return x - (log_sum + self.sum_over_channels(share * (x - fixed)))

    def power_of_two_above(self, x: Tensor) -> Tensor:
        """The smallest power of two that is not below x, exactly, for 2^-60 <= x <= 2^127. Used on stopped tensors only.

        It is found by doubling and comparing, which are exact everywhere, while the logarithms of frameworks differ.
        """
        below = x * 0.0 + 2.0**-64
        for exponent in (64, 64, 32, 16, 8, 4, 2, 1):
            doubled = below * 2.0**exponent
            below = self.where(doubled < x, doubled, below)
        return below * 2.0

    def requantize(
        self,
        x: Tensor,
        multiplier: Tensor,
        low: Tensor | float | None = None,
        high: Tensor | float | None = None,
        *,
        open_low: bool = False,
    ) -> Tensor:
        """Integers y = clip(rint(x * multiplier), low, high).

        The gradient passes straight through the rounding: with u = x * multiplier (unrounded) and mask = low <= u <= high
        (low < u where ``open_low``), the closed bounds a few last bits further out (``reach``), dx = g * mask * multiplier
        and dmultiplier = g * mask * x, summed over the axes that it was broadcast on. The bounds are integers and get no
        gradient.

        Args:
            x: codes, accumulators or real numbers.
            multiplier: scale of x over scale of y, broadcast against x.
            low: the lowest result; None, with ``high`` None, for no clip.
            high: the highest result.
            open_low: the lower bound is the zero of a ReLU, where the gradient is 0.

        Returns:
            Integers in float32, shaped like x.
        """
        u = x * multiplier
        if low is None or high is None:
            return self.round_ste(u)
        clipped = self.minimum(self.maximum(self.rint(u), low), high)
        below, above = reach(low, high, open_low=open_low)
        inside = (u > below if open_low else u >= below) & (u <= above)
        through = self.where(inside, u, self.stop_gradient(u))
        # The difference is exactly 0 and only carries the gradient, so the sum is exactly the integer.
        return self.stop_gradient(clipped) + (through - self.stop_gradient(through))

    def requantize_fixed(self, x: Tensor, multiplier: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
        """As ``requantize``, rounded as the fixed arithmetic does (``twice_rounded``). Used on stopped tensors only."""
        return twice_rounded(self, x, multiplier, low, high)

    # -- evaluation and calibration, without gradients -----------------------------------------------------------------

    def rounded_product(
        self, x: Tensor, factor: Tensor, offset: Tensor, below: Tensor | None, low: float, high: float
    ) -> Tensor:
        """clip(rint(x factor + offset), low, high), ``below`` less where x < 0, of integers x, the others float64."""
        y = self.cast(x, "float64") * factor + offset
        if below is not None:
            y = y + self.cast(self.maximum(self.minimum(x, 0.0), -1.0), "float64") * below
        return self.minimum(self.maximum(self.cast(self.rint(y), "float32"), low), high)

    def counts(self, x: Tensor, factor: float, bins: int) -> tuple[Array, int]:
        """As ``counts_of`` of an activation."""
        return counts_of(self.to_numpy(x, "activation"), factor, bins)

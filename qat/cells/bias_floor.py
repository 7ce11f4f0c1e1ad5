"""The smallest scale of a weight with which its bias has a code."""

from __future__ import annotations

from qat.vocabulary.ops import EXACT_INTEGERS, Ops, Tensor

#: bias codes of weights of up to 8 bits stay below: float32 holds them and the sums
BIAS_CODE_LIMIT = EXACT_INTEGERS / 2
LARGEST_BIAS_CODE = 2.0**30  #: of wider weights, whose sums float64 holds


def bias_floor(ops: Ops, bias: Tensor, x_scale: Tensor, num_bits: int) -> Tensor:
    """The smallest scale of a weight of so many bits, |b| / (s_x 2^23).

    In a channel whose weights are (nearly) all zero the bias would otherwise need a code that no int32, let alone a
    float32, can hold. Each bit above 8 halves an ordinary scale, and the floor with it, as far as int32 goes: else
    an ordinary bias would take the bits away again.
    """
    limit = min(BIAS_CODE_LIMIT * 2.0 ** max(num_bits - 8, 0), LARGEST_BIAS_CODE)
    return ops.abs(ops.stop_gradient(bias)) / (x_scale * limit)

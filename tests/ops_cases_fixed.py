"""Cases of the conformance suite: the integers of the fixed arithmetic, and its rounding in training."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
from conformance import Array, Case
from ops_cases import activation, adder, conv_weight, dense_weight, f32, scalar, vector

from qat.integer.fixed_point import in_float64, quantize_multiplier
from qat.vocabulary.ops import Ops, Tensor
from qat.vocabulary.values import Value

CASES: list[Case] = []
add = adder(CASES)

BITS = 24  #: of a part of an integer that enters or leaves as float32

# -- int64 --------------------------------------------------------------------------------------------------------------


def parts(numbers: object) -> list[list[int]]:
    """Integers in three parts, from the lowest on: low + 2^24 middle + 2^48 high."""
    return [[x % 2**BITS, (x >> BITS) % 2**BITS, x >> 2 * BITS] for x in np.array(numbers, object).ravel()]


def joined(ops: Ops, x: Tensor) -> Tensor:
    """(N, 3) parts as (N, 1) integers."""
    low, middle, high = (ops.cast(ops.pick(x, 0, (i,)), "int64") for i in range(3))
    return (high * 2**BITS + middle) * 2**BITS + low


def split(ops: Ops, x: Tensor) -> Tensor:
    """The inverse of ``joined``."""
    high = ops.shift_right(x, 2 * BITS)
    rest = x - high * 2 ** (2 * BITS)
    middle = ops.shift_right(rest, BITS)
    return ops.concat([ops.cast(each, "float32") for each in (rest - middle * 2**BITS, middle, high)])


INTEGERS = [2**31 - 1, 1 - 2**31, 2**31 - 1, 2**30 + 1, -(2**30) - 1, 3, -3, 0, 1, -1]
FACTORS = [2**31 - 1, 2**31 - 1, 2**30, 2**31 - 3, 2**31 - 3, 2**30, 2**30 + 1, 2**31 - 1, 1, 2**31 - 1]
SHIFTS = [0, 31, 63, 62, 1, 5, 1, 7, 30, 31]
FAR = [2**62 + 12345, -(2**62) - 54321, 2**62 - 1, -(2**61) + 7, 5, -5, -1, 0, 2**30, -(2**31) + 1]


def column(numbers: object) -> Array:
    return np.array(numbers, np.int64).reshape(-1, 1)


add(
    "int64: products up to 2^62, sums and differences",
    lambda ops, x: split(ops, joined(ops, x) * ops.from_numpy(column(FACTORS), "activation", "int64") - 7 + (1 << 30)),
    [activation(parts(INTEGERS))],
    "activation",
    parts([x * m - 7 + 2**30 for x, m in zip(INTEGERS, FACTORS, strict=True)]),
)
add(
    "shift_right floors, by bits of each number",
    lambda ops, x: split(ops, ops.shift_right(joined(ops, x), ops.from_numpy(column(SHIFTS), "activation", "int64"))),
    [activation(parts(FAR))],
    "activation",
    parts([x >> bits for x, bits in zip(FAR, SHIFTS, strict=True)]),
)
add(
    "shift_right floors, by one number of bits",
    lambda ops, x: split(ops, ops.shift_right(joined(ops, x), 31)),
    [activation(parts(FAR))],
    "activation",
    parts([x >> 31 for x in FAR]),
)
add(
    "cast of int64 to the nearest float32, ties to even",
    lambda ops, x: ops.cast(joined(ops, x), "float32"),
    [activation(parts([2**24 + 1, 2**24 + 3, -(2**24) - 1, 2**31 - 1, 2**62 - 1, -3]))],
    "activation",
    f32([[2**24], [2**24 + 4], [-(2**24)], [2**31], [2**62], [-3]]),
)

# -- sums beyond 2^24 that stay in float64 ----------------------------------------------------------------------------------

ROWS, WEIGHT, BIAS = (
    f32([[4095] * 8, [-4095] * 8]),
    f32([[4095] * 8, [4095, -4095] * 4, [4095] * 7 + [1]]),
    f32([1, -3, 5]),
)
SUMS = (ROWS.astype(np.int64) @ WEIGHT.astype(np.int64).T + BIAS.astype(np.int64)).tolist()


def sums_of(ops: Ops, y: Tensor) -> Tensor:
    """(N, 3) float64 sums as the parts of each."""
    return ops.concat([split(ops, ops.cast(ops.pick(y, 0, (i,)), "int64")) for i in range(3)])


EXPECTED = [[part for x in row for part in parts([x])[0]] for row in SUMS]
add(
    "dense of float64 keeps large sums",
    lambda ops, x, w, b: sums_of(ops, ops.dense(ops.cast(x, "float64"), w, b, wide=True)),
    [activation(ROWS), dense_weight(WEIGHT), vector(BIAS)],
    "activation",
    EXPECTED,
)
add(
    "conv2d of float64 keeps large sums",
    lambda ops, x, w, b: sums_of(
        ops,
        ops.flatten(
            ops.conv2d(
                ops.cast(x, "float64"),
                w,
                b,
                stride=(1, 1),
                padding=(0, 0, 0, 0),
                dilation=(1, 1),
                group=1,
                wide=True,
            )
        ),
    ),
    [activation(ROWS.reshape(2, 2, 2, 2)), conv_weight(WEIGHT.reshape(3, 2, 2, 2)), vector(BIAS)],
    "activation",
    EXPECTED,
)
add(
    "matmul of float64 keeps large sums",
    lambda ops, a, b: split(
        ops, ops.cast(ops.flatten(ops.matmul(ops.cast(a, "float64"), ops.cast(b, "float64"), wide=True)), "int64")
    ),
    [activation(ROWS.reshape(2, 1, 8)), activation(f32([[4095] * 8, [1, *[4095] * 7]]).reshape(2, 8, 1))],
    "activation",
    parts([8 * 4095**2, -(4095 + 7 * 4095**2)]),
)

# -- the rounding of the fixed arithmetic in training -------------------------------------------------------------------------


def half_up(x: Fraction) -> int:
    return floor(x + Fraction(1, 2))


def twice_rounded(x: int, multiplier: float, low: int, high: int) -> int:
    """By its definition, in fractions."""
    fraction, exponent = np.frexp(np.float64(multiplier))
    first = half_up(x * Fraction(float(fraction)) * 2 ** max(int(exponent), 0))
    size = half_up(Fraction(abs(first), 2 ** max(-int(exponent), 0)))
    return min(max(size if first >= 0 else -size, low), high)


MULTIPLIERS = f32([0.9 / 8, 0.25, 0.5, 1.0, 0.75, 1.5, 4.0, 0.6 / 1024, 2.0**-20, 100.0, 2.0**-70])
NUMBERS = f32(
    [-200001, -4097, -513, -130, -57, -13, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 12, 57, 130, 513, 4097, 2**19, 2**20 + 1]
)
TWICE = [[twice_rounded(int(x), float(m), -128, 127) for m in MULTIPLIERS[:-1]] + [0] for x in NUMBERS]
add(
    "requantize_fixed rounds twice, with a multiplier for each channel",
    lambda ops, x, m: ops.requantize_fixed(x, ops.on_channel(m, x), -128.0, 127.0),
    [activation(np.repeat(NUMBERS[:, None], len(MULTIPLIERS), 1)), vector(MULTIPLIERS)],
    "activation",
    TWICE,
)
add(
    "requantize_fixed with bounds that are tensors",
    lambda ops, x, m, low: ops.requantize_fixed(x, m, low, 3.0),
    [activation([[-9, -3, -1, 1, 3, 9, 90]]), vector([0.5]), vector([-2])],
    "activation",
    [[-2, -1, 0, 1, 2, 3, 3]],  # with fraction 1/2 and no shift: floor(x / 2 + 1/2)
)


X, G = f32([[-9, -4, -1, 0, 1, 4, 5, 9]]), f32([[1, 2, 4, 8, 16, 32, 64, 128]])
INSIDE = (X * 0.25 >= -2.0) & (X * 0.25 <= 2.0)
add(
    "codes of accumulators in the fixed arithmetic have the gradients of the float one",
    lambda ops, x, s, t: Value(x, s, fixed=True).requantized(ops, t, -2.0, 2.0).data,
    [activation(X), scalar(0.5), scalar(2.0)],
    "activation",
    [[twice_rounded(int(x), 0.25, -2, 2) for x in X[0]]],
    G,
    [G * INSIDE * 0.25, (G * INSIDE * X).sum() / 2.0, -(G * INSIDE * X).sum() * 0.5 / 4.0],
)
add(
    "codes of a sum in the fixed arithmetic round ties away from 0, with the same gradients",
    lambda ops, x, t: Value(x, step=ops.stop_gradient(t) * 2.0**-20, fixed=True).requantized(ops, t, -2.0, 2.0).data,
    [activation(X / 2.0), scalar(1.0)],
    "activation",
    [[-2, -2, -1, 0, 1, 2, 2, 2]],
    G,
    [G * (np.abs(X) <= 4), -(G * (np.abs(X) <= 4) * X / 2.0).sum()],
)
add(
    "codes of codes are those of the float arithmetic",
    lambda ops, x, s, t: Value(x, s, codes=True, fixed=True).requantized(ops, t, -2.0, 2.0).data,
    [activation([[-3, -1, 1, 3]]), scalar(1.0), scalar(2.0)],
    "activation",
    [[-2, 0, 0, 2]],
)


def near_ties() -> tuple[Array, Array, Array]:
    """Accumulators next to ties of all multipliers from 2^-31 on, where float32 has their products exactly."""
    rng = np.random.default_rng(5)
    multipliers = f32([int(rng.integers(2**7, 2**8)) * 2.0 ** (e - 8) for e in range(-31, 4)])
    codes = rng.integers(-120, 120, (40, 1)) + 0.5
    accumulators = np.clip(
        np.rint(codes / multipliers.astype(np.float64)) + rng.integers(-1, 2, (40, 1)), 1 - 2**15, 2**15 - 1
    )
    return f32(accumulators), multipliers, quantize_multiplier(multipliers.astype(np.float64))


ACCUMULATORS, OF_EACH, FIXED = near_ties()
EXACTLY = [
    [twice_rounded(int(x), float(m), -128, 127) for x, m in zip(row, OF_EACH, strict=True)] for row in ACCUMULATORS
]
add(
    "requantize_fixed next to ties, of short multipliers",
    lambda ops, x, m: ops.requantize_fixed(x, ops.on_channel(m, x), -128.0, 127.0),
    [activation(ACCUMULATORS), vector(OF_EACH)],
    "activation",
    EXACTLY,
)
add(
    "int64: FixedMultiplier next to ties",
    lambda ops, x: ops.minimum(
        ops.maximum(
            ops.cast(
                FIXED.apply(
                    ops,
                    {
                        name: ops.on_channel(ops.from_numpy(array, "vector", "int64"), x)
                        for name, array in FIXED.constants().items()
                    },
                    ops.cast(x, "int64"),
                ),
                "float32",
            ),
            -128.0,
        ),
        127.0,
    ),
    [activation(ACCUMULATORS)],
    "activation",
    EXACTLY,
)


IN_DOUBLES = in_float64(FIXED.constants(), np.full(len(OF_EACH), 2**15), -128, 127)
assert IN_DOUBLES is not None


def in_doubles(ops: Ops, x: Tensor, constants: dict[str, Array] = IN_DOUBLES) -> Tensor:
    """The same codes, by products of float64."""
    held = [ops.on_channel(ops.from_numpy(array, "vector", "float64"), x) for array in constants.values()]
    return ops.rounded_product(x, *held, -128.0, 127.0)


add(
    "rounded_product: a FixedMultiplier next to ties",
    in_doubles,
    [activation(ACCUMULATORS)],
    "activation",
    EXACTLY,
)
add(
    "rounded_product of float64, without a correction below 0",
    lambda ops, x: ops.rounded_product(
        ops.cast(x, "float64"),
        *(ops.from_numpy(np.array(number), "scalar", "float64") for number in (0.5, 0.25)),
        None,
        -3.0,
        4.0,
    ),
    [activation([[-9, -3, -2, -1, 0, 1, 2, 3, 90]])],
    "activation",
    [[-3, -1, -1, 0, 0, 1, 1, 2, 4]],
)

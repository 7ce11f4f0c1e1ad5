"""Cases of the conformance suite: matrix products of two activations."""

from __future__ import annotations

import itertools

import numpy as np
from conformance import Case
from ops_cases import activation, adder, integers

CASES: list[Case] = []
add = adder(CASES)


def add_matmul(name, before, transpose, low=-9, high=9, *, wide=False, gradients=True, size=(3, 4, 5)) -> None:
    """Two samples of matrices (M, K) and (K, P), ``before`` times; values and gradients one product at a time, in int64."""
    m, k, p = size
    a, b = integers(40, (2, *before, m, k), low, high), integers(41, (2, *before, k, p), low, high)
    g = integers(42, (2, *before, m, p), -3, 3)
    y, da, db = (np.zeros(x.shape, np.int64) for x in (g, a, b))
    for *n, i, j, c in np.ndindex(2, *before, m, p, k):
        at, left, right = (*n, i, j), (*n, i, c), (*n, c, j)
        y[at] += int(a[left]) * int(b[right])
        da[left] += int(g[at]) * int(b[right])
        db[right] += int(g[at]) * int(a[left])
    turned = [x.swapaxes(-1, -2) if t else x for x, t in zip((a, b, da, db), transpose * 2, strict=True)]
    backward = {"cotangent": g, "gradients": turned[2:]} if gradients else {}
    inputs = [activation(x) for x in turned[:2]]
    function = lambda ops, a, b: ops.matmul(a, b, transpose=transpose, wide=wide)  # noqa: E731
    add(f"matmul {name}", function, inputs, "activation", y.astype(np.float32), **backward)


for first, second in itertools.product([False, True], repeat=2):
    words = f"{'transposed' if first else 'plain'} by {'transposed' if second else 'plain'}"
    add_matmul(f"of matrices, {words}", (), (first, second))
    add_matmul(f"of several matrices, {words}", (2,), (first, second))
add_matmul(
    "wide: sums far beyond 2^24, rounded once",
    (2,),
    (False, True),
    200,
    255,
    wide=True,
    gradients=False,
    size=(3, 700, 2),
)

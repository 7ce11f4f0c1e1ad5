"""Activation functions, written once over the vocabulary of operations.

ReLU and ReLU6 are clamps, which the clip of the next quantizer performs (docs/numerics.md). The others are deployed as
tables with one entry for each code of the fake quantizer before them. Each is finite, and so is its gradient, for all
numbers of training (|x| up to 1e12), but for "exp" of what no float32 holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from qat.errors import QatError
from qat.vocabulary.ops import Ops, Tensor

RELU_BOUNDS = {"relu": math.inf, "relu6": 6.0}  #: the upper bound of each

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  #: Klambauer et al., arXiv 1706.02515, equation 2
GELU_FACTOR, GELU_CUBE = math.sqrt(2.0 / math.pi), 0.044715  #: Hendrycks and Gimpel, arXiv 1606.08415, section 2


def _unit(ops: Ops, x: Tensor, top: float) -> Tensor:
    """x clipped to 0..top, with gradient 0 at both ends."""
    return top - ops.relu(top - ops.relu(x))


def _hsigmoid(ops: Ops, x: Tensor) -> Tensor:
    return _unit(ops, x + 3.0, 6.0) / 6.0


def _elu(ops: Ops, x: Tensor, alpha: float) -> Tensor:
    return ops.relu(x) + (ops.exp(ops.minimum(x, 0.0)) - 1.0) * alpha


def _clip(ops: Ops, x: Tensor, low: float | None, high: float | None) -> Tensor:
    x = x if low is None else ops.maximum(x, low)
    return x if high is None else ops.minimum(x, high)


def _gelu_tanh(ops: Ops, x: Tensor) -> Tensor:
    """x (1 + tanh(u)) / 2 = x sigmoid(2 u): MindSpore's tanh is off by 1e-5."""
    return x * ops.sigmoid((x + x * x * x * GELU_CUBE) * (2.0 * GELU_FACTOR))


def _mish(ops: Ops, x: Tensor) -> Tensor:
    """x tanh(softplus(x)), the tanh as in ``_gelu_tanh``. Misra, arXiv 1908.08681, equation 1."""
    return x * (2.0 * ops.sigmoid(2.0 * ops.softplus(x)) - 1.0)


#: name -> f(ops, x, **parameters). hsigmoid and hswish: Howard et al., arXiv 1905.02244, section 5.2.
TABLES: dict[str, Callable[..., Tensor]] = {
    "leaky_relu": lambda ops, x, alpha: ops.relu(x) - ops.relu(-x) * alpha,
    "sigmoid": lambda ops, x: ops.sigmoid(x),
    "tanh": lambda ops, x: ops.tanh(x),
    "hsigmoid": _hsigmoid,
    "hswish": lambda ops, x: x * _hsigmoid(ops, x),
    "silu": lambda ops, x: x * ops.sigmoid(x),
    "gelu": lambda ops, x: 0.5 * x * (1.0 + ops.erf(x * math.sqrt(0.5))),
    "gelu_tanh": _gelu_tanh,
    "mish": _mish,
    "elu": _elu,
    "selu": lambda ops, x: _elu(ops, x, SELU_ALPHA) * SELU_SCALE,
    "softplus": lambda ops, x: ops.softplus(x),
    "exp": lambda ops, x: ops.exp(x),
    "hard_sigmoid": lambda ops, x, alpha, beta: _unit(ops, x * alpha + beta, 1.0),
    "clip": _clip,
    "linear": lambda ops, x, alpha, beta: x * alpha + beta,
}
#: The parameters of functions that have some, with their defaults; ONNX's and PyTorch's, but for leaky_relu's, MindSpore's.
PARAMETERS: dict[str, dict[str, float | None]] = {
    "leaky_relu": {"alpha": 0.2},
    "elu": {"alpha": 1.0},
    "hard_sigmoid": {"alpha": 0.2, "beta": 0.5},
    "clip": {"low": None, "high": None},
    "linear": {"alpha": 1.0, "beta": 0.0},
}
NON_NEGATIVE = ("relu", "relu6", "sigmoid", "hsigmoid", "softplus", "exp", "hard_sigmoid")
#: f(s x) = s f(x) for s > 0, up to the bound of ``RELU_BOUNDS``.
HOMOGENEOUS = (*RELU_BOUNDS, "leaky_relu")
#: What a linear cell takes: those whose parameters, ``alpha`` apart, have defaults.
FUSED = tuple(name for name in (*RELU_BOUNDS, *TABLES) if name != "clip")


def apply_table(ops: Ops, name: str, x: Tensor, given: Mapping[str, float | None]) -> Tensor:
    """A function of ``TABLES`` of each number.

    Args:
        ops: the vocabulary.
        name: of the function.
        x: real numbers.
        given: its parameters; those that are None, or that it has not, do not count.
    """
    own: dict[str, Any] = dict(PARAMETERS.get(name, {}))
    own |= {key: value for key, value in given.items() if key in own and value is not None}
    return TABLES[name](ops, x, **own)


def check_activation(name: str | None, owner: str) -> None:
    """Raise QatError where ``name`` is not a known activation of a linear cell.

    Args:
        name: None for no activation.
        owner: the cell, for the message.

    Raises:
        QatError: listing the known ones.
    """
    if name is None or name in FUSED:
        return
    if name in TABLES:
        raise QatError(
            f"{owner}: activation {name!r} has bounds of its own, which {owner} has no fields for; leave it out, and put "
            f"qat.Activation({name!r}, low=..., high=...) behind"
        )
    raise QatError(f"{owner}: activation {name!r} is unknown; use None or one of {', '.join(FUSED)}")


def check_function(name: str, owner: str, given: Mapping[str, float | None]) -> None:
    """Raise QatError where ``name`` is no function of a cell by itself, or these parameters do not fit it.

    Args:
        name: of the function.
        owner: the cell, for the message.
        given: the cell's parameters; None: its default.

    Raises:
        QatError: it is unknown, has no such parameter (``alpha`` is let pass), or its bounds are missing or reversed.
    """
    if name not in TABLES and name not in RELU_BOUNDS:
        known = ", ".join((*RELU_BOUNDS, *TABLES))
        raise QatError(f"{owner}: activation {name or 'None'!r} is unknown; use None or one of {known}")
    own = PARAMETERS.get(name, {})
    for key, value in given.items():
        if value is not None and key not in own and key != "alpha":
            has = ", ".join(own) or "none"
            raise QatError(
                f"{owner}: {key} is {value!r}, but {name!r} has no such parameter (it has {has}); leave it out"
            )
    low, high = given.get("low"), given.get("high")
    if name == "clip" and low is None and high is None:
        raise QatError(f"{owner}: 'clip' has neither low nor high, so that it would clip nothing; give one or both")
    if low is not None and high is not None and not low < high:
        raise QatError(f"{owner}: low is {low!r} and high {high!r}; low has to be less")

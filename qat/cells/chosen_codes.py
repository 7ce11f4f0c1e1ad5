"""Weights moved to the middle of given codes, so that a quantizer which knows nothing of it gives exactly these.

Methods that choose codes otherwise than by rounding to the nearest one, as learned rounding, need no quantizer and no state of
their own: where the float weight lies in the middle of a code, every backend, target and further training sees that code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from qat.cells.linear import LinearCell
from qat.cells.weight_codes import OF_QUANTIZER
from qat.errors import QatError
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array

INSIDE = (
    1.0 / 16.0
)  #: of a step: how far within its range a weight with the outermost code stays, so that the range does not grow
TIE = 1e-2  #: of a step: how near to a tie float32 products may round either way
SHARES = np.linspace(1.0, 0.1, 46)  #: of a range, that ``with_least_error`` tries


class WeightGrid(NamedTuple):
    """Where a cell's weight lies between the codes that its quantizer has. All are shaped as the weight is stored.

    Attributes:
        codes: centred (code - zero point), as the quantizer gives them, float32.
        position: the weight in steps of the quantizer's scale, float64: ``codes`` are the nearest ones within the range.
        step: what the stored weight changes by from one code to the next, float64; 0 where it has no part in the codes.
        free: where the whole number below the position and the one above it are both codes, and the scale stays.
        low: the lower end of the range of which the scale is, in steps.
        high: the upper end.
        first: the smallest code that a free weight may be given.
        last: the largest one.
        scale: of the quantizer, float64, one number for each element.
    """

    codes: Array
    position: Array
    step: Array
    free: Array
    low: Array
    high: Array
    first: Array
    last: Array
    scale: Array


def weight_grid(cell: LinearCell, params: Mapping[str, Array], x_scale: float) -> WeightGrid:
    """The codes of a linear cell's weight, and what lies between them.

    The weight that is quantized is the stored one times a factor of each element: of a batch normalisation that is folded in,
    of a normalised input. Elements at the ends of their range are not free: the scale follows from them.

    Args:
        cell: of a quantized graph.
        params: its parameters and state, canonical, by local name.
        x_scale: of the codes of its input.

    Returns:
        The grid. (What a normalised input adds as a further channel follows from the others and is left out.)

    Raises:
        QatError: it has no weight, or its codes are not those of the nearest multiples of a scale.
    """
    if "weight" not in cell.float_params():
        raise QatError(f"a {type(cell).__name__} has no weight of its own")
    quantizer: Any = cell.weight_quantizer
    weight, factor, low, high = _quantized(cell, params, x_scale)
    _, _, coded, _ = cell.coded(cell.numpy_params(params), np.full(1, x_scale, np.float32))
    scale = NUMPY_OPS.on_output(coded.scale.astype(np.float64), weight)
    zero = 0.0 if coded.zero_point is None else NUMPY_OPS.on_output(coded.zero_point, weight)
    lowest, highest = quantizer.qmin - zero, quantizer.qmax - zero
    position = weight / scale
    nearest = np.clip(np.rint(position), lowest, highest)
    tie = np.abs(np.abs(position - np.floor(position)) - 0.5) < TIE
    if not ((coded.centred == nearest) | (tie & (np.abs(coded.centred - nearest) <= 1.0)) | (factor == 0.0)).all():
        raise QatError(f"a {type(quantizer).__name__} does not round to the nearest multiple of a scale")
    down, low, high = np.floor(position), low / scale, high / scale
    free = (position > low) & (position < high) & (factor != 0.0)
    first, last = np.maximum(lowest, np.rint(low + INSIDE)), np.minimum(highest, np.rint(high - INSIDE))
    free &= (down >= first) & (down + 1.0 <= last)
    step = np.divide(scale, factor, out=np.zeros(weight.shape), where=factor != 0.0)
    arrays = (coded.centred, position, step, free, low, high, first, last, scale)
    return WeightGrid(*(_stored(cell, np.broadcast_to(x, weight.shape)) for x in arrays))


def with_codes(cell: LinearCell, params: Mapping[str, Array], x_scale: float, codes: Array) -> dict[str, Array]:
    """Parameters whose weight lies in the middle of given codes: the quantizer gives exactly these.

    Args:
        cell: of a quantized graph.
        params: its parameters and state, canonical, by local name.
        x_scale: of the codes of its input.
        codes: centred (code - zero point), shaped as the stored weight. Where ``weight_grid`` has no free element, that stays
            as it is, whatever they are.

    Returns:
        The parameters, all but the weight as they were.

    Raises:
        QatError: the quantizer gives other codes for the weight, as its scale changes with it; or as ``weight_grid``.
    """
    grid = weight_grid(cell, params, x_scale)
    codes = np.where(grid.free, codes, grid.codes)
    middle = np.where(codes > grid.high - INSIDE, grid.high - INSIDE, codes)
    middle = np.where(codes < grid.low + INSIDE, grid.low + INSIDE, middle)
    weight = np.where(grid.free, middle * grid.step, params["weight"]).astype(np.float32)
    moved = {**params, "weight": weight}
    given = weight_grid(cell, moved, x_scale).codes
    if not np.array_equal(given, codes):
        raise QatError(
            f"the scale of a {type(cell.weight_quantizer).__name__} changes with the weights, so that "
            f"{np.count_nonzero(given != codes)} of {codes.size} codes would be others than those chosen"
        )
    return moved


def with_kept_scale(cell: LinearCell, params: Mapping[str, Array], x_scale: float) -> dict[str, Array]:
    """Parameters in which a quantizer that observes once has observed the weight: its scale no longer changes with the weight.

    Args:
        cell: of a quantized graph.
        params: its parameters and state, canonical, by local name.
        x_scale: of the codes of its input.

    Returns:
        The parameters, all but the quantizer's state as they were.
    """
    quantizer: Any = cell.weight_quantizer
    if not quantizer.observes_once:
        return dict(params)
    own = cell.numpy_params(params)
    weight, *_ = cell.coded(own, np.full(1, x_scale, np.float32))
    state = quantizer.observe(
        NUMPY_OPS, weight, {name.removeprefix(OF_QUANTIZER): value for name, value in own.items()}
    )
    names = {name: f"{OF_QUANTIZER}{name}" for name in state}
    return {**params, **{names[name]: np.reshape(value, params[names[name]].shape) for name, value in state.items()}}


def with_least_error(cell: LinearCell, params: Mapping[str, Array], x_scale: float) -> dict[str, Array]:
    """Parameters whose weight is quantized with the smallest squared error, by a range that leaves the largest weights out.

    Of 46 shares of the range, from all to a tenth, that with the smallest sum of (w - code * scale)^2 is taken, for each scale
    by itself (Nagel et al., arXiv 2106.08295, section 3.1, equation 20), as ``narrowing`` has it.

    Args:
        cell: of a quantized graph.
        params: its parameters and state, canonical, by local name.
        x_scale: of the codes of its input.

    Returns:
        The parameters, all but the weight and the quantizer's state as they were.
    """
    weight, _, low, _ = _quantized(cell, params, x_scale)
    best, least, narrowed = np.ones(low.shape), np.full(low.shape, np.inf), narrowing(cell, params, x_scale)
    for share in SHARES:
        candidate = narrowed(share)
        _, _, coded, _ = cell.coded(cell.numpy_params(candidate), np.full(1, x_scale, np.float32))
        off = (weight - coded.centred * NUMPY_OPS.on_output(coded.scale, weight)).astype(np.float64) ** 2
        errors = off.reshape(len(low), -1).sum(axis=1).reshape(low.shape)
        best, least = np.where(errors < least, share, best), np.minimum(errors, least)
    return narrowed(best)


def narrowing(
    cell: LinearCell, params: Mapping[str, Array], x_scale: float
) -> Callable[[Array | float], dict[str, Array]]:
    """A function that gives parameters with a share of the weight's range, so that the largest weights are left out.

    A quantizer whose range is that of its weight gets a weight that is clipped; one that keeps its scale gets that
    (``BaseWeightQuantizer.calibrated``). The share, up to 1, is one for all scales, or one for each, shaped to go with the
    weight.

    Args:
        cell: of a quantized graph.
        params: its parameters and state, canonical, by local name.
        x_scale: of the codes of its input.
    """
    quantizer: Any = cell.weight_quantizer
    weight, factor, low, high = _quantized(cell, params, x_scale)

    def narrowed(share: Array | float) -> dict[str, Array]:
        shares = np.broadcast_to(share, low.shape)
        inside = np.clip(weight, low * shares, high * shares)
        stored = np.divide(inside, factor, out=np.zeros_like(inside), where=factor != 0.0)
        kept = _stored(cell, (inside == weight) | (factor == 0.0))
        state = quantizer.calibrated((np.maximum(-low, high) * shares).reshape(-1 if quantizer.per_channel else ()))
        if state:
            own = {f"{OF_QUANTIZER}{name}": np.asarray(value, np.float32) for name, value in state.items()}
            return {**params, **own}
        return {**params, "weight": np.where(kept, params["weight"], _stored(cell, stored)).astype(np.float32)}

    return narrowed


def _quantized(cell: LinearCell, params: Mapping[str, Array], x_scale: float) -> tuple[Array, Array, Array, Array]:
    """The weight that is quantized, output channels first, its factors of the stored one, the ends of each scale's range."""
    quantizer: Any = cell.weight_quantizer
    of_input = np.full(1, x_scale, np.float32)
    weight, *_ = cell.coded(cell.numpy_params(params), of_input)
    ones = {**params, "weight": np.ones_like(params["weight"])}
    factor, *_ = cell.coded(cell.numpy_params(ones), of_input)
    rows = weight.reshape(len(weight) if quantizer.per_channel else 1, -1).astype(np.float64)
    low, high = np.minimum(rows.min(axis=1), 0.0), np.maximum(rows.max(axis=1), 0.0)
    if quantizer.symmetric:
        high = np.maximum(-low, high)
        low = -high
    shape = (-1, *(1,) * (weight.ndim - 1))
    return weight, factor, low.reshape(shape), high.reshape(shape)


def _stored(cell: LinearCell, array: Array) -> Array:
    """As the weight is stored, without the further channel of a normalised input."""
    return cell.as_stored(np.ascontiguousarray(array[:, : cell.weight_shape[1]]))

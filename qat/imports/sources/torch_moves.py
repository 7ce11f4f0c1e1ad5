"""What PyTorch's operations that only move numbers are among the plain ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qat.imports.sources.steps import takes_all
from qat.imports.sources.torch_call import Call, Reader, Step, UnknownOperationError, same, shown


def reshaped(call: Call) -> Step:
    """What keeps the order of the numbers, and the samples apart."""
    before, after = call.input_shape, call.shape
    if same(before, after):
        return Step("identity")
    if not after or not same(before[:1], after[:1]) or len(after) == 1:
        shape = f"({', '.join(map(str, after))})"
        raise UnknownOperationError(f"aten.{call.target} of {shown(before)} to {shape}")
    if len(after) == 2:
        return Step("flatten")
    return Step("reshape", {"shape": sizes(call, after)})


def sizes(call: Call, shape: Sequence[Any]) -> tuple[int, ...]:
    """Of one sample. Raises UnknownOperationError where one is not fixed."""
    if not all(isinstance(size, int) for size in shape[1:]):
        raise UnknownOperationError(f"aten.{call.target} to sizes that are not fixed")
    return tuple(int(size) for size in shape[1:])


def _permuted(call: Call) -> Step:
    rank = len(call.input_shape)
    if call.target == "t" or call.target == "numpy_T":
        order = list(reversed(range(rank)))
    elif call.target in ("transpose", "swapaxes", "swapdims"):
        a, b = (int(call[place]) % rank for place in (1, 2))
        order = list(range(rank))
        order[a], order[b] = b, a
    else:
        order = [int(axis) % rank for axis in call[1]]
    if order[0] != 0:
        raise UnknownOperationError(f"aten.{call.target} of {shown(call.input_shape)}, which moves the samples' axis")
    return Step("transpose", {"axes": tuple(axis - 1 for axis in order[1:])})


def _axis(call: Call, axis: Any) -> int:
    """Of a batch. Raises UnknownOperationError for that of the samples."""
    found = int(axis) % len(call.input_shape)
    if found == 0:
        raise UnknownOperationError(f"aten.{call.target} along the samples' axis")
    return found


def _part(call: Call, axis: int, start: int, stop: int, step: int = 1) -> Step:
    if (start, stop, step) == (0, call.input_shape[axis], 1):
        return Step("identity")
    return Step("slice", {"axis": axis, "start": start, "stop": stop, "step": step})


def _slice(call: Call) -> Step:
    if same(call.input_shape, call.shape) and (len(call.arguments) < 5 or call[4] in (None, 1)):
        some = list(call.arguments[1:4])
        if some[:1] == [0] and not takes_all(call.input_shape[0], *some[1:]):  # of the samples
            _axis(call, 0)
        return Step("identity")
    axis = _axis(call, call[1])
    bounds = slice(call[2], call[3], call[4] if len(call.arguments) > 4 else 1)
    return _part(call, axis, *bounds.indices(int(call.input_shape[axis])))


def _narrow(call: Call) -> Step:
    axis = _axis(call, call[1])
    size = int(call.input_shape[axis])
    start = int(call[2]) % size if int(call[2]) < size else size
    return _part(call, axis, start, start + int(call[3]))


def _select(call: Call) -> Step:
    axis = _axis(call, call[1])
    return Step("select", {"axis": axis, "index": int(call[2]) % int(call.input_shape[axis])})


def _expanded(call: Call) -> Step:
    if same(call.input_shape, call.shape):
        return Step("identity")
    if len(call.input_shape) != len(call.shape) or not same(call.input_shape[:1], call.shape[:1]):
        raise UnknownOperationError(f"aten.{call.target} of {shown(call.input_shape)} to {shown(call.shape)}")
    return Step("expand", {"shape": sizes(call, call.shape)})


def _joined(kind: str) -> Reader:
    return lambda call: Step(kind, {"axis": int(call[1])})


def _padded(call: Call) -> Step:
    mode = "constant" if call.target == "constant_pad_nd" or len(call.arguments) < 3 else call[2]
    mode = {"reflection_pad2d": "reflect", "reflection_pad1d": "reflect"}.get(call.target, mode)
    if mode not in ("constant", "reflect"):
        raise UnknownOperationError(f"aten.pad with mode {mode!r}")
    value = call.arguments[{"constant_pad_nd": 2, "pad": 3}.get(call.target, 1)] if mode == "constant" else 0.0
    widths = [(0, 0)] * len(call.input_shape)
    for number, start in enumerate(range(0, len(call[1]), 2), 1):
        widths[-number] = (int(call[1][start]), int(call[1][start + 1]))
    if not any(map(any, widths)):
        return Step("identity")
    return Step("pad", {"widths": tuple(widths), "value": float(value or 0.0), "mode": mode})


def _upsampled(call: Call) -> Step:
    """By whole factors: every rule of nearest neighbours repeats then, and a bilinear one has whole numbers for weights."""
    factors = []
    for before, after in zip(call.input_shape[2:], call.shape[2:], strict=True):
        if not (isinstance(before, int) and isinstance(after, int)) or after % before:
            raise UnknownOperationError(
                f"aten.{call.target} from {tuple(call.input_shape[2:])} to {tuple(call.shape[2:])}, by no whole factor"
            )
        factors.append(after // before)
    if set(factors) == {1}:
        return Step("identity")
    if call.target == "upsample_bilinear2d":
        return Step("upsample_bilinear", {"factor": tuple(factors), "align_corners": bool(call[2])})
    return Step("upsample", {"factor": tuple(factors)})


def _rolled(call: Call) -> Step:
    rank = len(call.input_shape)
    axes = tuple(int(axis) % rank for axis in (call[2] if isinstance(call[2], Sequence) else [call[2]]))
    shifts = tuple(int(n) for n in (call[1] if isinstance(call[1], Sequence) else [call[1]]))
    if not axes or 0 in axes:
        raise UnknownOperationError("aten.roll along the samples")
    return Step("roll", {"axes": axes, "shifts": shifts})


def _shuffled(call: Call) -> Step:
    """Pixels to channels and back, or channels of groups in turn: as reshapes and a transposition between."""
    channels, height, width = (int(size) for size in call.input_shape[1:])
    r = int(call[1])
    parts: tuple[int, ...]
    axes: tuple[int, ...]
    if call.target == "channel_shuffle":
        parts, axes = (r, channels // r, height, width), (1, 0, 2, 3)
    elif call.target == "pixel_shuffle":
        parts, axes = (channels // (r * r), r, r, height, width), (0, 3, 1, 4, 2)
    else:
        parts, axes = (channels, height // r, r, width // r, r), (0, 2, 4, 1, 3)
    return Step("move", {"parts": parts, "axes": axes, "shape": sizes(call, call.shape)})


READERS: Mapping[str, Reader] = {
    "flatten": reshaped,
    "unflatten": reshaped,
    "view": reshaped,
    "reshape": reshaped,
    "_unsafe_view": reshaped,
    "squeeze": reshaped,
    "unsqueeze": reshaped,
    "view_as": reshaped,
    "reshape_as": reshaped,
    "permute": _permuted,
    "transpose": _permuted,
    "swapaxes": _permuted,
    "swapdims": _permuted,
    "t": _permuted,
    "slice": _slice,
    "narrow": _narrow,
    "select": _select,
    "expand": _expanded,
    "expand_as": _expanded,
    "cat": _joined("concat"),
    "concat": _joined("concat"),
    "concatenate": _joined("concat"),
    "stack": _joined("stack"),
    "pad": _padded,
    "constant_pad_nd": _padded,
    "reflection_pad1d": _padded,
    "reflection_pad2d": _padded,
    "upsample_nearest2d": _upsampled,
    "_upsample_nearest_exact2d": _upsampled,
    "upsample_bilinear2d": _upsampled,
    "roll": _rolled,
    "pixel_shuffle": _shuffled,
    "pixel_unshuffle": _shuffled,
    "channel_shuffle": _shuffled,
    "native_channel_shuffle": _shuffled,
}


def _starts(call: Call, axis: int) -> list[int]:
    """Where the parts begin, and where the last one ends."""
    size = int(call.input_shape[axis])
    if call.target in ("split_with_sizes", "split") and isinstance(call[1], Sequence):
        ends = [0]
        for each in call[1]:
            ends.append(ends[-1] + int(each))
        return ends
    if call.target == "tensor_split":
        if isinstance(call[1], Sequence):
            return [0, *(slice(int(at)).indices(size)[1] for at in call[1]), size]
        many, rest = divmod(size, int(call[1]))
        return [number * many + min(number, rest) for number in range(int(call[1]) + 1)]
    width = -(-size // int(call[1])) if call.target in ("chunk", "unsafe_chunk") else int(call[1])
    return [*range(0, size, width), size]


def _parted(call: Call, place: int) -> Step:
    axis = _axis(call, call[2] if len(call.arguments) > 2 else 0)
    starts = _starts(call, axis)
    return _part(call, axis, starts[place], starts[place + 1])


def _unbound(call: Call, place: int) -> Step:
    return Step("select", {"axis": _axis(call, call[1] if len(call.arguments) > 1 else 0), "index": place})


#: Of operations that give several values: what each of them is, by its place.
OF_SEVERAL: Mapping[str, Callable[[Call, int], Step]] = {
    "split": _parted,
    "split_with_sizes": _parted,
    "unsafe_split": _parted,
    "chunk": _parted,
    "unsafe_chunk": _parted,
    "tensor_split": _parted,
    "unbind": _unbound,
}

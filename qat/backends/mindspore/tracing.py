"""MindSpore: plain functions over its tensors as it compiles them from one call, and what it leaves behind."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from qat.backends.mindspore.ops import Tensor
from qat.backends.mindspore.setup import jit_api, jit_trace, ms, ops


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` as MindSpore compiles it from one call: tensors in, a flat tuple of tensors out, nothing else.

    Everything that is no argument, parameters too, is a constant from then on. The compiled form can be differentiated
    from outside; a gradient that is taken inside becomes a constant.
    """

    failures: list[BaseException] = []

    def recorded(*tensors: Tensor) -> Any:
        try:
            return function(*tensors)
        except BaseException as error:  # let through, it would leave MindSpore recording whatever runs next
            failures.append(error)
            return tensors

    # MindSpore keeps what it compiled by the function's name and id, and ids are used again.
    recorded.__name__ = f"traced{next(_COUNTER)}"
    compiled = ms.jit(recorded, capture_mode="trace")

    def run(*tensors: Tensor) -> Any:
        with recording():
            found = compiled(*tensors)
        if failures:
            error = failures[0]
            failures.clear()
            raise error
        return found

    forget_with(run, f".{recorded.__name__}#")
    return run


_COUNTER = itertools.count()
_FORGOTTEN: list[str] = []  #: marks of what nobody can call any more


def forget_with(owner: Any, mark: str) -> None:
    """Let ``release_forgotten`` free what MindSpore compiled under names with ``mark`` in them once ``owner`` is gone.

    MindSpore keeps it for as long as the process lives, tens of megabytes for a small network.
    """
    weakref.finalize(owner, _FORGOTTEN.append, mark).atexit = False


@contextmanager
def recording() -> Iterator[None]:
    """MindSpore's recording, without two things that it does for each operation: it looks up the source of the whole stack,
    and fails where a frame has none (under python -m, python -c and at the prompt); and it prints every tensor for a log that
    is off, which takes as long as the rest.

    The look-up is private to MindSpore: a release that has none is left as it is, and so in ``release_forgotten``.
    """
    originals = Tensor.__repr__, Tensor.__str__
    look_up = getattr(jit_trace, "_get_caller_lines", None)
    Tensor.__repr__ = Tensor.__str__ = lambda self: "Tensor of a pass that is being compiled"
    if look_up is not None:
        jit_trace._get_caller_lines = lambda: ([__file__], [1])
    try:
        yield
    finally:
        Tensor.__repr__, Tensor.__str__ = originals
        if look_up is not None:
            jit_trace._get_caller_lines = look_up


def in_place(parameter: ms.Parameter) -> ms.Parameter:
    """``parameter``, which keeps its memory from now on, also under set_data and mindspore.load_param_into_net.

    MindSpore's own assignment gives it the memory of what it is set to, and whatever was compiled with it, a step or an
    optimizer, goes on in the memory from before.
    """
    own = weakref.ref(parameter)  # no circle, so that it is freed at once

    def assign_value(value: Tensor) -> ms.Parameter:
        found = own()
        ops.assign(found, value)
        return found

    parameter.assign_value = assign_value
    return parameter


def release_forgotten() -> None:
    """Free what MindSpore compiled of functions that nobody can call any more; not where they end, which may be amid the
    compilation of another one.
    """
    free = getattr(getattr(jit_trace, "_jit_executor", None), "del_net_res", None)
    caches: list[set[str]] = [
        getattr(jit_trace, "_trace_compile_cache", set()),
        getattr(jit_api, "ms_compile_cache", set()),
    ]
    while _FORGOTTEN:
        mark = _FORGOTTEN.pop()
        for known in caches:
            phases = {phase for phase in known if mark in phase}
            if free is not None:
                free(None, phases)
                known.difference_update(phases)

"""A torch.nn.Module, captured by torch.export, or a program that torch.export.save wrote (.pt2)."""

from __future__ import annotations

import logging
import re
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._dynamo import OptimizedModule

from qat.errors import QatError
from qat.imports.source import Opened
from qat.imports.sources.pt2_file import ADVICE, read_pt2
from qat.imports.sources.torch_node import is_of_torch
from qat.imports.sources.torch_program import opened
from qat.reading import reason_of

DYNAMIC = ("GuardOnDataDependentSymNode", "UserError", "UncapturedHigherOrderOpError", "TorchRuntimeError")


def open_model(
    module: torch.nn.Module, example: Any = None, input_shape: tuple[int, ...] | None = None, name: str | None = None
) -> Opened:
    """A module in evaluation mode. It is run and captured on the example, and not changed.

    Args:
        module: Any whose ``forward`` takes tensors and gives tensors, in any nesting.
        example: What it takes, one tensor or array, or a tuple of them; its batch size does not matter.
        input_shape: Of one sample, in place of an example for a module with one input.
        name: Of the network; that of the class by default.

    Returns:
        Its operations, and how it computes them.

    Raises:
        QatError: the module is in training mode, does not take the example, or cannot be captured.
    """
    kind = type(module).__name__
    if not isinstance(module, torch.nn.Module):
        raise QatError(f"{kind}: is no torch.nn.Module; give the module itself")
    if isinstance(module, OptimizedModule):  # what torch.compile returns: it would be compiled only to be read
        return open_model(module._orig_mod, example, input_shape, name)
    _check_mode(module, kind)
    inputs = _example(example, input_shape, kind, _device(module))
    with torch.no_grad(), _quiet():
        try:
            module(*inputs)
        except Exception as error:  # whatever the module's own code raises
            shapes = ", ".join(f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}" for x in inputs)
            raise QatError(
                f"{kind}: cannot be run on the example, {shapes} ({reason_of(error)}){_at(error)}; give what its forward "
                "takes, a tensor or a tuple of them"
            ) from None
        return _captured(module, inputs, name or kind)


def _captured(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], name: str) -> Opened:
    """On the example; where that is one sample, on two if that goes, which tells the samples' axis from others of one place."""
    found: Opened | None = None
    if all(x.ndim > 1 and len(x) == 1 for x in inputs):
        try:
            found = opened(torch.export.export(module, tuple(torch.cat([x, x]) for x in inputs)), name)
        except Exception:  # torch's many kinds, and ours
            found = None
        if found is not None and not _unknown(found):
            return found
    try:
        exported = torch.export.export(module, inputs)
    except Exception as error:  # torch's many kinds
        raise QatError(f"{type(module).__name__}: {_uncaptured(error)}") from None
    single = opened(exported, name)
    return single if found is None or _unknown(single) < _unknown(found) else found


def _unknown(found: Opened) -> int:
    """How many operations are none that is known."""
    return sum(each.kind == "unknown" for each in found.program.operations)


def open_file(path: str | Path, input_shape: tuple[int, ...] | None = None, name: str | None = None) -> Opened:
    """A .pt2 file. Nothing in it is executed (``qat.imports.sources.pt2_file``).

    Args:
        path: Of the file.
        input_shape: Is not needed, the file has it.
        name: Of the network; that of the file by default.

    Returns:
        Its operations, and how it computes them.

    Raises:
        QatError: it is no such file, or holds what would be executed.
    """
    del input_shape
    with _quiet():
        exported = read_pt2(path)
    try:
        return opened(exported, name or Path(path).stem)
    except QatError:
        raise
    except Exception as error:  # of a damaged file
        raise QatError(f"{path}: cannot be read as a program of torch.export ({reason_of(error)}); {ADVICE}") from None


def _check_mode(module: torch.nn.Module, kind: str) -> None:
    """Raise QatError where a module is not ready to be captured."""
    training = next((name for name, each in module.named_modules() if each.training), None)
    if training is not None:
        which = f"its module {training}" if training else "it"
        raise QatError(
            f"{kind}: {which} is in training mode, so that batch normalisations and dropouts would be those of a training "
            "step; call module.eval() first"
        )
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if torch.nn.parameter.is_lazy(tensor):
            raise QatError(
                f"{kind}: {name} has no shape yet, because its layer is a lazy one; run the module once on a batch first"
            )


def _device(module: torch.nn.Module) -> torch.device:
    """On which it computes."""
    return next((x.device for x in (*module.parameters(), *module.buffers())), torch.device("cpu"))


def _example(
    example: Any, input_shape: tuple[int, ...] | None, kind: str, device: torch.device
) -> tuple[torch.Tensor, ...]:
    if example is None and input_shape is not None:
        return (torch.zeros(1, *input_shape, device=device),)
    given = tuple(example) if isinstance(example, (tuple, list)) else (example,)
    inputs = tuple(
        torch.tensor(x, dtype=torch.float32, device=device) if isinstance(x, np.ndarray) else x for x in given
    )
    wrong = next((each for each in inputs if not isinstance(each, torch.Tensor)), None)
    if not inputs or wrong is not None or example is None:
        found = "nothing" if example is None or not inputs else f"a {type(wrong).__name__}"
        raise QatError(
            f"{kind}: its example is {found}; give what its forward takes, a tensor as torch.zeros(1, 3, 224, 224) or a tuple "
            "of them, or the shape of one sample (--input_shape, or input_shape=)"
        )
    return inputs


def _uncaptured(error: Exception) -> str:
    """Why torch.export failed, in words."""
    text = str(error)
    lines = re.findall(r'File "([^"\n]+)", line (\d+)', text)
    where = next((f" at {file}:{number}" for file, number in reversed(lines) if not is_of_torch(file)), _at(error))
    if type(error).__name__ in DYNAMIC or "data-dependent" in text:
        return (
            f"its control flow depends on the numbers of a tensor{where}, so that there is no one graph; compute both and "
            "choose, or give the module without that part"
        )
    first = reason_of(Exception(text.strip().partition("\n")[0]))
    return f"torch.export cannot capture it ({first}){where}; write that part otherwise, or give the module without it"


def _at(error: Exception) -> str:
    """The innermost line of the user's own files that an exception passed."""
    frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not is_of_torch(frame.filename) and frame.filename != __file__]
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTorch logs of a capture: it is good, or there is an error."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)

"""PyTorch's own files of parameters: what torch.save, or safetensors, writes of a state_dict."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from qat.backends.torch.ops import Tensor
from qat.errors import QatError, shortened
from qat.files import write_atomically
from qat.reading import check_zip, open_regular, read_file, reading, without_warnings
from qat.vocabulary.ops import Array

#: Under which training loops save it beside other things; the first that is there counts.
STATE_DICTS = ("state_dict", "model_state_dict", "model", "net", "module")
#: What torch says of a pickle with something in it that would be called, as the class of a module.
OBJECT = re.compile(r"Unsupported global: GLOBAL (\S+)")
SAFETENSORS = ".safetensors"  #: the ending of files that it wrote


def load_params(path: str | Path) -> dict[str, Array]:
    """The arrays of a file that torch.save wrote of a state_dict, or safetensors did, by name. Nothing in it is executed."""
    if str(path).lower().endswith(SAFETENSORS):
        advice = "give a file that safetensors.torch.save_file wrote of a state_dict"
        content = read_file(path, advice)
        with reading(path, "a state_dict in safetensors", advice):
            return {name: _array(value) for name, value in safetensors.torch.load(content).items()}
    advice = "give a file that torch.save wrote"
    with open_regular(path, advice) as file, reading(path, "a state_dict of PyTorch", advice), without_warnings():
        if zipfile.is_zipfile(file):
            check_zip(path, file, advice)
        file.seek(0)
        try:
            data = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # PyTorch's own words would have the protection switched off
            if (found := OBJECT.search(str(error))) is not None:
                raise QatError(
                    f"{path}: holds more than tensors, {shortened(found[1])}, as the pickle does that torch.save writes of a "
                    "whole module, whose code would be run; save model.state_dict()"
                ) from None
            raise ValueError("it holds more than tensors, or is another program's file") from None
        data = _state_dict(data, path)
        return {str(name): _array(value.detach()) for name, value in data.items() if isinstance(value, Tensor)}


def _state_dict(data: Any, path: str | Path) -> dict[Any, Any]:
    """The dictionary with tensors: what a file holds, or the one in it beside an optimizer's state, a number of epochs, ..."""
    held = data if isinstance(data, dict) else {}
    inner = {key: value for key, value in held.items() if _has_tensors(value)}
    named = [key for key in STATE_DICTS if key in inner][:1]
    if not named and _has_tensors(held):
        return held
    named = named or [*inner]
    if not named:
        raise QatError(f"{path}: holds {type(data).__name__} without tensors; save model.state_dict()")
    if len(named) > 1:
        raise QatError(
            f"{path}: holds tensors under {', '.join(map(shortened, named))}; save the one state_dict that is meant"
        )
    found: dict[Any, Any] = inner[named[0]]
    return found


def _has_tensors(x: Any) -> bool:
    return isinstance(x, dict) and any(isinstance(value, Tensor) for value in x.values())


def _array(tensor: Tensor) -> Array:
    """A tensor of a file as float32. Raises ValueError where it declares more numbers than the file holds for it."""
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"a tensor of {tuple(tensor.shape)} has {tensor.untyped_storage().nbytes()} bytes")
    if tensor.is_complex():
        raise ValueError("a tensor holds complex numbers")
    array: Array = tensor.float().numpy()
    return array


def save_params(params: Mapping[str, Array], path: str | Path) -> None:
    """The inverse of ``load_params``: a state_dict."""
    buffer = io.BytesIO()
    torch.save({name: torch.from_numpy(np.array(array)) for name, array in params.items()}, buffer)
    write_atomically(path, buffer.getvalue())

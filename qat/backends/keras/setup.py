"""Imports TensorFlow with the environment variables that it needs to find set; other modules import it from here."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else each process prints a warning for every missing device


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Nothing reaches standard error: TensorFlow's libraries print what they found here before they read any setting. An
    import that fails raises all the same.
    """
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


with _silent():
    import keras
    import tensorflow as tf

__all__ = ["keras", "tf"]

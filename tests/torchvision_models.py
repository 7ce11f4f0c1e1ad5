"""torchvision's models, beside any build of PyTorch.

The wheels of the package index are built for CUDA: beside the CPU build of PyTorch their compiled operations do not load, and
the import then fails over two of them that have no schema. Classifiers use none of them, so that the schemas are enough.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest

#: The operations that torchvision registers in Python without looking whether they are there.
SCHEMAS = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))
_kept: list[Any] = []  #: a library's schemas go when it goes


def models() -> Any:
    """``torchvision.models``; a test is skipped where the package is not installed."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("PIL")
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in SCHEMAS:
            library.define(schema)
        _kept.append(library)
        return importlib.import_module("torchvision.models")

"""The training backends that are installed here, those of other packages among them."""

from __future__ import annotations

from qat.registry import BACKENDS, backend_names, installed

HERE = [name for name in backend_names() if name not in BACKENDS or installed(BACKENDS[name])]

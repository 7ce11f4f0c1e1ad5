"""Imports MindSpore with the environment variables that it needs to find set; other modules import it from here."""

from __future__ import annotations

import contextlib
import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from qat.errors import QatError

if int(np.__version__.partition(".")[0]) >= 2:
    raise QatError(f"MindSpore needs numpy<2, but NumPy {np.__version__} is installed: pip install 'numpy<2'")

os.environ.setdefault("GLOG_v", "3")  # else each process prints a warning for every missing device

# On an AVX-512 CPU MindSpore's oneDNN runs reference kernels for many convolutions, some sixty times slower than the AVX2
# ones. It is read at the first convolution; a setting of the user's own stays.
_CPUINFO = Path("/proc/cpuinfo")
if _CPUINFO.exists() and "avx512" in _CPUINFO.read_text(encoding="utf-8", errors="ignore"):
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

# While Python waits for a result, MindSpore's thread for single operations waits for work in an empty loop, which takes a core
# from the kernels. With this, a call returns when its operation is done, and nothing spins. It has to be there before the
# import; it is not documented, concerns single operations alone, and changes no number. An Ascend or a GPU computes beside
# Python, which is worth the wait there. A setting of the user's own stays.
if not any(Path(device).exists() for device in ("/dev/davinci_manager", "/dev/nvidiactl")):
    os.environ.setdefault("MS_DEV_HOST_BLOCKING_RUN", "1")

import mindspore as ms  # noqa: E402
from mindspore import nn, ops  # noqa: E402
from mindspore.train import mind_ir_pb2  # noqa: E402

#: What compiles recorded functions and parsed ones; their places and private names differ between releases.
jit_trace: Any = None
jit_api: Any = None
with contextlib.suppress(ImportError):
    jit_api = importlib.import_module("mindspore.graph.api")
    jit_trace = importlib.import_module("mindspore.graph.jit_trace")

__all__ = ["jit_api", "jit_trace", "mind_ir_pb2", "ms", "nn", "ops"]

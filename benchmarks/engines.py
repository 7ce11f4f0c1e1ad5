"""What computes an image again and again, to be timed: compiled C, LiteRT, ONNX Runtime; batch 1, one thread each.

C is compiled with -O3 -march=native into a shared library, whose loop is in C; LiteRT and ONNX Runtime are called as often in a
loop of Python's, which costs them about a microsecond a call.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from ai_edge_litert.interpreter import Interpreter

import qat
from qat.integer import IntegerGraph
from qat.vocabulary.ops import Array

OPTIONS = ("-std=c99", "-O3", "-march=native")
LOOP = """
#include "net.h"
void loop(const uint8_t *pixels, void *codes, int count)
{
    for (int i = 0; i < count; i++)
        net_run(pixels, codes);
}
"""


def compiled_c(integers: IntegerGraph, pixels: Array, folder: Path, calls: int) -> Callable[[], None]:
    """pixels: uint8, (1, C, H, W). Its codes are compared with NumPy's once."""
    qat.target("C").export(integers, folder / "net.c", arithmetic="fixed")
    (folder / "loop.c").write_text(LOOP, encoding="utf-8")
    library = folder / "net.so"
    subprocess.run(["cc", *OPTIONS, "-shared", "-fPIC", "net.c", "loop.c", "-o", library], cwd=folder, check=True)
    loop = ctypes.CDLL(str(library)).loop
    image = np.ascontiguousarray(pixels[0].transpose(1, 2, 0))
    codes = np.zeros(integers.output.shape, integers.output.grid.dtype)

    def run() -> None:
        loop(ctypes.c_void_p(image.ctypes.data), ctypes.c_void_p(codes.ctypes.data), calls)

    run()
    np.testing.assert_array_equal(codes[None], qat.evaluate(integers, pixels, arithmetic="fixed"))
    return run


def litert(file: Path, calls: int) -> Callable[[], None]:
    interpreter = Interpreter(str(file), num_threads=1)
    interpreter.allocate_tensors()

    def run() -> None:
        for _ in range(calls):
            interpreter.invoke()

    return run


def onnxruntime_session(file: Path, pixels: Array, calls: int) -> Callable[[], None]:
    """pixels: uint8, (1, C, H, W)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()  # no copies between Python and the session
    binding.bind_cpu_input(session.get_inputs()[0].name, pixels)
    binding.bind_output(session.get_outputs()[0].name)

    def run() -> None:
        for _ in range(calls):
            session.run_with_iobinding(binding)

    return run

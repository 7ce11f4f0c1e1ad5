"""A mindspore.nn.Cell as plain operations. MindSpore keeps no graph of a cell that others could read, so that the cell is
written as an ONNX file by MindSpore itself, and that file is read.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np

from qat.errors import QatError
from qat.imports.program import Program
from qat.imports.source import Opened
from qat.imports.sources import onnx_file
from qat.reading import reason_of


def open_model(cell: Any, example: Any, input_shape: tuple[int, ...] | None = None, name: str | None = None) -> Opened:
    """The operations of a cell in evaluation mode.

    Args:
        cell: a mindspore.nn.Cell; it is not changed.
        example: what it takes, a tensor or a tuple of them.
        input_shape: not used: the example has it.
        name: of the network; that of the class by default.

    Returns:
        The operations, and the ONNX file's own outputs to compare with.

    Raises:
        QatError: the cell is in training mode, there is no example, or MindSpore cannot write the cell as ONNX.
    """
    own = name or type(cell).__name__
    if cell.training:
        raise QatError(
            f"{own}: is in training mode, and a training step is what would be read; call set_train(False) first"
        )
    given = example if isinstance(example, tuple) else (example,)
    examples = [ms.Tensor(x.astype(np.float32)) if isinstance(x, np.ndarray) else x for x in given]
    if not all(isinstance(x, ms.Tensor) for x in examples):
        raise QatError(
            f"{own}: a mindspore.nn.Cell is read by calling it, and the example is {type(examples[0]).__name__}; give a "
            "mindspore.Tensor that it takes, or a tuple of them"
        )
    one = tuple(ms.Tensor(x.asnumpy()[:1]) for x in examples)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{own}.onnx"
        try:
            ms.onnx.export(cell, *one, file_name=str(path))
        except (
            Exception
        ) as error:  # of many kinds: of the cell's own code, and of operators that MindSpore does not write
            raise QatError(
                f"{own}: MindSpore keeps no graph of a cell that can be read, and cannot write this one as ONNX "
                f"({reason_of(error)}); write the network as a qat.Network, and lower it with backend='mindspore'"
            ) from None
        opened = onnx_file.open_file(path, None, own)
    return replace(opened, program=_named(opened.program))


def _named(program: Program) -> Program:
    """With the names that cells have in MindSpore where their parameters say it, in place of those of the file's nodes."""
    named = []
    for each in program.operations:
        cell_name = next((source.rpartition(".")[0] for source in each.sources.values() if "." in source), each.name)
        named.append(replace(each, name=cell_name))
    return program.with_operations(named)

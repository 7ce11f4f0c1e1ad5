"""What a .tflite file takes and gives: as it is chosen, as the file says it, and whether the file's tensors agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qat.cells.base import Shape
from qat.graph import Graph
from qat.integer import IntegerGraph
from qat.integer.ends import METADATA as KEY
from qat.integer.ends import OWN, REAL, Ends, FileInput, FileOutput, ends_of
from qat.reading import reading
from qat.targets.common import METADATA
from qat.targets.tflite.file import set_metadata
from qat.targets.tflite.writer import TYPES, canonical_shape


def chosen_ends(graph: IntegerGraph, input_type: str, output_type: str, code_type: str) -> Ends:
    """Inputs and outputs of an integer graph's file.

    Args:
        graph: the integers.
        input_type: one of ``qat.integer.ends.TYPES``. "own": codes of 8 bits as int8, whatever their sign in the network; else
            what the network takes.
        output_type: likewise. "own": codes as the file computes them.
        code_type: dtype of the file's codes.

    Returns:
        The ends.

    Raises:
        QatError: as ``ends_of``.
    """
    ends = ends_of(graph, input_type, output_type, own_codes=code_type)
    if input_type != OWN:
        return ends
    inputs = (
        replace(x, stored="int8", zero_point=x.zero_point - 128) if x.stored == "uint8" else x for x in ends.inputs
    )
    return replace(ends, inputs=tuple(inputs))


def float_ends(graph: Graph) -> Ends:
    """Inputs and outputs of a float network's file: what the network takes, and real numbers."""
    return Ends(
        tuple(FileInput.as_it_is(*spec) for spec in graph.input_specs),
        tuple(FileOutput.real(graph.shapes[name]) for name in graph.outputs),
    )


def keep_ends(model: Any, ends: Ends) -> None:
    """Set the entry of the metadata, where the tensors alone do not tell the same."""
    if ends != _told_by_tensors(model):
        set_metadata(model, METADATA + KEY, ends.to_json().encode())


def ends_in(path: str | Path, model: Any) -> Ends:
    """What a file takes and gives. Raises QatError where its metadata and its tensors do not agree."""
    names = (METADATA + KEY, (METADATA + KEY).encode())
    with reading(path, "a .tflite file of qat export", "export it again"):
        texts = [bytes(model.buffers[x.buffer].data).decode() for x in model.metadata or [] if x.name in names]
        ends = Ends.from_json(texts[0]) if texts else _told_by_tensors(model)
        _check_ends(ends, model.subgraphs[0])
    return ends


def _told_by_tensors(model: Any) -> Ends:
    """Without an entry: a file of int8 is that of a network of pixels, another one takes what its network takes."""
    subgraph = model.subgraphs[0]
    inputs, outputs = [], []
    for index in subgraph.inputs:
        shape, stored, scale, zero_point = _described(subgraph.tensors[index])
        pixel = zero_point + 128  # that of the real number 0
        inputs.append(
            FileInput(shape, "uint8", stored, scale, zero_point, -pixel, 255 - pixel, None, pixel)
            if stored == "int8"
            else FileInput.as_it_is(shape, stored)
        )
    for index in subgraph.outputs:
        outputs.append(FileOutput(*_described(subgraph.tensors[index])))
    return Ends(tuple(inputs), tuple(outputs))


def _described(tensor: Any) -> tuple[Shape, str, float, int]:
    """Shape of one sample, dtype, scale and zero point; of real numbers 1 and 0."""
    dtype = next(dtype.name for dtype, kind in TYPES.items() if kind == tensor.type)
    found = tensor.quantization
    coded = dtype != REAL and found is not None and found.scale is not None and found.zeroPoint is not None
    scale, zero_point = (float(np.float32(found.scale[0])), int(found.zeroPoint[0])) if coded else (1.0, 0)
    return canonical_shape(tensor.shape[1:]), dtype, scale, zero_point


def _check_ends(ends: Ends, subgraph: Any) -> None:
    """Raise ValueError where they are not those of the tensors."""
    for end, index in zip(ends.inputs, subgraph.inputs, strict=True):
        shape, stored, scale, zero_point = _described(subgraph.tensors[index])
        if (end.shape, end.stored) != (shape, stored):
            raise ValueError(f"an input is {stored} {shape}, and its metadata say {end.stored} {end.shape}")
        encoded = stored not in (end.dtype, REAL)
        if encoded and (end.scale, end.zero_point) != (scale, zero_point):
            raise ValueError("an input has another scale or zero point than its metadata say")
    for output, index in zip(ends.outputs, subgraph.outputs, strict=True):
        if (replace(output, scale=1.0) if output.stored == REAL else output) != FileOutput(
            *_described(subgraph.tensors[index])
        ):
            raise ValueError("an output is not what its metadata say")

"""What the two targets that write ONNX do alike to a model in memory."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper

from qat.cells.base import Shape

METADATA = "qat."  #: before our keys in metadata_props


def set_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Set entries of metadata_props, each behind "qat."; nothing else changes."""
    entries = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, entries | {METADATA + key: value for key, value in metadata.items()})


def shapes_of_inputs(model: onnx.ModelProto) -> list[Shape]:
    """Of one sample of each input, (C, H, W) or (F,)."""
    dims = [x.type.tensor_type.shape.dim for x in model.graph.input]
    return [tuple(size.dim_value for size in own[1:]) for own in dims]

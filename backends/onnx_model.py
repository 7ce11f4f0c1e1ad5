"""What the two targets that write ONNX do alike: reading a file, and changing a model in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import helper

from qat.backends.messages import messages
from qat.cells.base import Shape
from qat.errors import QatError, shortened
from qat.names import check_stored

METADATA = "qat."  #: before our keys in metadata_props


def load_model(path: str | Path) -> onnx.ModelProto:
    """A file that has everything in itself. Raises QatError for what is no ONNX file, for tensors whose data are in other
    files, which a foreign file could choose among all of this machine, and for names that no export gives.
    """
    try:
        model = onnx.load_model_from_string(Path(path).read_bytes())
    except OSError as error:
        raise QatError(f"{path}: cannot be read ({error.strerror}); give an exported .onnx file") from None
    except Exception:  # protobuf's own error types differ between its releases
        raise QatError(f"{path}: is no ONNX file, or a damaged one; export it again") from None
    for tensor in messages(model, onnx.TensorProto):
        if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
            raise QatError(
                f"{path}: the data of its tensor {shortened(tensor.name)} are in another file, and only what the file itself "
                "holds is read; export it again"
            )
    graph = model.graph
    check_stored(path, (graph.name, *(x.name for x in (*graph.input, *graph.output, *graph.initializer))))
    check_stored(path, (name for node in graph.node for name in node.output))
    return model


def set_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Set entries of metadata_props, each behind "qat."; nothing else changes."""
    entries = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, entries | {METADATA + key: value for key, value in metadata.items()})


def shapes_of_inputs(model: onnx.ModelProto) -> list[Shape]:
    """Of one sample of each input, (C, H, W) or (F,)."""
    dims = [x.type.tensor_type.shape.dim for x in model.graph.input]
    return [tuple(size.dim_value for size in own[1:]) for own in dims]

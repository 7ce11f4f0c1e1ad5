"""What the targets that write ONNX files do alike, whatever is in the files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from qat.deploy.recipe import RECIPE
from qat.integer.ends import Ends, FileTensors
from qat.targets.common import unprefixed
from qat.targets.onnx.ends import ends_in
from qat.targets.onnx.file import describe, set_metadata
from qat.vocabulary.arrays import Arrays, ArraySpec, as_arrays
from qat.vocabulary.ops import Array


@dataclass(frozen=True)
class Form:
    """Functions of ``qat.deploy.interfaces.Target`` for one form of ONNX files.

    Attributes:
        load: reads and checks a file.
        write: checks a model and writes it.
        infer: computes the named outputs of a model, by name, from the file's path (for messages), the model, its ends, the
            names and what the network takes.
    """

    load: Callable[[str | Path], onnx.ModelProto]
    write: Callable[[onnx.ModelProto, str | Path], None]
    infer: Callable[[str | Path, onnx.ModelProto, Ends, list[str], Arrays], dict[str, Array]]

    def write_metadata(self, path: str | Path, metadata: Mapping[str, str]) -> None:
        """Set entries of metadata_props, each key with "qat." before it; a recipe is told by the descriptions of the model, its
        inputs and outputs too. Nothing that is computed changes.
        """
        model = self.load(path)
        set_metadata(model, metadata)
        if RECIPE in metadata:
            describe(model, json.loads(metadata[RECIPE]))
        self.write(model, path)

    def read_metadata(self, path: str | Path) -> dict[str, str]:
        """The entries that ``write_metadata`` wrote, by key without "qat."."""
        return unprefixed({entry.key: entry.value for entry in self.load(path).metadata_props})

    def tensors(self, path: str | Path) -> FileTensors:
        """The inputs and outputs of a file as it has them."""
        model = self.load(path)
        inputs, outputs = (tuple(x.name for x in values) for values in (model.graph.input, model.graph.output))
        return FileTensors(ends_in(path, model), inputs, outputs)

    def input_specs(self, path: str | Path) -> list[ArraySpec]:
        """Shape and dtype of what the network takes."""
        return ends_in(path, self.load(path)).specs

    def predict(self, path: str | Path, pixels: Arrays) -> Arrays:
        """Real outputs, computed from the file as it is."""
        model = self.load(path)
        ends, outputs = ends_in(path, model), [output.name for output in model.graph.output]
        found = self.infer(path, model, ends, outputs, pixels)
        return as_arrays(ends.decode([found[name] for name in outputs]))

"""Classify pictures with a .tflite file: python litert.py FILE.tflite PICTURE...

Needs ai-edge-litert, NumPy and Pillow. Nothing here knows the network: the file says how it is fed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import picture
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType


def metadata_of(content: bytes) -> dict[str, str]:
    """The entries of a file's metadata that begin with "qat."."""
    model = schema.ModelT.InitFromPackedBuf(content)
    entries = {entry.name.decode(): bytes(model.buffers[entry.buffer].data) for entry in model.metadata}
    return {name: data.decode() for name, data in entries.items() if name.startswith("qat.") and name != "qat.digest"}


def main(file: str, *pictures: str) -> None:
    """Print what the file says of each picture."""
    content = Path(file).read_bytes()
    metadata = metadata_of(content)
    recipe: dict[str, Any] = json.loads(metadata["qat.recipe"])
    names = json.loads(metadata.get("qat.class_names", "[]"))
    ((taken,), (given, *_)) = recipe["inputs"], recipe["outputs"]

    # The kernels that the file was certified with: XNNPACK, or, for the fixed arithmetic, the reference kernels.
    fixed = metadata.get("qat.arithmetic") == "fixed"
    kernels = {"experimental_op_resolver_type": OpResolverType.BUILTIN_REF} if fixed else {}
    interpreter = Interpreter(model_content=content, **kernels)
    run = interpreter.get_signature_runner("serving_default")
    for path in pictures:
        x = picture.encoded(picture.load(path, recipe), taken)
        outputs = run(**{taken["name"]: x})
        picture.printed(path, outputs[given["name"]], given, names)


if __name__ == "__main__":
    main(*sys.argv[1:])

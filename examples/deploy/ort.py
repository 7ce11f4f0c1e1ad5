"""Classify pictures with an .onnx file: python ort.py FILE.onnx PICTURE...

Needs onnxruntime, NumPy and Pillow. Nothing here knows the network: the file says how it is fed.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import onnxruntime
import picture


def main(file: str, *pictures: str) -> None:
    """Print what the file says of each picture."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    recipe: dict[str, Any] = json.loads(metadata["qat.recipe"])
    names = json.loads(metadata.get("qat.class_names", "[]"))
    ((taken,), (given, *_)) = recipe["inputs"], recipe["outputs"]
    for path in pictures:
        x = picture.encoded(picture.load(path, recipe), taken)
        (values,) = session.run([given["name"]], {taken["name"]: x})
        picture.printed(path, values, given, names)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Classify pictures with a .mindir file: python mindir.py FILE.mindir PICTURE...

Needs mindspore, NumPy and Pillow. Nothing here knows the network: the file says how it is fed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mindspore as ms
import picture
from mindspore.train.mind_ir_pb2 import ModelProto


def main(file: str, *pictures: str) -> None:
    """Print what the file says of each picture."""
    metadata = ModelProto.FromString(Path(file).read_bytes()).user_info
    recipe: dict[str, Any] = json.loads(metadata["qat.recipe"])
    names = json.loads(metadata["qat.class_names"]) if "qat.class_names" in metadata else []
    ((taken,), (given, *_)) = recipe["inputs"], recipe["outputs"]
    network = ms.nn.GraphCell(ms.load(file))
    for path in pictures:
        x = picture.encoded(picture.load(path, recipe), taken)
        picture.printed(path, network(ms.Tensor(x)).asnumpy(), given, names)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Settings of convert_quant_network from a YAML file.

num_bits: [8, 8]            # weights, activations; any parameter of convert_quant_network
symmetric: [true, false]
layers:                     # other values for some cells, by patterns of their names
  conv1: {num_bits: 8}
  "fc*": {num_bits: [4, 8]}
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import yaml

from qat.errors import QatError
from qat.passes.convert_quant_network import convert_quant_network

LARGEST = 1 << 20  #: characters; a settings file is a page


def read_quant_config(path: str | Path) -> dict[str, Any]:
    """Keyword arguments for convert_quant_network. Raises QatError where the file is none of that."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            data = yaml.safe_load(file.read(LARGEST))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise QatError(f"{path}: cannot be read as YAML ({reason}); see docs/design.md for the form") from None
    known = [name for name in inspect.signature(convert_quant_network).parameters if name != "network"]
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise QatError(f"{path}: holds {type(data).__name__} where names and values are expected, as num_bits: [8, 8]")
    unknown = [key for key in data if key not in known]
    if unknown:
        raise QatError(f"{path}: {unknown[0]!r} is no setting; use {', '.join(known)}")
    layers = data.get("layers") or {}
    if not isinstance(layers, dict) or not all(isinstance(k, str) and isinstance(v, dict) for k, v in layers.items()):
        raise QatError(f"{path}: layers must map patterns of names to settings, as conv1: {{num_bits: 4}}")
    return data

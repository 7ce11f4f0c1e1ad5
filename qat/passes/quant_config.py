"""Settings of convert_quant_network from a YAML file.

num_bits: [8, 8]            # weights, activations; any parameter of convert_quant_network
symmetric: [true, false]
layers:                     # other values for some cells, by patterns of their names
  conv1: {num_bits: 8}
  "fc*": {num_bits: [4, 8]}
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from qat.errors import QatError, shortened
from qat.hints import perhaps
from qat.passes.convert_quant_network import convert_quant_network
from qat.passes.quantizer_settings import check_settings
from qat.quantizers import Quantizer
from qat.reading import read_text, reading

LARGEST = 1 << 16  #: bytes; a settings file is a page
DEEPEST = 20  #: values within values
ADVICE = "write settings as num_bits: [8, 8]; 'qat help quantizers' has the form"


LENGTHS = ("quant_delay", "freeze_bn")  #: settings that count steps


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Plain YAML: an alias, which may stand for itself or for billions of values, is refused, and so is a name given twice."""

    depth = 0  #: of the node that is read

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, f"alias *{event.anchor}: write out what it stands for")
        self.depth += 1
        if self.depth > DEEPEST:
            raise RecursionError
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) < len(names):
            twice = next(name for number, name in enumerate(names) if name in names[:number])
            raise yaml.constructor.ConstructorError(None, None, f"{shortened(twice)} stands twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path, advice: str) -> Any:
    """What a YAML file of settings holds, of a page or a few.

    Args:
        path: of the file.
        advice: what to do where it cannot be read, for the message.

    Returns:
        Plain values: texts, numbers, lists, mappings.

    Raises:
        QatError: it is no YAML, or more than such a file may hold.
    """
    text = read_text(path, f"give a YAML file; {advice}", limit=LARGEST)
    with reading(path, "YAML", advice):
        return yaml.load(text, _Loader)  # (of SafeLoader's kinds alone)


def read_quant_config(path: str | Path, steps: Callable[[str, str], int] | None = None) -> dict[str, Any]:
    """Keyword arguments for convert_quant_network.

    Args:
        path: of the file.
        steps: from the name of a setting and a length as text ("10%") to steps; None: lengths are numbers of steps.

    Returns:
        The arguments by name.

    Raises:
        QatError: where the file does not hold them.
    """
    data = read_yaml(path, ADVICE)
    known = [name for name in inspect.signature(convert_quant_network).parameters if name != "network"]
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise QatError(f"{path}: holds {type(data).__name__} where names and values are expected, as num_bits: [8, 8]")
    unknown = [key for key in data if key not in known]
    if unknown:
        hint = perhaps(unknown[0], known)
        raise QatError(f"{path}: {shortened(unknown[0])} is not a setting{hint}; use {', '.join(known)}")
    try:
        settings: dict[str, Any] = data if steps is None else _in_steps(data, steps)
        check_settings(settings)
    except QatError as error:
        raise QatError(f"{path}: {error}") from None
    return settings


def written_quant_config(settings: Mapping[str, Any]) -> str:
    """The inverse of ``read_quant_config``: settings that differ from the defaults of ``convert_quant_network``, as YAML.

    Args:
        settings: keyword arguments of ``convert_quant_network``; quantizers are written by their class and fields.

    Returns:
        YAML; the number of bits always stands in it.

    Raises:
        QatError: where it is more than such a file may hold.

    >>> from qat.passes.quant_config import written_quant_config
    >>> print(written_quant_config({"num_bits": (4, 8), "layers": {"fc3": {"num_bits": (8, 8)}}}), end="")
    num_bits: [4, 8]
    layers:
      fc3:
        num_bits: [8, 8]
    """
    defaults = {name: x.default for name, x in inspect.signature(convert_quant_network).parameters.items()}

    def plain(value: Any) -> Any:
        if isinstance(value, Quantizer):
            return plain(value.to_json())
        if isinstance(value, Mapping):
            return {str(name): plain(each) for name, each in value.items()}
        if isinstance(value, (list, tuple)):
            return plain(value[0]) if len(value) == 1 else [plain(each) for each in value]
        return value.item() if isinstance(value, np.generic) else value

    told = {"num_bits": defaults["num_bits"], **settings}
    kept = {
        name: plain(value)
        for name, value in told.items()
        if name == "num_bits" or (plain(value) != plain(defaults[name]) and not (name == "layers" and not value))
    }
    flow = (
        None if any(isinstance(value, (dict, list)) for value in kept.values()) else False
    )  # None: the innermost alone
    text = written_yaml(kept, flow=flow)
    if len(text.encode()) > LARGEST:
        raise QatError(
            f"quant_config: settings for {len(kept.get('layers', {}))} layers take more than the {LARGEST:,} bytes that such a "
            "file may have; join them by patterns"
        )
    return text


def written_yaml(data: Mapping[str, Any], *, flow: bool | None = False) -> str:
    """The inverse of ``read_yaml``.

    Args:
        data: plain values, in their order.
        flow: as PyYAML's default_flow_style: False for a line each, None for the innermost on one line.

    Returns:
        YAML without aliases.
    """
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=flow, allow_unicode=True, width=200)
    return text


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes out what stands there twice, since an alias is refused."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _in_steps(settings: dict[str, Any], steps: Callable[[str, str], int]) -> dict[str, Any]:
    """The settings, with steps in place of the lengths in them."""

    def changed(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: changed(str(key), each) for key, each in value.items()}
        if isinstance(value, list):
            return [changed(name, each) for each in value]
        return steps(name, value) if name in LENGTHS and isinstance(value, str) else value

    return {name: changed(name, value) for name, value in settings.items()}

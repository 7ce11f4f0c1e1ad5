"""A quantizer from a few words, as a flag has them: ``lsq``, or with some of its fields ``lsq:num_bits=4,offset=true``."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

import yaml

from qat import hints
from qat.errors import QatError, shortened
from qat.passes.quantizer_settings import PAIRS, QUANTIZERS, pair
from qat.quantizers import ActivationQuantizer, WeightQuantizer
from qat.vocabulary.fields import build
from qat.vocabulary.serial import Serializable

MINMAX = "minmax"  #: what convert_quant_network takes where nothing is said
OF_SETTINGS = (WeightQuantizer, ActivationQuantizer)  #: which the settings of convert_quant_network describe


def quantizer_names(side: str) -> list[str]:
    """The names of all quantizers of a side that are known, as lsq of LSQWeightQuantizer.

    side: "weight_quantizer" or "activation_quantizer".
    """
    return sorted(_known(side))


def named_quantizer(side: str, text: str, settings: Mapping[str, Any], given: Collection[str]) -> Any:
    """The quantizer that is meant.

    Args:
        side: "weight_quantizer" or "activation_quantizer".
        text: a name of ``quantizer_names`` or of a class, and perhaps values of fields: NAME:FIELD=VALUE,FIELD=VALUE.
        settings: of convert_quant_network: num_bits and the others that may be pairs, and ema_decay.
        given: the names of those that are meant for this quantizer, too, where it has such a field; quant_delay always is. A
            min/max quantizer has all of them.

    Returns:
        The quantizer.

    Raises:
        QatError: for an unknown name or field, and a value that the quantizer does not take.
    """
    name, _, options = text.partition(":")
    known = _known(side)
    found = hints.synonym(name, [*known, *(cls.__name__ for cls in known.values())], ())
    if found is None:
        raise QatError(hints.unknown(f"--{side}", name, known))
    cls: Any = known.get(found) or Serializable.registry[found]
    own = [field.name for field in fields(cls) if field.init]
    meant = settings if cls in OF_SETTINGS else {*given, "quant_delay"}
    index = tuple(QUANTIZERS).index(side)
    values = {
        key: pair(value)[index] if key in PAIRS else value
        for key, value in settings.items()
        if key in own and key in meant
    }
    for option in filter(None, options.split(",")):
        field, equals, value = (part.strip() for part in option.partition("="))
        if not equals or field not in own:
            hint = hints.perhaps(field, own)
            raise QatError(
                f"--{side} {shortened(text)}: {shortened(option)} sets no field of {cls.__name__}{hint}; write FIELD=VALUE "
                f"with one of {', '.join(own)}"
            )
        values[field] = _value(value)
    try:
        return build(cls, values)
    except QatError as error:
        raise QatError(f"--{side} {shortened(text)}: {error}") from None


def _known(side: str) -> dict[str, type[Serializable]]:
    """All quantizers of a side, of a user's modules too, by their short names; the last one by its class's name."""
    base, example = QUANTIZERS[side]
    suffix = example.removeprefix("LSQ")
    return {
        (name.removesuffix(suffix).lower() or MINMAX) if name.endswith(suffix) else name: cls
        for name, cls in Serializable.registry.items()
        if issubclass(cls, base) and not inspect.isabstract(cls) and not name.startswith("_")
    }


def _value(text: str) -> Any:
    """A number, true, false or null, as YAML has them; else the text."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, (bool, int, float)) or value is None else text

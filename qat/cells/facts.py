"""What every cell states about itself, so that no pass, metric or pruning has to know its class."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import get_annotations
from typing import Any, Literal, get_args

from qat.errors import QatError

#: Where the numbers of an output come from.
#: moved: each is a number of an input, or a fixed one, so that codes keep their grid and bits.
#: averaged: each is a mean of numbers of one channel (padding counts as 0), so that signs stay, and f(s x) = s f(x) for s > 0.
#: computed: anything else.
#: coded: they are codes of a grid of the cell's own, as wide as its ``code_bits``.
#: convert_quant_network puts a fake quantizer after what is averaged or computed.
OutputNumbers = Literal["moved", "averaged", "computed", "coded"]

#: How channels pass from the inputs to the output, which decides what can be pruned together.
#: kept: every channel of an input has the same number of output channels of its own, in order.
#: joined: the output has the channels of all inputs, one input after another.
#: new: every output channel depends on every input channel; or on none, as zeros.
#: grouped: likewise within each of the cell's ``group`` equal groups of channels.
#: fixed: any other way; neither the channels that it takes nor those that it gives can be removed.
OutputChannels = Literal["kept", "joined", "new", "grouped", "fixed"]

#: What a class has to state: an attribute or a property, and its values.
FACTS: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "output_numbers": ("where the numbers of its output come from", get_args(OutputNumbers)),
    "output_channels": ("how channels pass through it", get_args(OutputChannels)),
    "non_negative": ("whether no number of its output is ever negative", (True, False)),
    "random": ("whether its forward pass draws random numbers in training", (True, False)),
}
#: Of a cell with several inputs.
FACTS_OF_SEVERAL: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "one_grid": ("whether the codes of its inputs must have one scale and zero point", (True, False)),
}


#: What a cell computes. A class that defines one of them anew has to state its facts anew: those of the cell that it is derived
#: from need not be true of it. The last two are those of a linear cell.
COMPUTING = ("forward", "output_shape", "to_integer", "apply", "integer_node")


def check_facts(cls: type[Any], base: type[Any]) -> None:
    """Check a subclass of Cell where it is defined.

    Args:
        cls: the subclass.
        base: Cell itself.

    Raises:
        QatError: a fact is not stated, is inherited from a cell that computes something else, has a wrong value or contradicts
            another; or a method is missing that another one makes necessary.
    """
    several = cls.arity is None or cls.arity > 1
    facts = {**FACTS, **FACTS_OF_SEVERAL} if several else FACTS
    for name, (what, values) in facts.items():
        words = " or ".join(map(repr, values))
        if not hasattr(cls, name):
            raise QatError(
                f"{cls.__name__}: the class does not state {name}, {what}; passes, metrics and pruning would have to guess: "
                f"add {name} = {words} (their meanings: qat.cells.facts)"
            )
        place = next(index for index, each in enumerate(cls.__mro__) if name in vars(each))
        owner, derived = cls.__mro__[place], cls.__mro__[:place]
        anew = next((method for method in COMPUTING if any(method in vars(each) for each in derived)), None)
        if anew and not getattr(owner, "is_abstract", True):  # else it is a base, which states them for its subclasses
            raise QatError(
                f"{cls.__name__}: the class defines {anew} but takes {name}, {what}, from {owner.__name__}, which computes "
                f"something else; add {name} = {words} (their meanings: qat.cells.facts)"
            )
        stated = getattr(cls, name)
        is_property = hasattr(type(stated), "__get__") and not callable(stated)
        if not is_property and not any(type(stated) is type(value) and stated == value for value in values):
            raise QatError(f"{cls.__name__}: {name} is {stated!r}, {what}; use {words}")
    if several and cls.output_numbers == "moved" and cls.one_grid is not True:
        raise QatError(
            f'{cls.__name__}: output_numbers is "moved", so that codes of several inputs meet in one output, but '
            'one_grid is not True; add one_grid = True, or state output_numbers = "computed"'
        )
    if cls.output_channels == "grouped" and not _has(cls, "group"):
        raise QatError(
            f'{cls.__name__}: output_channels is "grouped", but how many groups there are is unknown, so that channels '
            "cannot be pruned; add a field or property group"
        )
    if cls.params is not base.params:
        raise QatError(
            f"{cls.__name__}: defines params, which does not tell what is trained from what belongs to a quantizer; define "
            "float_params, and quantizer_params if it has a quantizer"
        )
    for given, needed, why in (
        ("float_params", "macs", "what it costs is unknown"),
        ("float_params", "deployed_parameters", "how many parameters it deploys is unknown"),
        ("float_params", "with_channels", "it cannot be made smaller when channels are pruned"),
        ("float_params", "sliced", "its parameters cannot be cut when channels are pruned"),
    ):
        if getattr(cls, given) is not getattr(base, given) and getattr(cls, needed) is getattr(base, needed):
            raise QatError(f"{cls.__name__}: defines {given} but not {needed}, so that {why}; define it too")
    if cls.output_numbers == "coded" and cls.code_bits is base.code_bits:
        raise QatError(f"{cls.__name__}: makes codes of its own, but how wide they are is unknown; define code_bits")


def _has(cls: type[Any], name: str) -> bool:
    """Whether instances have it: as an attribute or property of the class, or as a field without a default."""
    return hasattr(cls, name) or any(name in get_annotations(each) for each in cls.__mro__)

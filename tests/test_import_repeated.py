"""What a source computes twice of the same values is computed once."""

from __future__ import annotations

import numpy as np
from import_sources import conv, opened, program

import qat
from qat.imports.program import Operation
from qat.imports.repeated import once


def test_equal_activations_are_one_and_others_stay() -> None:
    def clip(value: str, output: str, high: float | None) -> Operation:
        return Operation("clip", output, (value,), output, {"low": 0.0, "high": high})

    def add(value: str, output: str, number: float) -> Operation:
        return Operation("add", output, (value,), output, {}, {"other": np.array(number, np.float32)})

    source = program(
        conv("c", "x"),
        clip("c_out", "a", 6.0),
        clip("c_out", "b", 6.0),
        clip("c_out", "d", None),
        add("a", "e", 1.0),
        add("b", "f", 1.0),
        add("b", "g", 2.0),
        Operation("add", "h", ("e", "f"), "h"),
        Operation("add", "i", ("h", "g"), "i"),
        Operation("add", "j", ("i", "d"), "j"),
    )
    found = once(source)
    assert [each.output for each in found.operations] == ["c_out", "a", "d", "e", "g", "h", "i", "j"]
    assert found.operations[5].inputs == ("e", "e")
    assert found.operations[4].inputs == ("a",)
    assert qat.import_model(opened(source)).difference is not None


def test_equal_layers_stay_two_and_an_output_may_be_what_repeats() -> None:
    first, second = conv("c", "x"), conv("d", "x")
    assert len(once(program(first, second)).operations) == 2
    one, two = (Operation("clip", name, ("c_out",), name, {"low": 0.0, "high": 6.0}) for name in "ab")
    found = once(program(first, one, two))
    assert found.outputs == ("a",)

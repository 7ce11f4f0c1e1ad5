"""tests/random_graphs.py: what it counts, and that it sees a code that differs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import random_graphs

import qat
from qat.cli import run_script


def run(*arguments: str) -> int:
    return run_script(random_graphs.add_arguments, random_graphs.run, "", arguments)


def test_a_few_graphs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--graphs", "3", "--engines", "torch", "onnx") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["seed 0: 3 graphs, 0 differ", "3 graphs"]
    assert [line.partition(":")[0] for line in lines[2:4]] == ["torch", "onnx"]
    assert all(line.endswith("codes of 3 graphs") for line in lines[2:4])
    assert "Input 3" in lines[4]
    assert lines[-1] == "0 nodes or outputs differ"


def test_a_code_that_differs_is_seen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made = random_graphs.made

    def wrong(*args: Any) -> Any:
        engine = made(*args)

        def trace(pixels: Any, tensors: Any) -> dict[str, Any]:
            found = engine.trace(pixels, tensors)
            return found | {name: codes + 2 for name, codes in found.items() if name == tensors[-1].name}

        return replace(engine, trace=trace)

    monkeypatch.setattr(random_graphs, "made", wrong)
    assert run("--graphs", "2", "--engines", "torch") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "2 nodes or outputs differ"
    assert lines[0].startswith("torch, ")
    assert lines[0].endswith(", by 2")


def test_refusals_are_counted_by_reason() -> None:
    found = random_graphs.Found()
    for name, number in (("cells.c1", "3.5e-7"), ("cells.c20.fake_quant", "12,000")):
        found.refuse("tflite", qat.QatError(f"{name}: its multiplier is {number}, too small; use fewer bits"))
    assert found.refused == {"tflite": Counter({"its multiplier is #, too small": 2})}


def test_what_was_found_is_reported_where_it_is_interrupted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def chunk(number: int, count: int, engines: list[str], found: random_graphs.Found, arithmetic: str) -> None:
        if number == 8:
            raise KeyboardInterrupt
        found.graphs.update({"drawn": count, "torch": count})
        found.codes["torch"] += 1234

    monkeypatch.setattr(random_graphs, "chunk", chunk)
    assert run("--graphs", "500", "--first_seed", "7", "--engines", "torch") == 130
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["seed 7: 20 graphs, 0 differ", "interrupted in seed 8; until then:", "20 graphs"]
    assert lines[3] == "torch: 1,234 codes of 20 graphs"

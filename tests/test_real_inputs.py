"""benchmarks/real_inputs.py: random real numbers and all ties have the same codes everywhere."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from benchmark_scripts import loaded
from frameworks import HERE

from qat.integer import trace_codes


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return loaded("real_inputs")


@pytest.mark.sweep
@pytest.mark.parametrize("largest", [1e-3, 1.0, 3e4])
def test_no_code_differs(benchmark: ModuleType, largest: float) -> None:
    rows = [*benchmark.compared(2000, largest, 0, HERE, [*benchmark.FILES])]
    assert {row.engine for row in rows} == {*HERE, *benchmark.FILES}
    assert [row for row in rows if row.differ or row.codes < 2000 * 100] == []


def test_ties_are_compared_and_a_wrong_code_is_counted(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """With halves rounded up, not to even, every other tie differs."""
    (row,) = benchmark.compared(20, 1.0, 0, ["torch"], [])
    assert (row.engine, row.arithmetic, row.differ) == ("torch", "float", 0)

    def rounded_up(graph, samples, names, *, arithmetic):
        found = trace_codes(graph, samples, names, arithmetic=arithmetic)
        entry = graph.nodes[0]
        grid = entry.output.grid
        with np.errstate(over="ignore"):
            steps = np.floor(samples * np.float32(entry.requantize.multiplier[0]) + 0.5)
        return found | {entry.name: (np.clip(steps, grid.low, grid.high) + grid.zero_point).astype(np.int32)}

    monkeypatch.setattr(benchmark, "trace_codes", rounded_up)
    (row,) = benchmark.compared(20, 1.0, 0, ["torch"], [])
    assert row.differ > 50

"""What networks cost on emulated processors does not grow: their instructions, flash, RAM and stack in ``instructions.json``.

They are counted and always the same, so that the smallest loss of speed shows. Where they are meant to change:
``python benchmarks/cortex_m.py --pin tests/instructions.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from benchmark_scripts import loaded
from test_c import emulated

import qat
from qat.integer import evaluate
from qat.targets.c.cortex_m.cores import emulator, missing_tools
from qat.targets.c.cortex_m.measure import measure

PINNED = json.loads((Path(__file__).parent / "instructions.json").read_text(encoding="utf-8"))
MORE = {"instructions": 1.02, "flash": 1.02, "ram": 1.02, "stack": 1.1}  #: how many times as much is still no failure
HERE = "" if missing_tools() else emulator()
of_this_compiler = pytest.mark.skipif(
    HERE.split(",")[0] != PINNED["by"].split(",")[0],
    reason=f"another compiler makes other code: counted is that of {PINNED['by']}",
)


def grown(found: Mapping[str, int], pinned: Mapping[str, int]) -> dict[str, str]:
    """What takes more than it may, with both numbers."""
    return {
        key: f"{found[key]:,}, was {pinned[key]:,}" for key, most in MORE.items() if found[key] > most * pinned[key]
    }


@emulated
@of_this_compiler
@pytest.mark.parametrize(
    ("network", "core"), [(name, core) for name, cores in PINNED["networks"].items() for core in cores]
)
def test_a_network_takes_no_more_than_it_did(
    network: str, core: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = loaded("cortex_m")
    integers, x = script.fresh(network, 1)
    qat.target("C").export(integers, tmp_path / "network.c", arithmetic="fixed")
    measured = measure(tmp_path / "network.c", x, core)
    np.testing.assert_array_equal(measured.outputs[0], evaluate(integers, x, arithmetic="fixed"))
    found = script.figures(measured)
    with capsys.disabled():
        print(f" [{network}, {core}: {found['instructions']:,} instructions]", end="")
    assert grown(found, PINNED["networks"][network][core]) == {}


def test_what_grows_is_found() -> None:
    pinned = {"instructions": 1_000_000, "flash": 30_000, "ram": 6_000, "stack": 400}
    assert grown(pinned, pinned) == {}
    assert grown(pinned | {"instructions": 1_020_000, "flash": 20_000}, pinned) == {}
    assert grown(pinned | {"instructions": 1_020_001}, pinned) == {"instructions": "1,020,001, was 1,000,000"}

"""The README's own words, run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parent.parent / "README.md"


def test_the_library_example_runs_and_its_codes_are_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(example, "README.md", "exec"), names)
    np.testing.assert_array_equal(names["codes"], names["same"])
    assert (tmp_path / "lenet.onnx").is_file()
    assert names["certificate"].passed  # type: ignore[attr-defined]


def test_every_script_it_names_exists() -> None:
    text = README.read_text(encoding="utf-8")
    scripts = set(re.findall(r"(?:scripts|benchmarks)/\w+\.py", text))
    assert len(scripts) > 6
    assert all((README.parent / script).is_file() for script in scripts)

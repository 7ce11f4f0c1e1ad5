"""What several test files share."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Fixed examples: a test passes or fails the same way everywhere. QAT_FUZZ=1 draws new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=2000)
settings.load_profile("fuzz" if os.environ.get("QAT_FUZZ") else "fixed")


@pytest.fixture(autouse=True)
def _few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that tests start share the cores with other tests."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

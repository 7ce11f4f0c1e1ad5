"""What several test files share."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Fixed examples: a test passes or fails the same way everywhere. QAT_FUZZ=1 draws new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=2000)
settings.load_profile("fuzz" if os.environ.get("QAT_FUZZ") else "fixed")


def pytest_collection_finish() -> None:
    """All that was imported, three frameworks in most runs, stays: no collection of garbage looks at it again, so that each
    takes milliseconds and not a second, and what a test leaves is freed soon.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _mindspore_for_many_networks() -> Iterator[None]:
    """MindSpore's threads wait for operations in a loop that takes a core from other tests, so Python waits for each
    operation instead. What it keeps of compiled networks is freed after each file of tests.
    """
    if "mindspore" not in sys.modules:
        yield
        return
    import mindspore as ms

    ms.set_context(pynative_synchronize=True)
    yield
    gc.collect()
    ms.ms_memory_recycle()


@pytest.fixture(autouse=True)
def _long_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands break no line, so that tests find what they look for; tests/test_output.py looks at 80 columns."""
    monkeypatch.setenv("COLUMNS", "1000")


@pytest.fixture(autouse=True)
def _few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that tests start share the cores with other tests."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

"""Tables on a terminal and elsewhere: nothing in them is cut off, or read as markup."""

from __future__ import annotations

import pytest

from qat.console import print_table

ROWS = [("[/red] pip install 'qat-engine[keras]'", "123,456,789"), ("conv", "26,657,280")]


@pytest.mark.parametrize("columns", ["30", "200"])
@pytest.mark.parametrize("terminal", ["", "xterm", "dumb"])
def test_a_table_shows_every_character(
    columns: str, terminal: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", terminal)
    print_table("What [it] is", ("layer [name]", "MACs"), ROWS)
    out = capsys.readouterr().out
    for text in ("What [it] is", "layer [name]", *(cell for row in ROWS for cell in row)):
        assert all(word in out for word in text.split())

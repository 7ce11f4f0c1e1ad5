"""docs/own_data.md, run from its text: each kind of data is trained, calibrated, exported and verified by commands alone."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from command import run
from frameworks import but_long

PAGE = (Path(__file__).parent.parent / "docs" / "own_data.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*)\n((?:(?!## ).*\n?)*)", PAGE, re.MULTILINE))
ALL_ALIKE = "From there on"
#: The main metric of each, as commands print it behind its label, and in certificates.
METRICS = {
    "Pictures in class folders": "Accuracy",
    "Features with a scale": "Accuracy",
    "Windows of an accelerometer": "Accuracy",
    "Anomalies": "AUC",
    "A regression": "MAE",
    "Several labels": "F1 micro",
    "A class for each pixel": "mean IoU",
}
#: What is better than guessing.
BETTER = {
    "Features with a scale": lambda value: value > 30,
    "Windows of an accelerometer": lambda value: value > 50,
    "Anomalies": lambda value: value > 0.7,
    "A regression": lambda value: value < 0.8,
    "Several labels": lambda value: value > 0.6,
}

#: Those whose networks take ten seconds and more; other tests read such data too (test_networks_fitted.py).
LONG = {"Pictures in class folders", "Features with a scale", "A class for each pixel"}


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SECTIONS[section], re.DOTALL)


def commands(section: str) -> list[list[str]]:
    return [shlex.split(line) for block in blocks(section, "sh") for line in block.splitlines()]


def figures(out: str, metric: str) -> list[str]:
    """The values of a metric in lines that begin with it."""
    return re.findall(rf"^{metric}(?: before| after)?: *([\d.]+)", out, re.MULTILINE)


def test_every_section_is_run() -> None:
    assert {*SECTIONS} == {*METRICS, ALL_ALIKE}


@pytest.mark.parametrize("section", but_long(METRICS, LONG.__contains__))
def test_data_of_ones_own(
    section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for code in blocks(section, "python"):
        exec(compile(code, "own_data.md", "exec"), {})
    metric, path = METRICS[section], ""
    trained = ""
    for _, *arguments in commands(section):
        status, out, err = run(capsys, *arguments)
        assert (status, err) == (0, ""), arguments
        path, trained = (arguments[arguments.index("--data_path") + 1], out) if "train" in arguments else ("", "")
    assert re.search(r" for .*: takes \w+ \(N, .*\), gives \d+", trained)
    (before,) = figures(trained, metric)
    assert section not in BETTER or BETTER[section](float(before))
    deployed = []
    for _, name, *arguments in commands(ALL_ALIKE):
        status, out, err = run(capsys, name, *(path if x == "DATA" else x for x in arguments))
        assert (status, err) == (0, ""), (name, arguments)
        if name == "eval":
            assert figures(out, metric) == [before]
        elif name == "calibrate":
            first, after = figures(out, metric)
            assert first == before
        elif name == "eval-quant":
            assert figures(out, metric) == [after]
        elif name == "evaluate":
            deployed += figures(out, metric)
        else:
            certified = [line for line in out.splitlines() if "codes compared in" in line]
            assert len(certified) == 2
            assert all(
                re.search(r"[\d,]+ codes compared in .*, 0 differ( from the float arithmetic.*)?$", x)
                for x in certified
            )
            assert len(re.findall(rf"│ +{re.escape(after)}(?: %)? │", out)) == 3
    assert deployed[:2] == [after, after]
    assert len(deployed) == 3

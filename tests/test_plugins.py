"""A backend, a target, a network and a data reader of another package, reached from Python and from the command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from calibrations import calibrate
from command import run
from test_readme import run_python

import qat
from qat import plugins
from qat.cli import run_script
from qat.deploy.interfaces import Option
from qat.networks import LeNet5, create
from qat.registry import BACKENDS, TARGETS, formats, installed, suffixed, target_of
from qat.vocabulary.serial import Serializable

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    "backend": """
        from qat.backends.torch.network import *
        NAME, PACKAGES = "Elsewhere", ("torch",)
        """,
    "target": """
        from qat.deploy.interfaces import Option
        from qat.targets.onnx.target import input_specs, predict, trace, write_metadata, runtime
        from qat.targets.onnx import target as onnx
        NAME, SUFFIX, ARITHMETICS, RUNS_CODE = "BOXED", ".boxed", ("float",), True
        OPTIONS = (Option("lid", ("open", "shut"), "100 % of how it looks"), Option("packing", ("loose", "tight"), "x"))
        def export(graph, path, *, lid="open", packing="loose"):
            onnx.export(graph, path)
            write_metadata(path, {"lid": lid + packing})
        """,
    "data": """
        import numpy as np
        from qat.data import Dataset, Split
        def read(where):
            rng = np.random.default_rng(int(where))
            split = Split(rng.integers(0, 256, (128, 1, 6, 6), np.uint8), np.arange(128) % 3)
            return Dataset("noise", "nowhere", split, split)
        """,
    "network": """
        import qat
        class Tiny(qat.Network):
            inputs = qat.Input((1, 6, 6), mean=0.5, std=0.25)
            def __init__(self):
                super().__init__()
                self.flatten = qat.Flatten()
                self.fc = qat.DenseBnAct(36, 3)
            def construct(self, x):
                return self.fc(self.flatten(x))
        """,
}
OWN_CELL = """
from dataclasses import dataclass
import qat
@dataclass(frozen=True)
class OwnSquare(qat.Cell):
    output_numbers = "computed"
    output_channels = "kept"
    non_negative = True
    random = False
    one_grid = False
    def output_shape(self, shape):
        return shape
    def forward(self, scope, x):
        return x
class OwnNet(qat.Network):
    inputs = qat.Input((1, 4, 4))
    def __init__(self):
        self.square = OwnSquare()
    def construct(self, x):
        return self.square(x)
"""
ENTRIES = {
    "qat.backends": {"Elsewhere": "backend"},
    "qat.targets": {"BOXED": "target"},
    "qat.data": {"noise": "data:read"},
    "qat.networks": {"tiny": "network:Tiny"},
}
NEEDS = pytest.mark.skipif(
    not (installed(BACKENDS["torch"]) and installed(TARGETS["ONNX"])),
    reason="its backend wraps PyTorch's, its target ONNX's",
)


def install(folder: Path, package: str, modules: dict[str, str], entries: dict[str, dict[str, str]]) -> Path:
    """What pip would make of a package: a folder of modules, and its metadata beside it."""
    (folder / package).mkdir(parents=True)
    for name, text in {"__init__": "", **modules}.items():
        (folder / package / f"{name}.py").write_text(
            "\n".join(line[8:] for line in text.splitlines()), encoding="utf-8"
        )
    info = folder / f"{package}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n", encoding="utf-8")
    groups = (
        "\n".join((f"[{group}]", *(f"{name} = {package}.{value}" for name, value in each.items())))
        for group, each in entries.items()
    )
    (info / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
    return folder


Install = Callable[..., Path]


@pytest.fixture
def installed_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """``install`` into a folder of sys.path, as if this process had begun with it."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    before = set(sys.modules)

    def act(package: str, modules: dict[str, str], entries: dict[str, dict[str, str]]) -> Path:
        folder = install(tmp_path / "site", package, modules, entries)
        plugins._found.cache_clear()
        return folder

    yield act
    plugins._found.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith("other"):
            del sys.modules[name]


# -- from Python ----------------------------------------------------------------------------------------------------------


@NEEDS
def test_each_kind_is_found_by_its_name(installed_here: Install) -> None:
    installed_here("other", MODULES, ENTRIES)
    assert qat.backend("elsewhere") is qat.backend("Elsewhere") is sys.modules["other.backend"]
    assert qat.target("boxed") is target_of("net.boxed") is sys.modules["other.target"]
    assert {"Elsewhere", *BACKENDS} <= set(qat.backend_names())
    assert {"BOXED", *TARGETS} <= set(qat.target_names())
    assert type(create("Tiny")) is sys.modules["other.network"].Tiny
    found = qat.data.load("noise:3")
    assert (found.name, found.source, len(found.train)) == ("noise", "noise:3", 128)


def test_nothing_is_imported_before_it_is_asked_for(installed_here: Install) -> None:
    installed_here("other", {"broken": "        raise SystemError('boom')"}, {"qat.backends": {"x": "broken"}})
    assert "x" in qat.backend_names()
    create("lenet")
    assert "other.broken" not in sys.modules


def refused(message: str, act: Callable[[], Any]) -> None:
    with pytest.raises(qat.QatError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["raise SystemError('boom')", "import no_such_package", "1 +", "x = 1"])
def test_a_broken_package_is_an_error_for_whoever_asks_for_it_by_name_alone(installed_here: Install, text: str) -> None:
    entries = {group: {"bad": "broken:main"} for group in ENTRIES}
    installed_here("other", {"broken": f"        {text}"}, entries)
    for what, act in (
        ("backend", lambda: qat.backend("bad")),
        ("file format", lambda: qat.target("BAD")),
        ("network", lambda: create("bad")),
        ("data reader", lambda: qat.data.load("bad:1")),
    ):
        refused(rf"^{what} 'bad' of the package other cannot be imported \(\w+: .*\); install what it needs", act)
    assert "bad" not in formats()
    assert suffixed("net.onnx") == "ONNX"
    assert type(create("lenet")) is LeNet5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("del predict, RUNS_CODE", r"^file format 'BOXED' of other 1\.5 has no RUNS_CODE, predict, which "),
        (
            "NAME = 'BAGGED'",
            "calls itself 'BAGGED', but files record that name; give its entry point and its NAME the same",
        ),
        ("SUFFIX = '.onnx'", "its SUFFIX '.onnx' is that of ONNX; choose another"),
        ("SUFFIX = ''", "its SUFFIX '' is no ending of a file; choose another"),
        ("SUFFIX = '.Boxed'", "its SUFFIX '.Boxed' is no ending of a file"),
        ("SUFFIX = None", "its SUFFIX None is no ending of a file"),
        ("OPTIONS = ('lid',)", "its OPTIONS are .*; give a tuple of qat.deploy.interfaces.Option"),
        ("OPTIONS = None", "its OPTIONS are None; give a tuple of"),
        ("ARITHMETICS = ('exact',)", "its ARITHMETICS are .*; give a tuple of float or fixed"),
        ("ARITHMETICS = ()", "its ARITHMETICS are .*; give a tuple of float or fixed"),
        ("ARITHMETICS = 3", "its ARITHMETICS are 3; give a tuple of float or fixed"),
        ("Option('a b', ('x',), '')", "cannot be imported .*Option: name 'a b' can be no keyword"),
        ("Option('a', (), '')", "cannot be imported .*Option 'a': choices are .*; give strings, the default first"),
    ],
)
@NEEDS
def test_a_target_that_would_harm_others_is_refused_by_name(installed_here: Install, change: str, message: str) -> None:
    text = f"{MODULES['target']}\n        {change}"
    installed_here("other", {"target": text}, {"qat.targets": {"BOXED": "target"}})
    refused(message, lambda: qat.target("BOXED"))
    assert "BOXED" not in formats()


def test_our_own_names_come_first_and_the_other_package_is_named(installed_here: Install) -> None:
    module = {"mine": "        raise SystemError('imported')"}
    installed_here("other", module, {"qat.targets": {"c": "mine"}, "qat.networks": {"lenet": "mine"}})
    words = "the package other adds another of that name, which is not used"
    with pytest.warns(UserWarning, match=f"^file format 'C': {words}"):
        assert qat.target("c").__name__ == "qat.targets.c.target"
    with pytest.warns(UserWarning, match=f"^network 'lenet': {words}"):
        assert type(create("lenet")) is LeNet5
    assert [name for name in qat.target_names() if name.lower() == "c"] == ["C"]


def test_a_command_says_in_one_line_and_once_that_a_name_is_taken(
    installed_here: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    installed_here("other", MODULES, {"qat.networks": {"lenet": "network:Tiny"}})
    status, _, err = run(capsys, "summary", "--network", "lenet")
    assert status == 0
    assert re.fullmatch("note: network 'lenet': the package other adds another of that name, .* another name\n", err)


def test_other_warnings_of_a_command_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(DeprecationWarning, match="^old$"):
        run_script(lambda parser: None, lambda args: warnings.warn("old", DeprecationWarning, stacklevel=1), "", [])
    assert capsys.readouterr().err == ""


def test_a_name_that_two_packages_have_is_refused(installed_here: Install) -> None:
    for package in ("other", "other2"):
        installed_here(package, {"network": MODULES["network"]}, {"qat.networks": {"tiny": "network:Tiny"}})
    refused(
        "^network 'tiny' is added by the package other2? and by the package other2?, .* uninstall",
        lambda: create("tiny"),
    )


def test_what_is_added_under_a_name_must_be_of_its_kind(installed_here: Install) -> None:
    installed_here("other", MODULES, {"qat.networks": {"tiny": "data:read"}, "qat.data": {"noise": "data:int"}})
    refused("^network 'tiny' is no qat.Network", lambda: create("tiny"))
    (Path(sys.path[0]) / "other" / "data.py").write_text("int = int", encoding="utf-8")
    sys.modules.pop("other.data")
    refused(
        "^noise:3: data reader 'noise' of other 1.5 gives a int, no qat.data.Dataset", lambda: qat.data.load("noise:3")
    )


def test_a_reader_that_fails_is_named_in_one_line(
    installed_here: Install, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    installed_here("other", MODULES, ENTRIES)
    refused(
        r"^noise:abc: data reader 'noise' of other 1\.5 failed \(ValueError: invalid",
        lambda: qat.data.load("noise:abc"),
    )
    out = tmp_path / "out"
    status, _, err = run(capsys, "create-data", "--data_path", "noise:abc", "--out", out)
    assert (status, err.count("\n")) == (2, 1)
    path = Path(sys.path[0]) / "other" / "data.py"
    path.write_text("import qat\ndef read(where):\n    raise qat.QatError('my own words')", encoding="utf-8")
    sys.modules.pop("other.data")
    refused("^my own words$", lambda: qat.data.load("noise:3"))


def test_a_folder_whose_name_begins_as_no_reader_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused("^C:/data: there is nothing here", lambda: qat.data.load("C:/data"))


def test_a_folder_that_is_not_there_names_the_readers_that_are(installed_here: Install) -> None:
    installed_here("other", MODULES, ENTRIES)
    refused("^nowhere: .*, or the word 'digits'.*, or noise:...; qat data mnist", lambda: qat.data.load("nowhere"))


def test_options_of_a_target_say_what_is_wrong_with_them() -> None:
    assert Option("x", ("a", "b"), "y").choices[0] == "a"
    refused("^Option: name '' can be no keyword", lambda: Option("", ("a",), "y"))


# -- from the command line ------------------------------------------------------------------------------------------------


@NEEDS
def test_a_process_of_its_own_shows_what_is_added_in_its_help(tmp_path: Path) -> None:
    site = install(tmp_path / "site", "other", MODULES, ENTRIES)
    done = subprocess.run(
        [sys.executable, "-m", "qat.cli", "export", "--help"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(site)))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    words = re.sub(r"\s+", " ", done.stdout)
    assert re.search("--file_format {ONNX,TFLITE,ASCEND_ONNX,MINDIR,AIR,C,.*BOXED", words)
    assert "--lid {open,shut} of BOXED: 100 % of how it looks (default: open)" in words
    assert "--packing {packed,bytes,loose,tight} of ONNX, TFLITE and C: weights of 4 bits and fewer" in words
    assert "(default: packed); of BOXED: x (default: loose)" in words
    assert re.search("--backend {torch,keras,mindspore,.*Elsewhere", words)
    assert "or noise:..." in words


@NEEDS
def test_the_whole_path_in_the_command_line(
    installed_here: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The package's network is trained in its backend on what its reader reads, quantized, exported by its target with its
    options, verified.
    """
    installed_here("other", MODULES, ENTRIES)
    monkeypatch.chdir(tmp_path)

    def done(words: str) -> str:
        status, out, err = run(capsys, *words.split())
        assert (status, err) == (0, ""), out + err
        return out

    done("train --backend elsewhere --network tiny --data_path noise:3 --epochs 1 --save_path net.ckpt")
    done("calibrate --backend elsewhere --ckpt_path net.ckpt --data_path noise:3 --images 40 --save_path q.ckpt")
    written = (
        "export --backend elsewhere --ckpt_path q.ckpt --file_format boxed --file_name net --lid shut --packing tight"
    )
    assert "noise, test samples" in done(written)  # those that the checkpoint remembers
    assert b"shuttight" in (tmp_path / "net.boxed").read_bytes()
    verified = "verify --model net.boxed --ckpt_path q.ckpt --data_path noise:3 --backend elsewhere"
    assert "0 differ" in done(f"{verified} --trust")
    status, _, err = run(capsys, *verified.split())
    assert (status, err.count("\n")) == (2, 1)
    assert "net.boxed: holds code" in err


@NEEDS
def test_the_doctor_lists_what_is_added_and_what_of_it_is_broken(
    installed_here: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    broken = {"broken": "        import no_such_package"}
    broken["refusing"] = MODULES["network"].replace("36, 3", "35, 3")
    entries = {group: {**own, "bad": "broken:x"} for group, own in ENTRIES.items() if group != "qat.backends"}
    entries["qat.networks"]["wrong"] = "refusing:Tiny"
    installed_here("other", MODULES | broken, {**entries, "qat.backends": {"bad": "broken"}})
    status, out, err = run(capsys, "doctor", "--quick")
    assert (status, err) == (1, "")
    assert re.search(r"format BOXED[ │]+other 1\.5[ │]+installed", out)
    assert re.search(r"network tiny[ │]+other 1\.5[ │]+installed", out)
    assert re.search(r"data reader noise[ │]+other 1\.5[ │]+installed", out)
    for kind, what in (("backend",) * 2, ("format", "file format"), ("network",) * 2, ("data reader",) * 2):
        assert re.search(rf"{kind} bad[ │]+other 1\.5[ │]+FAILS[ │]+see below", out)
        assert f"\n{kind} bad: {what} 'bad' of the package other cannot be imported (ModuleNotFoundError: " in out
    assert re.search(r"network wrong[ │]+other 1\.5[ │]+FAILS", out)
    assert "\nnetwork wrong: fc (DenseBnAct)" in out
    assert max(map(len, out.partition("\nbackend bad:")[0].splitlines())) < 120


def test_a_checkpoint_with_a_cell_of_ones_own_is_read_by_commands_that_import_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("others_net.py").write_text(OWN_CELL, encoding="utf-8")
    graph = create("others_net:OwnNet").graph()
    qat.Checkpoint(graph, graph.initial_params(0)).save("own.ckpt")
    summary = ("summary", "--ckpt_path", "own.ckpt")
    monkeypatch.delitem(sys.modules, "others_net")  # as in a process that has not imported it
    monkeypatch.delitem(Serializable.registry, "OwnSquare")
    status, _, err = run(capsys, *summary)
    assert (status, err.count("\n")) == (2, 1)
    assert "'OwnSquare' is not a known cell: import the module that defines it" in err
    assert "--import MODULE" in err
    status, out, err = run(capsys, *summary, "--import", "json", "--import", "others_net")
    assert (status, err) == (0, "")
    assert "square" in out


@pytest.mark.parametrize("text", ["1 +", "raise SystemError('boom')", "import no_such_package"])
def test_a_module_to_import_that_fails_is_one_line(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("others_bad.py").write_text(text, encoding="utf-8")
    status, _, err = run(capsys, "summary", "--network", "lenet", "--import", "others_bad")
    assert (status, err.count("\n")) == (2, 1)
    assert re.search(r"--import others_bad: cannot be imported \(\w+: .*\); give the name of a module", err)


@NEEDS
def test_an_option_with_the_name_of_a_flag_is_refused_by_name_and_harms_no_other_format(
    installed_here: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    text = MODULES["target"] + "\n        OPTIONS = (Option('backend', ('a',), 'x'),)"
    installed_here("other", {"target": text}, {"qat.targets": {"BOXED": "target"}})
    start = ("export", "--ckpt_path", "none", "--file_name", "net", "--file_format")
    status, _, err = run(capsys, *start, "BOXED")
    assert (status, err.count("\n")) == (2, 1)
    assert "--file_format BOXED: its option 'backend' has the name of a flag of this command" in err
    assert "error: none: " in run(capsys, *start, "ONNX")[2]


@NEEDS
def test_a_value_that_only_another_format_has_is_refused(
    installed_here: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    installed_here("other", MODULES, ENTRIES)
    start = ("export", "--ckpt_path", "none", "--file_name", "net", "--file_format", "ONNX", "--packing")
    assert "error: --packing tight: of ONNX it is one of packed, bytes; choose one" in run(capsys, *start, "tight")[2]
    assert "error: none: " in run(capsys, *start, "bytes")[2]


@NEEDS
def test_a_backend_without_parameter_files_is_refused_by_the_commands_for_these(
    installed_here: Install, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = MODULES["backend"] + "\n        del load_params"
    installed_here("other", {"backend": text}, {"qat.backends": {"Elsewhere": "backend"}})
    paths = ("--file", tmp_path / "x.pt", "--ckpt_path", tmp_path / "x.ckpt")
    status, _, err = run(capsys, "import-params", "--backend", "elsewhere", *paths)
    assert (status, err.count("\n")) == (2, 1)
    assert "--backend Elsewhere: its framework has no files of parameters" in err


def test_the_network_and_the_reader_of_the_documentation_work() -> None:
    names = run_python("docs/extending.md")
    graph, dataset = names["Tiny"]().graph(), names["read"]("200")
    assert len(dataset.train) == len(dataset.test) == 100
    checkpoint = calibrate(graph, graph.initial_params(), dataset.train.images)
    assert qat.evaluate(qat.to_integer(checkpoint.graph, checkpoint.params), dataset.test.images).shape == (100, 10)
    with pytest.raises(qat.QatError, match=r"^noise:many: give a number of samples"):
        names["read"]("many")

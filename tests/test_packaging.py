"""What is built and installed, what is imported by what, and how backends are found."""

import ast
import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import get_type_hints

import pytest

import qat
from qat.deploy.interfaces import Target, TrainingBackend
from qat.errors import QatError
from qat.registry import BACKENDS, TARGETS, target_of

ROOT = Path(__file__).resolve().parents[1]
LINKS = ["backends", "networks", "scripts"]  #: beside qat, to the folders in it
NOT_CORE = ["backends", "targets", "networks", "scripts"]
FRAMEWORKS = ["torch", "tensorflow", "keras", "mindspore", "onnx", "onnxruntime", "sklearn"]


def run(*command, cwd=ROOT, path=ROOT, check=True):
    """Standard output of a command, which may import only from ``path`` and what is installed."""
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def run_python(code, **options):
    return run(sys.executable, "-W", "error", "-c", code, **options).stdout.strip()


# -- what importing brings in ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["qat", "qat.cli", "qat.networks", "qat.data", "qat.registry"])
def test_importing_the_core_imports_no_framework(module):
    code = f"import {module}, sys; print([name for name in {FRAMEWORKS} if name in sys.modules])"
    assert run_python(code) == "[]"


def test_importing_qat_imports_no_backend_network_or_script():
    found = "[name for name in sys.modules if name.startswith(('qat.backends', 'qat.targets', 'qat.networks', 'qat.scripts'))]"
    assert run_python(f"import qat, sys; print({found})") == "[]"


def test_every_name_of_qat_is_there_and_those_that_cost_time_come_when_they_are_used():
    code = "import qat, sys; before = 'rich' in sys.modules; "
    code += "missing = [name for name in qat.__all__ if getattr(qat, name, None) is None or name not in dir(qat)]; "
    code += "print(before, missing, qat.train.__module__, qat.networks.LeNet5.__name__)"
    assert run_python(code) == "False [] qat.training.loop LeNet5"
    with pytest.raises(AttributeError, match="module 'qat' has no attribute 'no_such_name'"):
        qat.no_such_name  # noqa: B018


def test_dir_of_qat_shows_what_a_user_works_with_and_nothing_else():
    code = "import qat, qat.networks, types; "
    code += "print([name for name in dir(qat) if name not in qat.__all__ and not name.startswith('__') and not "
    code += "(isinstance(getattr(qat, name), types.ModuleType) and getattr(qat, name).__name__.startswith('qat.'))], "
    code += "'networks' in dir(qat), '__version__' in dir(qat), '_LATER' in dir(qat))"
    assert run_python(code) == "[] True True False"


def test_what_the_registry_returns_is_typed():
    """So that an editor completes ``qat.backend("torch").``; that modules have what the protocols say, tests/test_interfaces.py
    says.
    """
    assert get_type_hints(qat.backend)["return"] is TrainingBackend
    assert get_type_hints(qat.target)["return"] is Target


def test_every_module_of_the_core_can_be_imported_without_any_framework():
    """None in sys.modules is Python's own way to say: not installed."""
    hidden = f"import sys; sys.modules.update(dict.fromkeys({FRAMEWORKS}))"
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in core_files()]
    imports = "; ".join(f"import {name.removesuffix('.__init__')}" for name in names)
    assert run_python(f"{hidden}; {imports}; print('done')") == "done"
    assert "qat.graph.graph" in names


def test_the_command_line_explains_itself_without_any_framework():
    help_text = run(sys.executable, "-m", "qat.cli", "--help").stdout
    assert "usage" in help_text.lower()
    hidden = f"import sys, runpy; sys.modules.update(dict.fromkeys({FRAMEWORKS})); sys.argv = ['qat', '--help']; "
    assert run_python(f"{hidden}runpy.run_module('qat.cli', run_name='__main__')")


def test_a_network_is_one_class_whether_it_is_imported_from_qat_or_from_the_link_beside_it():
    """Two classes of one name would differ for isinstance, by who imported what."""
    both = ["from networks import LeNet5 as a", "from qat.networks import LeNet5 as b"]
    for statements in (both, both[::-1]):
        code = f"{'; '.join(statements)}; assert a is b; print(a.__module__)"
        assert run_python(code) == "qat.networks.lenet5"


@pytest.mark.parametrize("folder", LINKS)
def test_a_folder_beside_qat_is_a_relative_link_into_it(folder):
    assert os.readlink(ROOT / folder) == f"qat/{folder}"
    assert (ROOT / folder / "__init__.py").samefile(ROOT / "qat" / folder / "__init__.py")


# -- the wheel ----------------------------------------------------------------------------------------------------------


def copy_tree(destination):
    """The working tree as git would hand it out: symlinks are symlinks, and nothing that was built."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "out")
    shutil.copytree(ROOT, destination, symlinks=True, ignore=ignored)
    assert (destination / "networks").is_symlink()
    return destination


def build_wheel(tree, folder):
    """The path of the wheel that pip builds of a tree."""
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "wheel", *options, "-w", folder, ".", cwd=tree, path="")
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The built wheel, opened."""
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(build_wheel(copy_tree(folder / "tree"), folder)) as archive:
        yield archive


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The folder into which the built source distribution was unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    run(sys.executable, "-c", build, cwd=copy_tree(folder / "tree"), path="")
    (path,) = folder.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    return folder / path.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


def test_the_wheel_holds_every_module(wheel):
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "qat").rglob("*.py")}
    assert {f"qat/{folder}/__init__.py" for folder in NOT_CORE} < modules
    assert modules <= set(wheel.namelist())


@pytest.mark.parametrize(
    "name",
    [
        "qat/backends/torch/network.py",
        "qat/networks/lenet5.py",
        "qat/cells/linear.py",
        "qat/scripts/svhn_cnn.cfg",
        "qat/py.typed",
    ],
)
def test_the_wheel_holds_the_file_as_it_is_in_the_tree(wheel, name):
    assert wheel.read(name) == (ROOT / name).read_bytes()


def test_the_wheel_installs_nothing_beside_qat(wheel):
    """A top-level package called networks or backends would hide, or be hidden by, a user's own."""
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"qat"}


def test_the_wheel_works_in_a_folder_that_has_a_networks_of_its_own(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    own = tmp_path / "work" / "networks"
    own.mkdir(parents=True)
    (own / "__init__.py").write_text("MINE = 1\n", encoding="utf-8")
    code = (
        "import networks, qat, qat.networks; assert networks.MINE; "
        "graph = qat.convert_quant_network(qat.networks.LeNet5()); "
        "print(qat.__file__, graph.count_trainable())"
    )
    assert (
        run_python(code, cwd=tmp_path / "work", path=tmp_path / "site") == f"{tmp_path / 'site/qat/__init__.py'} 61684"
    )


def test_the_wheel_has_the_version_of_the_package_and_the_command(wheel, metadata):
    assert metadata["Version"] == qat.__version__
    (entry,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert re.search(r"^qat ?= ?qat\.cli:main$", wheel.read(entry).decode(), re.MULTILINE)
    assert callable(import_module("qat.cli").main)


def test_the_wheel_of_the_sdist_is_that_of_the_tree(wheel, sdist, tmp_path):
    """A file that only the tree has would be missing for whoever installs from the source distribution."""
    with zipfile.ZipFile(build_wheel(sdist, tmp_path)) as archive:
        assert sorted(archive.namelist()) == sorted(wheel.namelist())
        different = [name for name in wheel.namelist() if archive.read(name) != wheel.read(name)]
    assert [name for name in different if not name.endswith("/RECORD")] == []


def test_the_sdist_has_no_part_of_the_tests(sdist):
    """setuptools takes tests/test_*.py alone, without what they import and read."""
    assert (sdist / "LICENSE").is_file()
    assert not (sdist / "tests").exists()


# -- requirements -------------------------------------------------------------------------------------------------------


def core_files():
    """The modules that import no framework, backend, target, network or script."""
    files = {path: path.relative_to(ROOT / "qat").parts for path in (ROOT / "qat").rglob("*.py")}
    front_ends = ("imports", "sources")  # which import the frameworks that they read
    return sorted(path for path, parts in files.items() if parts[0] not in NOT_CORE and parts[:2] != front_ends)


def imports(path, at_import_time):
    """Top-level names that a module imports from outside, when it is imported itself or only later, in a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    later = {
        inner for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.Lambda)) for inner in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if (node in later) == at_import_time:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"qat"}


def distributions(names):
    """The names on the package index of what holds these modules, in lower case."""
    known = packages_distributions()
    return {known[name][0].lower() for name in names}


def requirements(metadata, extra=None):
    """What is installed always, or in addition with an extra, in lower case and without versions."""
    found = set()
    for line in metadata.get_all("Requires-Dist"):
        requirement, _, marker = line.partition(";")
        wanted = re.search(r"extra == ['\"](.+?)['\"]", marker)
        if (wanted.group(1) if wanted else None) == extra:
            found.add(re.match(r"[\w.-]+", requirement).group().lower())
    return found


def test_what_the_core_imports_is_required_and_what_is_required_is_imported(metadata):
    needed = distributions(set().union(*(imports(path, at_import_time=True) for path in core_files())))
    assert needed == requirements(metadata)
    assert "numpy" in needed


def test_what_the_core_imports_only_on_demand_is_in_an_extra(metadata):
    needed = distributions(set().union(*(imports(path, at_import_time=False) for path in core_files())))
    extras = [
        requirements(metadata, extra) for extra in metadata.get_all("Provides-Extra") if extra not in ("all", "dev")
    ]
    assert needed <= requirements(metadata).union(*extras)
    assert "scikit-learn" in needed


@pytest.mark.parametrize("entry", [*BACKENDS.values(), *TARGETS.values()], ids=[*BACKENDS, *TARGETS])
def test_what_a_backend_imports_is_in_its_extra(metadata, entry):
    def needed(entry):
        """Of its module and of those beside it that it imports."""
        path = ROOT.joinpath("qat", *entry.module.split(".")).with_suffix(".py")
        beside = re.findall(r"from qat\.((?:backends|targets)\.[\w.]+) import", path.read_text(encoding="utf-8"))
        paths = [path, *(ROOT.joinpath("qat", *name.split(".")).with_suffix(".py") for name in beside)]
        paths = [path for path in paths if path.exists()]
        names = set().union(*(imports(path, at_import_time=now) for path in paths for now in (True, False)))
        return distributions(names)

    extra = requirements(metadata, entry.extra) if entry.extra else set()
    assert needed(entry) <= requirements(metadata) | extra
    users = [needed(other) for other in (*BACKENDS.values(), *TARGETS.values()) if other.extra == entry.extra]
    assert extra <= set().union(*users), "an extra installs nothing that no backend imports"


def test_every_extra_that_a_message_names_exists(metadata):
    """``pip install 'qat-engine[...]'`` must not be advice that pip rejects."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "qat").rglob("*.py"))
    named = {name for names in re.findall(r"\[([\w,]+)\]'", text) for name in names.split(",")} & set(
        re.findall(re.escape(metadata["Name"]) + r"\[(\w+)\]", text)
    )
    named |= {entry.extra for entry in [*BACKENDS.values(), *TARGETS.values()] if entry.extra}
    assert {"torch", "onnx", "study"} <= named
    assert named <= set(metadata.get_all("Provides-Extra"))


def test_the_extra_all_holds_every_other_one_that_a_backend_uses(metadata):
    extras = set(metadata.get_all("Provides-Extra"))
    libraries = {"image", "data", "augment", "study", "plots", "search", "ray"}
    assert {"torch", "keras", "mindspore", "onnx", "tflite", "docs", "dev", "all"} | libraries == extras
    used = {entry.extra for entry in (*BACKENDS.values(), *TARGETS.values()) if entry.extra} | libraries
    others = set().union(*(requirements(metadata, extra) for extra in used))
    assert requirements(metadata, "all") == others


# -- the registry ---------------------------------------------------------------------------------------------------------


def test_every_folder_of_a_backend_or_target_is_in_the_registry():
    for package, entries in (("backends", BACKENDS), ("targets", TARGETS)):
        folders = {path.parent.name for path in (ROOT / "qat" / package).glob("*/__init__.py")}
        assert folders == {entry.module.split(".")[1] for entry in entries.values()}


def test_every_extra_of_a_backend_or_target_is_tried_alone():
    (extras,) = re.findall(r"^EXTRAS \?= (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    entries = [*BACKENDS.values(), *TARGETS.values()]
    assert {entry.extra for entry in entries if entry.extra} <= set(extras.split())


def test_every_example_that_is_a_package_is_tried_in_an_environment_of_its_own():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (extras,) = re.findall(r"^EXTRAS \?= (.*)$", makefile, re.MULTILINE)
    recipes = dict(re.findall(r"^extra-(\w+):\n((?:\t.*\n)+)", makefile, re.MULTILINE))
    examples = [path.parent.name for path in ROOT.glob("examples/*/pyproject.toml")]
    assert "jax_backend" in examples
    for name in examples:
        assert [x for x in extras.split() if f"./examples/{name}" in recipes.get(x, "")], f"no extra installs {name}"


def test_the_core_may_import_no_package_of_a_backend_or_target():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (forbidden,) = re.findall(r"^forbidden_modules = \[(.*)\]$", text, re.MULTILINE)
    banned = re.findall(r'^"(\w+)"\.msg = ', text, re.MULTILINE)
    packages = {package for entry in [*BACKENDS.values(), *TARGETS.values()] for package in entry.packages}
    assert packages == set(banned) == set(re.findall(r'"(\w+)"', forbidden))


def test_backends_and_targets_are_found_by_name():
    assert qat.backend("torch").__name__ == "qat.backends.torch.network"
    assert qat.target("ONNX").__name__ == "qat.targets.onnx.target"
    assert qat.backend("torch") is qat.backend("Torch")
    assert qat.target("onnx") is qat.target("ONNX")


@pytest.mark.parametrize("name", ["jax", "", "PNG", "ONNX"])
def test_an_unknown_backend_gives_the_list_of_those_there_are(name):
    with pytest.raises(QatError) as caught:
        qat.backend(name)
    assert str(caught.value) == f"backend {name!r} is unknown: choose one of {', '.join(qat.backend_names())}"


@pytest.mark.parametrize("name", ["PNG", "torch", None])
def test_an_unknown_file_format_gives_the_list_of_those_there_are(name):
    with pytest.raises(QatError) as caught:
        qat.target(name)
    assert str(caught.value) == f"file format {name!r} is unknown: choose one of {', '.join(qat.target_names())}"


def test_the_target_of_a_file_is_found_by_its_longest_suffix():
    assert target_of("out/net.onnx") is target_of(Path("a.b/net.x.onnx")) is qat.target("ONNX")
    assert target_of("out/net.ascend.onnx") is target_of("NET.x.Ascend.ONNX") is qat.target("ASCEND_ONNX")
    assert target_of("net.air") is qat.target("AIR")


@pytest.mark.parametrize("path", ["net.ckpt", "net", "net.onnx.bak", "folder.onnx/net", ".onnx"])
def test_a_file_of_no_known_format_is_refused_with_the_known_suffixes(path):
    with pytest.raises(QatError) as caught:
        target_of(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert all(entry.suffix in str(caught.value).removeprefix(path) for entry in TARGETS.values())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("load", "name", "package", "extra"),
    [
        (qat.backend, "torch", "torch", "torch"),
        (qat.backend, "keras", "tensorflow", "keras"),
        (qat.target, "ONNX", "onnx", "onnx"),
        (qat.target, "ONNX", "onnxruntime", "onnx"),
        (qat.target, "TFLITE", "ai_edge_litert", "tflite"),
    ],
)
def test_a_backend_whose_package_is_missing_names_it_and_the_pip_extra(monkeypatch, load, name, package, extra):
    entry = {**BACKENDS, **TARGETS}[name]
    monkeypatch.delitem(sys.modules, f"qat.backends.{entry.module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)  # Python's own way to say: not installed
    with pytest.raises(QatError) as caught:
        load(name)
    message = str(caught.value)
    assert f"{name!r} needs the package {package!r}, which is not installed" in message
    assert message.endswith(f"pip install 'qat-engine[{extra}]'")
    assert "\n" not in message


def test_a_module_of_our_own_that_is_missing_is_no_matter_of_pip(monkeypatch):
    """A broken checkout must not send the user off to reinstall torch."""
    monkeypatch.delitem(sys.modules, "qat.backends.torch.network", raising=False)
    monkeypatch.setitem(sys.modules, "qat.training.forward", None)
    with pytest.raises(ModuleNotFoundError, match=r"qat\.training\.forward"):
        qat.backend("torch")


# -- the import contract ---------------------------------------------------------------------------------------------------

LAYERS = "A package imports from its own layer or from those below it"


def lint_imports(tree):
    return run(Path(sys.executable).with_name("lint-imports"), "--no-cache", cwd=tree, path=tree, check=False)


def broken_by(tree, module, line):
    """The names of the contracts that one more line in a module of qat breaks."""
    path = tree / "qat" / module
    text = path.read_text(encoding="utf-8")
    path.write_text(f"{text}\n{line}\n", encoding="utf-8")
    done = lint_imports(tree)
    assert (done.returncode == 1) == ("BROKEN" in done.stdout)
    return re.findall(r"^(.*\S) BROKEN", done.stdout, re.MULTILINE)


def test_the_import_contract_holds():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b[1-9]\d* kept, 0 broken", done.stdout)


@pytest.mark.parametrize(
    "line", ["import torch", "import onnx", "import ai_edge_litert", "def f():\n    import tensorflow"]
)
def test_the_import_contract_is_broken_by_a_framework_in_the_core(tmp_path, line):
    assert broken_by(copy_tree(tmp_path / "tree"), "graph/graph.py", line) == [
        "The core imports no framework, exchange format or runtime"
    ]


@pytest.mark.parametrize("module", [f"qat.{folder}" for folder in NOT_CORE])
def test_the_import_contract_is_broken_by_a_backend_network_or_script_in_the_core(tmp_path, module):
    assert LAYERS in broken_by(copy_tree(tmp_path / "tree"), "graph/graph.py", f"import {module}")


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("vocabulary/ops.py", "from qat.quantizers.minmax import WeightQuantizer"),
        ("passes/apply_masks.py", "from qat.training.loop import train"),
        ("study/store.py", "import qat.networks"),
    ],
)
def test_the_import_contract_is_broken_by_a_package_that_imports_from_a_layer_above(tmp_path, module, line):
    assert broken_by(copy_tree(tmp_path / "tree"), module, line) == [LAYERS]


def test_the_import_contract_is_broken_by_a_module_without_a_layer(tmp_path):
    tree = copy_tree(tmp_path / "tree")
    (tree / "qat" / "attic.py").write_text("", encoding="utf-8")
    done = lint_imports(tree)
    assert done.returncode == 1
    assert "attic" in done.stdout


def test_the_import_contract_is_broken_by_a_command_that_does_not_ask_for_a_backend_by_name(tmp_path):
    found = broken_by(copy_tree(tmp_path / "tree"), "scripts/train.py", "from qat.backends.torch.network import lower")
    assert found == ["Backends and targets are reached through qat.registry, by name"]

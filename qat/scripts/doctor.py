"""Say what is installed, which backends, devices and formats work here, and what to install for the rest.

Networks and data readers are listed where other packages add them.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import metadata

import numpy as np

import qat
from qat.cli import run_script
from qat.console import print_table, result
from qat.data.loading import READERS
from qat.deploy.inference import trace
from qat.deploy.measuring import IsEmulated
from qat.errors import QatError
from qat.extras import how_to_install
from qat.integer import trace_codes
from qat.integer.fixed_point import ARITHMETICS
from qat.networks import ResNet8, create
from qat.networks.catalogue import ADDED as NETWORKS
from qat.plugins import Group
from qat.registry import ADDED_BACKENDS, ADDED_TARGETS, BACKENDS, TARGETS, Entry, added_entry, installed
from qat.tasks import ADDED as TASKS
from qat.training.trackers import ADDED as TRACKERS
from qat.vocabulary.rows import showing

#: Distributions whose names differ from what is imported.
DISTRIBUTIONS = {
    "ai_edge_litert": "ai-edge-litert",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "absl": "absl-py",
    "mlflow": "mlflow-skinny",
    "cv2": "opencv-python-headless",
}
LONGEST_REMEDY = 60  #: characters in the table; what is longer stands below it
NOT_INSTALLED = "not installed"
FAILS = "FAILS: "  #: begins the state of what does not work; the reason follows
#: What else some commands need, by the pip extra that installs it: packages, commands.
TOOLS = {
    "data": (("grain", "cloudpickle"), "--num_workers"),
    "augment": (("albumentations", "cv2"), "--augment"),
    "image": (("PIL",), "run, evaluate, create-data"),
    "study": (("sklearn", "scipy", "absl"), "digits, SVHN, train-svhn"),
    "plots": (("matplotlib", "jinja2"), "pictures and reports"),
    "search": (("optuna",), "searches"),
    "ray": (("ray",), "train-svhn --ray"),
    "lightning": (("lightning",), "qat.callback of PyTorch"),
    "mlflow": (("mlflow",), "--log_to mlflow"),
    "wandb": (("wandb",), "--log_to wandb"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--quick", action="store_true", help="do not compute anything, only look at what is installed")


def run(args: argparse.Namespace) -> int:
    """Run the command. Returns the exit status."""
    print(f"qat-engine {qat.__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    rows = [("NumPy", _versions(("numpy",)), "reference", "")]
    for name, entry in BACKENDS.items():
        rows.append((f"backend {name}", _versions(entry.packages), *_backend_state(name, entry, args.quick)))
    for name, entry in TARGETS.items():
        rows.append((f"format {name}", _versions(entry.packages), *_target_state(name, entry)))
        rows += _emulated(name, entry)
    rows += _of_others("backend", ADDED_BACKENDS, qat.backend, partial(_backend_state, quick=args.quick))
    rows += _of_others("format", ADDED_TARGETS, qat.target, _target_state)
    for kind, group, load in (
        ("network", NETWORKS, lambda name: create(name).graph()),
        ("data reader", READERS, READERS.load),
        ("task", TASKS, TASKS.load),
        ("tracker", TRACKERS, TRACKERS.load),
    ):
        rows += _of_others(kind, group, load, lambda name, entry: ("installed", ""))
    for extra, (packages, commands) in TOOLS.items():
        entry = Entry("", packages, extra)
        state = ("installed", "") if installed(entry) else (NOT_INSTALLED, _remedy(entry))
        rows.append((f"for {commands}", _versions(packages), *state))
    failed = [(what, state.removeprefix(FAILS)) for what, _, state, _ in rows if state.startswith(FAILS)]
    long = [(what, remedy) for what, _, _, remedy in rows if len(remedy) > LONGEST_REMEDY]
    shown = [(*row[:2], "FAILS", row[3] or "see below") if row[2].startswith(FAILS) else row for row in rows]
    shown = [(*row[:3], "see below") if len(row[3]) > LONGEST_REMEDY else row for row in shown]
    keys = ("what", "packages", "state", "remedy")
    result(python=platform.python_version(), parts=[dict(zip(keys, row, strict=True)) for row in rows])
    headings, columns = ("", "packages", "state", "what to do"), 4 if any(remedy for *_, remedy in shown) else 3
    print_table("What is here", headings[:columns], [row[:columns] for row in shown], None)
    for what, reason in failed + long:  # a message in a cell would make each line of the table as long
        result(f"{what}: {reason}")
    result("")
    for line in _summary(rows):
        result(line)
    return int(bool(failed))


def _summary(rows: Sequence[tuple[str, str, str, str]]) -> Iterator[str]:
    """What works, what is missing and what to type, in a few lines."""
    for kind, verb in (("backend", "trains and evaluates with"), ("format", "writes files of")):
        parts = [(what.removeprefix(f"{kind} "), state) for what, _, state, _ in rows if what.startswith(f"{kind} ")]
        works = [name for name, state in parts if state == "installed" or (": exact" in state and FAILS not in state)]
        yield f"{verb}: {', '.join(works) or 'nothing yet'}"
    missing = [what for what, _, state, _ in rows if state == NOT_INSTALLED]
    if missing:
        extras = [
            entry.extra for entry in (*BACKENDS.values(), *TARGETS.values()) if entry.extra and not installed(entry)
        ]
        extras += [extra for extra, (packages, _) in TOOLS.items() if not installed(Entry("", packages, extra))]
        yield f"not installed, for those who want it: {', '.join(missing)}"
        yield f"all of that at once: {how_to_install(*dict.fromkeys(extras))}"
    yield "to begin: qat demo; to read: qat help"


def _of_others(
    kind: str, group: Group, load: Callable[[str], object], state: Callable[[str, Entry], tuple[str, str]]
) -> Iterator[tuple[str, str, str, str]]:
    """The rows of what other packages add."""
    for name in group.names()[len(group.own) :]:
        package = group.version(name)
        try:
            entry = added_entry(name, load(name), group)
        except Exception as error:  # whatever the code of another package may raise
            yield f"{kind} {name}", package, f"{FAILS}{_first_line(error)}", ""
        else:
            packages = ", ".join(filter(None, (package, _versions(entry.packages))))
            yield f"{kind} {name}", packages, *state(name, entry)


def _versions(packages: tuple[str, ...]) -> str:
    found = []
    for package in packages:
        try:
            found.append(f"{package} {metadata.version(DISTRIBUTIONS.get(package, package))}")
        except metadata.PackageNotFoundError:
            found.append(f"{package} (none)")
    return ", ".join(found)


def _remedy(entry: Entry) -> str:
    return how_to_install(entry.extra)


def _target_state(name: str, entry: Entry) -> tuple[str, str]:
    if not installed(entry):
        return NOT_INSTALLED, _remedy(entry)
    try:
        qat.target(name).runtime()
        return "installed", ""
    except QatError as error:  # a compiler that is missing, say
        return "writes files, cannot run them", str(error)
    except Exception as error:
        return f"{FAILS}{_first_line(error)}", _remedy(entry)


def _emulated(name: str, entry: Entry) -> Iterator[tuple[str, str, str, str]]:
    """The row of a target whose files ``bench`` runs on emulated processors."""
    what = f"{name} on emulated processors"
    try:
        target = qat.target(name) if installed(entry) else None
        if isinstance(target, IsEmulated):
            yield what, target.emulator(), "installed", ""
    except QatError as error:
        yield what, "", "not installed", str(error)
    except Exception:  # a broken installation, of which the target's own row speaks
        return


def _backend_state(name: str, entry: Entry, quick: bool) -> tuple[str, str]:
    if not installed(entry):
        return NOT_INSTALLED, _remedy(entry)
    if quick:
        return "installed", ""
    results = list(_probe(name))
    return (FAILS if any(failed for _, failed in results) else "") + ", ".join(text for text, _ in results), ""


def _probe(name: str) -> Iterator[tuple[str, bool]]:
    """For each device, whether it computes the integers of a small residual network as NumPy does, in every node and in both
    arithmetics, and whether something is wrong.

    A convolution by Winograd's or Fourier's transform, or in TF32, would show here, and int64 that is not.
    """
    graphs = [qat.convert_quant_network(ResNet8(), arithmetic=arithmetic) for arithmetic in ARITHMETICS]
    params = graphs[0].observed_params()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), np.uint8)
    tensors = [node.output for node in qat.to_integer(graphs[0], params).nodes]
    expected = [trace_codes(qat.to_integer(graph, params), pixels, [x.name for x in tensors]) for graph in graphs]
    try:
        backend = qat.backend(name)
        devices = backend.devices()
    except Exception as error:  # a broken installation raises anything: to say so is what this command is for
        yield _first_line(error), True
        return
    for device in devices:
        try:
            with showing(None):  # a few samples, whose progress says nothing
                found = [trace(backend.lower(graph, params, device_target=device), pixels, tensors) for graph in graphs]
        except Exception as error:
            yield f"{device}: {_first_line(error)}", True
            continue
        wrong = sum(
            int(np.count_nonzero(codes[x.name] != others[x.name]))
            for codes, others in zip(found, expected, strict=True)
            for x in tensors
        )
        yield f"{device}: {f'{wrong:,} codes differ' if wrong else 'exact'}", wrong > 0


def _first_line(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).partition("\n")[0]
    return text if isinstance(error, QatError) else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

"""Kill a study by SIGKILL at random instants, call it again, and compare with the study that was left alone.

    python benchmarks/kill_study.py --kills 5

Two folds of float, 8-bit and 4-bit networks on the digits, in two processes. In the end every training must have the
parameters, bit for bit, the outputs and the epochs of the study that was left alone, and no epoch may have been trained more
often than once and once more for each kill that fell into it. Exit status 1 where that is not so.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from qat.cli import run_script
from qat.errors import QatError
from qat.training.checkpoint import Checkpoint

STUDY = ["--data_path", "digits", "--folds", "2", "--quantize", "--widths", "8,4", "--filters", "4,4", "--dense="]
JOBS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=5, help="how often to kill it")
    parser.add_argument("--epochs", type=int, default=20, help="of each training")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")


def run(args: argparse.Namespace) -> int:
    instants = random.Random(args.seed)
    command = [sys.executable, "-m", "qat.cli", "train-svhn", *STUDY, "--epochs", str(args.epochs), "--jobs", str(JOBS)]
    with tempfile.TemporaryDirectory() as place:
        alone, killed = Path(place) / "alone", Path(place) / "killed"
        subprocess.run([*command, "--models", str(alone)], check=True, stdout=subprocess.DEVNULL)
        total, done = epochs_trained(alone)[0], []
        while len(done) < args.kills:
            before = epochs_trained(killed)[0]
            further = instants.randint(1, (total - before) // (args.kills - len(done) + 1))
            process = subprocess.Popen([*command, "--models", str(killed)], stdout=subprocess.DEVNULL)
            while process.poll() is None and epochs_trained(killed)[0] < before + further:
                time.sleep(0.005)
            time.sleep(instants.uniform(0.0, 0.2))
            if process.poll() is not None:
                raise QatError("the study ended before it was killed; use more --epochs")
            process.kill()
            process.wait()
            done.append(epochs_trained(killed)[0])
        subprocess.run([*command, "--models", str(killed)], check=True, stdout=subprocess.DEVNULL)
        wrong = [problem for path in sorted(alone.glob("*.json")) for problem in problems(path, killed / path.name)]
        epochs, more = epochs_trained(killed)
        most = args.kills * JOBS
    print(f"{args.kills} kills, after {', '.join(map(str, done))} of {total} epochs")
    print(f"{epochs} epochs trained, {more} of them more than once (at most {most} were cut off and begun again)")
    for problem in wrong:
        print(problem)
    right = not wrong and more <= most
    print("all trainings are equal, bit for bit" if right else "the studies DIFFER")
    return 0 if right else 1


def problems(one: Path, other: Path) -> list[str]:
    """Where two results differ."""
    found = []
    results = [json.loads(path.read_text()) for path in (one, other)]
    found += [
        f"{one.stem}: {key}" for key in ("accuracy", "epochs", "best_epoch") if results[0][key] != results[1][key]
    ]
    with np.load(one.with_suffix(".npz")) as mine, np.load(other.with_suffix(".npz")) as theirs:
        found += [f"{one.stem}: {name}" for name in mine if not np.array_equal(mine[name], theirs[name])]
    mine, theirs = (Checkpoint.load(path.with_suffix(".ckpt")).params for path in (one, other))
    return found + [f"{one.stem}: {name}" for name in mine if not np.array_equal(mine[name], theirs[name])]


def epochs_trained(folder: Path) -> tuple[int, int]:
    """Epochs in the logs, and how many of these are there more than once."""
    lines: Counter[tuple[str, str]] = Counter()
    for path in (folder / "logs").glob("*.csv"):
        with path.open() as file:
            lines.update((path.stem, row["epoch"]) for row in csv.DictReader(file))
    return len(lines), sum(count - 1 for count in lines.values())


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

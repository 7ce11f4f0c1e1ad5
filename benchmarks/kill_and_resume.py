"""Kill a training by SIGKILL at random instants, resume it, and compare with the run left alone.

    python benchmarks/kill_and_resume.py --kills 50

Trains LeNet-5 on the digits. Two of three instants are counted from a run's first save, and the third from its start, so that
kills fall also into the time when a run reads what it resumes. After each kill the checkpoint must be readable (or not there
yet); in the end all parameters and the optimizer's state must be equal, bit for bit. Exit status 1 where they are not.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from qat.cli import run_script
from qat.training.checkpoint import Checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=50, help="how often to kill it")
    parser.add_argument("--epochs", type=int, default=200, help="of the training")
    parser.add_argument(
        "--longest",
        type=float,
        default=6.0,
        help="seconds after its first save or its start at which a run is killed at most",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the instants")


def files(folder: str) -> list[tuple[str, int]]:
    """What lies there, by name and inode: another list as soon as a save begins."""
    return sorted((entry.name, entry.inode()) for entry in os.scandir(folder))


def run(args: argparse.Namespace) -> int:
    instants = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = Path(folder) / "alone.ckpt", Path(folder) / "killed.ckpt"
        command = [sys.executable, "-m", "qat.cli", "train", "--data_path", "digits", "--epochs", str(args.epochs)]
        command += ["--save_every", "5", "--save_path"]
        subprocess.run([*command, str(alone)], check=True, stdout=subprocess.DEVNULL)
        steps = []
        for kill in range(args.kills):
            before = files(folder)
            process = subprocess.Popen([*command, str(killed), "--resume"], stdout=subprocess.DEVNULL)
            while kill % 3 < 2 and process.poll() is None and files(folder) == before:
                time.sleep(0.001)
            time.sleep(instants.uniform(0.0, args.longest))
            process.kill()
            process.wait()
            steps.append(Checkpoint.load(killed).step if killed.exists() else 0)
        subprocess.run([*command, str(killed), "--resume"], check=True, stdout=subprocess.DEVNULL)
        one, other = Checkpoint.load(alone), Checkpoint.load(killed)
        left = [path.name for path in Path(folder).iterdir() if path not in (alone, killed)]
    equal = one.step == other.step and all(
        np.array_equal(array, theirs[name])
        for mine, theirs in ((one.params, other.params), (one.optimizer, other.optimizer))
        for name, array in mine.items()
    )
    print(f"{args.kills} kills, at steps {steps} of {one.step}; the checkpoint was readable after each")
    print(f"temporary files left by kills in the middle of a save: {len(left)}")
    print("parameters and optimizer state are equal, bit for bit" if equal else "the results DIFFER")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))

"""Several processes that train one network do what one does with the joint batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_backends_agree import HERE, distances
from worker_steps import train

import qat
from qat.checkpoint import Checkpoint
from qat.errors import QatError
from qat.networks import LeNet5
from qat.optimizer import Optimizer
from qat.workers import Worker, this_worker

pytestmark = pytest.mark.skipif("torch" not in HERE, reason="needs PyTorch")
TESTS = Path(__file__).parent
WORKERS = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
NEAR = 5e-5  #: relative, after one step: float sums in another order
SHOWN = [
    "LeNet-5, QAT",
    "residual",
    "residual, QAT, two convolutions",
    "residual, QAT, one convolution",
    "LeNet-5, QAT, LSQ",
    "residual, QAT, ternary, PACT",
]


def started(*command: object) -> str:
    """The output of two workers."""
    environment = os.environ | {"PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    done = subprocess.run(
        [*WORKERS, *map(str, command)], env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    started(TESTS / "worker_steps.py", folder, 1, 16, *SHOWN)
    return folder


@pytest.mark.parametrize("case", SHOWN)
def test_two_workers_make_the_step_of_one_with_the_joint_batch(by_two: Path, case: str) -> None:
    """Plain SGD from equal parameters: equal parameters after it mean equal gradients. Statistics of batch normalisation and
    ranges are compared with them, and the loss.
    """
    number = SHOWN.index(case)
    results = [dict(np.load(by_two / f"{number}_{rank}.npz")) for rank in (0, 1)]
    for name, array in results[0].items():
        np.testing.assert_array_equal(array, results[1][name], err_msg=f"the workers differ: {name}")
    alone = train(case, 1, 16)
    far = distances(results[0], alone)
    assert not {name: distance for name, distance in far.items() if not distance <= NEAR}


def test_a_share_alone_makes_another_step() -> None:
    """The comparison notices statistics and gradients of half of the batch."""
    far = distances(train("residual", 1, 8), train("residual", 1, 16))
    assert max(far.values()) > 100 * NEAR


def test_the_command_trains_with_torchrun(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    command = ["train", "--data_path", "digits", "--epochs", "1", "--network", "lenet_bn", "--save_path", path]
    output = started("--module", "qat.cli", *command, "--log_path", tmp_path / "log.csv")
    assert output.count("Accuracy: ") == 1, "the workers speak through each other"
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 2
    assert Checkpoint.load(path).epoch == 1


@pytest.mark.parametrize("name", [name for name in HERE if name != "torch"])
def test_a_backend_of_one_process_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would train alone, and nobody would notice."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    backend = qat.backend(name)
    with pytest.raises(QatError, match=f"{name}: there are 2 workers, but this backend trains in one process"):
        backend.make_step(backend.lower(LeNet5()), Optimizer())


def test_every_sample_is_in_one_share() -> None:
    batch = np.arange(12)
    shares = [Worker(rank, 3).share(batch) for rank in range(3)]
    assert sorted(np.concatenate(shares)) == list(range(12))
    assert Worker(0, 1).share(batch) is batch
    with pytest.raises(QatError, match="a batch of 12 samples cannot be shared by 5 workers"):
        Worker(0, 5).share(batch)


@pytest.mark.parametrize("environment", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "x"}, {"WORLD_SIZE": "0"}])
def test_an_environment_that_fits_no_worker_is_refused(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(QatError, match="which fit no worker; start the workers with torchrun"):
        this_worker()

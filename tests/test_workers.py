"""Several processes that train one network do what one does with the joint batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from frameworks import HERE, but_long
from test_backends_agree import distances
from worker_steps import train

import qat
from qat.errors import QatError
from qat.networks import LeNet5
from qat.training.checkpoint import Checkpoint
from qat.training.optimizer import Optimizer
from qat.training.workers import TORCHRUN, Worker, this_worker, training_worker

TESTS = Path(__file__).parent
BATCH = 12
NEAR = 1e-4  #: relative, after one step: float sums in another order
SHOWN = [
    "LeNet-5, QAT",
    "residual",
    "residual, QAT, not folded",
    "LeNet-5, QAT, LSQ",
    "residual, QAT, one convolution",
    "residual, QAT, ternary, PACT",
    "LeNet-GTC",
]
#: The backend that starts soonest shows all of them.
PAIRS = [(backend, case) for backend in HERE for case in (SHOWN if backend == "torch" else SHOWN[:4])]


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def tf_config(rank: int, ports: list[int]) -> str:
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    return json.dumps({"cluster": cluster, "task": {"type": "worker", "index": rank}})


def started(backend: str, folder: Path, *command: object) -> str:
    """What two workers print that run ``python *command``, started as their backend's are."""
    arguments = [*map(str, command)]
    environment = os.environ | {"PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    if backend == "keras":
        ports = free_ports(2)
        own = [environment | {"TF_CONFIG": tf_config(rank, ports)} for rank in (0, 1)]
        return finished([sys.executable, *arguments], own, folder)
    if backend == "torch":
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        return finished([*launcher, *arguments], [environment], folder)
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # where it looks for "python"
    launcher = [sys.executable, "-m", "mindspore.parallel.cluster.run", "--worker_num=2", "--local_worker_num=2"]
    launcher += ["--join=True", f"--master_port={free_ports(1)[0]}", f"--log_dir={folder / 'log'}"]
    finished([*launcher, "python", *arguments], [environment], folder)
    return "".join(path.read_text() for path in sorted((folder / "log").glob("*.log")))


def finished(command: list[str], environments: list[dict[str, str]], folder: Path) -> str:
    """The outputs of processes of one command, each with its environment. All have to end well; where one does not, the
    others, which would wait for it, are ended.
    """
    files = [folder / f"process{number}.log" for number in range(len(environments))]
    processes = []
    for file, environment in zip(files, environments, strict=True):
        with file.open("w") as log:
            processes.append(
                subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
            )
    try:
        until = time.monotonic() + 500
        statuses = [process.poll() for process in processes]
        while None in statuses and not any(statuses) and time.monotonic() < until:
            time.sleep(0.1)
            statuses = [process.poll() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    output = "".join(file.read_text() for file in files)
    logs = "".join(file.read_text() for file in folder.glob("log/*.log"))
    assert statuses == [0] * len(statuses), output + logs
    return output


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of what two workers of a backend have left of each case."""

    @cache
    def results(backend: str) -> Path:
        folder = tmp_path_factory.mktemp(backend)
        cases = [case for name, case in PAIRS if name == backend]
        started(backend, folder, TESTS / "worker_steps.py", folder, backend, 1, BATCH, *cases)
        return folder

    return results


@pytest.mark.parametrize(("backend", "case"), but_long(PAIRS, lambda backend, case: backend == "mindspore"))
def test_two_workers_make_the_step_of_one_with_the_joint_batch(
    by_two: Callable[[str], Path], backend: str, case: str
) -> None:
    """Plain SGD from equal parameters: equal parameters after it mean equal gradients. Statistics of batch normalisation and
    ranges are compared with them, and the loss.
    """
    number = SHOWN.index(case)
    results = [dict(np.load(by_two(backend) / f"{number}_{rank}.npz")) for rank in (0, 1)]
    for name, array in results[0].items():
        np.testing.assert_array_equal(array, results[1][name], err_msg=f"the workers differ: {name}")
    far = distances(results[0], train(backend, case, 1, BATCH))
    assert not {name: distance for name, distance in far.items() if not distance <= NEAR}


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("case", ["residual", "residual, QAT, not folded"])
def test_a_share_alone_makes_another_step(backend: str, case: str) -> None:
    """The comparison notices statistics and gradients of half of the batch."""
    half, whole = train(backend, case, 1, BATCH // 2), train(backend, case, 1, BATCH)
    far = distances(half, whole)
    assert max(far.values()) > 100 * NEAR
    assert min(far[name] for name in far if name.endswith("moving_mean")) > 10 * NEAR


@pytest.mark.parametrize("backend", but_long(HERE, lambda name: name != "torch"))
def test_the_command_trains_with_several_workers(backend: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    command = ["train", "--backend", backend, "--data_path", "digits", "--epochs", "1", "--network", "lenet_bn"]
    more = ["--save_path", path, "--log_path", tmp_path / "log.csv", "--validation", "100", "--keep_best"]
    (tmp_path / "qat_command.py").write_text("import sys\nfrom qat.cli import main\nsys.exit(main())\n")
    output = started(backend, tmp_path, tmp_path / "qat_command.py", *command, *more)
    assert output.count("Accuracy: ") == 1, "the workers speak through each other"
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 2
    assert Checkpoint.load(path).epoch == 1


LEAVES = """
import atexit
import torch.distributed as dist
from qat.backends.torch.workers import join
atexit.register(lambda: print("at the end", dist.is_initialized()))
join()
print("joined", dist.is_initialized())
"""


@pytest.mark.skipif("torch" not in HERE, reason="needs PyTorch")
def test_a_worker_leaves_its_group_before_python_ends(tmp_path: Path) -> None:
    """Gloo's threads let go of tensors, which aborted a process whose Python was ending."""
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0])}
    environment = os.environ | alone | {"PYTHONPATH": str(TESTS.parent)}
    assert "joined True\nat the end False\n" in finished([sys.executable, "-c", LEAVES], [environment], tmp_path)


@pytest.mark.sweep
@pytest.mark.skipif("torch" not in HERE, reason="needs PyTorch")
def test_train_gtc_trains_with_several_workers(tmp_path: Path) -> None:
    arguments = ["--data_path", "digits", "--num_epochs", "1", "--batch_size", "14", "--basedirectory", tmp_path]
    output = started("torch", tmp_path, "-m", "qat.cli", "train-gtc", *arguments, "--name_of_experiment", "two")
    assert output.count("epoch 1, batch 100: ") == output.count("epoch 1, test: ") == 1
    assert output.count("saved ") == 2
    assert len(list((tmp_path / "two" / "logs").iterdir())) == 1
    assert float(output.partition("lp_accuracy: ")[2].rpartition("lp_accuracy: ")[2].split()[0]) > 50
    assert Checkpoint.load(tmp_path / "two" / "int_model_final.ckpt").graph.is_quantized


@pytest.mark.parametrize("name", HERE)
def test_workers_that_were_started_otherwise_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would train alone, and nobody would notice."""
    if name == "torch":
        monkeypatch.setenv("TF_CONFIG", tf_config(1, [1, 2]))
    else:
        monkeypatch.setenv("WORLD_SIZE", "2")
    backend = qat.backend(name)
    with pytest.raises(QatError, match=f"{name}: there are 2 workers, started by .*, and each would train alone"):
        backend.make_step(backend.lower(LeNet5()), Optimizer())


def test_a_compiled_step_of_several_workers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert training_worker(TORCHRUN, "torch") == Worker(1, 2, TORCHRUN)
    with pytest.raises(
        QatError, match="--compile with 2 workers: their communication cannot be compiled; leave --compile"
    ):
        training_worker(TORCHRUN, "torch", compile=True)


@pytest.mark.parametrize("name", HERE)
def test_the_scheduler_of_a_single_worker_does_not_train(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """msrun runs the command in it, too."""
    for variable, value in {"MS_ROLE": "MS_SCHED", "RANK_ID": "0", "MS_WORKER_NUM": "1"}.items():
        monkeypatch.setenv(variable, value)
    backend = qat.backend(name)
    if name == "mindspore":
        with pytest.raises(SystemExit) as ended:
            backend.lower(LeNet5())
        assert ended.value.code == 0
        return
    with pytest.raises(QatError, match=f"{name}: this is the scheduler of one worker, started by msrun"):
        backend.make_step(backend.lower(LeNet5()), Optimizer())


@pytest.mark.skipif("keras" not in HERE, reason="needs Keras")
def test_a_worker_with_several_devices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """tf.distribute would make a replica on each, with a share that nobody gave it."""
    import tensorflow as tf

    from qat.backends.keras.workers import join

    monkeypatch.setenv("TF_CONFIG", tf_config(0, [1, 2]))
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", lambda: SimpleNamespace(num_replicas_in_sync=4))
    with pytest.raises(QatError, match=r"the 2 workers of TF_CONFIG have 4 devices, .*CUDA_VISIBLE_DEVICES"):
        join()


def test_every_sample_is_in_one_share() -> None:
    batch = np.arange(12)
    shares = [Worker(rank, 3).share(batch) for rank in range(3)]
    assert sorted(np.concatenate(shares)) == list(range(12))
    assert Worker(0, 1).share(batch) is batch
    with pytest.raises(QatError, match="a batch of 12 samples cannot be shared by 5 workers"):
        Worker(0, 5).share(batch)


CLUSTER = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}


@pytest.mark.parametrize(
    ("environment", "worker"),
    [
        ({}, Worker(0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Worker(1, 2, "torchrun")),
        ({"TF_CONFIG": ""}, Worker(0, 1)),
        ({"TF_CONFIG": tf_config(0, [1])}, Worker(0, 1)),
        ({"TF_CONFIG": tf_config(1, [1, 2])}, Worker(1, 2, "TF_CONFIG")),
        ({"TF_CONFIG": {"cluster": CLUSTER, "task": {"type": "chief", "index": 0}}}, Worker(0, 3, "TF_CONFIG")),
        ({"TF_CONFIG": {"cluster": CLUSTER, "task": {"type": "worker", "index": 1}}}, Worker(2, 3, "TF_CONFIG")),
        ({"MS_ROLE": "MS_WORKER", "RANK_ID": "1", "MS_WORKER_NUM": "2"}, Worker(1, 2, "msrun")),
        ({"MS_ROLE": "MS_WORKER", "MS_NODE_ID": "0", "MS_WORKER_NUM": "2"}, Worker(0, 2, "msrun")),
        ({"MS_ROLE": "MS_SCHED", "RANK_ID": "0", "MS_WORKER_NUM": "2"}, Worker(-1, 2, "msrun")),
        ({"MS_ROLE": "MS_WORKER", "RANK_ID": "0", "MS_WORKER_NUM": "1"}, Worker(0, 1)),
        ({"MS_ROLE": "MS_SCHED", "RANK_ID": "0", "MS_WORKER_NUM": "1"}, Worker(-1, 1, "msrun")),
    ],
)
def test_every_launcher_says_who_this_worker_is(
    environment: Mapping[str, Any], worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value if isinstance(value, str) else json.dumps(value))
    assert this_worker() == worker


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "which fit no worker; start the workers with torchrun"),
        ({"RANK": "x"}, "which fit no worker; start the workers with torchrun"),
        ({"WORLD_SIZE": "0"}, "which fit no worker; start the workers with torchrun"),
        ({"TF_CONFIG": "{"}, "TF_CONFIG is '{', which fits no worker; give its cluster's addresses"),
        ({"TF_CONFIG": "[]"}, "which fits no worker"),
        ({"TF_CONFIG": tf_config(2, [1, 2])}, "which fits no worker"),
        ({"TF_CONFIG": json.dumps({"cluster": CLUSTER, "task": {"type": "ps"}})}, "which fits no worker"),
        ({"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "2"}, "RANK_ID None and MS_WORKER_NUM '2', which fit no worker"),
        ({"MS_ROLE": "MS_WORKER", "RANK_ID": "2", "MS_WORKER_NUM": "2"}, "which fit no worker"),
        ({"MS_ROLE": "MS_SCHED"}, "start the workers with msrun"),
        ({"MS_ROLE": "MS_SCHED", "MS_WORKER_NUM": "0"}, "start the workers with msrun"),
    ],
)
def test_an_environment_that_fits_no_worker_is_refused(
    environment: Mapping[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(QatError, match=message):
        this_worker()

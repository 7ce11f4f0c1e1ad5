"""Parameter files of the frameworks: imported, exported, refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import qat
from qat.cli import main
from qat.networks import LeNet5
from qat.networks.lenet5 import LeNet5BN
from qat.registry import BACKENDS, installed
from qat.training.native import params_from

FRAMEWORKS = [name for name, entry in BACKENDS.items() if entry.suffix and installed(entry)]


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out + err


@pytest.fixture
def checkpoint(tmp_path: Path) -> qat.Checkpoint:
    graph = LeNet5BN().graph()
    rng = np.random.default_rng(0)
    params = {name: rng.uniform(0.5, 1.5, a.shape).astype(np.float32) for name, a in graph.initial_params().items()}
    checkpoint = qat.Checkpoint(graph, params)
    checkpoint.save(tmp_path / "net.ckpt")
    return checkpoint


@pytest.mark.parametrize("naming", ["graph", "mindspore"])
@pytest.mark.parametrize("backend", FRAMEWORKS)
def test_exported_and_imported_again_the_parameters_are_the_same(
    backend: str, naming: str, checkpoint: qat.Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"native{BACKENDS[backend].suffix}"
    own = ("--backend", backend, "--file", file)
    assert command(capsys, "export-params", "--ckpt_path", tmp_path / "net.ckpt", *own, "--naming", naming)[0] == 0
    names = set(qat.backend(backend).load_params(file))
    assert ("conv1.batchnorm.gamma" in names) == ("fc1.dense.weight" in names) == (naming == "mindspore")
    again = tmp_path / "again.ckpt"
    status, out = command(capsys, "import-params", *own, "--network", "lenet_bn", "--ckpt_path", again)
    assert (status, "61,728 trainable" in out) == (0, True)
    loaded = qat.Checkpoint.load(again)
    assert loaded.graph == checkpoint.graph
    for name, array in checkpoint.params.items():
        np.testing.assert_array_equal(loaded.params[name], array)


def test_a_state_dict_of_a_plain_module_is_imported_by_renaming(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a torch user names things; the network computes what the module computes, within 1e-5 of float sums."""
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 5, bias=False),
        torch.nn.BatchNorm2d(6),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(6, 16, 5, bias=False),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(400, 120),
        torch.nn.ReLU(),
        torch.nn.Linear(120, 84),
        torch.nn.ReLU(),
        torch.nn.Linear(84, 10),
    )
    module(torch.randn(16, 1, 32, 32))  # gives the running statistics other values than 0 and 1
    torch.save({"state_dict": module.eval().state_dict()}, tmp_path / "plain.pt")
    renames = ("0=conv1", "1=conv1.bn", "4=conv2", "5=conv2.bn", "9=fc1", "11=fc2", "13=fc3")
    arguments = ("--backend", "torch", "--file", tmp_path / "plain.pt", "--network", "lenet_bn")
    arguments += ("--ckpt_path", tmp_path / "net.ckpt")
    status, out = command(capsys, "import-params", *arguments)
    assert status == 2
    assert "holds '0.weight', which LeNet5BN does not know" in out
    assert "give --rename 0=<name of the cell>" in out
    assert command(capsys, "import-params", *arguments, "--rename", *renames)[0] == 0
    checkpoint = qat.Checkpoint.load(tmp_path / "net.ckpt")
    backend = qat.backend("torch")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 1, 32, 32), np.uint8)
    found = backend.predict(backend.lower(checkpoint.graph, checkpoint.params), pixels)
    grid = checkpoint.graph.inputs[0].cell.grid
    expected = module(torch.from_numpy(grid.dequantize(pixels))).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.abs(found - expected[::-1]).max() > 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda params: params.pop("fc3.bias"), "they lack 'fc3.bias'"),
        (lambda params: params.update({"fc3.bias": np.zeros(11, np.float32)}), r"'fc3.bias' has shape \(11,\)"),
        (lambda params: params.update({"fc3.dense.bias": np.zeros(10, np.float32)}), "is a second 'fc3.bias'"),
        (
            lambda params: params.update({"extra": np.zeros(10, np.float32)}),
            "holds 'extra', which LeNet5 does not know",
        ),
    ],
    ids=["missing", "shape", "twice", "unknown"],
)
def test_files_that_do_not_fit_are_refused_by_name(change: object, message: str, tmp_path: Path) -> None:
    graph = LeNet5().graph()
    params = graph.initial_params()
    change(params)
    with pytest.raises(qat.QatError, match=message):
        params_from(graph, params, {}, "file")


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\x80\x02cos\nsystem\n(S'true'\ntR."], ids=["empty", "zip", "pickle"]
)
@pytest.mark.parametrize("backend", FRAMEWORKS)
def test_what_is_no_parameter_file_is_refused_in_one_line(
    backend: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"bad{BACKENDS[backend].suffix}"
    file.write_bytes(content)
    status, out = command(
        capsys, "import-params", "--backend", backend, "--file", file, "--ckpt_path", tmp_path / "net.ckpt"
    )
    assert (status, out.count("\n")) == (2, 1)
    assert not (tmp_path / "net.ckpt").exists()


class Block(qat.Network):
    """Cells called as wrappers are."""

    inputs = qat.Input((1, 4, 4))

    def __init__(self) -> None:
        self.conv, self.bn = qat.Conv2dBnAct(1, 2, 3), qat.BatchNorm(2)

    def construct(self, x):
        return self.bn(self.conv(x))


def test_names_that_are_right_already_stay_and_what_optimizers_keep_is_left_out() -> None:
    graph = Block().graph()
    params = graph.initial_params()
    extra = {
        "moments.conv.weight": params["conv.weight"],
        "beta1_power": np.float32(0.9),
        "learning_rate": np.float32(1),
    }
    found = params_from(graph, params | extra, {}, "file")
    assert found.keys() == params.keys()
    with pytest.raises(qat.QatError, match=r"holds 'moments\.other'"):
        params_from(graph, params | {"moments.other": params["conv.weight"]}, {}, "file")


def test_a_command_does_not_write_over_what_it_reads(
    checkpoint: qat.Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.ckpt"
    before = path.read_bytes()
    for name, source, output in (
        ("export-params", "--ckpt_path", "--file"),
        ("import-params", "--file", "--ckpt_path"),
    ):
        status, out = command(capsys, name, "--backend", "torch", source, path, output, path)
        assert (status, "name the same file, which would be overwritten" in out) == (2, True)
    assert path.read_bytes() == before


def test_a_quantized_network_s_file_and_a_rename_that_fits_nothing_are_refused() -> None:
    graph = LeNet5().graph()
    quantized = qat.convert_quant_network(graph).initial_params()
    with pytest.raises(qat.QatError, match=r"it is of a quantized network, but LeNet5 is float"):
        params_from(graph, quantized, {}, "file")
    with pytest.raises(qat.QatError, match=r"holds no name that begins with 'foo'"):
        params_from(graph, graph.initial_params(), {"foo": "bar"}, "file")

"""Parameter files of the frameworks: imported, exported, refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import qat
from qat.cli import main
from qat.data.preparation import PLAIN
from qat.networks import LeNet5
from qat.networks.lenet5 import LeNet5BN
from qat.registry import BACKENDS, installed
from qat.training.matching import matched_by_order
from qat.training.native import mindspore_name, params_from

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
        (lambda params: params.pop("fc3.weight"), "they lack 'fc3.weight'"),
        (lambda params: params.update({"fc3.bias": np.zeros(11, np.float32)}), r"'fc3.bias' has shape \(11,\)"),
        (lambda params: params.update({"fc3.dense.bias": np.zeros(10, np.float32)}), "is a second 'fc3.bias'"),
        (
            lambda params: params.update({"extra": np.zeros(10, np.float32)}),
            "holds 'extra', which LeNet5 does not know",
        ),
        (
            lambda params: params.update({"conv1.conv.bias": np.zeros(6, np.float32)}),
            "holds 'conv1.bias', but conv1 of LeNet5 has no bias, so that it would compute something else",
        ),
    ],
    ids=["missing", "shape", "twice", "unknown", "no place for a bias"],
)
def test_files_that_do_not_fit_are_refused_by_name(change: object, message: str, tmp_path: Path) -> None:
    graph = LeNet5().graph()
    params = graph.initial_params()
    change(params)
    with pytest.raises(qat.QatError, match=message):
        params_from(graph, params, {}, "file")


class Plain(torch.nn.Module):
    """LeNet5BN with names of its own, trained on pixels times ``factor``, with or without biases before the normalisations."""

    def __init__(self, factor: float, *, bias: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.factor, norm = factor, {"momentum": None, "eps": eps}  # None: a cumulative mean
        self.stem, self.stem_bn = torch.nn.Conv2d(1, 6, 5, bias=bias), torch.nn.BatchNorm2d(6, **norm)
        self.body, self.body_bn = torch.nn.Conv2d(6, 16, 5, bias=bias), torch.nn.BatchNorm2d(16, **norm)
        self.head = torch.nn.ModuleList([torch.nn.Linear(400, 120), torch.nn.Linear(120, 84), torch.nn.Linear(84, 10)])
        with torch.no_grad():
            for name, value in self.named_parameters():
                if name.endswith("bias"):
                    value.uniform_(-1, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = pixels * self.factor
        for conv, norm in ((self.stem, self.stem_bn), (self.body, self.body_bn)):
            x = torch.nn.functional.max_pool2d(torch.relu(norm(conv(x))), 2)
        x = x.flatten(1)
        for index, dense in enumerate(self.head):
            x = dense(torch.relu(x) if index else x)
        return x

    def trained(self) -> Plain:
        """With running statistics of digits."""
        self.train()(torch.from_numpy(pixels_of_digits().astype(np.float32)))
        return self.eval()


def pixels_of_digits() -> np.ndarray:
    """As every command gets them, uint8 (64, 1, 32, 32)."""
    digits = qat.data.load("digits").resized((1, 32, 32), PLAIN)
    return digits.train.images[:64]


def import_plain(
    module: torch.nn.Module,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    *arguments: object,
    network: str = "lenet_bn",
) -> tuple[int, str]:
    torch.save(module.state_dict(), folder / "plain.pt")
    own = (
        "--backend",
        "torch",
        "--file",
        folder / "plain.pt",
        "--network",
        network,
        "--ckpt_path",
        folder / "net.ckpt",
    )
    return command(capsys, "import-params", *own, *arguments)


def assert_computes_as(module: torch.nn.Module, path: Path) -> None:
    """The network in a checkpoint gives what a module gives, on digits."""
    checkpoint, backend, pixels = qat.Checkpoint.load(path), qat.backend("torch"), pixels_of_digits()
    found = backend.predict(backend.lower(checkpoint.graph, checkpoint.params), pixels)
    expected = module(torch.from_numpy(pixels.astype(np.float32))).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("data", [(), ("--data_path", "digits")], ids=["no data", "data"])
@pytest.mark.parametrize(
    ("factor", "flags"),
    [(1.0, ["--raw_pixels"]), (1 / 255, ["--mean", "0", "--std", "1"]), (1 / (255 * 0.3081), [])],
    ids=["raw", "0..1", "its own"],
)
def test_another_normalisation_of_the_input_is_noticed_and_the_right_flags_are_named(
    factor: float, flags: list[str], data: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = Plain(factor).trained()
    status, out = import_plain(module, tmp_path, capsys, "--match", "order", *data)
    assert (status, "was trained on numbers of std" in out) == (0, bool(flags))
    assert "LeNet5BN takes (pixel / 255 - 0.1307) / 0.3081; trained otherwise?" in out
    if not flags:
        return
    assert f"with another input normalisation; with {' '.join(flags)} they agree" in out
    assert "give these flags, or those that it was trained with" in out
    status, out = import_plain(module, tmp_path, capsys, "--match", "order", *data, *flags)
    assert (status, "note:" in out, "trained otherwise?" in out) == (0, False, False)
    assert_computes_as(module, tmp_path / "net.ckpt")


def test_what_was_trained_with_other_layers_is_noticed_on_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first normalisation is right, the second gets other numbers."""
    module = Plain(1 / 255).trained()
    with torch.no_grad():
        module.stem_bn.weight *= 5
    flags = ("--match", "order", "--mean", "0", "--std", "1")
    assert "note:" not in import_plain(module, tmp_path, capsys, *flags)[1]  # random pixels do not tell
    status, out = import_plain(module, tmp_path, capsys, *flags, "--data_path", "digits")
    assert (status, "the normalisation of conv2 was trained on" in out) == (0, True)
    assert "something before it is not what was trained" in out


def test_eps_is_asked_for_where_it_matters_and_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = Plain(1 / 255, eps=1e-3).trained()
    with torch.no_grad():
        for norm in (module.stem_bn, module.body_bn):
            norm.running_var.fill_(1.0)
        module.body_bn.running_var[:5] = 1e-4
    flags = ("--match", "order", "--mean", "0", "--std", "1")
    out = import_plain(module, tmp_path, capsys, *flags)[1]
    assert (
        "LeNet5BN has eps 1e-05 in its batch normalisations; trained with another? --eps (Keras: 0.001), which" in out
    )
    assert "which changes 5 of 22 channels by more than 5 %" in out
    status, out = import_plain(module, tmp_path, capsys, *flags, "--eps", "0.001")
    assert (status, "has eps 0.001 in its batch normalisations\n" in out) == (0, True)
    assert_computes_as(module, tmp_path / "net.ckpt")


def test_biases_that_one_side_does_not_have_are_named_and_change_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = Plain(1.0, bias=True).trained()
    status, out = import_plain(module, tmp_path, capsys, "--match", "order", "--raw_pixels")
    assert (status, "holds 'conv1.bias', 'conv2.bias', which LeNet5BN has no place for: taken out of the" in out) == (
        0,
        True,
    )
    assert_computes_as(module, tmp_path / "net.ckpt")
    del module.head[2].bias
    module.head[2].bias = None
    module.body_bn.weight = None  # as of Keras's scale=False
    status, out = import_plain(module, tmp_path, capsys, "--match", "order", "--raw_pixels")
    assert (status, "has no 'fc3.bias': 0 is taken" in out, "has no 'conv2.gamma': 1 is taken" in out) == (
        0,
        True,
        True,
    )
    params = qat.Checkpoint.load(tmp_path / "net.ckpt").params
    assert not params["fc3.bias"].any()
    assert (params["conv2.gamma"] == 1).all()


def test_layers_are_matched_by_order_and_what_does_not_fit_is_shown_with_its_surroundings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = import_plain(Plain(1.0).trained(), tmp_path, capsys, "--match", "order", "--raw_pixels")
    assert status == 0
    for pair in ("stem (6, 1, 5, 5) -> conv1", "head.2 (10, 84) -> fc3", "body_bn (16) -> conv2.bn"):
        assert f"  {pair}\n" in out
    module = Plain(1.0)
    module.head[1] = torch.nn.Linear(120, 80)
    status, out = import_plain(module, tmp_path, capsys, "--match", "order")
    assert status == 2
    around = "by order, layer with weights 4 does not fit: the file has ..., body (16, 6, 5, 5), head.0 (120, 400), "
    around += "head.1 (80, 120), head.2 (10, 84), and no more; LeNet5BN has ..., conv2 (16, 6, 5, 5), fc1 (120, 400), "
    assert f"{around}fc2 (84, 120), fc3 (10, 84), and no more" in out
    module = Plain(1.0)
    module.head.append(torch.nn.Linear(10, 10))
    status, out = import_plain(module, tmp_path, capsys, "--match", "order")
    assert (status, "layer with weights 6 does not fit" in out, "head.3 (10, 10)" in out) == (2, True, True)
    named = torch.nn.ModuleDict({"fc2": torch.nn.Linear(400, 120), "fc1": torch.nn.Linear(120, 120)})
    with pytest.raises(qat.QatError, match=r"by order, 'fc2' is 'fc1' of .*, which has a 'fc2' too"):
        matched_by_order(
            Two().graph(), {name: value.detach().numpy() for name, value in named.state_dict().items()}, "file"
        )
    assert import_plain(module, tmp_path, capsys, "--match", "order", "--rename", "a=b")[0] == 2


class Two(qat.Network):
    """Two dense layers."""

    inputs = qat.Input((400,))

    def __init__(self) -> None:
        self.fc1, self.fc2 = qat.DenseBnAct(400, 120), qat.DenseBnAct(120, 120)

    def construct(self, x):
        return self.fc2(self.fc1(x))


def test_mindspore_s_names_and_order_of_a_normalisation_match_by_order() -> None:
    """It puts the running statistics first, all of one shape."""
    graph = LeNet5BN().graph()
    params = graph.observed_params(3) | {
        name: np.full(param.shape, index, np.float32) for index, (name, param) in enumerate(graph.params.items())
    }
    order = ("weight", "bias", "moving_mean", "moving_variance", "gamma", "beta")
    theirs = {
        mindspore_name(name, graph).replace("conv", "c").replace("fc", "d"): params[name]
        for name in sorted(params, key=lambda name: (name.partition(".")[0], order.index(name.partition(".")[2])))
    }
    renamed, pairs = matched_by_order(graph, theirs | {"global_step": np.float32(1)}, "file")
    assert "c1.batchnorm (6) -> conv1.bn" in pairs
    found, notes = params_from(graph, theirs, renamed, "file")
    assert notes == []
    for name, array in params.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_state_dict_in_safetensors_is_read(tmp_path: Path) -> None:
    tensors = {"fc1.weight": torch.arange(6.0).reshape(2, 3).to(torch.bfloat16), "fc1.bias": torch.ones(2)}
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    found = qat.backend("torch").load_params(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(found["fc1.weight"], np.arange(6, dtype=np.float32).reshape(2, 3))
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x02cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(qat.QatError, match=r"model\.safetensors: "):
        qat.backend("torch").load_params(tmp_path / "model.safetensors")


def test_the_state_dict_of_a_training_loop_s_file_is_found(tmp_path: Path) -> None:
    file, module = tmp_path / "r8ck.pt", torch.nn.Linear(2, 1)
    state, optimizer = module.state_dict(), torch.optim.Adam(module.parameters()).state_dict()
    load = qat.backend("torch").load_params
    for held in (
        state,
        {"model": state, "epoch": 3, "optimizer": optimizer},
        {"model_state_dict": state, "optimizer": {"x": torch.ones(1)}},
        {"state_dict": state, "best": torch.ones(1), "model": optimizer},
        {"mine": state},
    ):
        torch.save(held, file)
        assert load(file).keys() == {"weight", "bias"}
    torch.save({"mine": state, "yours": state}, file)
    with pytest.raises(qat.QatError, match=r"r8ck\.pt: holds tensors under 'mine', 'yours'; save the one state_dict"):
        load(file)
    torch.save({"epoch": 3}, file)
    with pytest.raises(qat.QatError, match=r"holds dict without tensors; save model\.state_dict"):
        load(file)
    torch.save(module, file)
    with pytest.raises(
        qat.QatError, match=r"torch\.nn\.modules\.linear\.Linear.*a whole module.*; save model\.state_dict"
    ):
        load(file)


def test_flags_of_the_input_that_say_nothing_here_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = Plain(1.0)
    for flags, message in (
        (("--raw_pixels", "--mean", "0"), "--raw_pixels: says what --mean and --std say"),
        (("--mean", "auto"), "need data; give --data_path too"),
        (("--eps", "-1"), "--eps -1.0: is added to variances"),
        (("--std", "0"), "std be a positive number"),
    ):
        status, out = import_plain(module, tmp_path, capsys, "--match", "order", *flags)
        assert (status, message in out) == (2, True), out
        assert not (tmp_path / "net.ckpt").exists()


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
    found, notes = params_from(graph, params | extra, {}, "file")
    assert notes == []
    assert found.keys() == params.keys()
    renamed = {"a": "conv", "a.b": "bn"}  # the longest beginning counts
    theirs = {name.replace("bn.", "a.b.").replace("conv.", "a."): array for name, array in params.items()}
    for order in (renamed, dict(reversed(renamed.items()))):
        found, _ = params_from(graph, theirs, order, "file")
        assert {name: id(array) for name, array in found.items()} == {name: id(array) for name, array in params.items()}
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

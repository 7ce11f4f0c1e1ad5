"""Importing modules of PyTorch, their names and lines, and what is refused."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from calibrations import calibrate
from import_modules import EQUAL, Calls, F, Residual, X, kinds, nn, ready, torch

import qat
from qat.errors import QatWarning
from qat.imports.model import open_source

HERE = re.escape(__file__)


def imported(function: Callable[..., Any], example: Any = X, tolerance: float = EQUAL, **members: Any) -> Any:
    """What a function becomes; its numbers are compared on the way."""
    opened = open_source(ready(Calls(function, **members)), example)
    inputs = [qat.Input(spec.shape, dtype="float32") for spec in opened.program.inputs.values()]
    return qat.import_model(opened, inputs=inputs, tolerance=tolerance)


def test_a_network_becomes_cells_under_its_own_names() -> None:
    found = qat.import_model(ready(Residual()), torch.zeros(1, 3, 33, 32), tolerance=EQUAL)
    assert [node.name for node in found.graph.nodes[1:]] == [
        *("stem.0", "pool", "layer1.0.conv1", "layer1.0.conv2", "layer1.0.add"),
        *(
            "layer1.1.conv1",
            "layer1.1.conv2",
            "layer1.1.down.0",
            "layer1.1.add",
            "dw",
            "cat",
            "mean",
            "mean.flatten",
            "fc",
        ),
    ]
    cells = {node.name: node.cell for node in found.graph.nodes}
    assert (cells["stem.0"].activation, cells["dw"].activation, cells["layer1.0.add"].activation) == (
        "relu6",
        "hswish",
        "relu",
    )
    assert (cells["layer1.0.conv2"].eps, round(cells["layer1.0.conv2"].momentum, 6)) == (1e-3, 0.99)
    assert found.sources["layer1.0.conv2.moving_mean"] == "layer1.0.bn2.running_mean"
    assert set(found.sources) == set(found.params)


def test_all_engines_compute_the_integers_of_an_imported_network() -> None:
    module = ready(Residual())
    found = qat.import_model(module, torch.zeros(1, 3, 32, 32), tolerance=EQUAL)
    images = np.random.default_rng(0).standard_normal((8, 3, 32, 32)).astype(np.float32)
    quantized = calibrate(found.graph, found.params, images)
    backend = qat.backend("torch")
    codes = backend.predict_codes(backend.lower(quantized.graph, quantized.params), images)
    wanted = qat.evaluate(qat.to_integer(quantized.graph, quantized.params), images)
    assert int((codes != wanted).sum()) == 0
    assert wanted.std() > 3


def unet(m: Any, x: Any) -> Any:
    """Down, and up in both ways; beside it a mean of windows that overlap."""
    first = F.relu(m.first(x))
    inner = F.relu(m.norm(m.inner(F.max_pool2d(first, 2))))
    means = F.interpolate(F.adaptive_avg_pool2d(inner, (4, 3)), scale_factor=(3, 4), mode="bilinear")
    finer = F.interpolate(inner, scale_factor=2, mode="bilinear", align_corners=True)
    return m.last(torch.cat([first, F.relu(m.norm_up(m.up(inner))), finer, means], 1))


def test_codes_of_an_imported_unet_are_equal_and_its_weights_go_back() -> None:
    torch.manual_seed(3)
    members = {
        "first": nn.Conv2d(3, 4, 3, padding=1),
        "inner": nn.Conv2d(4, 6, 3, padding=1),
        "norm": nn.BatchNorm2d(6),
    }
    members |= {"up": nn.ConvTranspose2d(6, 4, 2, stride=2), "norm_up": nn.BatchNorm2d(4), "last": nn.Conv2d(20, 2, 1)}
    module = ready(Calls(unet, **members))
    found = qat.import_model(module, torch.zeros(1, 3, 12, 12), tolerance=EQUAL)
    assert {"ConvTranspose2dBnAct", "UpsampleBilinear", "AdaptiveAvgPool2d"} <= set(kinds(found))
    assert found.sources["up.weight"] == "up.weight"
    images = np.random.default_rng(0).standard_normal((8, 3, 12, 12)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QatWarning)  # what is joined has unlike ranges
        prepared = qat.prepare(module, calibration_images=images)
        quantized = calibrate(found.graph, found.params, images)
    backend = qat.backend("torch")
    codes = backend.predict_codes(backend.lower(quantized.graph, quantized.params), images)
    wanted = qat.evaluate(qat.to_integer(quantized.graph, quantized.params), images)
    assert int((codes != wanted).sum()) == 0
    assert wanted.std() > 3
    with torch.no_grad():
        prepared.tensors["up.weight"].mul_(2.0)
    before = module.up.weight.detach().clone()
    qat.export_params(prepared, module)
    assert torch.equal(module.up.weight, 2.0 * before)


def test_the_comparison_finds_a_wrong_parameter() -> None:
    """Each array of the source counts: with another one the import is another network, and the node is named."""
    module = ready(Residual())
    found = qat.import_model(module, torch.zeros(1, 3, 32, 32))
    for name in found.params:
        found.params[name] += 0.05
        with pytest.raises(qat.QatError, match=f"the first node that differs is {re.escape(name.rpartition('.')[0])}"):
            found.compare()
        found.params[name] -= 0.05
    found.compare(tolerance=1e-5)


OPERATIONS: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "view": (lambda m, x: m.fc(x.view(x.size(0), -1)), ["Flatten", "DenseBnAct"]),
    "reshape": (lambda m, x: m.fc(torch.reshape(x, (-1, 192))), ["Flatten", "DenseBnAct"]),
    "flatten": (lambda m, x: m.fc(torch.flatten(x, 1)), ["Flatten", "DenseBnAct"]),
    "mean of negative axes": (lambda m, x: x.mean((-1, -2)), ["GlobalAvgPool2d", "Flatten"]),
    "mean that is kept": (lambda m, x: x.mean([2, 3], keepdim=True).flatten(1), ["GlobalAvgPool2d", "Flatten"]),
    "squeeze": (lambda m, x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1), ["GlobalAvgPool2d", "Flatten"]),
    "squeeze of both": (
        lambda m, x: torch.squeeze(F.adaptive_avg_pool2d(x, 1), (2, 3)),
        ["GlobalAvgPool2d", "Flatten"],
    ),
    "adaptive, divisible": (lambda m, x: F.adaptive_avg_pool2d(x, (4, 2)), ["AvgPool2d"]),
    "adaptive, the same": (lambda m, x: F.adaptive_avg_pool2d(F.relu(x), 8), ["Activation"]),
    "adaptive max": (lambda m, x: F.adaptive_max_pool2d(x, (1, 1)), ["MaxPool2d"]),
    "average that does not count none": (
        lambda m, x: F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False),
        ["AvgPool2d"],
    ),
    "average with zeros": (lambda m, x: F.avg_pool2d(x, 3, 1, 1), ["AvgPool2d"]),
    "padding": (lambda m, x: m.conv(F.pad(x, (1, 2, 0, 1))), ["Conv2dBnAct"]),
    "zero padding module": (lambda m, x: m.conv(nn.ZeroPad2d((0, 1, 0, 1))(x)), ["Conv2dBnAct"]),
    "in place, without the result": (lambda m, x: _in_place(m.conv(x)), ["Conv2dBnAct", "Add"]),
    "arithmetic in place": (lambda m, x: m.conv(x).mul_(2.0).add_(1.0).clamp_(0, 6), ["Conv2dBnAct"]),
    "constants of channels": (lambda m, x: (x - m.mean) / m.std, ["Normalize"]),
    "a constant first": (lambda m, x: 2.0 * m.conv(x) + 1, ["Conv2dBnAct"]),
    "subtraction of a number": (lambda m, x: m.conv(x) - 0.5, ["Conv2dBnAct"]),
    "twice the same": (lambda m, x: x + x, ["Add"]),
    "joined with itself": (lambda m, x: torch.cat((x, x), dim=-3), ["Concat"]),
    "hard sigmoid": (lambda m, x: F.hardsigmoid(m.conv(x)), ["Conv2dBnAct"]),
    "hard swish by hand": (lambda m, x: x * F.relu6(x + 3) / 6, ["Activation"]),
    "leaky, hardtanh, clamp": (
        lambda m, x: F.hardtanh(torch.clamp(F.leaky_relu(x, 0.1), min=0.0), 0.0, 6.0),
        ["Activation"],  # all together a ReLU6
    ),
    "softmax of negative axis": (lambda m, x: m.fc(x.flatten(1)).softmax(-1), ["Flatten", "DenseBnAct", "Softmax"]),
    "a weight that is computed": (lambda m, x: F.conv2d(x, m.weight * 2.0, padding="same"), ["Conv2dBnAct"]),
    "a gate": (lambda m, x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)), ["GlobalAvgPool2d", "Activation", "Mul"]),
    "SiLU, GELU": (lambda m, x: F.silu(m.conv(x)) - F.gelu(x), ["Conv2dBnAct", "Activation", "Sub"]),
    "GELU by tanh, Mish, SELU": (lambda m, x: F.selu(F.mish(F.gelu(x, approximate="tanh"))), ["Activation"] * 3),
    "ELU, softplus": (lambda m, x: F.elu(F.softplus(x) - 1.0, 0.7), ["Activation"] * 3),
    "PReLU": (lambda m, x: F.prelu(x, m.mean.flatten()), ["PReLU"]),
    "clips": (lambda m, x: F.hardtanh(torch.clamp(x, min=-0.5), -2.0, 0.25), ["Activation"] * 2),
    "larger and smaller": (
        lambda m, x: torch.minimum(torch.maximum(m.conv(x), x), m.conv(x)),
        ["Conv2dBnAct", "Maximum", "Conv2dBnAct", "Minimum"],
    ),
    "one less a value": (lambda m, x: 1.0 - F.relu(x), ["Activation", "Activation"]),
    "absolute, negative, square, exponential": (
        lambda m, x: torch.exp(-(x.abs() ** 2)),
        ["Activation", "Mul", "Activation", "Activation"],
    ),
    "a square by itself": (lambda m, x: x.square() * x, ["Mul", "Mul"]),
    "a GLU": (lambda m, x: F.glu(x, 2), ["Slice", "Slice", "Activation", "Mul"]),
    "split": (lambda m, x: torch.cat(x.split([1, 2], 1)[::-1], 1), ["Slice", "Slice", "Concat"]),
    "chunk": (lambda m, x: F.relu(x.chunk(2, -1)[1]), ["Slice", "Activation"]),
    "chunk, the smaller rest": (lambda m, x: F.relu(x.chunk(2, 1)[1]), ["Slice", "Activation"]),
    "unbind": (lambda m, x: torch.stack(x.unbind(2)[2:4], 1), ["Slice"] * 2 + ["Reshape"] * 2 + ["Stack"]),
    "narrow, slices, steps": (
        lambda m, x: x.narrow(2, 1, 4) + x[:, :, -4:] + x[:, :, ::2],
        ["Slice", "Slice", "Add", "Slice", "Add"],
    ),
    "parts by bounds from the end": (
        lambda m, x: torch.tensor_split(x, [-3], 2)[1] * torch.tensor_split(x, (-3, -9), 2)[0][:, :, :3],
        ["Slice", "Slice", "Slice", "Mul"],
    ),
    "rounded up, padding apart": (
        lambda m, x: F.avg_pool2d(F.pad(x, (0, 2, 0, 2)), 3, 3, 0, True, False),
        ["Pad", "AvgPool2d"],
    ),
    "a place": (lambda m, x: x[:, :, -2], ["Slice", "Reshape"]),
    "focus": (
        lambda m, x: torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2]], 1),
        ["Slice", "Slice", "Slice", "Slice", "Concat"],
    ),
    "join along columns": (lambda m, x: torch.cat((x, m.conv(x)), -1), ["Conv2dBnAct", "Concat"]),
    "view, permute": (lambda m, x: x.view(2, 3, 64).permute(0, 2, 1), ["Reshape", "Transpose"]),
    "transpose": (lambda m, x: x.transpose(1, -1).unsqueeze(2).squeeze(2), ["Transpose"]),
    "shuffle of channels by hand": (
        lambda m, x: m.six(x).view(2, 2, 3, 8, 8).transpose(1, 2).reshape(2, 6, 8, 8),
        ["Conv2dBnAct", "ChannelShuffle"],
    ),
    "shuffle of channels": (lambda m, x: F.channel_shuffle(m.six(x), 3), ["Conv2dBnAct", "ChannelShuffle"]),
    "shuffles of pixels": (
        lambda m, x: F.pixel_shuffle(F.relu(F.pixel_unshuffle(x, 4)), 2),
        ["PixelUnshuffle", "Activation", "PixelShuffle"],
    ),
    "nearest neighbours": (lambda m, x: F.interpolate(x, scale_factor=(2, 3)), ["Upsample"]),
    "nearest neighbours, exact": (lambda m, x: F.interpolate(x, size=(16, 8), mode="nearest-exact"), ["Upsample"]),
    "bilinear, both ways": (
        lambda m, x: F.interpolate(
            F.interpolate(m.conv(x), scale_factor=(2, 3), mode="bilinear"), size=48, mode="bilinear", align_corners=True
        ),
        ["Conv2dBnAct", "UpsampleBilinear", "UpsampleBilinear"],
    ),
    "adaptive, windows that overlap": (lambda m, x: F.adaptive_avg_pool2d(x, (3, 5)), ["AdaptiveAvgPool2d"]),
    "transposed": (lambda m, x: F.relu(m.up_bn(m.up(x))), ["ConvTranspose2dBnAct"]),
    "transposed, of groups, and a factor": (
        lambda m, x: m.groups(m.six(x)) * m.mean,
        ["Conv2dBnAct", "ConvTranspose2dBnAct"],
    ),
    "transposed series": (
        lambda m, x: F.relu(m.long(x.flatten(2))),
        ["Reshape", "ConvTranspose2dBnAct", "Reshape"],
    ),
    "reflection, a number around": (
        lambda m, x: F.pad(F.pad(x, (1, 2, 0, 1), mode="reflect"), (1, 1, 2, 0), value=1.5),
        ["Pad", "Pad"],
    ),
    "crop": (lambda m, x: F.pad(x, (0, -1, -2, 0)), ["Slice", "Slice"]),
    "means that count no zeros": (lambda m, x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), ["AvgPool2d"]),
    "rounded up": (
        lambda m, x: F.avg_pool2d(F.max_pool2d(x, 2, 3, ceil_mode=True), 2, 2, 0, True),
        ["MaxPool2d", "AvgPool2d"],
    ),
    "means over other axes": (
        lambda m, x: x - x.mean(1, keepdim=True),
        ["Reshape", "Transpose", "Reshape", "GlobalAvgPool2d", "Reshape", "Upsample", "Transpose", "Sub"],
    ),
    "the largest of a row": (lambda m, x: x.amax(-1), ["Reshape", "MaxPool2d", "Reshape"]),
    "expansion": (lambda m, x: x.mean((2, 3), True).expand_as(x) * 2.0, ["GlobalAvgPool2d", "Upsample", "Activation"]),
    "a constant of columns": (
        lambda m, x: x + m.rows,
        ["Reshape", "Transpose", "Reshape", "Normalize", "Reshape", "Transpose", "Reshape"],
    ),
    "a dense layer of places": (lambda m, x: F.relu(m.eight(x)), ["Transpose", "Conv2dBnAct", "Transpose"]),
    "series": (
        lambda m, x: F.avg_pool1d(F.relu(m.series(x.flatten(2))), 2).mean(-1),
        ["Reshape", "Conv2dBnAct", "AvgPool2d", "Reshape", "GlobalAvgPool2d", "Flatten"],
    ),
    "a softmax of rows": (lambda m, x: x.softmax(-1), ["Softmax"]),
    "nothing": (
        lambda m, x: m.conv(F.dropout(x.contiguous().to(torch.float32), training=m.training).clone()),
        ["Conv2dBnAct"],
    ),
}


def _in_place(x: Any) -> Any:
    F.relu(x, inplace=True)
    return x + x


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name: str) -> None:
    function, expected = OPERATIONS[name]
    members = {
        "conv": nn.Conv2d(3, 3, 3, padding=1),
        "fc": nn.Linear(192, 4),
        "mean": torch.tensor([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1),
        "std": torch.tensor([3.0, 4.0, 5.0]).reshape(3, 1, 1),
        "weight": nn.Parameter(torch.randn(5, 3, 3, 3)),
        "six": nn.Conv2d(3, 6, 1),
        "rows": torch.rand(8),
        "eight": nn.Linear(8, 5),
        "series": nn.Conv1d(3, 4, 3, stride=2, padding=1),
        "up": nn.ConvTranspose2d(3, 4, (4, 3), stride=(2, 1), padding=1, output_padding=(1, 0), dilation=(1, 2)),
        "up_bn": nn.BatchNorm2d(4),
        "groups": nn.ConvTranspose2d(6, 3, 3, stride=2, groups=3),
        "long": nn.ConvTranspose1d(3, 4, 4, stride=2, padding=1),
    }
    assert kinds(imported(function, **members)) == expected


def test_inputs_and_outputs_in_any_nesting() -> None:
    found = imported(
        lambda m, x, y: {"a": m.conv(x), "b": (m.fc(y), [F.relu(x)])},
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 6)),
        conv=nn.Conv2d(3, 2, 1),
        fc=nn.Linear(6, 2),
    )
    assert [spec.shape for spec in found.graph.input_specs] == [(3, 8, 8), (6,)]
    assert found.graph.outputs == ("conv", "fc", "relu")


@pytest.mark.parametrize("batch", [1, 3])
def test_any_batch_size_of_the_example(batch: int) -> None:
    module = ready(Residual())
    opened = open_source(module, torch.zeros(batch, 3, 32, 32))
    samples = np.random.default_rng(0).standard_normal((5, 3, 32, 32)).astype(np.float32)
    (output,) = opened.program.outputs
    found = opened.trace((samples,), {output, "conv2d"})
    with torch.no_grad():
        np.testing.assert_allclose(found[output], module(torch.from_numpy(samples)).numpy(), atol=1e-5)
    assert found["conv2d"].shape == (5, 8, 16, 16)


def test_a_module_is_not_changed() -> None:
    module = ready(Residual())
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    found = qat.import_model(module, torch.zeros(1, 3, 32, 32))
    found.params["fc.weight"][:] = 7.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_a_layer_that_is_called_twice_is_one_cell() -> None:
    found = imported(lambda m, x: F.relu(m.conv(F.relu(m.conv(x)))), conv=nn.Conv2d(3, 3, 3, padding=1))
    assert [(node.name, node.cell_name) for node in found.graph.nodes[1:]] == [("conv", "conv"), ("conv_2", "conv")]


def test_a_layer_that_is_called_in_two_ways_is_refused() -> None:
    with pytest.raises(
        qat.QatError, match=r"shares conv.weight with conv, but has another activation.*: conv \(.*:\d+\)"
    ):
        imported(lambda m, x: m.conv(F.relu(m.conv(x))), conv=nn.Conv2d(3, 3, 3, padding=1))


def test_a_shared_parameter_of_two_layers_is_refused() -> None:
    first, second = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)
    second.weight = first.weight
    with pytest.raises(qat.QatError, match=r"shares .*weight with a, but has another bias"):
        imported(lambda m, x: m.b(m.a(x)), a=first, b=second)


@pytest.mark.parametrize(
    ("forward", "what"),
    [
        (
            lambda m, x: torch.cat([m.conv(x), torch.arange(2.0).reshape(2, 1, 1, 1).expand(2, 1, 6, 6)], 1),
            "aten.cat with a constant of the samples",
        ),
        (lambda m, x: torch.add(torch.ones(4, 1, 1), m.conv(x), alpha=2), "aten.add with alpha"),
        (lambda m, x: torch.rsub(m.conv(x), 1.0, alpha=2), "aten.sub with alpha"),
        (lambda m, x: m.conv(x).type_as(torch.arange(3)), "aten.type_as giving int64"),
    ],
    ids=["cat", "add", "rsub", "type_as"],
)
def test_what_would_be_left_out_is_refused(forward: Any, what: str) -> None:
    with pytest.raises(qat.QatError, match=what):
        imported(forward, conv=nn.Conv2d(3, 4, 3))


def test_all_unknown_operations_are_named_with_their_lines() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.act, self.pad = nn.Identity(), nn.Softsign(), nn.ReplicationPad2d(1)

        def forward(self, x: Any) -> Any:
            a, b = torch.chunk(self.act(self.norm(x)), 2, -1)
            return self.pad(torch.atan(a) * F.celu(b, 0.5)) * torch.sigmoid(x.mean())

    model = nn.Sequential(nn.Conv2d(3, 3, 1), Attention())
    with pytest.raises(qat.QatError) as error:
        qat.import_model(model.eval(), X)
    said = str(error.value)
    line = Attention.forward.__code__.co_firstlineno
    for what in (
        f"softsign, spelled out: 1.act ({__file__}:{line + 1})",
        f"aten.atan: 1.atan ({__file__}:{line + 2})",
        "CELU: 1.celu",
        "aten.pad with mode 'replicate': 1.pad",
        "aten.mean of (N, 3, 8, 8) over axes (0, 1, 2, 3): 1.mean",
        "outputs=",
    ):
        assert what in said, what
    assert "\n" not in said
    assert kinds(qat.import_model(model, X, outputs=["0"])) == ["Conv2dBnAct"]


def branching(module: Any, x: Any) -> Any:
    if x.sum() > 0:
        return x
    return -x


REFUSED: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "training mode": (lambda: nn.Sequential(nn.Conv2d(3, 4, 1)), X, "is in training mode.*call module.eval"),
    "a part in training mode": (
        lambda: (lambda m: (m[0].train(), m)[1])(nn.Sequential(nn.BatchNorm2d(3)).eval()),
        X,
        "its module 0 is in training mode",
    ),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(4, 1)).eval(), X, "0.weight has no shape yet.*run the module once"),
    "control flow": (
        lambda: Calls(branching).eval(),
        X,
        rf"depends on the numbers of a tensor at {HERE}:{branching.__code__.co_firstlineno + 1}",
    ),
    "a wrong shape": (
        lambda: nn.Linear(4, 2).eval(),
        X,
        r"cannot be run on the example, float32 \(2, 3, 8, 8\) \(mat1 and mat2",
    ),
    "a wrong type": (lambda: nn.Linear(4, 2).eval(), [1.0], "its example is a float; give what its forward takes"),
    "no example": (lambda: nn.Linear(4, 2).eval(), None, "its example is nothing"),
    "whole numbers": (lambda: nn.Embedding(4, 2).eval(), torch.zeros(2, 5, dtype=torch.int64), "input input is int64"),
    "complex numbers": (
        lambda: Calls(lambda m, x: x.abs()).eval(),
        torch.zeros(2, 5, dtype=torch.complex64),
        "is complex64",
    ),
    "half": (
        lambda: nn.Linear(4, 2).to(torch.float64).eval(),
        torch.zeros(2, 4, dtype=torch.float64),
        "weight is float64.*module.float",
    ),
    "no batch": (lambda: Calls(lambda m, x: F.relu(x)).eval(), torch.zeros(5), r"has shape \(5,\); give a batch"),
    "a constant output": (
        lambda: Calls(lambda m, x: (F.relu(x), m.b), b=torch.ones(3)).eval(),
        X,
        "depends on no input",
    ),
    "a changed buffer": (lambda: Calls(lambda m, x: x + m.b.add_(1), b=torch.ones(1)).eval(), X, "forward changes b"),
    "active dropout": (
        lambda: Calls(lambda m, x: F.dropout(x, training=True)).eval(),
        X,
        "aten.dropout that is active in evaluation",
    ),
    "its own statistics": (
        lambda: nn.BatchNorm2d(3, track_running_stats=False).eval(),
        X,
        "by the statistics of the batch",
    ),
    "a constant of the samples": (
        lambda: Calls(lambda m, x: x + m.b, b=torch.ones(2, 1, 1, 1)).eval(),
        X,
        r"aten.add of \(N, 3, 8, 8\) and a constant \(2, 1, 1, 1\)",
    ),
    "a constant of more axes": (
        lambda: Calls(lambda m, x: x + m.b, b=torch.ones(1, 1, 1, 1, 1)).eval(),
        X,
        r"aten.add of \(N, 3, 8, 8\) and a constant \(1, 1, 1, 1, 1\)",
    ),
    "a softplus that is linear early, beyond most random samples": (
        lambda: nn.Softplus(threshold=5.0).eval(),
        X,
        "aten.softplus that is x above 5.0",
    ),
    "an ELU of a scale": (
        lambda: Calls(lambda m, x: torch.ops.aten.elu(x, 1.0, 2.0)).eval(),
        X,
        "aten.elu of other scales",
    ),
    "samples joined": (
        lambda: Calls(lambda m, x: x.reshape(1, 6, 8, 8)).eval(),
        X,
        r"reshape \(1, 6, 8, 8\), whose samples are along axis 1",
    ),
    "samples moved": (lambda: Calls(lambda m, x: x.transpose(0, 1)).eval(), X, "whose samples are along axis 1"),
    "a part of the samples": (lambda: Calls(lambda m, x: x[:1]).eval(), X, "aten.slice along the samples' axis"),
    "more samples than there are": (lambda: Calls(lambda m, x: x[:4]).eval(), X, "aten.slice along the samples' axis"),
    "a power of a number": (lambda: Calls(lambda m, x: torch.pow(2.0, x)).eval(), X, "pow"),
    "more axes than cells know": (
        lambda: Calls(lambda m, x: F.relu(x.reshape(2, 3, 2, 4, 8))).eval(),
        X,
        r"giving \(3, 2, 4, 8\), which has more axes than cells know",
    ),
    "upsampling by a fraction": (
        lambda: Calls(lambda m, x: F.interpolate(x, size=12)).eval(),
        X,
        r"from \(8, 8\) to \(12, 12\), by no whole factor",
    ),
    "unequal windows": (lambda: nn.AdaptiveMaxPool2d(3).eval(), X, r"from \(8, 8\) to \(3, 3\), in unequal windows"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, example, pattern = REFUSED[name]
    with pytest.raises(qat.QatError, match=pattern) as error:
        qat.import_model(make(), example)
    assert "\n" not in str(error.value)


def test_what_is_changed_in_place_through_a_view_is_refused() -> None:
    def forward(module: Any, x: Any) -> Any:
        y = module.conv(x)
        F.relu_(y.flatten(1))
        return y

    with pytest.raises(qat.QatError, match="changed in place through a view"):
        imported(lambda m, x: F.tanh(forward(m, x)), conv=nn.Conv2d(3, 3, 1))

"""Importing what transformers of PyTorch consist of: tokens, attention in all its spellings, windows that are shifted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from calibrations import calibrate
from import_modules import EQUAL, Calls, F, X, kinds, nn, ready, torch

import qat
from qat.errors import QatWarning

TOKENS = torch.zeros(2, 5, 8)


def imported(function: Callable[..., Any], example: Any, members: dict[str, Any]) -> Any:
    """What a function becomes; its numbers are compared on the way."""
    return qat.import_model(ready(Calls(function, **members)), example, tolerance=EQUAL)


def encoder(m: Any, x: Any) -> Any:
    """As torchvision's ViT: PyTorch's own attention, which puts the samples between heads and tokens."""
    y = m.norm(x)
    y, _ = m.attention(y, y, y, need_weights=False)
    x = x + y
    return x + m.down(F.gelu(m.up(m.norm2(x))))


def spelled_out(m: Any, x: Any) -> Any:
    """As timm writes attention."""
    count, places, channels = x.shape
    q, k, v = m.qkv(x).reshape(count, places, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    weights = (q * 0.5 @ k.transpose(-2, -1)).softmax(-1)
    return m.out((weights @ v).transpose(1, 2).reshape(count, places, channels))


def windows(m: Any, x: Any) -> Any:
    """As Swin: windows that are shifted, joined with the samples, with a bias of places and a mask of windows."""
    count = len(x)
    x = x.permute(0, 2, 3, 1)
    shifted = torch.roll(m.norm(x), (-1, -2), (1, 2))
    parts = shifted.view(count, 2, 4, 2, 4, 3).permute(0, 1, 3, 2, 4, 5).reshape(count * 4, 16, 3)
    q, k = m.qk(parts).reshape(count * 4, 16, 2, 1, 3).permute(2, 0, 3, 1, 4)
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) + m.bias
    mask = x.new_zeros((4, 16, 16))
    mask[1:, :4, 3:] = 1
    scores = scores.view(count, 4, 1, 16, 16) + mask.masked_fill(mask != 0, -4.0).unsqueeze(1).unsqueeze(0)
    y = (scores.view(-1, 1, 16, 16).softmax(-1) @ k).transpose(1, 2).reshape(count * 4, 16, 3)
    y = y.view(count, 2, 2, 4, 4, 3).permute(0, 1, 3, 2, 4, 5).reshape(count, 8, 8, 3)
    return (x + torch.roll(y, (1, 2), (1, 2))).mean((1, 2))


def classified(m: Any, x: Any) -> Any:
    """A class token in front, and a number for each place."""
    tokens = torch.cat([m.token.expand(len(x), -1, -1), x], 1) + m.places
    return m.fc(tokens[:, 0])


def grids(m: Any, x: Any) -> Any:
    """As MaxViT: products by einsum."""
    y = x.reshape(len(x), 3, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(len(x), 4, 1, 3, 16)
    scores = torch.einsum("B G H I D, B G H J D -> B G H I J", y, y)
    return torch.einsum("B G H I J, B G H J D -> B G H I D", F.softmax(scores * 0.25, dim=-1), y).reshape(x.shape)


def parameter(*shape: int) -> Any:
    torch.manual_seed(1)
    return nn.Parameter(torch.randn(*shape))


BLOCKS: dict[str, tuple[Callable[..., Any], Any, Callable[[], dict[str, Any]]]] = {
    "encoder": (
        encoder,
        TOKENS,
        lambda: {
            "norm": nn.LayerNorm(8),
            "norm2": nn.LayerNorm(8),
            "attention": nn.MultiheadAttention(8, 2, batch_first=True),
            "up": nn.Linear(8, 16),
            "down": nn.Linear(16, 8),
        },
    ),
    "spelled out": (spelled_out, TOKENS, lambda: {"qkv": nn.Linear(8, 24), "out": nn.Linear(8, 8)}),
    "windows": (
        windows,
        X,
        lambda: {"norm": nn.LayerNorm(3), "qk": nn.Linear(3, 6), "bias": parameter(1, 1, 16, 16)},
    ),
    "class token": (
        classified,
        TOKENS,
        lambda: {"token": parameter(1, 1, 8), "places": parameter(1, 6, 8), "fc": nn.Linear(8, 3)},
    ),
    "grids": (grids, X, dict),
    "groups": (lambda m, x: F.relu(m.norm(x)), torch.zeros(2, 4, 5, 5), lambda: {"norm": nn.GroupNorm(2, 4)}),
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("samples", [1, 2])
def test_blocks_are_equal_and_so_are_their_codes(name: str, samples: int) -> None:
    function, example, members = BLOCKS[name]
    found = imported(function, example[:samples], members())
    images = np.random.default_rng(0).standard_normal((8, *example.shape[1:])).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QatWarning)  # a mask has another range than scores
        quantized = calibrate(found.graph, found.params, images)
    backend = qat.backend("torch")
    codes = backend.predict_codes(backend.lower(quantized.graph, quantized.params), images)
    wanted = qat.evaluate(qat.to_integer(quantized.graph, quantized.params), images)
    assert int((codes != wanted).sum()) == 0
    assert wanted.std() > 3


def test_one_norm_between_convolutions_costs_no_move() -> None:
    """As ConvNeXt: channels last around a normalisation, dense layers and a factor of each channel."""

    def block(m: Any, x: Any) -> Any:
        y = m.norm(m.conv(x).permute(0, 2, 3, 1))
        return x + (m.scale * m.down(F.gelu(m.up(y)))).permute(0, 3, 1, 2)

    members = {"conv": nn.Conv2d(3, 3, 3, padding=1, groups=3), "norm": nn.LayerNorm(3), "scale": parameter(3)}
    members |= {"up": nn.Linear(3, 6), "down": nn.Linear(6, 3)}
    found = imported(block, X, members)
    moves = {"Reshape", "Transpose"}
    assert [kind for kind in kinds(found) if kind not in moves] == [
        *("Conv2dBnAct", "LayerNorm", "Conv2dBnAct", "Conv2dBnAct", "Normalize", "Add")
    ]
    assert "Transpose" not in kinds(found)
    assert found.sources["norm.gamma"] == "norm.weight"


REFUSED: dict[str, tuple[Callable[..., Any], Any, str]] = {
    "causal": (
        lambda m, x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
        torch.zeros(2, 2, 5, 8),
        "attention that is causal",
    ),
    "a roll of the samples": (lambda m, x: torch.roll(x, 1, 0), X, "aten.roll along the samples"),
    "a normalisation over the samples": (
        lambda m, x: F.layer_norm(x.transpose(0, 1), (2, 8, 8)),
        X,
        r"aten.layer_norm of \(3, 2, 8, 8\), whose samples are along axis 1",
    ),
    "a softmax over samples": (
        lambda m, x: x.reshape(6, 8, 8).softmax(0).reshape(2, 3, 8, 8),
        X,
        "aten.softmax of .* whose samples are along axis 0",
    ),
    "a sum of what has samples elsewhere": (
        lambda m, x: x + x.transpose(0, 1),
        torch.zeros(3, 3, 4, 4),
        "whose samples are along unlike axes",
    ),
    "another einsum": (lambda m, x: torch.einsum("bchw,bcxw->bhxw", x, x), X, "aten.einsum"),
    "a length": (lambda m, x: x * torch.linalg.vector_norm(x, dim=1, keepdim=True), X, "a length of vectors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    function, example, pattern = REFUSED[name]
    with pytest.raises(qat.QatError, match=pattern) as error:
        qat.import_model(ready(Calls(function)), example)
    assert "\n" not in str(error.value)


def test_a_parameter_is_not_changed_in_place() -> None:
    """What forward fills is its own memory, or it is refused."""

    def forward(m: Any, x: Any) -> Any:
        m.table[0].fill_(1.0)
        return x + m.table

    with pytest.raises(qat.QatError, match="forward changes table"):
        imported(forward, X, {"table": torch.zeros(8, 8)})

"""The pages for those who come from another library: what they show of this one runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameworks import HERE

import qat

PAGES = Path(__file__).parent.parent / "docs" / "migration"
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.random((40, 1, 8, 8), np.float32), np.arange(40) % 10


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (PAGES / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def after(page: str, **names: Any) -> dict[str, Any]:
    """What the example of this library leaves behind, beside what it begins with."""
    names["__name__"] = "example"  # which MindSpore looks for
    exec(compile(blocks(page)[0], page, "exec"), names)
    return names


def train(model: Any) -> None:
    """A loop of a user's own, a step long."""
    import torch

    x = IMAGES if str(model.graph.input_specs[0].dtype) == "float32" else (IMAGES * 255).astype(np.uint8)
    torch.nn.functional.cross_entropy(model.train()(torch.from_numpy(x)), torch.from_numpy(LABELS)).backward()


def torch_net() -> Any:
    import torch

    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 10)]
    return torch.nn.Sequential(*layers)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_from_torch_ao_and_a_module_that_it_trained_comes_along() -> None:
    import torch
    from torch.ao import quantization as theirs

    x = torch.from_numpy(IMAGES)
    names = after(
        "torch_ao.md",
        module=torch_net(),
        example=x[:2],
        images=x,
        loader=[(x[at : at + 20], torch.from_numpy(LABELS[at : at + 20])) for at in (0, 20)],
    )
    assert names["certificate"].passed
    assert names["model"].step == 2
    quantized = torch_net().train()
    quantized.qconfig = theirs.get_default_qat_qconfig("x86")
    quantized = theirs.prepare_qat(quantized)
    quantized(x).sum().backward()
    with torch.no_grad():
        quantized[3].bias.add_(1.0)
    module = torch_net()
    names = {"qat": qat, "prepared": quantized, "module": module, "example": x[:2], "images": x}
    exec(compile(blocks("torch_ao.md")[1], "torch_ao.md", "exec"), names)
    assert torch.equal(module[3].bias, quantized[3].bias)
    assert torch.equal(names["model"].tensors["3.bias"], quantized[3].bias)


def test_from_brevitas() -> None:
    import torch

    x = torch.from_numpy(IMAGES)
    names = after("brevitas.md", example=x[:2], images=x, train=train)
    assert names["certificate"].passed
    cells = {node.name: node.cell for node in names["model"].graph.nodes}
    assert [cells[name].weight_quantizer.num_bits for name in ("0", "3")] == [4, 8]


def test_from_qkeras() -> None:
    names = after("qkeras.md", images=(IMAGES * 255).astype(np.uint8), train=train)
    assert names["certificate"].passed


@pytest.mark.skipif("keras" not in HERE, reason="Keras is not installed")
def test_from_tensorflow_model_optimization() -> None:
    import keras

    x = keras.Input((8, 8, 1))
    y = keras.layers.Conv2D(8, 3, activation="relu")(x)
    model = keras.Model(x, keras.layers.Dense(10, name="head")(keras.layers.Flatten()(y)))
    names = after("tfmot.md", model=model, images=IMAGES.transpose(0, 2, 3, 1), labels=LABELS)
    assert names["certificate"].passed
    assert "head" in names["q_aware"].graph.in_float


@pytest.mark.skipif("mindspore" not in HERE, reason="MindSpore is not installed")
def test_from_mindspore_1() -> None:
    import mindspore as ms

    pixels = RNG.integers(0, 256, (32, 1, 32, 32), np.uint8)
    data = ms.dataset.NumpySlicesDataset((pixels, LABELS[:32].astype(np.int32)), ["x", "y"]).batch(8)
    code = blocks("mindspore_quant.md")[0]
    network: dict[str, Any] = {}
    exec(compile(code[: code.index("qnet =")], "mindspore_quant.md", "exec"), network)
    trained = network["LeNet5"]().graph().initial_params(seed=1)
    names = after("mindspore_quant.md", trained=trained, data=data, pixels=pixels)
    assert names["certificate"].passed
    assert names["network"].step == 8
    assert names["qnet"].quant_delay == 6


def test_the_list_has_every_page_and_each_page_its_parts() -> None:
    text = (PAGES / "README.md").read_text(encoding="utf-8")
    pages = {page.name for page in PAGES.glob("*.md")} - {"README.md"}
    assert set(re.findall(r"^\d+\. \[[^\]]*\]\((\w+\.md)\)", text, re.MULTILINE)) == pages
    for page in sorted(pages):
        headings = re.findall(r"^## (.*)$", (PAGES / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert headings == ["Names", "Before", "After", "A trained model", "What is not there"], page
        assert blocks(page), page

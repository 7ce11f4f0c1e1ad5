"""Transformers as PyTorch exports them to ONNX: the samples are moved to other axes, and joined with heads."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
import torch
from import_codes import assert_codes_are_equal

import qat

pytest.importorskip("onnx")


class Tokens(torch.nn.Module):
    """Patches, positions, a block with heads, a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.positions = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Parameter(torch.randn(1, 4, 8))
        self.block = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu", norm_first=True)
        self.norm, self.head = torch.nn.LayerNorm(8), torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.block(tokens)).mean(1))


@pytest.mark.parametrize(("opset", "dynamic"), [(14, True), (17, False)])
def test_a_transformer_is_imported(opset: int, dynamic: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    file, axes = io.BytesIO(), {"x": {0: "samples"}} if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Tokens().eval(),
            (torch.zeros(1, 3, 8, 8),),
            file,
            input_names=["x"],
            dynamic_axes=axes,
            dynamo=False,
            opset_version=opset,
        )
    path = tmp_path / "net.onnx"
    path.write_bytes(file.getvalue())
    found = qat.import_model(path)
    cells = [type(node.cell).__name__ for node in found.graph.nodes]
    assert [cells.count(name) for name in ("LayerNorm", "MatMul", "Softmax")] == [3, 2, 1]
    assert found.difference is not None
    assert found.difference.relative < 1e-5
    if not dynamic:
        assert_codes_are_equal(found, tmp_path)
